"""What is wrong with subjects, told one by one, while the search for more goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from geoloss_kernels.lesions.errors import InputError

Report = Callable[[str, InputError], None]
"""Takes the name of a subject or folder, and what is wrong with it."""


def raise_any(errors: Sequence[InputError], report: Report | None, name: str) -> None:
    """Raise the last of some errors, once ``report`` has the others; without a report the first."""
    if not errors:
        return
    if report is None:
        raise errors[0]
    for error in errors[:-1]:
        report(name, error)
    raise errors[-1]


@contextmanager
def reporting_to(report: Report | None, name: str) -> Iterator[None]:
    """Hand an InputError or OSError to ``report`` and go on after the block; without a report let it pass."""
    try:
        yield
    except (InputError, OSError) as error:
        if report is None:
            raise
        report(name, error if isinstance(error, InputError) else InputError(str(error)))
