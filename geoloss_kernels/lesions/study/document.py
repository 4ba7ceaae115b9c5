"""A document of headings, paragraphs, tables and pictures, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeAlias

from geoloss_kernels.lesions.reporting.tables import markdown_table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: 0.9rem }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #222 }
img { max-width: 100% }
figure { margin: 1.5rem 0 }
figcaption { color: #555; font-size: 0.9rem }
"""


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 or 2."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """A header row and further rows."""

    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file and its caption."""

    path: Path
    caption: str


Block: TypeAlias = Heading | Paragraph | Table | Picture


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Markdown of a file in ``folder``, to which the pictures' paths are relative."""

    def text(block: Block) -> str:
        match block:
            case Heading():
                return f"{'#' * block.level} {block.text}\n"
            case Paragraph():
                return f"{block.text}\n"
            case Table():
                return markdown_table(block.rows)
            case Picture():
                return f"![{block.caption}]({block.path.relative_to(folder).as_posix()})\n\n{block.caption}\n"

    return "\n".join(map(text, blocks))


def to_html(blocks: Sequence[Block], title: str) -> str:
    """One HTML file that needs no other: pictures are part of it."""
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{escape(block.text)}</p>"
        case Table():
            return _html_table(block.rows)
        case Picture():
            data = base64.b64encode(block.path.read_bytes()).decode()
            caption = escape(block.caption)
            return (
                f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    header, *others = rows
    body = "\n".join(line(cells, "td") for cells in others)
    return f"<table>\n<thead>{line(header, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
