"""The error a user can correct: bad configuration, bad table of subjects, bad image."""

from __future__ import annotations


class InputError(ValueError):
    """Names the key, file or folder at fault, what was expected and what was found."""


class LesionLabelError(InputError):
    """A mask holds more than 0 and 1, and ``lesion_label`` does not say which value marks lesions."""

    @property
    def problem(self) -> str:
        """The message without its advice."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.problem}; give lesion_label"


def message_of(error: Exception, lesion_label_option: str) -> str:
    """The message of an error, with the advice in terms of the command's own option."""
    if isinstance(error, LesionLabelError):
        return f"{error.problem}; give {lesion_label_option}"
    return str(error)
