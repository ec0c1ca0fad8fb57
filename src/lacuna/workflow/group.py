"""The results of all lesions of an output folder together: tables, mean matrices, maps.

Nothing is computed anew: what the participant level wrote is read, one lesion at a time, and cells
are carried over as they stand. What does not belong together is left out, and named.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.group import LesionOverlap, MapSums
from lacuna.bids.dataset import read_sidecar
from lacuna.bids.derivatives import LesionOutputs, write_json, write_matrix
from lacuna.bids.names import resolution_label
from lacuna.bids.tables import TextTable, read_table
from lacuna.errors import DatasetError
from lacuna.formats.nifti import load_image, load_mask, save_map
from lacuna.formats.replace import replacing
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.workflow.cohort import (
    DoneLesion,
    GroupPlan,
    Part,
    check_unchanged,
    group_name,
    read_part,
)
from lacuna.workflow.record import nifti_code, space_reference, versions, words
from lacuna.workflow.report_grid import choose_grid

AVERAGED = ("disconnection", "chaco", "deltasspl")
"""Matrices whose mean over lesions is written."""

NO_REPORT_GRID_MM = "2"
"""Voxel size of the lesion overlap where results have no report grid."""

_UNTOLD = ("sub", "ses", "space", "res", "desc")
"""Entities that are columns of another name, or the same in all results."""


@dataclass(frozen=True, eq=False)
class GroupMaps:
    """Maps over lesions, on one grid.

    Parameters
    ----------
    grid
        The voxels of all.
    arrays
        By the ``desc`` of their files.
    density
        Streamlines of the tractogram, for figures; none without one.
    inexact
        Lesions whose overlap is that of points.
    described
        What each map is, by its ``desc``.
    files
        Names of all tables, matrices and maps that were written.
    """

    grid: Grid
    arrays: Mapping[str, NDArray[Any]]
    density: NDArray[Any] | None = None
    inexact: tuple[str, ...] = ()
    described: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def threshold_label(threshold: float) -> str:
    """Return a share in the percent of a name, as in ``thr50``, ``thr01``, ``thr0p5``."""
    percent = f"{100 * threshold:.6g}"
    return "thr" + (percent.zfill(2) if percent.isdecimal() else percent.replace(".", "p"))


def write_group(plan: GroupPlan, command: Sequence[str]) -> GroupMaps:
    """Write every table, matrix and map of a plan, all of them or none.

    Parameters
    ----------
    plan
        From `plan_group`.
    command
        What the record says was run.

    Returns
    -------
    GroupMaps
        What the maps hold.

    Raises
    ------
    DatasetError
        If results changed since they were planned, or do not fit together.
    """
    said = _describe(plan, command)
    with ExitStack() as stack:  # files take their places when everything was read
        written = _Written(plan.output_dir, stack)
        for part in plan.parts("stats"):
            _write_table(plan, part, said, written)
        for seg in dict.fromkeys(part.seg for part in plan.parts("relmat")):
            _write_matrices(plan, seg, said, written)
        maps = _gather_maps(plan)
        described = _keep_maps(plan, maps, said, written)
        check_unchanged(plan)
        written.write()
    _remove_former(plan.output_dir, written.names)
    files = sorted(name for name in written.names if not name.endswith(".json"))
    return replace(maps, described=described, files=tuple(files))


class _Written:
    """The files of a run: none takes its place before everything was read.

    Parameters
    ----------
    root
        Where they go.
    stack
        What closes the tables, which then take their places.
    """

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root, self.names = root, set[str]()
        self._stack = stack
        self._later: list[Callable[[], None]] = []

    def stream(self, name: str) -> BinaryIO:
        """Open a table that is written while lesions are read."""
        self.names.add(name)
        return self._stack.enter_context(replacing(self.root / name))

    def later(self, name: str, write: Callable[..., None], *content: Any, **options: Any) -> None:
        """Keep what is written, by a function of path and content, once everything was read."""
        self.names.add(name)
        self._later.append(partial(write, self.root / name, *content, **options))

    def write(self) -> None:
        """Write what was kept."""
        for write in self._later:
            write()


def _identify(plan: GroupPlan) -> tuple[dict[str, dict[str, str]], list[list[str]]]:
    """Return the columns that tell lesions apart, described, and their cells for each lesion."""
    entities = [lesion.outputs.lesion.entities for lesion in plan.lesions]
    further = dict.fromkeys(key for each in entities for key in each if key not in _UNTOLD)
    further_told = [key for key in further if len({each.get(key) for each in entities}) > 1]
    columns = {"participant_id": {"Description": "The participant, as in participants.tsv"}}
    if any("ses" in each for each in entities):
        columns["session_id"] = {"Description": "The session"}
    for key in further_told:
        columns[f"{key}_id"] = {"Description": f"Value of {key}- in the lesion's name"}
    rows = []
    for each in entities:
        row = [f"sub-{each['sub']}"]
        if "session_id" in columns:
            row.append(f"ses-{each['ses']}" if "ses" in each else "n/a")
        rows.append(row + [each.get(key, "n/a") for key in further_told])
    return columns, rows


def _write_table(plan: GroupPlan, part: Part, said: Mapping[str, Any], written: _Written) -> None:
    """Write one kind of table over all lesions, with what is known of their participants."""
    ids, id_rows = _identify(plan)
    first = plan.lesions[0].path(part)
    own = read_sidecar(first.with_suffix(".json"))
    columns: dict[str, Any] = {**ids}
    for name in read_table(first).columns:
        columns[_unused(name, columns, "lesion")] = own.get(name, {})
    for name, described in plan.participants.columns.items():
        column = _unused(name, columns, "participants")
        columns[column] = {"Description": f"{name} in participants.tsv", **described}
    stream = written.stream(part.name)
    _put(stream, columns)
    for lesion, known in zip(plan.lesions, id_rows, strict=True):
        cells = plan.participants.cells(lesion.outputs.lesion.participant)
        for row in read_part(lesion, part).rows:
            _put(stream, [*known, *row, *cells])
    written.later(_sidecar(part.name), write_json, {**columns, "Lacuna": said})


def _put(stream: BinaryIO, cells: Sequence[str] | Mapping[str, Any]) -> None:
    stream.write(("\t".join(cells) + "\n").encode())


def _unused(name: str, taken: Mapping[str, Any], prefix: str) -> str:
    """Return a column's name, with as many prefixes as set it apart from those that are there."""
    while name in taken or name == "Lacuna":
        name = f"{prefix}_{name}"
    return name


def _write_matrices(plan: GroupPlan, seg: str, said: Mapping[str, Any], written: _Written) -> None:
    """Write the pairs of an atlas that each lesion touches, and mean matrices."""
    parts = {part.desc: part for part in plan.parts("relmat") if part.seg == seg}
    order = [desc for desc in words()["matrices"] if desc in parts]
    ids, id_rows = _identify(plan)
    ends = {
        f"{column}_{end}": {"Description": f"{what} of {which} parcel of the pair"}
        for end, which in (("a", "one"), ("b", "the other"))
        for column, what in (("index", "Number"), ("name", "Name"))
    }
    columns = {**ids, **ends, **{desc: words()["matrices"][desc] for desc in order}}
    pairs = Part(seg, "pairs", "stats")
    stream, sums = written.stream(pairs.name), dict[str, FloatArray]()
    _put(stream, columns)
    names: tuple[str, ...] = ()
    counts: tuple[tuple[str, ...], ...] | None = None
    for lesion, known in zip(plan.lesions, id_rows, strict=True):
        tables = {desc: read_part(lesion, parts[desc]) for desc in order}
        if "count" in tables and counts not in (None, tables["count"].rows):
            raise DatasetError(
                f"{lesion.path(parts['count'])} counts other streamlines than the lesions before: "
                "the results are of two tractograms or atlases. Run the participant level again."
            )
        counts = tables["count"].rows if "count" in tables else None
        names = tables[order[0]].columns[1:]
        values = {desc: _numbers(tables[desc]) for desc in AVERAGED if desc in tables}
        for desc, matrix in values.items():
            sums[desc] = sums.get(desc, 0) + matrix
        indices = _parcel_numbers(lesion, seg, len(names))
        touched = np.sum([np.nan_to_num(matrix) != 0 for matrix in values.values()], axis=0)
        for a, b in np.argwhere(np.triu(touched, 1)):
            row = [indices[a], names[a], indices[b], names[b]]
            _put(stream, [*known, *row, *(tables[desc].rows[a][b + 1] for desc in order)])
    dictionary = {**columns, "Lacuna": {**said, "Rows": words()["group"]["pairs"]}}
    written.later(_sidecar(pairs.name), write_json, dictionary)
    _keep_means(plan, seg, sums, names, said, written)


def _keep_means(
    plan: GroupPlan,
    seg: str,
    sums: Mapping[str, FloatArray],
    names: Sequence[str],
    said: Mapping[str, Any],
    written: _Written,
) -> None:
    for desc, total in sums.items():
        part = Part(seg, f"mean{desc}", "relmat")
        sources = [_uri(plan, lesion.path(Part(seg, desc, "relmat"))) for lesion in plan.lesions]
        about = {"Description": f"Mean over {len(plan.lesions)} lesions of {desc}"}
        own = {**about, "Units": words()["matrices"][desc]["Units"], "Sources": sources}
        written.names.add(_sidecar(part.name))
        sidecar = {**own, "Atlas": seg, "Lacuna": said}
        written.later(part.name, write_matrix, total / len(plan.lesions), names, sidecar)


def _sidecar(name: str) -> str:
    return Path(name).stem + ".json"


def _numbers(table: TextTable) -> FloatArray:
    cells = np.array([row[1:] for row in table.rows])
    return np.where(cells == "n/a", "nan", cells).astype(np.float64)


def _parcel_numbers(lesion: DoneLesion, seg: str, n_parcels: int) -> Sequence[str]:
    part = Part(seg, "parcels", "stats")
    if part not in lesion.tables:
        return [str(number + 1) for number in range(n_parcels)]
    table = read_part(lesion, part)
    return [row[table.columns.index("index")] for row in table.rows]


def _gather_maps(plan: GroupPlan) -> GroupMaps:
    """Add up the maps and masks of all lesions, one at a time."""
    places = [lesion.outputs for lesion in plan.lesions]
    grid = plan.grid or choose_grid(NO_REPORT_GRID_MM, plan.space, lambda: _lesion_box(places))
    overlap, inexact = LesionOverlap(grid), []
    sums: MapSums | None = None
    for outputs in places:
        mask = load_mask(outputs.lesion_path())
        if not overlap.add(mask.array, mask.grid):
            inexact.append(outputs.lesion.path.name)
        if plan.grid is None:
            continue
        coverage = _load(outputs.path("coverage", "mask", ".nii.gz"), grid) > 0
        sums = sums or MapSums(coverage, plan.thresholds)
        if not np.array_equal(coverage, sums.coverage):
            raise DatasetError(
                f"{outputs.path('coverage', 'mask', '.nii.gz')} differs from that of the lesions "
                "before: the results are of two tractograms. Run the participant level again."
            )
        sums.add(_load(outputs.path("disconnection", "map", ".nii.gz"), grid))
    arrays: dict[str, NDArray[Any]] = {"lesionoverlap": overlap.counts.astype(np.float32)}
    if sums is None:
        return GroupMaps(grid, arrays, None, tuple(inexact))
    arrays["meandisconnection"] = sums.mean.astype(np.float32)
    for threshold, share in sums.frequencies.items():
        arrays[f"frequency{threshold_label(threshold)}"] = share.astype(np.float32)
    arrays["coverage"] = sums.coverage
    density = _load(places[0].path("tdi", "map", ".nii.gz"), grid)
    return GroupMaps(grid, arrays, density, tuple(inexact))


def _load(path: Path, grid: Grid) -> NDArray[Any]:
    image = load_image(path)
    if not image.grid.is_same(grid):
        raise DatasetError(
            f"{path} is not on the report grid of {path.name}'s dataset: run the participant "
            "level again."
        )
    return image.array


def _lesion_box(places: Sequence[LesionOutputs]) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the box that holds all lesions, mm RAS+."""
    lows, highs = [], []
    for outputs in places:
        mask = load_mask(outputs.lesion_path())
        centres = mask.grid.to_world(np.argwhere(mask.array))
        reach = np.abs(mask.grid.affine[:3, :3]).sum(axis=1) / 2
        lows.append(centres.min(axis=0) - reach)
        highs.append(centres.max(axis=0) + reach)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _keep_maps(
    plan: GroupPlan, maps: GroupMaps, said: Mapping[str, Any], written: _Written
) -> dict[str, str]:
    """Keep every map to be written; return what each is."""
    described = {}
    sizes = resolution_label(maps.grid)
    shared = {
        "Resolution": f"{sizes.replace('p', '.')} mm, {' × '.join(map(str, maps.grid.shape))}",
        "SpatialReference": space_reference(plan.space),
    }
    labels = {f"frequency{threshold_label(at)}": at for at in plan.thresholds}
    for desc, array in maps.arrays.items():
        entities = {"space": plan.space, "res": sizes, "desc": desc}
        own = dict(words()["group"]["frequency" if desc in labels else desc])
        sources = [_uri(plan, _source(lesion.outputs, desc)) for lesion in plan.lesions]
        if desc in labels:
            text = own["Description"].format(threshold=labels[desc])
            own |= {"Description": text, "Threshold": labels[desc]}
        if desc == "lesionoverlap":
            own["NotExact"] = list(maps.inexact)
        described[desc] = own["Description"]
        code, image = nifti_code(plan.space), group_name(entities, "map", ".nii.gz")
        written.later(image, save_map, array, maps.grid, code=code)
        sidecar = {**own, **shared, "Sources": sources, "Lacuna": said}
        written.later(group_name(entities, "map", ".json"), write_json, sidecar)
    return described


def _source(outputs: LesionOutputs, desc: str) -> Path:
    if desc == "lesionoverlap":
        return outputs.lesion_path()
    if desc == "coverage":
        return outputs.path("coverage", "mask", ".nii.gz")
    return outputs.path("disconnection", "map", ".nii.gz")


def _describe(plan: GroupPlan, command: Sequence[str]) -> dict[str, Any]:
    """Return what the sidecar of every file says of the run."""
    return {
        "Command": list(command),
        "Level": "group",
        "Lesions": len(plan.lesions),
        "Participants": len({lesion.outputs.lesion.participant for lesion in plan.lesions}),
        "LeftOut": dict(plan.left_out),
        "Parameters": dict(plan.parameters),
        "Versions": dict(versions()),
    }


def _uri(plan: GroupPlan, path: Path) -> str:
    return f"bids::{path.relative_to(plan.output_dir).as_posix()}"


def _remove_former(root: Path, names: set[str]) -> None:
    """Remove what an earlier run wrote and this one does not: it is about other lesions."""
    for sidecar in root.glob("group_*.json"):
        said = read_sidecar(sidecar).get("Lacuna")
        if sidecar.name in names or not isinstance(said, dict) or said.get("Level") != "group":
            continue
        for extension in (".tsv", ".nii.gz", ".json"):  # what says whose they are goes last
            sidecar.with_name(sidecar.stem + extension).unlink(missing_ok=True)
