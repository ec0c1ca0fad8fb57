"""The results of all lesions of an output folder together: tables, mean matrices, maps.

Nothing is computed anew: what the participant level wrote is read, one lesion at a time, and cells
are carried over as they stand. What does not belong together is left out, and named.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.damage import lesioned_shares
from lacuna.bids.dataset import read_sidecar
from lacuna.bids.derivatives import (
    LesionOutputs,
    add_descriptions,
    write_json,
    write_matrix,
    write_text,
)
from lacuna.bids.names import resolution_label
from lacuna.bids.tables import TextTable, read_table
from lacuna.errors import DatasetError
from lacuna.formats.nifti import load_image, load_mask, save_map
from lacuna.formats.replace import replacing
from lacuna.geometry.grid import BoolArray, FloatArray, Grid
from lacuna.workflow.cohort import GroupPlan, Part, check_unchanged
from lacuna.workflow.record import nifti_code, space_reference, versions, words
from lacuna.workflow.report_grid import choose_grid

AVERAGED = ("disconnection", "chaco", "deltasspl")
"""Matrices whose mean over lesions is written."""

NO_REPORT_GRID_MM = "2"
"""Voxel size of the lesion overlap where results have no report grid."""

SUMMARY = Part("", "summary", "stats")
PAGE = "group.html"

_UNTOLD = ("sub", "ses", "space", "res", "desc")
"""Entities that are columns of another name, or the same in all results."""


class GroupMap(NamedTuple):
    """A map over lesions: the ``desc`` of its file, its values, and what they are."""

    desc: str
    array: NDArray[Any]
    described: str


class GroupResult(NamedTuple):
    """What was written of all lesions, for a page.

    Parameters
    ----------
    summary
        The summary of all lesions.
    grid
        The voxels of all maps.
    maps
        All of them.
    density
        Streamlines of the tractogram, for figures; none without one.
    files
        Names of all tables, matrices and maps.
    record
        What is recorded of the run that made the results of one lesion: the others are like it.
    """

    summary: TextTable
    grid: Grid
    maps: Sequence[GroupMap]
    density: NDArray[Any] | None
    files: Sequence[str]
    record: Mapping[str, Any]


def write_group(plan: GroupPlan, command: Sequence[str], build_page: Callable[..., str]) -> None:
    """Write every table, matrix and map of a plan, and a page about them: all of them or none.

    Parameters
    ----------
    plan
        From `plan_group`.
    command
        What the record says was run.
    build_page
        Returns the page; is given the fields of `GroupResult`.

    Raises
    ------
    DatasetError
        If results changed since they were planned, or do not fit together.
    """
    with TemporaryDirectory(dir=plan.output_dir, prefix=".group-", suffix=".part") as place:
        folder = Path(place)
        group = _Group(plan, command, folder)
        for part in plan.parts:
            if part.suffix == "stats":
                group.write_table(part)
        for seg in dict.fromkeys(part.seg for part in plan.parts if part.suffix == "relmat"):
            group.write_matrices(seg)
        write_text(folder / PAGE, build_page(**group.write_maps()._asdict()))
        check_unchanged(plan)
        add_descriptions(plan.output_dir, dict(_describe_names(folder)))
        names = {path.name for path in folder.iterdir()}
        for name in sorted(names):
            (folder / name).replace(plan.output_dir / name)
    _remove_former(plan.output_dir, names)


def _describe_names(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each ``desc`` that the participant level does not have, and what its sidecar says."""
    for path in sorted(folder.glob("group_*_desc-*.json")):
        said: dict[str, Any] = read_sidecar(path)
        if text := said.get("Description") or said["Lacuna"].get("Rows"):
            yield path.name.partition("_desc-")[2].partition("_")[0], text


class _Group:
    """Writes what is known of all lesions into a folder.

    Parameters
    ----------
    plan, command
        As in `write_group`.
    folder
        Where files go.
    """

    def __init__(self, plan: GroupPlan, command: Sequence[str], folder: Path) -> None:
        self._plan, self._folder, self._words = plan, folder, words()
        self._lesions = [lesion.outputs for lesion in plan.lesions]
        self._said = {
            "Command": list(command),
            "Level": "group",
            "Lesions": len(self._lesions),
            "Participants": len({outputs.lesion.participant for outputs in self._lesions}),
            "LeftOut": dict(plan.left_out),
            "Parameters": dict(plan.parameters),
            "Versions": dict(versions()),
        }
        self._ids, self._id_cells = _identify(self._lesions)

    def write_table(self, part: Part) -> None:
        """Write one kind of table over all lesions, with what is known of their participants."""
        first, participants = part.path(self._lesions[0]), self._plan.participants
        own = read_sidecar(first.with_suffix(".json"))
        columns: dict[str, Any] = {**self._ids}
        header = read_table(first).columns
        for name in header:
            columns[_unused(name, columns, "lesion")] = own.get(name, {})
        for name, described in participants.columns.items():
            column = _unused(name, columns, "participants")
            columns[column] = {"Description": f"{name} in participants.tsv", **described}
        self._write(part, columns, self._rows(part, header))

    def _rows(self, part: Part, header: Sequence[str]) -> Iterable[Sequence[str]]:
        for outputs, known in zip(self._lesions, self._id_cells, strict=True):
            cells = self._plan.participants.cells(outputs.lesion.participant)
            for row in _read_like(part.path(outputs), header).rows:
                yield [*known, *row, *cells]

    def write_matrices(self, seg: str) -> None:
        """Write the pairs of an atlas that each lesion cuts, and mean matrices."""
        said, n = self._words["matrices"], len(self._lesions)
        parts = {part.desc: part for part in self._plan.parts if part[::2] == (seg, "relmat")}
        order = {desc: parts[desc] for desc in said if desc in parts}
        ends = {
            f"{column}_{end}": {"Description": f"{what} of {which} parcel of the pair"}
            for end, which in (("a", "one"), ("b", "the other"))
            for column, what in (("index", "Number"), ("name", "Name"))
        }
        columns = {**self._ids, **ends, **{desc: said[desc] for desc in order}}
        header = read_table(parts["count"].path(self._lesions[0])).columns
        sums = dict[str, FloatArray]()
        rows = self._pairs(order, header, sums)
        pairs = Part(seg, "pairs", "stats")
        self._write(pairs, columns, rows, Rows=self._words["group"]["pairs"])
        for desc, total in sums.items():
            sidecar = {
                "Description": f"Mean over all lesions of {desc}",
                "Units": said[desc]["Units"],
                "Sources": [self._uri(parts[desc].path(outputs)) for outputs in self._lesions],
                "Atlas": seg,
                "Lacuna": self._said,
            }
            mean = parts[desc]._replace(desc=f"mean{desc}")
            write_matrix(self._folder / mean.name, total / n, header[1:], sidecar)

    def _pairs(
        self, parts: Mapping[str, Part], header: Sequence[str], sums: dict[str, FloatArray]
    ) -> Iterable[Sequence[str]]:
        """Yield a row for each lesion and pair; add up the matrices that are averaged."""
        numbers = _Numbers()
        regions = parts["count"]._replace(desc="parcels", suffix="stats")
        for outputs, known in zip(self._lesions, self._id_cells, strict=True):
            cells = {k: _read_like(part.path(outputs), header).rows for k, part in parts.items()}
            cut = np.zeros((len(header) - 1,) * 2, bool)
            for desc in AVERAGED:
                matrix = np.array([[numbers[cell] for cell in row[1:]] for row in cells[desc]])
                sums[desc] = sums.get(desc, 0) + matrix
                # Of most pairs the path gets longer: with these the table would be all matrices.
                cut |= (desc != "deltasspl") & (np.nan_to_num(matrix) != 0)
            table = read_table(regions.path(outputs))
            index, name = table.columns.index("index"), table.columns.index("name")
            for a, b in np.argwhere(np.triu(cut, 1)):
                both = [table.rows[at][column] for at in (a, b) for column in (index, name)]
                yield [*known, *both, *(rows[a][b + 1] for rows in cells.values())]

    def write_maps(self) -> GroupResult:
        """Write every map; return what a page tells."""
        grid, overlap = self._overlap()
        masks = [outputs.lesion_path() for outputs in self._lesions]
        drawn = [self._write_map("lesionoverlap", overlap, grid, masks)]
        density = None
        if self._plan.grid is not None:
            first = self._lesions[0]
            coverage = first.path("coverage", "mask", ".nii.gz")
            covered = load_image(coverage).array > 0
            drawn += self._write_disconnection(covered, grid)
            drawn.append(self._write_map("coverage", covered, grid, [coverage]))
            density = load_image(first.path("tdi", "map", ".nii.gz")).array
        files = sorted(path.name for path in self._folder.iterdir() if path.suffix != ".json")
        summary = read_table(self._folder / SUMMARY.name)
        record: Any = read_sidecar(self._lesions[0].lesion_path(".json"))["Lacuna"]
        return GroupResult(summary, grid, drawn, density, files, record)

    def _overlap(self) -> tuple[Grid, FloatArray]:
        """Return the lesions in each voxel of a grid."""
        plan = self._plan
        grid = plan.grid or choose_grid(
            NO_REPORT_GRID_MM, plan.space, lambda: _lesion_box(self._lesions)
        )
        total = np.zeros(grid.canonical.shape)
        for outputs in self._lesions:
            mask = load_mask(outputs.lesion_path())
            box, shares = lesioned_shares(mask.array, mask.grid, grid)
            total[box] += shares
        return grid, grid.orientation.from_canonical(total)

    def _write_disconnection(self, covered: BoolArray, grid: Grid) -> list[GroupMap]:
        """Write the mean disconnection, and how many lesions reach each threshold."""
        paths = [outputs.path("disconnection", "map", ".nii.gz") for outputs in self._lesions]
        total = np.zeros(grid.shape)
        counts = {at: np.zeros(grid.shape, np.int64) for at in self._plan.thresholds}
        for path in paths:
            # Maps are stored as float32: a share of 0.7 is less than 0.7 in any other type.
            shares = load_image(path).array.astype(np.float32)
            total += shares
            for at, count in counts.items():
                count += shares >= at
        mean = np.where(covered, total / len(paths), 0)
        written = [self._write_map("meandisconnection", mean, grid, paths)]
        for at, count in counts.items():
            desc, share = (
                f"frequency{threshold_label(at)}",
                np.where(covered, count / len(paths), 0),
            )
            written.append(self._write_map(desc, share, grid, paths, Threshold=at))
        return written

    def _write_map(
        self, desc: str, array: NDArray[Any], grid: Grid, sources: Sequence[Path], **more: Any
    ) -> GroupMap:
        space, sizes = self._plan.space, resolution_label(grid)
        shape = " × ".join(map(str, grid.canonical.shape))
        own = {**self._words["group"][desc.partition("thr")[0]]}
        own["Description"] = own["Description"].format(threshold=more.get("Threshold"))
        array = array if array.dtype == bool else array.astype(np.float32)
        path = self._folder / f"group_space-{space}_res-{sizes}_desc-{desc}_map.nii.gz"
        save_map(path, array, grid, code=nifti_code(space))
        sidecar = {
            **own,
            **more,
            "Resolution": f"{sizes.replace('p', '.')} mm, {shape}",
            "SpatialReference": space_reference(space),
            "Sources": list(map(self._uri, sources)),
            "Lacuna": self._said,
        }
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), sidecar)
        return GroupMap(desc, array, own["Description"])

    def _write(
        self,
        part: Part,
        columns: Mapping[str, Any],
        rows: Iterable[Sequence[str]],
        **more: Any,
    ) -> None:
        """Write a table row by row, and its data dictionary."""
        path = self._folder / part.name
        with replacing(path) as stream:
            for row in chain([columns], rows):
                stream.write(("\t".join(row) + "\n").encode())
        write_json(path.with_suffix(".json"), {**columns, "Lacuna": {**self._said, **more}})

    def _uri(self, path: Path) -> str:
        return f"bids::{path.relative_to(self._plan.output_dir).as_posix()}"


class _Numbers(dict[str, float]):
    """The number that each cell of a matrix is: they hold the same few again and again."""

    def __missing__(self, cell: str) -> float:
        number = self[cell] = np.nan if cell == "n/a" else float(cell)
        return number


def threshold_label(threshold: float) -> str:
    """Return a share in the percent of a name, as in ``thr50``, ``thr01``, ``thr0p5``."""
    percent = f"{100 * threshold:.6g}"
    return "thr" + (percent.zfill(2) if percent.isdecimal() else percent.replace(".", "p"))


def _identify(
    lesions: Sequence[LesionOutputs],
) -> tuple[dict[str, dict[str, str]], list[list[str]]]:
    """Return the columns that tell lesions apart, described, and their cells for each lesion."""
    entities = [outputs.lesion.entities for outputs in lesions]
    columns = {"participant_id": {"Description": "The participant, as in participants.tsv"}}
    if has_sessions := any("ses" in each for each in entities):
        columns["session_id"] = {"Description": "The session"}
    further = dict.fromkeys(key for each in entities for key in each if key not in _UNTOLD)
    told = [key for key in further if len({each.get(key) for each in entities}) > 1]
    for key in told:
        columns[f"{key}_id"] = {"Description": f"Value of {key}- in the lesion's name"}
    rows = []
    for each in entities:
        session = [f"ses-{each['ses']}" if "ses" in each else "n/a"] * has_sessions
        rows.append([f"sub-{each['sub']}", *session, *(each.get(key, "n/a") for key in told)])
    return columns, rows


def _unused(name: str, taken: Mapping[str, Any], prefix: str) -> str:
    """Return a column's name, with as many prefixes as set it apart from those that are there."""
    while name in taken or name == "Lacuna":
        name = f"{prefix}_{name}"
    return name


def _read_like(path: Path, columns: Sequence[str]) -> TextTable:
    """Return a table that has the columns of the others of its kind."""
    table = read_table(path)
    if table.columns != columns:
        raise DatasetError(
            f"{path} has other columns than the tables of other lesions, as a file that was "
            "edited: run the participant level again, with --overwrite."
        )
    return table


def _lesion_box(lesions: Sequence[LesionOutputs]) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the box that holds all lesions, mm RAS+."""
    lows, highs = [], []
    for outputs in lesions:
        mask = load_mask(outputs.lesion_path())
        centres = mask.grid.to_world(np.argwhere(mask.array))
        reach = np.abs(mask.grid.affine[:3, :3]).sum(axis=1) / 2
        lows.append(centres.min(axis=0) - reach)
        highs.append(centres.max(axis=0) + reach)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _remove_former(root: Path, names: set[str]) -> None:
    """Remove what an earlier run wrote and this one does not: it is about other lesions."""
    for sidecar in root.glob("group_*.json"):
        said = read_sidecar(sidecar).get("Lacuna")
        if sidecar.name in names or not isinstance(said, dict) or said.get("Level") != "group":
            continue
        for extension in (".tsv", ".nii.gz", ".json"):  # what says whose they are goes last
            sidecar.with_name(sidecar.stem + extension).unlink(missing_ok=True)
