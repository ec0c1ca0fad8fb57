"""Which of the lesions that were found are taken: participants, sessions, a filter file."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacuna.bids.names import ENTITY_ORDER, parse_name
from lacuna.errors import DatasetError, OptionError

QUERIES = ("lesion",)
"""What a filter file may hold queries for."""

LONG_NAMES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "reconstruction": "rec",
    "direction": "dir",
    "modality": "mod",
    "inversion": "inv",
    "processing": "proc",
    "hemisphere": "hemi",
    "segmentation": "seg",
    "resolution": "res",
    "density": "den",
    "description": "desc",
    "template": "tpl",
}
"""Entities under the names that other programs' filter files use; the rest are short already."""

_OTHER_KEYS = ("suffix", "extension", "datatype")
_WORDS = {"Query.NONE": None, "Query.ANY": "*", "Query.REQUIRED": "*"}

Value = str | None
"""What an entity must be: a text, ``*`` for anything, none for not being there."""


@dataclass(frozen=True)
class Selection:
    """What was asked for; nothing asked for is everything.

    Parameters
    ----------
    participants, sessions
        Labels, with or without ``sub-`` and ``ses-``.
    query
        For each entity by its short name, ``suffix``, ``extension`` or ``datatype``, the values of
        which one must be met.
    """

    participants: Collection[str] = ()
    sessions: Collection[str] = ()
    query: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def names_lesions(self) -> bool:
        """Whether the query itself says which labels or descriptions are lesions."""
        said = (self.query.get("label", ()), self.query.get("desc", ()))
        return any(value not in (None, "*") for values in said for value in values)

    def refusal(self, path: Path, entities: Mapping[str, str]) -> str | None:
        """Return why a file is not taken; none if it is."""
        for key, what in (("sub", "participant"), ("ses", "session")):
            asked = self._labels(key)
            if asked and entities.get(key) not in asked:
                return f"its {what} was not asked for"
        for key, values in self.query.items():
            actual = _value(path, entities, key)
            if not any(_meets(actual, value) for value in values):
                return f"the filter file wants another {key}"
        return None

    def check(self, present: Sequence[tuple[Path, Mapping[str, str]]], root: Path) -> None:
        """Check that what was asked for is there, each label of it.

        Parameters
        ----------
        present
            Path and entities of each file that there is.
        root
            Where it was looked for, for messages.

        Raises
        ------
        DatasetError
            If a participant or session has no file, or nothing meets the query.
        """
        people = self._labels("sub")
        for key, what in (("sub", "participant"), ("ses", "session")):
            known = [e for _, e in present if key == "sub" or not people or e["sub"] in people]
            labels = sorted({entities[key] for entities in known if key in entities})
            if missing := sorted(self._labels(key) - set(labels)):
                shown = ", ".join(labels[:10]) + (", …" if len(labels) > 10 else "")
                raise DatasetError(
                    f"No lesion mask of {what} {', '.join(missing)} in {root}. It holds: "
                    f"{shown or f'masks that state no {what}'}."
                )
        if present and all(self.refusal(path, entities) for path, entities in present):
            names = ", ".join(path.name for path, _ in present[:3])
            more = ", …" if len(present) > 3 else ""
            raise DatasetError(
                f"None of the {len(present)} lesion masks in {root} is what --session-label and "
                f"the filter file ask for together. There are: {names}{more}"
            )

    def _labels(self, key: str) -> set[str]:
        asked = self.participants if key == "sub" else self.sessions
        return {label.removeprefix(f"{key}-") for label in asked}


def read_filter(path: Path) -> dict[str, tuple[Value, ...]]:
    """Return the query for lesions of a filter file.

    Parameters
    ----------
    path
        A JSON object of queries by name. A query is an object of entities: each a value, a list of
        values, null or ``"Query.NONE"`` for one that must be absent, ``"*"`` or ``"Query.ANY"``
        for one that must be there.

    Raises
    ------
    OptionError
        If it cannot be read, or asks for what nobody knows.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"--bids-filter-file {path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(q, dict) for q in content.values()):
        raise OptionError(
            f'--bids-filter-file {path} is not an object of queries such as {{"lesion": '
            '{"session": "01"}}.'
        )
    if unknown := sorted(content.keys() - set(QUERIES)):
        raise OptionError(
            f"--bids-filter-file {path} has a query for {', '.join(unknown)}; known: "
            f"{', '.join(QUERIES)}."
        )
    known = {*ENTITY_ORDER, *LONG_NAMES, *_OTHER_KEYS}
    query = content.get("lesion", {})
    if unknown := sorted(query.keys() - known):
        raise OptionError(
            f"--bids-filter-file {path} asks for {', '.join(unknown)}; known: "
            f"{', '.join(sorted(known))}."
        )
    asked = {LONG_NAMES.get(key, key): _values(key, said, path) for key, said in query.items()}
    if len(asked) < len(query):
        raise OptionError(
            f"--bids-filter-file {path} asks for one entity under two names: "
            f"{', '.join(sorted(query))}. Keep one of them."
        )
    return {key: values for key, values in asked.items() if "Query.OPTIONAL" not in values}


def _values(key: str, said: Any, path: Path) -> tuple[Value, ...]:
    prefix = f"{LONG_NAMES.get(key, key)}-"
    values: list[Value] = []
    for value in said if isinstance(said, list) else [said]:
        if isinstance(value, bool) or not isinstance(value, str | int | None):
            raise OptionError(
                f"--bids-filter-file {path}: {key} is {value!r}; known are text, whole numbers, "
                "null, and lists of these."
            )
        text = str(value).removeprefix(prefix)
        values.append(_WORDS.get(text, text) if value is not None else None)
    return tuple(values)


def _value(path: Path, entities: Mapping[str, str], key: str) -> str | None:
    if key == "datatype":
        return path.parent.name
    if key == "extension":
        return ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    if key == "suffix":
        name = parse_name(path.name)
        return name.suffix if name else None
    return entities.get(key)


def _meets(actual: str | None, wanted: Value) -> bool:
    if actual is None or wanted is None or wanted == "*":
        return (actual is None) == (wanted is None)
    # Runs are numbers: 1 is 01.
    same_number = actual.isdecimal() and wanted.isdecimal() and int(actual) == int(wanted)
    return actual == wanted or same_number
