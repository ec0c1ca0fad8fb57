"""What is written beside results: everything that is needed to repeat them.

`RunRecord` is the part that all lesions of a run share; `sidecars` adds what each image is.
"""

import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lacuna.analysis.structural import Disconnection
from lacuna.bids.dataset import read_sidecar
from lacuna.bids.names import file_stem, resolution_label
from lacuna.bids.sources import source_uri
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import StatedSpace, known_spaces
from lacuna.workflow.lesion import Lesion
from lacuna.workflow.warped import Warp
from lacuna.workflow.weights import LENGTH

WORDS = Path(__file__).with_name("record.toml")
"""What is said about each output; the summary's columns in their order."""

OWN_GRID = ("lesion", "cut")
"""Outputs that are not on the report grid."""

VERSIONED = ("lacuna-lnm", "numpy", "numba", "nibabel", "matplotlib")
"""Packages that results may depend on."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """How the results of one run came about.

    Parameters
    ----------
    command
        The command line, or what stands for it.
    rule, upsample, min_tdi
        Mapping rule, pieces per step as asked for (rule ``mrtrix`` only), and streamlines that a
        voxel needs.
    grid
        Report grid.
    tractogram
        The file.
    tractogram_space, space_source
        Its space, and where that was stated.
    fingerprint
        xxh3-128 of its content.
    n_streamlines
        Streamlines that it holds.
    warnings
        What is odd about it.
    step_size_mm
        Its header's ``step_size``, which cut streamlines keep.
    cache_keys
        Digest of each cache entry that was used.
    threads
        Threads that computed; results do not depend on it.
    weights
        File of a weight per streamline, ``length``, or what the tractogram calls them, if any.
    weights_fingerprint
        xxh3-128 of the file's content.
    pieces_per_step
        Pieces into which each step was divided.
    spatial_reference
        What the tractogram's own sidecar says of a space that is no known template.
    warp, warped
        What brings the tractogram into its space; how many points, and how many in vain.
    atlases
        What is to be said of each atlas; ``Name`` and ``BLAKE2b-128`` tell them apart.
    min_edge
        Streamlines, or weight, that an edge of the graph for indirect disconnection needs.
    tracts
        Fingerprint of each file that says what the tracts are, by name.
    n_tracts
        How many are measured, whatever says what they are.
    """

    command: Sequence[str]
    rule: str
    grid: Grid
    min_tdi: int
    tractogram: Path
    tractogram_space: str
    space_source: str
    fingerprint: str
    upsample: int | None = None
    n_streamlines: int | None = None
    warnings: tuple[str, ...] = ()
    step_size_mm: float | None = None
    cache_keys: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    weights: str | None = None
    weights_fingerprint: str | None = None
    pieces_per_step: int = 1
    spatial_reference: str | None = None
    warp: Warp | None = None
    warped: Mapping[str, int] | None = None
    atlases: tuple[Mapping[str, Any], ...] = ()
    min_edge: float = 0
    tracts: Mapping[str, str] = field(default_factory=dict)
    n_tracts: int = 0

    @property
    def space(self) -> StatedSpace:
        """Space of the tractogram, and so of all results."""
        return StatedSpace(self.tractogram_space, self.space_source)

    @property
    def reference(self) -> str:
        """What BIDS' ``SpatialReference`` says of the space."""
        return space_reference(self.tractogram_space, self.spatial_reference)

    @property
    def sources(self) -> tuple[Path, ...]:
        """Files, beside the lesion, that sidecars name as sources."""
        return (self.tractogram,)

    def parameters(self) -> dict[str, Any]:
        """Return what results must have in common to be compared, as JSON values."""
        said = {
            "Rule": self.rule,
            "Upsample": self.upsample,
            "MinTDI": self.min_tdi,
            "Tractogram": self.fingerprint,
            "TractogramSpace": self.tractogram_space,
            "Transform": None if self.warp is None else self.warp.parameters(),
            "ReportGrid": describe_grid(self.grid),
            "Weights": self.weights_fingerprint or self.weights,
        }
        return {key: value for key, value in said.items() if value is not None}

    def details(self) -> dict[str, Any]:
        """Return what else decides what is written of a lesion, as JSON values."""
        return {
            "Atlases": {atlas["Name"]: atlas["BLAKE2b-128"] for atlas in self.atlases} or None,
            "MinEdge": self.min_edge if self.atlases else None,
            "Tracts": dict(self.tracts) or None,
            "SpatialReference": self.reference,
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to repeat the run, as JSON values."""
        return {
            "Command": list(self.command),
            "Rule": self.rule,
            "RuleDescription": words()["rules"][self.rule],
            "Upsample": self.upsample,
            "PiecesPerStep": self.pieces_per_step,
            "MinTDI": self.min_tdi,
            "ReportGrid": describe_grid(self.grid),
            "Tractogram": {
                "Name": self.tractogram.name,
                "Path": str(self.tractogram),
                "XXH3-128": self.fingerprint,
                "Space": self.tractogram_space,
                "SpaceStatedBy": self.space_source,
                "Streamlines": self.n_streamlines,
                "Warnings": self.warnings,
            },
            "Transform": None if self.warp is None else self.warp.to_json(self.warped),
            "Weights": self.weights,
            "WeightsXXH3-128": self.weights_fingerprint,
            "Atlases": self.atlases,
            "MinEdge": self.min_edge if self.atlases else None,
            "Tracts": dict(self.tracts) or None,
            "NumberOfTracts": self.n_tracts or None,
            "CacheKeys": dict(self.cache_keys),
            "Versions": dict(versions()),
            "System": f"{platform.system()} {platform.machine()}",
        }


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as JSON values: ``Shape``, and ``Affine`` from voxels to mm RAS+."""
    return {"Shape": list(grid.shape), "Affine": grid.affine.tolist()}


@cache
def words() -> dict[str, Any]:
    """Return what is said about rules, images and the columns of the summary table."""
    return tomllib.loads(WORDS.read_text(encoding="utf-8"))


def summary_columns() -> dict[str, Mapping[str, Any]]:
    """Return the columns of the summary table and their data dictionary."""
    columns: dict[str, Mapping[str, Any]] = words()["summary"]
    return columns | {"rule": {**columns["rule"], "Levels": words()["rules"]}}


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of every package that results may depend on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def find_reference(tractogram: Path) -> str | None:
    """Return the ``SpatialReference`` in the JSON file beside a tractogram, if any."""
    sidecar = tractogram.with_name(file_stem(tractogram) + ".json")
    said = read_sidecar(sidecar).get("SpatialReference") if sidecar.is_file() else None
    return said if isinstance(said, str) else None


def space_reference(space: str, said: str | None = None) -> str:
    """Return what BIDS' ``SpatialReference`` says of a space, by its name or else as it is said."""
    return space if space in known_spaces() else said or f"{space}: not a standard template"


def nifti_code(space: str) -> Literal[2, 4]:
    """Return what NIfTI calls a space: 4 for the MNI152 templates, 2 for any other."""
    return 4 if space in known_spaces() and space.startswith("MNI152") else 2


def sidecars(
    record: RunRecord, lesion: Lesion, path: Path, warnings: Sequence[str]
) -> dict[str, Any]:
    """Return the sidecar of each output of a lesion.

    Parameters
    ----------
    record
        Of the run.
    lesion
        As it was used.
    path
        Its file.
    warnings
        What makes one doubt the result.

    Returns
    -------
    dict
        By ``desc``, matrices by ``<desc>_relmat``; ``lesion`` is the lesion as it was used.
    """
    sizes = resolution_label(record.grid).replace("p", ".").replace("x", " × ")
    shape = " × ".join(map(str, record.grid.canonical.shape))
    on_grid = {"Resolution": f"{sizes} mm voxels, {shape}"}
    shared = {
        "Sources": [source_uri(source) for source in (path, *record.sources)],
        "SpatialReference": record.reference,
        "Lesion": describe_lesion(lesion, path),
        "Warnings": warnings,
        "Lacuna": record.to_json(),
    }
    matrices = {f"{desc}_relmat": said for desc, said in words()["matrices"].items()}
    return {
        desc: {**_weighed(said, record.weights), **shared} for desc, said in matrices.items()
    } | {
        desc: {
            **_weighed(said, record.weights),
            **({} if desc in OWN_GRID else on_grid),
            **shared,
        }
        for desc, said in words()["outputs"].items()
    }


def _weighed(said: Mapping[str, Any], weights: str | None) -> Mapping[str, Any]:
    """Return what is said about an output that sums weights where it would count streamlines."""
    text = said["Description"]
    if weights is None or "treamlines" not in text or said.get("Type") or "Units" not in said:
        return said
    units = {"streamlines": "mm" if weights == LENGTH else "summed weight"}
    return {
        **said,
        "Description": f"{text} Streamlines count by their weights ({weights}).",
        "Units": units.get(said["Units"], said["Units"]),
    }


def describe_lesion(lesion: Lesion, path: Path) -> dict[str, Any]:
    """Return what is known of a lesion, and its file, as JSON values."""
    space = lesion.space or StatedSpace("unstated", "nobody")
    return {
        "Path": str(path),
        "Space": space.name,
        "SpaceStatedBy": space.source,
        "Grid": describe_grid(lesion.grid),
        "Voxels": lesion.n_voxels,
        "VolumeMm3": lesion.volume_mm3,
        "Side": lesion.side,
        "CentreOfMassMm": lesion.centre_of_mass_mm,
        "Transform": lesion.moved,
    }


def summarise_lesion(lesion: Lesion, name: str) -> dict[str, Any]:
    """Return the columns of the summary table that are about the lesion itself."""
    x, y, z = lesion.centre_of_mass_mm
    return {
        "lesion": name,
        "volume_mm3": lesion.volume_mm3,
        "volume_before_mm3": lesion.moved["VolumeBeforeMm3"] if lesion.moved else None,
        "side": lesion.side,
        "centre_x_mm": x,
        "centre_y_mm": y,
        "centre_z_mm": z,
    }


def summarise(
    result: Disconnection, lesion: Lesion, record: RunRecord, name: str
) -> dict[str, Any]:
    """Return the row of the summary table, by column; none where undefined."""
    volumes = result.disconnected_mm3
    return summarise_lesion(lesion, name) | {
        "n_streamlines": result.n_streamlines,
        "n_cut": result.n_cut,
        "cut_fraction": result.cut_fraction,
        "weight_total": result.weight_total,
        "weight_cut": result.weight_cut,
        "disconnected_pct": result.disconnected_pct,
        "disconnected_mm3_thr01": volumes[0.01],
        "disconnected_mm3_thr10": volumes[0.1],
        "disconnected_mm3_thr50": volumes[0.5],
        "n_visited_voxels": result.n_visited,
        "n_covered_voxels": result.n_covered,
        "min_tdi": result.min_tdi,
        "weights": record.weights,
        "rule": result.rule,
        "tractogram": record.tractogram.name,
        "space": record.tractogram_space,
    }


def caption(result: Disconnection, lesion: Lesion, record: RunRecord) -> str:
    """Return what a reader of a figure must know, in two lines."""
    x, y, z = lesion.centre_of_mass_mm
    pct = result.disconnected_pct
    weighed = f" weights {record.weights};" if record.weights else ""
    share = "" if pct is None else f"; mean disconnection {pct:.3g} %"
    sizes = resolution_label(record.grid).replace("p", ".").replace("x", " × ")
    return (
        f"Lesion: {lesion.volume_mm3 / 1000:.3g} ml, {lesion.side}, centre of mass at "
        f"({x:.0f}, {y:.0f}, {z:.0f}) mm. Cut: {result.n_cut} of {result.n_streamlines} "
        f"streamlines ({100 * result.cut_fraction:.3g} %){share}.\n"
        f"Tractogram {record.tractogram.name}; space {record.tractogram_space}; "
        f"rule {record.rule};{weighed} report grid {sizes} mm; the map is drawn where at least "
        f"{record.min_tdi} streamlines pass."
    )
