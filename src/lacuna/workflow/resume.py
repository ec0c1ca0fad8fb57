"""What a run finds done: which lesions are to be done, or done again, and why."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lacuna.bids.dataset import LesionListing
from lacuna.bids.derivatives import LesionOutputs
from lacuna.bids.ledger import (
    LedgerEntry,
    has_record,
    is_begun,
    read_entry,
    read_ledger,
    recording,
)
from lacuna.errors import DatasetError, SpaceError
from lacuna.geometry.space import resolve_space

State = Literal["done", "stale", "failed", "missing"]

Fingerprint = Callable[[Path], str]
"""Returns the fingerprint of a file's content."""

NOUNS = {
    "Atlases": "atlas",
    "Tracts": "the file of tracts",
    "Template": "the template",
    "LesionMoves": "--move-lesions with",
    "MinEdge": "--min-edge",
    "SaveStreamlines": "--save-streamlines",
    "LesionSide": "lesion_side in participants.tsv",
    "LesionSpace": "the lesion's space",
}
"""What parameters are called where their change is told; others as they are written."""


@dataclass(frozen=True)
class Standing:
    """How far a lesion is.

    Parameters
    ----------
    entry
        What its record will say before anything is known of its results; of a lesion that is
        done, its record.
    state
        ``done``, ``stale`` (its results are not those that would be made now), ``failed`` or
        ``missing``.
    why
        Why it is not done; empty if nobody tried.
    """

    entry: LedgerEntry
    state: State
    why: str = ""

    def __str__(self) -> str:
        """Return it in words; empty for what nobody tried."""
        if self.state == "done":
            return "done already"
        return f"{self.state}: {self.why}" if self.why else ""

    def recording(self, outputs: LesionOutputs) -> AbstractContextManager[None]:
        """Return what keeps the lesion's record while its outputs are written."""
        return recording(outputs.output_dir, self.entry)


def find_standings(
    outputs: Sequence[LesionOutputs],
    fingerprint: Fingerprint,
    parameters: Mapping[str, Any],
    *,
    spaces: Mapping[Path, str | None],
    inputs: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> dict[Path, Standing]:
    """Return how far each lesion is, by the path of its mask; parameters as in `expect`.

    Parameters
    ----------
    overwrite
        Count none as done.

    Raises
    ------
    DatasetError
        If the results of another mask, which is still there, have the names of those of one.
    """
    wanted = expect(outputs, fingerprint, parameters, spaces=spaces, inputs=inputs)
    found = {}
    for each in outputs:
        entry = wanted[each.lesion.path]
        recorded = read_entry(each.output_dir, entry.stem)
        _refuse_rival(each.output_dir, entry, recorded)
        found[each.lesion.path] = _judge(each.output_dir, entry, recorded, overwrite=overwrite)
    return found


def _refuse_rival(output_dir: Path, entry: LedgerEntry, recorded: LedgerEntry | None) -> None:
    other = None if recorded is None or not recorded.is_done else Path(recorded.lesion)
    # Of one name it is the same mask, elsewhere: datasets are copied and mounted.
    if other is not None and other.name != Path(entry.lesion).name and other.exists():
        raise DatasetError(
            f"Results of {Path(entry.lesion).name} would have the names of those of {other}, "
            f"which are in {output_dir}: rename one of the masks, or give another OUTPUT_DIR."
        )


def expect(
    outputs: Sequence[LesionOutputs],
    fingerprint: Fingerprint,
    parameters: Mapping[str, Any],
    *,
    spaces: Mapping[Path, str | None],
    inputs: Mapping[str, str] | None = None,
) -> dict[Path, LedgerEntry]:
    """Return what would be recorded of each lesion now, by the path of its mask.

    Parameters
    ----------
    outputs
        Where the results of each lesion go.
    parameters
        All that decides what they hold beside the lesion; JSON values, none where not given.
    spaces
        What is taken for the space of each lesion: it may be moved from there.
    inputs
        Fingerprint of each file that they come from, by path.
    """
    found = {}
    for each in outputs:
        lesion = each.lesion
        own = {"LesionSide": lesion.lesion_side, "LesionSpace": spaces[lesion.path]}
        asked = {**parameters, **own}
        found[lesion.path] = LedgerEntry(
            stem=stem_of(each),
            lesion=str(lesion.path),
            fingerprint=_fingerprint(fingerprint, lesion.path),
            # As they come back from a file: lists for tuples.
            parameters=json.loads(json.dumps({k: v for k, v in asked.items() if v is not None})),
            inputs=dict(inputs or {}),
            version=version("lacuna-lnm"),
            space=each.space,
            resolution=each.resolution,
        )
    return found


def refuse(
    found: Mapping[Path, Standing], refused: Mapping[Path, Exception]
) -> dict[Path, Standing]:
    """Return the lesions that are done and would not be tried now: they are stale."""
    return {
        path: Standing(replace(found[path].entry, is_done=False, outputs={}), "stale", str(error))
        for path, error in refused.items()
        if found[path].state == "done"
    }


def judge(output_dir: Path, entry: LedgerEntry) -> Standing:
    """Compare what is recorded of a lesion with ``entry``, which would be recorded of it now."""
    return _judge(output_dir, entry, read_entry(output_dir, entry.stem))


def _judge(
    output_dir: Path, entry: LedgerEntry, recorded: LedgerEntry | None, *, overwrite: bool = False
) -> Standing:
    if recorded is None:
        why = "its record cannot be read" if has_record(output_dir, entry.stem) else ""
        why = "it was begun, and not ended" if is_begun(output_dir, entry.stem) else why
        return Standing(entry, "missing", why)
    if not recorded.is_done:
        return Standing(entry, "failed", recorded.reason)
    reasons = [*_differences(recorded, entry), *_damages(output_dir, recorded)]
    reasons += ["--overwrite"] if overwrite else []
    return Standing(entry, "stale", "; ".join(reasons)) if reasons else Standing(recorded, "done")


def look_at(
    listing: LesionListing, output_dir: Path, fingerprint: Fingerprint
) -> dict[Path, Standing]:
    """Return how far each lesion is, by what is recorded alone."""
    ledger = read_ledger(output_dir)
    wanted = expect_like(find_newest(ledger.values()), ledger, listing, output_dir, fingerprint)
    return {path: judge(output_dir, entry) for path, entry in wanted.items()}


def find_newest(
    entries: Iterable[LedgerEntry], listing: LesionListing | None = None
) -> LedgerEntry | None:
    """Return the record that was made last; with a listing, of its lesions that are done."""
    if listing is not None:
        names = {lesion.path.name for lesion in listing.found}
        entries = [each for each in entries if each.is_done and Path(each.lesion).name in names]
    return max(entries, key=lambda entry: entry.ended, default=None)


def expect_like(
    newest: LedgerEntry | None,
    ledger: Mapping[str, LedgerEntry],
    listing: LesionListing,
    output_dir: Path,
    fingerprint: Fingerprint,
) -> dict[Path, LedgerEntry]:
    """Return what would be recorded of each lesion if all were asked what one was."""
    shared, inputs, space, resolution = {}, {}, "unknown", ""
    if newest is not None:
        shared, space, resolution = dict(newest.parameters), newest.space, newest.resolution
        # What is no longer there cannot have changed.
        inputs = {
            path: now for path in newest.inputs if (now := _fingerprint(fingerprint, Path(path)))
        }
    outputs = [
        LesionOutputs(lesion, output_dir.absolute(), space, resolution) for lesion in listing.found
    ]
    spaces = {each.lesion.path: _space(each, ledger.get(stem_of(each))) for each in outputs}
    return expect(outputs, fingerprint, shared, spaces=spaces, inputs=inputs)


def _space(outputs: LesionOutputs, recorded: LedgerEntry | None) -> str | None:
    """Return the space of a lesion: as it states itself, or as it was said when it was used."""
    if outputs.lesion.space is not None:
        with suppress(SpaceError):
            return resolve_space(outputs.lesion.space.name)
    said: str | None = None if recorded is None else recorded.parameters.get("LesionSpace")
    return said


def number_tasks(listing: LesionListing) -> dict[Path, int]:
    """Return the number of the task of a job array that does each lesion.

    Of a dataset a task does what is in one of its ``sub-*`` folders, else one mask; counted from
    0 in the order of the bytes of their names, as ``LC_ALL=C`` sorts.
    """
    if listing.kind != "dataset":
        return {lesion.path: number for number, lesion in enumerate(listing.found)}
    folders = sorted(listing.root.glob("sub-*"), key=lambda path: os.fsencode(path.name))
    numbers = {folder: number for number, folder in enumerate(folders)}
    tasks = {
        lesion.path: [numbers[above] for above in lesion.path.parents if above in numbers]
        for lesion in listing.found
    }
    return {path: found[0] for path, found in tasks.items() if found}


def stem_of(outputs: LesionOutputs) -> str:
    """Return the name of a lesion's record."""
    return outputs.path("summary", "stats", ".tsv").name.removesuffix("_desc-summary_stats.tsv")


def read_summary(outputs: LesionOutputs) -> dict[str, str]:
    """Return the summary of a lesion that is done, by column, as it is written."""
    with outputs.path("summary", "stats", ".tsv").open(encoding="utf-8", newline="") as stream:
        return dict(next(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)))


def count_standings(standings: Sequence[Standing]) -> str:
    """Return how many lesions are done already, and why the others are not; empty if none is."""
    states = Counter(standing.state for standing in standings)
    if set(states) <= {"missing"}:
        return ""
    parts = [f"done already: {states['done']} of {len(standings)}"]
    for state in ("stale", "failed", "missing"):
        if states[state]:
            whys = Counter(s.why for s in standings if s.state == state and s.why)
            shown = [f"{why}: {n}" if len(whys) > 1 else why for why, n in whys.most_common(3)]
            reasons = f" ({', '.join(shown)}{', …' * (len(whys) > 3)})" * (state == "stale")
            parts.append(f"{state}: {states[state]}{reasons}")
    return "; ".join(parts)


def _fingerprint(fingerprint: Fingerprint, path: Path) -> str:
    try:
        return fingerprint(path)
    except (OSError, ValueError):  # it will fail, and say why
        return ""


def _differences(before: LedgerEntry, now: LedgerEntry) -> list[str]:
    said = []
    if before.version != now.version:
        said.append(f"made by version {before.version}, this is {now.version}")
    if before.fingerprint != now.fingerprint:
        said.append("the lesion mask changed" if now.fingerprint else "the mask cannot be read")
    both = before.inputs.keys() & now.inputs.keys()
    said += [
        f"{Path(path).name} changed, so that results need another OUTPUT_DIR"
        for path in sorted(both)
        if before.inputs[path] != now.inputs[path]
    ]
    for key in sorted(before.parameters.keys() | now.parameters.keys()):
        old, new = before.parameters.get(key), now.parameters.get(key)
        if old != new:
            said += _explain_change(NOUNS.get(key, key), old, new)
    return said


def _explain_change(noun: str, old: Any, new: Any) -> list[str]:
    if not isinstance(old or new, dict):
        return [f"{noun} was {_word(old)}, is {_word(new)}"]
    old, new = old or {}, new or {}
    names = sorted(old.keys() | new.keys())
    fates = {(True, True): "changed", (True, False): "was left out", (False, True): "was added"}
    changed = [name for name in names if old.get(name) != new.get(name)]
    return [f"{noun} {name} {fates[name in old, name in new]}" for name in changed]


def _word(value: Any) -> str:
    # By identity: 1 and 1.0 equal True.
    words = ((None, "not given"), (True, "yes"), (False, "no"))
    return next((word for known, word in words if value is known), str(value))


def _damages(output_dir: Path, recorded: LedgerEntry) -> list[str]:
    sizes = {name: _size(output_dir / name) for name in recorded.outputs}
    gone = [Path(name).name for name, size in sizes.items() if size is None]
    other = [
        Path(name).name
        for name, size in sizes.items()
        if size not in (None, recorded.outputs[name])
    ]
    return [
        f"{names[0]} {what}" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
        for names, what in ((gone, "is gone"), (other, "has another size"))
        if names
    ]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
