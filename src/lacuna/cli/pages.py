"""What a run tells the report of each lesion: made once, and handed to worker processes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacuna.analysis.structural import Disconnection
    from lacuna.bids.derivatives import LesionOutputs
    from lacuna.report.figures import Background
    from lacuna.report.section import CutResults
    from lacuna.workflow.damage import OpenedAtlas
    from lacuna.workflow.lesion import Lesion
    from lacuna.workflow.record import RunRecord


@dataclass(frozen=True, eq=False)
class Pages:
    """Writes the report of a lesion, once its tables are there.

    Parameters
    ----------
    atlases
        That were asked.
    record
        Of a run with a tractogram; none of one without.
    template
        Background, if one was given.
    index_seconds
        What opening the index took.
    """

    atlases: tuple[OpenedAtlas, ...]
    record: RunRecord | None = None
    template: Background | None = None
    index_seconds: float | None = None

    def __call__(
        self, outputs: LesionOutputs, lesion: Lesion, result: Disconnection | None, started: float
    ) -> None:
        """Write the report.

        Parameters
        ----------
        outputs
            The lesion, whose tables and sidecars have been written.
        lesion, result
            As it was used, and what it cuts, if it was asked that.
        started
            When the work on it began, as `time.perf_counter` tells.
        """
        from lacuna.geometry.parcellation import Parcellation
        from lacuna.report.figures import Volume, crop_lesion
        from lacuna.report.participant import write_report
        from lacuna.report.section import LesionReport

        contents = [atlas.content for atlas in self.atlases]
        seconds = {"this lesion, up to this page": time.perf_counter() - started}
        if self.index_seconds is not None:
            seconds = {"index, once for all lesions": self.index_seconds, **seconds}
        ground, packed = self._ground(result)
        report = LesionReport(
            outputs,
            crop_lesion(Volume(lesion.mask, lesion.grid)),
            ground,
            packed,
            parcellations=[atlas for atlas in contents if isinstance(atlas, Parcellation)],
            tract_atlases=[a.name for a in contents if not isinstance(a, Parcellation)],
            cut=None if result is None else _describe_cut(result),
            sources=[] if self.record is None else [cite_tractogram(self.record.tractogram.name)],
            seconds=seconds,
        )
        write_report(report)

    def _ground(self, result: Disconnection | None) -> tuple[Background, str]:
        """Return what is beneath everything, and the same for the viewer; made once."""
        from lacuna.report.viewer import embed, encode_background

        if "_made" not in self.__dict__:
            ground = self.template or (self._atlas_ground if result is None else None)
            if ground is None:
                assert result is not None
                ground = density(result, self.record)
            self.__dict__["_made"] = ground, embed("background", encode_background(ground))
        made: tuple[Background, str] = self.__dict__["_made"]
        return made

    @cached_property
    def _atlas_ground(self) -> Background:
        """The extent of the first atlas."""
        import numpy as np

        from lacuna.geometry.parcellation import Parcellation
        from lacuna.report.figures import Background, Volume

        atlas = self.atlases[0].content
        inside: np.ndarray[Any, Any]
        if isinstance(atlas, Parcellation):
            inside, grid = atlas.canonical != 0, atlas.grid.canonical
        else:
            inside, grid = np.zeros(atlas.grid.shape, bool), atlas.grid
            inside.reshape(-1)[atlas.voxels] = True
        caption = f"extent of atlas {atlas.name}"
        return Background(Volume(inside.astype(np.uint8), grid), caption, is_density=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made once: each process makes its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_made", "_atlas_ground")}


def density(result: Disconnection, record: RunRecord | None) -> Background:
    """Return the density of a tractogram's streamlines as a background."""
    from lacuna.report.figures import Background, Volume

    caption = "density of the tractogram's streamlines"
    caption += "" if record is None else f"; {record.reference}"
    return Background(Volume(result.tdi, result.grid), caption, is_density=True)


def cite_tractogram(name: str) -> tuple[str, str]:
    """Return citation and DOI of a tractogram of the catalogue; of others, that one is needed."""
    from lacuna.assets.catalog import load_catalog

    for asset in load_catalog().values():
        if name in asset.files and asset.citation:
            return f"{asset.title}: {asset.citation}.", asset.doi
    return f"[The publication of the tractogram {name}.]", ""


def _describe_cut(result: Disconnection) -> CutResults:
    import numpy as np

    from lacuna.report.figures import Volume
    from lacuna.report.section import CutResults
    from lacuna.report.viewer import MAX_STREAMLINES

    ids = result.cut_ids
    chosen = np.linspace(0, len(ids) - 1, min(len(ids), MAX_STREAMLINES)).round().astype(np.int64)
    points, offsets = result.index.streamlines.gather(ids[chosen])
    low, high = result.index.parts.box_mm
    return CutResults(
        Volume(np.where(result.coverage, result.disconnection, 0), result.grid),
        Volume(result.tdi, result.grid),
        points,
        offsets,
        (low, high),
    )
