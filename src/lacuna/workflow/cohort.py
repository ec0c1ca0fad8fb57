"""Which lesions of an output folder belong together, and which are left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lacuna.bids.dataset import LesionListing
from lacuna.bids.derivatives import LesionOutputs, read_parameters
from lacuna.bids.ledger import LedgerEntry, read_entry, read_ledger
from lacuna.bids.names import parse_name
from lacuna.bids.tables import Participants, read_participants
from lacuna.errors import DatasetError
from lacuna.geometry.grid import Grid
from lacuna.workflow.resume import Fingerprint, Standing, expect_like, find_newest, judge

UNSHARED = ("Figures", "Report", "Template", "SaveStreamlines", "Strict")
"""Parameters that may differ between lesions: no number depends on them."""


class Part(NamedTuple):
    """One kind of table (``stats``) or matrix (``relmat``) among the results of a lesion."""

    seg: str
    desc: str
    suffix: str

    @property
    def name(self) -> str:
        """Name of the group's file of this kind."""
        return f"group_{f'seg-{self.seg}_' if self.seg else ''}desc-{self.desc}_{self.suffix}.tsv"

    def path(self, outputs: LesionOutputs) -> Path:
        """Return a lesion's file of this kind."""
        return outputs.path(self.desc, self.suffix, ".tsv", seg=self.seg)


class DoneLesion(NamedTuple):
    """Where a lesion's results are, and what is recorded of them."""

    outputs: LesionOutputs
    record: LedgerEntry


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """Which lesions are taken together, and which are not.

    Parameters
    ----------
    output_dir
        Root of the derivative dataset.
    parameters
        What all its results share.
    grid
        Report grid; none if the results have no maps.
    space
        Space of the results.
    lesions
        Those that are taken, in the order of their paths; at least one.
    parts
        The tables and matrices that each of them has.
    left_out
        Why the others are not, by file name of the mask.
    participants
        What the dataset says of them.
    thresholds
        From which disconnection on a voxel counts as disconnected, for the maps of frequency.
    """

    output_dir: Path
    parameters: Mapping[str, Any]
    grid: Grid | None
    space: str
    lesions: tuple[DoneLesion, ...]
    parts: tuple[Part, ...]
    left_out: Mapping[str, str]
    participants: Participants
    thresholds: tuple[float, ...]

    def __str__(self) -> str:
        """Return the plan for people: what is taken, and what is not and why."""
        n, n_out = len(self.lesions), len(self.left_out)
        lines = [f"{self.output_dir}: {n} of {n + n_out} lesions are taken together"]
        lines += [f"  left out: {name}: {reason}" for name, reason in self.left_out.items()]
        lines += [f"  → {part.name}" for part in self.parts if part.suffix == "stats"]
        return "\n".join(lines)


def plan_group(
    listing: LesionListing,
    output_dir: Path,
    *,
    analysis: str,
    fingerprint: Fingerprint,
    thresholds: Sequence[float] = (0.5,),
) -> GroupPlan:
    """Decide which lesions are taken together; nothing is written.

    Parameters
    ----------
    listing
        The lesions that should be there.
    output_dir
        What the participant level wrote.
    analysis
        ``snm`` or ``damage``.
    fingerprint
        Tells whether a mask is still the one that the results are of.
    thresholds
        As in `GroupPlan`.

    Raises
    ------
    DatasetError
        If the folder holds no results of this analysis, or none of these lesions is done.
    """
    root = output_dir.absolute()
    parameters = read_parameters(root)
    found = None if parameters is None else parameters.get("Analysis", "snm")
    if parameters is None or found != analysis:
        what = "no results" if found is None else f"results of `run {found}`"
        raise DatasetError(
            f"{root} holds {what}: give the OUTPUT_DIR of `run {analysis}` at the participant "
            "level, which comes first."
        )
    lesions, parts, left_out = _take(listing, root, fingerprint)
    if not lesions:
        raise DatasetError(
            f"None of the {len(listing.found)} lesions of {listing.root} is done in {root}: run "
            "the participant level first."
        )
    stored = parameters.get("ReportGrid")
    return GroupPlan(
        output_dir=root,
        parameters=parameters,
        grid=stored and Grid(tuple(stored["Shape"]), np.array(stored["Affine"])),
        space=lesions[0].record.space,
        lesions=lesions,
        parts=parts,
        left_out=left_out,
        participants=read_participants(listing.root),
        thresholds=tuple(sorted(set(thresholds))),
    )


def _take(
    listing: LesionListing, root: Path, fingerprint: Fingerprint
) -> tuple[tuple[DoneLesion, ...], tuple[Part, ...], dict[str, str]]:
    """Return the lesions that are done alike, their tables, and why the others are left out."""
    ledger, masks = read_ledger(root), {lesion.path for lesion in listing.found}
    # The tractogram need not be here; where it is, reading it would take minutes.
    newest = find_newest(ledger.values(), listing)
    wanted = expect_like(
        newest, ledger, listing, root, lambda path: fingerprint(path) if path in masks else ""
    )
    done, left_out = [], {}
    for lesion in listing.found:
        standing = _compare(root, wanted[lesion.path], newest)
        if standing.state == "done":
            entry = standing.entry
            outputs = LesionOutputs(lesion, root, entry.space, entry.resolution)
            done.append(DoneLesion(outputs, entry))
        else:
            left_out[lesion.path.name] = str(standing) or "missing: it has no results"
    kinds = Counter(_parts(each.record) for each in done).most_common(1)
    parts = kinds[0][0] if kinds else ()
    for each in done:
        if differing := set(parts) ^ set(_parts(each.record)):
            names = ", ".join(sorted(part.name for part in differing))
            said = f"stale: its tables are not those of most lesions ({names})"
            left_out[each.outputs.lesion.path.name] = said
    known = {entry.stem for entry in wanted.values()}
    passed_over = {item.path.name for item in listing.ignored}
    for stem, entry in ledger.items():
        mask, name = Path(entry.lesion), parse_name(f"{stem}_mask.nii.gz")
        is_asked = name is None or not listing.selection.refusal(mask, name.entities)
        if entry.is_done and stem not in known and mask.name not in passed_over and is_asked:
            said = "its lesion is not in the input; remove these results, or give the right input"
            left_out[stem] = said
    return tuple(each for each in done if _parts(each.record) == parts), parts, left_out


def _compare(root: Path, wanted: LedgerEntry, newest: LedgerEntry | None) -> Standing:
    """Return how far a lesion is, if it is to be like the one that was done last."""
    recorded = read_entry(root, wanted.stem)
    own = {} if recorded is None else recorded.parameters
    shared = {key: value for key, value in wanted.parameters.items() if key not in UNSHARED}
    shared |= {key: value for key, value in own.items() if key in UNSHARED}
    # Results of one earlier version belong together, whichever version puts them there.
    version = wanted.version if newest is None else newest.version
    return judge(root, replace(wanted, parameters=shared, version=version))


def _parts(record: LedgerEntry) -> tuple[Part, ...]:
    found = set()
    for path in record.outputs:
        name = parse_name(Path(path).name) if path.endswith(".tsv") else None
        if name is not None and name.suffix in ("stats", "relmat"):
            found.add(Part(name.entities.get("seg", ""), name.entities["desc"], name.suffix))
    return tuple(sorted(found))


def check_unchanged(plan: GroupPlan) -> None:
    """Check that the results are still those that were found.

    Raises
    ------
    DatasetError
        If those of a lesion are gone or others.
    """
    for outputs, record in plan.lesions:
        if read_entry(plan.output_dir, record.stem) != record:
            raise DatasetError(
                f"The results of {outputs.lesion.path.name} changed while they were read: is the "
                "participant level still at work? Run the group level again when it is through."
            )
