"""What a run tells the report of each lesion, and when the pages of participants are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacuna.analysis.structural import Disconnection
    from lacuna.bids.derivatives import LesionOutputs
    from lacuna.report.figures import Background
    from lacuna.report.lesion import CutResults
    from lacuna.workflow.batch import BatchPlan, Outcome
    from lacuna.workflow.damage import OpenedAtlas
    from lacuna.workflow.lesion import Lesion
    from lacuna.workflow.record import RunRecord


def keep_pages(
    plan: BatchPlan[Any], tell: Callable[[Outcome], None] | None = None
) -> Callable[[Outcome], None]:
    """Return what brings the page of each lesion's participant up to date, and then calls another.

    Whether a lesion was done, done before or failed, its page says so; a page that is gone is
    made again. Runs where no other process of this run writes pages.
    """
    from lacuna.report.participant import clear_unfinished, update_page

    clear_unfinished(plan.outputs)

    def told(outcome: Outcome) -> None:
        update_page(outcome.outputs)
        if tell is not None:
            tell(outcome)

    return told


@dataclass(frozen=True, eq=False)
class Pages:
    """Writes the section about a lesion, once its tables are there; handed to worker processes.

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
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self, outputs: LesionOutputs, lesion: Lesion, result: Disconnection | None, started: float
    ) -> None:
        """Write the section.

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
        from lacuna.report.lesion import LesionReport
        from lacuna.report.participant import write_section
        from lacuna.report.viewer import embed, encode_background

        if not self._made:  # once in each process
            ground = self.template or self._ground(result)
            packed = embed("background", encode_background(ground))
            self._made.update(background=ground, packed=packed)
        contents = [atlas.content for atlas in self.atlases]
        seconds = {"this lesion, up to this page": time.perf_counter() - started}
        if self.index_seconds is not None:
            seconds = {"index, once for all lesions": self.index_seconds, **seconds}
        report = LesionReport(
            outputs,
            crop_lesion(Volume(lesion.mask, lesion.grid)),
            **self._made,
            parcellations=[atlas for atlas in contents if isinstance(atlas, Parcellation)],
            tract_atlases=[a.name for a in contents if not isinstance(a, Parcellation)],
            cut=None if result is None else _describe_cut(result),
            seconds=seconds,
        )
        write_section(report)

    def _ground(self, result: Disconnection | None) -> Background:
        """Return the density of the tractogram, or without one the extent of the first atlas."""
        import numpy as np

        from lacuna.geometry.parcellation import Parcellation
        from lacuna.report.figures import Background, Volume

        if result is not None:
            caption = "density of the tractogram's streamlines"
            caption += "" if self.record is None else f"; {self.record.reference}"
            return Background(Volume(result.tdi, result.grid), caption, is_density=True)
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
        """Leave out what each process makes for itself."""
        return {**self.__dict__, "_made": {}}


def _describe_cut(result: Disconnection) -> CutResults:
    import numpy as np

    from lacuna.report.figures import Volume
    from lacuna.report.lesion import CutResults
    from lacuna.report.viewer import MAX_STREAMLINES

    ids = result.cut_ids
    chosen = np.linspace(0, len(ids) - 1, min(len(ids), MAX_STREAMLINES)).round().astype(np.int64)
    points, offsets = result.index.streamlines.gather(ids[chosen])
    return CutResults(
        Volume(np.where(result.coverage, result.disconnection, 0), result.grid),
        Volume(result.tdi, result.grid),
        points,
        offsets,
        result.index.parts.box_mm,
    )
