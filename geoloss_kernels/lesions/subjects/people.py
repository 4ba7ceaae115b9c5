"""Who is meant: which names and folders are sessions of one person."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BIDS_SUBJECT = re.compile(r"(.*?sub-[a-z0-9]+)(?:_|$)", re.IGNORECASE)
_SESSION = re.compile(
    r"(.+?)[_-](?:"
    r"(?:ses|session|visit|timepoint|time|tp|month|year)[_-]?[a-z0-9]+"
    r"|baseline|follow-?up[_-]?[a-z0-9]*"
    r"|\d{4}-?\d{2}-?\d{2})$",
    re.IGNORECASE,
)
_GROUP = re.compile(
    r"(?:cent(?:er|re)|site|hospital|scanner|group|cohort|batch|part|set|dataset|train|val|test)\w*[-_ ]?\w*$"
    r"|(?:patients|subjects|cases|controls|people)$",
    re.IGNORECASE,
)
_PERSON = re.compile(r"(?:sub|subj|subject|patient|pat|case|p|ms|hc|control)[-_ ]?\d+\w*$", re.IGNORECASE)


def person_in(name: str) -> str:
    """The person that the name of a subject or session speaks of.

    ``sub-1_ses-2`` and ``sub-1_run-2`` are of ``sub-1``, ``anna_session3``, ``anna_tp2`` and
    ``anna_2020-05-01`` of ``anna``; any other name is a person's.
    """
    for pattern in (_BIDS_SUBJECT, _SESSION):
        if found := pattern.match(name):
            return found[1]
    return name


def holds_people(folder: str, inside: Iterable[str]) -> bool:
    """Whether a folder is of a centre or group of persons; otherwise what is ``inside`` are one's sessions.

    By their names. In doubt they are sessions, which at worst keeps people together who could be apart.
    """
    return _GROUP.match(folder) is not None or all(_PERSON.match(name) for name in inside)
