"""What takes the lines that report progress."""

from __future__ import annotations

from collections.abc import Callable

Log = Callable[[str], None]
