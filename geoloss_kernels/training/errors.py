"""The error a user can correct: bad configuration, bad table of subjects, bad image."""

from __future__ import annotations


class InputError(ValueError):
    """Names the key, file or folder at fault, what was expected and what was found."""
