"""The README and docs/: every command that they show is one that `geoloss` takes.

Their Python is run by the conftest.py beside the README.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from geoloss_kernels.lesions.cli import build_parser

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The lines of its blocks that call `geoloss`, without their comments; continued lines joined."""
    texts = [text for language, text in BLOCK.findall(page.read_text()) if language in ("", "bash", "sh")]
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("geoloss ")]


SHOWN = [(page.name, line) for page in PAGES for line in commands(page)]


def test_commands_are_found():
    assert len(SHOWN) >= 20


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_that_is_shown_is_taken(page, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("settings.toml").touch()
    arguments = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    options = build_parser(arguments).parse_args(arguments)
    assert callable(options.run)
