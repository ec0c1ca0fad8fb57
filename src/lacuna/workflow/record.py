"""What is written beside results: everything that is needed to repeat them.

`RunRecord` is the part that all lesions of a run share; `sidecars` adds what each image is.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lacuna.analysis.structural import Disconnection
from lacuna.bids.dataset import read_sidecar
from lacuna.bids.names import file_stem, resolution_label
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import known_spaces
from lacuna.workflow.lesion import Lesion

VERSIONED = ("lacuna-lnm", "numpy", "numba", "nibabel", "matplotlib")
"""Packages that results may depend on."""

RULES: Mapping[str, str] = {
    "segment": "A streamline visits every voxel that its polyline passes through, and is cut "
    "where it passes through a lesioned one.",
    "mrtrix": "A streamline visits the voxels of its points and of points interpolated between "
    "them, and is cut when a stored point lies in a lesioned voxel (MRtrix3).",
    "vertex": "A streamline visits the voxels of its stored points, and is cut when one of them "
    "lies in a lesioned voxel.",
}
"""What each mapping rule means, for whoever reads a sidecar."""


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
    cache_keys
        Digest of each cache entry that was used.
    threads
        Threads that computed; results do not depend on it.
    weights
        File of a weight per streamline, if any.
    weights_fingerprint
        xxh3-128 of its content.
    pieces_per_step
        Pieces into which each step was divided.
    spatial_reference
        What the tractogram's own sidecar says of a space that is no known template.
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
    cache_keys: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    weights: Path | None = None
    weights_fingerprint: str | None = None
    pieces_per_step: int = 1
    spatial_reference: str | None = None

    @property
    def reference(self) -> str:
        """What BIDS' ``SpatialReference`` says of the space."""
        if self.tractogram_space in known_spaces():
            return self.tractogram_space
        return self.spatial_reference or f"{self.tractogram_space}: not a standard template"

    def parameters(self) -> dict[str, Any]:
        """Return what results must have in common to be compared, as JSON values."""
        said: dict[str, Any] = {
            "Rule": self.rule,
            "MinTDI": self.min_tdi,
            "Tractogram": self.fingerprint,
            "TractogramSpace": self.tractogram_space,
            "ReportGrid": describe_grid(self.grid),
        }
        if self.upsample is not None:
            said["Upsample"] = self.upsample
        if self.weights_fingerprint is not None:
            said["Weights"] = self.weights_fingerprint
        return said

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to repeat the run, as JSON values."""
        return {
            "Command": list(self.command),
            "Rule": self.rule,
            "RuleDescription": RULES[self.rule],
            "Upsample": self.upsample,
            "PiecesPerStep": self.pieces_per_step,
            "MinTDI": self.min_tdi,
            "ReportGrid": describe_grid(self.grid),
            "Tractogram": {
                "Name": self.tractogram.name,
                "Path": str(self.tractogram),
                "Fingerprint": f"xxh3-128:{self.fingerprint}",
                "Space": self.tractogram_space,
                "SpaceStatedBy": self.space_source,
                "Streamlines": self.n_streamlines,
            },
            "Weights": None
            if self.weights is None
            else {
                "Path": str(self.weights),
                "Fingerprint": f"xxh3-128:{self.weights_fingerprint}",
            },
            "CacheKeys": dict(self.cache_keys),
            "Threads": self.threads,
            "Versions": dict(versions()),
            "System": f"{platform.system()} {platform.machine()}",
        }


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Return a grid as JSON values: ``Shape``, and ``Affine`` from voxels to mm RAS+."""
    return {"Shape": list(grid.shape), "Affine": grid.affine.tolist()}


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


def nifti_code(space: str) -> Literal[2, 4]:
    """Return what NIfTI calls a space: 4 for the MNI152 templates, 2 for any other."""
    return 4 if space in known_spaces() else 2


IMAGES: Mapping[str, Mapping[str, Any]] = {
    "disconnection": {
        "Description": "Share of the streamlines through each voxel that the lesion cuts. Says "
        "little where fewer than MinTDI pass (see the coverage mask), and is 0 where none does.",
        "Units": "1",
        "Range": [0, 1],
    },
    "tdi": {
        "Description": "Streamlines of the whole tractogram through each voxel.",
        "Units": "streamlines",
    },
    "cuttdi": {
        "Description": "Streamlines through each voxel that the lesion cuts, anywhere along them.",
        "Units": "streamlines",
    },
    "coverage": {
        "Description": "Voxels with at least MinTDI streamlines: what every number about the map "
        "refers to.",
        "Type": "ROI",
    },
}
"""Images on the report grid by their ``desc``, and what each is."""


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
        By ``desc``, and under ``lesion`` that of the lesion as it was used and under ``cut`` that
        of the cut streamlines.
    """
    shared = {
        "Sources": [path.as_uri(), record.tractogram.absolute().as_uri()],
        "SpatialReference": record.reference,
    }
    sizes = resolution_label(record.grid).replace("p", ".").replace("x", " × ")
    on_grid = {
        "Resolution": f"{sizes} mm voxels, {' × '.join(map(str, record.grid.shape))}",
        "SkullStripped": False,
    }
    provenance = {
        "Lesion": {
            "Path": str(path),
            "Space": lesion.space.name if lesion.space else None,
            "SpaceStatedBy": lesion.space.source if lesion.space else None,
            "Grid": describe_grid(lesion.grid),
            "Voxels": lesion.n_voxels,
            "VolumeMm3": lesion.volume_mm3,
            "Side": lesion.side,
            "CentreOfMassMm": list(lesion.centre_of_mass_mm),
        },
        "Warnings": list(warnings),
        "Lacuna": record.to_json(),
    }
    found: dict[str, Any] = {
        desc: {**said, **shared, **on_grid, **provenance} for desc, said in IMAGES.items()
    }
    found["lesion"] = {
        "Description": "The lesion as it was used, on its own grid: never resampled.",
        "Type": "Lesion",
        **shared,
        "Sources": [path.as_uri()],
        "SkullStripped": False,
        **provenance,
    }
    found["cut"] = {
        "Description": "The streamlines that the lesion cuts, in the tractogram's order.",
        **shared,
        **provenance,
    }
    return found


_COVERED = "Covered voxels are those with at least min_tdi streamlines."
SUMMARY: Mapping[str, Mapping[str, Any]] = {
    "lesion": {"Description": "File of the lesion mask"},
    "volume_mm3": {"Description": "Volume of the lesion", "Units": "mm^3"},
    "side": {
        "Description": "Side that holds at least 95 % of the lesion, by the sign of x; else "
        "bilateral. A left-right flip of the image cannot be seen from here.",
        "Levels": {"left": "x < 0", "right": "x > 0", "bilateral": "neither"},
    },
    "centre_x_mm": {"Description": "Centre of mass, towards the right", "Units": "mm"},
    "centre_y_mm": {"Description": "Centre of mass, towards the front", "Units": "mm"},
    "centre_z_mm": {"Description": "Centre of mass, towards the top", "Units": "mm"},
    "n_streamlines": {"Description": "Streamlines of the tractogram"},
    "n_cut": {"Description": "Streamlines that the lesion cuts"},
    "cut_fraction": {"Description": "n_cut / n_streamlines", "Units": "1"},
    "weight_total": {"Description": "Summed weight of all streamlines; their number without"},
    "weight_cut": {"Description": "Summed weight of the streamlines cut; their number without"},
    "disconnected_pct": {
        "Description": f"Mean disconnection of the covered voxels. {_COVERED}",
        "Units": "percent",
    },
    "disconnected_mm3_thr01": {
        "Description": "Volume of the covered voxels with a disconnection of 0.01 or more. Grows "
        "with the tractogram: compare it within one only.",
        "Units": "mm^3",
    },
    "disconnected_mm3_thr10": {"Description": "The same with 0.1 or more", "Units": "mm^3"},
    "disconnected_mm3_thr50": {"Description": "The same with 0.5 or more", "Units": "mm^3"},
    "n_visited_voxels": {"Description": "Voxels of the report grid that any streamline visits"},
    "n_covered_voxels": {"Description": f"Those that are covered. {_COVERED}"},
    "min_tdi": {"Description": "Streamlines that a covered voxel needs"},
    "rule": {"Description": "Mapping rule", "Levels": dict(RULES)},
    "tractogram": {"Description": "File of the tractogram"},
    "space": {"Description": "Space of lesion and tractogram"},
}
"""Columns of the summary table, and their data dictionary."""


def summarise(
    result: Disconnection, lesion: Lesion, record: RunRecord, name: str
) -> dict[str, Any]:
    """Return the row of the summary table, by the columns of `SUMMARY`; none where undefined."""
    volumes = result.disconnected_mm3
    return {
        "lesion": name,
        "volume_mm3": lesion.volume_mm3,
        "side": lesion.side,
        **dict(
            zip(
                ("centre_x_mm", "centre_y_mm", "centre_z_mm"), lesion.centre_of_mass_mm, strict=True
            )
        ),
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
        "rule": result.rule,
        "tractogram": record.tractogram.name,
        "space": record.tractogram_space,
    }


def caption(result: Disconnection, lesion: Lesion, record: RunRecord) -> str:
    """Return what a reader of a figure must know, in two lines."""
    x, y, z = lesion.centre_of_mass_mm
    pct = result.disconnected_pct
    share = "" if pct is None else f", {pct:.3g} % of the covered volume disconnected"
    sizes = resolution_label(record.grid).replace("p", ".").replace("x", " × ")
    return (
        f"Lesion: {lesion.volume_mm3 / 1000:.3g} ml, {lesion.side}, centre of mass at "
        f"({x:.0f}, {y:.0f}, {z:.0f}) mm. Cut: {result.n_cut} of {result.n_streamlines} "
        f"streamlines ({100 * result.cut_fraction:.3g} %){share}.\n"
        f"Tractogram {record.tractogram.name}; space {record.tractogram_space}; "
        f"rule {record.rule}; report grid {sizes} mm; the map is drawn where at least "
        f"{record.min_tdi} streamlines pass."
    )
