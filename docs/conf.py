"""The documentation: `make docs`. Pictures are drawn, and benchmark tables copied, while it is built."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(HERE), str(REPOSITORY)]

import pictures  # noqa: E402

import geoloss_kernels as gk  # noqa: E402

project = "geoloss_kernels"
version = release = gk.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["generated/results.md"]
html_theme = "furo"
html_title = f"geoloss_kernels {release}"
html_show_copyright = False
templates_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # benchmark tables start below the page's own title

default_role = "py:obj"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "generated/contributing.md",
    "CHANGELOG.md": "generated/changelog.md",
    "bench/README.md": "generated/measuring.md",
    "bench/results": "benchmarks.md",
    "bench/results/README.md": "generated/results.md",
}
"""The repository's files that are pages here. Those under generated/ are copied while building."""
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def _with_links_to_pages(text: str, folder: Path) -> str:
    """Markdown of ``folder`` whose links to the repository's files lead to pages, or are names of files."""

    def link(match: re.Match[str]) -> str:
        name, target = match.groups()
        path, hash, anchor = target.partition("#")
        file = (folder / path).resolve()
        if "://" in target or not path or not file.is_relative_to(REPOSITORY):
            return match.group()
        page = PAGES.get(str(file.relative_to(REPOSITORY)))
        if page is None and file.is_relative_to(HERE):
            page = str(file.relative_to(HERE))
        return f"`{name.strip('`')}`" if page is None else f"[{name}](/{page}{hash}{anchor})"

    return LINK.sub(link, text)


def _copy_pages() -> None:
    for name, page in PAGES.items():
        if page.startswith("generated/"):
            source = REPOSITORY / name
            (HERE / page).write_text(_with_links_to_pages(source.read_text(), source.parent))


def _repository_links(app: Any, page: str, source: list[str]) -> None:
    """Pages are read in the repository as well, where their links lead to its files."""
    if not page.startswith("generated/"):
        source[0] = _with_links_to_pages(source[0], HERE / Path(page).parent)


def _indented_code(lines: list[str]) -> None:
    """Marks a paragraph that is indented after another as code."""
    for place in range(len(lines) - 1, 1, -1):
        before, blank, line = lines[place - 2 : place + 1]
        indent = len(before) - len(before.lstrip())
        starts = before.strip() and not blank.strip() and line.startswith(" " * (indent + 4))
        if starts and not before.lstrip().startswith((".. ", "* ", "- ")):
            lines[place - 1 : place] = ["", " " * indent + "::", ""]


def _plain_signs(lines: list[str]) -> None:
    """Escapes, outside of code, the signs of formulas and shapes that reStructuredText would read."""
    code_of: int | None = None
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_of is not None and line.strip() and indent <= code_of:
            code_of = None
        if line.strip() == "::":
            code_of = indent
        if code_of is None:
            parts = re.split(r"(`+[^`]*`+)", line)
            lines[place] = "".join(part if "`" in part else SIGNS.sub(r"\\\g<0>", part) for part in parts)


SIGNS = re.compile(r"\||\*(?=\w)")


def _read_docstring(app: Any, kind: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read as they are."""
    _indented_code(lines)
    _plain_signs(lines)


def setup(app: Any) -> None:
    pictures.draw(HERE / "generated")
    _copy_pages()
    app.connect("source-read", _repository_links)
    app.connect("autodoc-process-docstring", _read_docstring, priority=400)  # before napoleon
