"""What a user can correct: bad configuration, bad table of subjects, bad image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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


class InputWarning(UserWarning):
    """Input that can be used and may be wrong; names the file and what was made of it."""


def warn(message: str) -> None:
    """Issue an `InputWarning`, once for each message."""
    warnings.warn(message, InputWarning, stacklevel=2)


@contextmanager
def recorded_warnings() -> Iterator[list[str]]:
    """The messages of the `InputWarning`s of the block, each once; there is nothing in it before its end."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InputWarning)
        yield messages
    messages += dict.fromkeys(str(each.message) for each in caught if each.category is InputWarning)


@contextmanager
def warnings_shown_by(show: Callable[[str], None]) -> Iterator[None]:
    """Hand the message of every `InputWarning` of the block to ``show``, once."""
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        others = warnings.showwarning

        def show_warning(
            message: Warning | str, category: type[Warning], *place: Any, **options: Any
        ) -> None:
            if category is not InputWarning:
                others(message, category, *place, **options)
            elif str(message) not in seen:
                seen.add(str(message))
                show(str(message))

        warnings.showwarning = show_warning
        yield


def message_of(error: Exception, lesion_label_option: str) -> str:
    """The message of an error on one line, with the advice in terms of the command's own option."""
    if isinstance(error, LesionLabelError):
        return one_line(f"{error.problem}; give {lesion_label_option}")
    return one_line(str(error))


def one_line(text: str) -> str:
    """``text`` with its line breaks and other characters that do not print as spaces."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
