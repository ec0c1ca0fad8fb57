"""Which lesions of an output folder belong together, and which are left out and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lacuna.bids.dataset import LesionFile, LesionListing
from lacuna.bids.derivatives import LesionOutputs, plan_outputs, read_parameters
from lacuna.bids.ledger import read_ledger
from lacuna.bids.names import build_name, name_plain_file, parse_name, resolution_label
from lacuna.bids.tables import Participants, TextTable, read_participants, read_table
from lacuna.errors import DatasetError
from lacuna.geometry.grid import Grid
from lacuna.workflow.resume import Fingerprint, Standing, judge, look_at


class Part(NamedTuple):
    """One kind of table among the results of a lesion."""

    seg: str
    desc: str
    suffix: str

    @property
    def name(self) -> str:
        """Name of the group's table of this kind."""
        own = {"seg": self.seg, "desc": self.desc}
        return group_name({key: value for key, value in own.items() if value}, self.suffix, ".tsv")


@dataclass(frozen=True, eq=False)
class DoneLesion:
    """A lesion whose results are complete.

    Parameters
    ----------
    outputs
        The lesion, and where its results are.
    tables
        Header of each of its tables.
    stamp
        Of the table that is written last: another one, and the results are others.
    """

    outputs: LesionOutputs
    tables: Mapping[Part, str]
    stamp: tuple[int, int]

    def path(self, part: Part) -> Path:
        """Return the file of a table or matrix."""
        return self.outputs.path(part.desc, part.suffix, ".tsv", seg=part.seg)


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
        Those that are taken, in the order of their paths; at least one, all with the same tables.
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
    left_out: Mapping[str, str]
    participants: Participants
    thresholds: tuple[float, ...]

    def parts(self, suffix: str) -> list[Part]:
        """Return which tables (``stats``) or matrices (``relmat``) there are."""
        return [part for part in self.lesions[0].tables if part.suffix == suffix]

    def __str__(self) -> str:
        """Return the plan for people: what is taken, and what is not and why."""
        n, n_out = len(self.lesions), len(self.left_out)
        lines = [f"{self.output_dir}: {n} of {n + n_out} lesions are taken together"]
        lines += [f"  left out: {name}: {reason}" for name, reason in self.left_out.items()]
        lines += [f"  → {part.name}" for part in self.parts("stats")]
        return "\n".join(lines)


def group_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """Return the name of a file at the root of the output folder."""
    return f"group_{build_name(entities, suffix, extension)}"


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
    stored = parameters.get("ReportGrid")
    grid = None if stored is None else Grid(tuple(stored["Shape"]), np.array(stored["Affine"]))
    space = parameters.get("TractogramSpace") or parameters["Space"]
    label = "" if grid is None else resolution_label(grid)
    planned = plan_outputs(listing.found, root, space=space, resolution=label)
    standings = _find_standings(listing, root, fingerprint)
    done, left_out = _find_done(planned, standings)
    taken = _take_alike(done, left_out)
    left_out |= _find_strays(listing, root, space, label)
    if not taken:
        raise DatasetError(
            f"None of the {len(planned)} lesions of {listing.root} is done in {root}: run the "
            "participant level first."
        )
    participants = read_participants(listing.root)
    return GroupPlan(
        root, parameters, grid, space, taken, left_out, participants, tuple(sorted(set(thresholds)))
    )


def _find_standings(
    listing: LesionListing, root: Path, fingerprint: Fingerprint
) -> Mapping[Path, Standing]:
    """Return how far each lesion is by its record; nothing if no lesion of the folder has one."""
    ledger, masks = read_ledger(root), {lesion.path for lesion in listing.found}
    if not ledger:
        return {}
    # The tractogram need not be here; where it is, reading it would take minutes.
    standings = look_at(listing, root, lambda path: fingerprint(path) if path in masks else "")
    newest = max(ledger.values(), key=lambda entry: entry.ended)
    # Results of one earlier version belong together, whichever version puts them there.
    return {
        path: judge(root, replace(standing.entry, version=newest.version))
        for path, standing in standings.items()
    }


def _find_done(
    planned: Sequence[LesionOutputs], standings: Mapping[Path, Standing]
) -> tuple[list[DoneLesion], dict[str, str]]:
    done, left_out = [], {}
    for outputs in planned:
        standing = standings.get(outputs.lesion.path)
        if standing is not None and standing.state != "done":
            said = str(standing) or "missing: it has no results"
            left_out[outputs.lesion.path.name] = said
            continue
        try:
            stamp = _stamp(outputs)
            tables = {
                part: _header(path)
                for path in sorted(outputs.directory.glob("*.tsv"))
                if (part := _part_of(path, outputs)) is not None
            }
        except FileNotFoundError:
            left_out[outputs.lesion.path.name] = "missing: it has no results, or not all of them"
            continue
        done.append(DoneLesion(outputs, tables, stamp))
    return done, left_out


def _header(path: Path) -> str:
    with path.open(encoding="utf-8") as stream:
        return stream.readline()


def _part_of(path: Path, outputs: LesionOutputs) -> Part | None:
    name = parse_name(path.name)
    if name is None or name.suffix not in ("stats", "relmat"):
        return None
    part = Part(name.entities.get("seg", ""), name.entities.get("desc", ""), name.suffix)
    is_own = outputs.path(part.desc, part.suffix, ".tsv", seg=part.seg) == path
    return part if is_own else None


def _stamp(outputs: LesionOutputs) -> tuple[int, int]:
    status = outputs.path("summary", "stats", ".tsv").stat()
    return status.st_mtime_ns, status.st_ino


def _take_alike(done: Sequence[DoneLesion], left_out: dict[str, str]) -> tuple[DoneLesion, ...]:
    """Return the lesions with the commonest set of tables; say why the others are left out."""
    kinds = Counter(tuple(lesion.tables.items()) for lesion in done)
    common = dict(kinds.most_common(1)[0][0]) if kinds else {}
    for lesion in done:
        differing = common.items() ^ lesion.tables.items()
        if differing:
            names = ", ".join(sorted({part.name for part, _ in differing}))
            left_out[lesion.outputs.lesion.path.name] = (
                f"stale: its tables are not those of most lesions ({names})"
            )
    return tuple(lesion for lesion in done if lesion.tables == common)


def _find_strays(listing: LesionListing, root: Path, space: str, label: str) -> dict[str, str]:
    """Return results in the folder whose lesion is not in the input."""
    others = [item.path.name for item in listing.ignored]
    known = [lesion.entities for lesion in listing.found]
    known += [(parse_name(name) or name_plain_file(name)).entities for name in others]
    lesions = [LesionFile(Path(), entities) for entities in known]
    expected = {
        LesionOutputs(lesion, root, space, label).path("summary", "stats", ".tsv")
        for lesion in lesions
    }
    return {
        path.name: "its lesion is not in the input; remove these results, or give the right input"
        for path in sorted(root.glob("sub-*/**/dwi/*_desc-summary_stats.tsv"))
        if path not in expected
    }


def read_part(lesion: DoneLesion, part: Part) -> TextTable:
    """Return a table of a lesion.

    Raises
    ------
    DatasetError
        If it has other columns than when the lesion was found.
    """
    table = read_table(lesion.path(part))
    if "\t".join(table.columns) != lesion.tables[part].rstrip("\n"):
        raise _changed(lesion)
    return table


def check_unchanged(plan: GroupPlan) -> None:
    """Check that the results are still those that were found.

    Raises
    ------
    DatasetError
        If those of a lesion are gone or others.
    """
    for lesion in plan.lesions:
        try:
            stamp = _stamp(lesion.outputs)
        except FileNotFoundError:
            stamp = None
        if stamp != lesion.stamp:
            raise _changed(lesion)


def _changed(lesion: DoneLesion) -> DatasetError:
    return DatasetError(
        f"The results of {lesion.outputs.lesion.path.name} changed while they were read: is the "
        "participant level still at work? Run the group level again when it is through."
    )
