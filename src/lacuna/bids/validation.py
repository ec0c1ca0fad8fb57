"""Whether an input is the BIDS dataset that it seems to be: the BIDS validator's word, or our own.

A large dataset has errors that do not matter here, so that none stops a run: those that concern
the lesion masks in use or ``dataset_description.json`` are told one by one, others counted.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacuna.bids.dataset import LesionListing, read_sidecar, split_rows
from lacuna.errors import DatasetError

PROGRAM = "bids-validator-deno"
TIME_LIMIT_S = 60.0
SHOWN = 3
"""Errors of each kind that are told in full."""

MISPLACED = (
    'The BIDS validator takes masks among raw data for misplaced: "DatasetType": "derivative" in '
    "dataset_description.json tells it that they are what was drawn on scans."
)

_NO_NETWORK = "http://127.0.0.1:9"
"""A proxy that is not there: what the validator would look up elsewhere, it does not find."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a dataset.

    Parameters
    ----------
    judge
        Who says so.
    relevant
        Errors that concern the masks in use or the dataset's description, one line each.
    others
        Any others.
    """

    judge: str
    relevant: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it for people: counts, and the first few; empty if nothing is wrong."""
        kinds = (
            (self.relevant, "about lesion masks in use or the dataset's description"),
            (self.others, "about other files, which are not read"),
        )
        told = [
            f"{len(lines)} {what} ({'; '.join(lines[:SHOWN])}{'; …' * (len(lines) > SHOWN)})"
            for lines, what in kinds
            if lines
        ]
        return f"{self.judge} finds errors: {', '.join(told)}." if told else ""


def validate(
    listing: LesionListing,
    environment: Mapping[str, str],
    *,
    program: str | None,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[Verdict, str]:
    """Validate a dataset with the BIDS validator, or, without it, what Lacuna itself relies on.

    Nothing is written, and the network is not used.

    Parameters
    ----------
    listing
        The dataset, and the masks in use.
    environment
        Variables of this process, for the validator.
    program
        The validator, as `find_validator` returns.
    time_limit_s
        Seconds that the validator gets.

    Returns
    -------
    Verdict, str
        What is wrong; and a sentence if the validator could not say, or what to do about masks.

    Raises
    ------
    DatasetError
        If ``dataset_description.json`` is not a JSON object.
    """
    read_sidecar(listing.root / "dataset_description.json")
    if program is None:
        return _check(listing), f"The BIDS validator ({PROGRAM}) was not found."
    try:
        verdict = _sort(listing, _run_validator(program, listing.root, environment, time_limit_s))
    except subprocess.TimeoutExpired:
        said = f"The BIDS validator took more than {time_limit_s:.0f} s, and was stopped."
        return _check(listing), said
    except (OSError, ValueError, LookupError, TypeError) as error:
        return _check(listing), f"The BIDS validator failed ({error})."
    is_misplaced = any(line.startswith("NOT_INCLUDED ") for line in verdict.relevant)
    return verdict, MISPLACED * is_misplaced


def find_validator() -> str | None:
    """Return the BIDS validator beside the interpreter or on ``PATH``, if there is one."""
    beside = os.fspath(Path(sys.executable).parent)
    return shutil.which(PROGRAM, path=beside) or shutil.which(PROGRAM)


def _run_validator(
    program: str, root: Path, environment: Mapping[str, str], time_limit_s: float
) -> list[Mapping[str, Any]]:
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NO_NETWORK)
    done = subprocess.run(
        [program, "--format", "json", "--ignoreWarnings", "--ignoreNiftiHeaders", str(root)],
        capture_output=True,
        check=False,
        cwd="/",  # it asks git for its own version, and would ask about the user's project
        env={**environment, **proxies, "NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        timeout=time_limit_s,
    )
    if not done.stdout.strip():
        raise ValueError(f"exit status {done.returncode}")
    issues: list[Mapping[str, Any]] = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


def _sort(listing: LesionListing, issues: Sequence[Mapping[str, Any]]) -> Verdict:
    inside = [lesion.path for lesion in listing.found if lesion.path.is_relative_to(listing.root)]
    ours = {f"/{path.relative_to(listing.root).as_posix()}" for path in inside}
    ours.add("/dataset_description.json")
    relevant: list[str] = []
    others: list[str] = []
    for issue in issues:
        location = str(issue.get("location") or "the dataset")
        code = ": ".join(filter(None, (issue["code"], issue.get("subCode"))))
        (relevant if location in ours else others).append(f"{code} {location.lstrip('/')}")
    return Verdict("The BIDS validator", tuple(relevant), tuple(others))


def _check(listing: LesionListing) -> Verdict:
    """Check what results depend on: the description, each mask's folder, and the participants."""
    description = read_sidecar(listing.root / "dataset_description.json")
    wrong = [
        f"dataset_description.json has no {key}"
        for key in ("Name", "BIDSVersion")
        if not isinstance(description.get(key), str)
    ]
    listed = _participants(listing.root)
    for lesion in listing.found:
        name, folders = lesion.path.name, lesion.path.relative_to(listing.root).parts[:-1]
        stated = [
            f"{key}-{lesion.entities[key]}" for key in ("sub", "ses") if key in lesion.entities
        ]
        found = [part for part in folders if part.startswith(("sub-", "ses-"))]
        if found != stated:
            wrong.append(f"{name} is in {'/'.join(folders) or 'no folder of its own'}")
        if listed is not None and f"sub-{lesion.participant}" not in listed:
            wrong.append(f"participants.tsv has no sub-{lesion.participant}")
    return Verdict("Lacuna's own check", tuple(dict.fromkeys(wrong)))


def _participants(root: Path) -> set[str] | None:
    table = root / "participants.tsv"
    if not table.is_file():
        return None
    try:
        with table.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            header, *lines = split_rows(stream.read()) or [[]]
    except OSError as error:
        raise DatasetError(f"{table} cannot be read ({error.strerror}); check its mode.") from error
    names = [name.strip() for name in header]
    rows = [dict(zip(names, line, strict=False)) for line in lines]
    return {row.get("participant_id", "").strip() for row in rows}
