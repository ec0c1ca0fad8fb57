"""Many lesions against one index: a plan that can be read, and its execution.

Everything that can be refused before work starts is refused by the plan. After that a lesion that
fails is reported with its reason, and the others go on.
"""

import gc
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from numpy.typing import NDArray

from lacuna.analysis.structural import Disconnection, Weighting, disconnect_voxels
from lacuna.bids.dataset import LesionFile, LesionListing
from lacuna.bids.derivatives import (
    LesionOutputs,
    check_output,
    plan_outputs,
    write_json,
    write_table,
)
from lacuna.bids.names import resolution_label
from lacuna.errors import LacunaError, SpaceError, UnfinishedError
from lacuna.formats import save_tck, save_trx
from lacuna.formats.nifti import pack_map, save_map
from lacuna.formats.replace import replacing
from lacuna.geometry.space import StatedSpace
from lacuna.tractogram.query import Index
from lacuna.workflow.documents import open_dataset
from lacuna.workflow.lesion import (
    Lesion,
    check_cut,
    check_overlap,
    check_spaces,
    decide_space,
    load_lesion,
)
from lacuna.workflow.record import RunRecord, nifti_code, sidecars, summarise, summary_columns
from lacuna.workflow.resampled import LesionMoves
from lacuna.workflow.resume import (
    Fingerprint,
    Standing,
    count_standings,
    find_standings,
    read_summary,
    refuse,
)
from lacuna.workflow.workers import (
    Crew,
    go_on,
    portable,
    remove_unfinished,
    work_in_processes,
    work_in_threads,
)

logger = logging.getLogger(__name__)

# matplotlib makes no promise about threads, so that a process draws one figure at a time.
_DRAWING = threading.Lock()

Done = tuple[dict[str, Any], tuple[str, ...]]
"""Summary of a lesion's results by column, and warnings."""

Draw = Callable[[Disconnection, Lesion, str], bytes]
"""Makes the PNG of a result; the text is the lesion's name for people."""

Report = Callable[[LesionOutputs, Lesion, Disconnection | None, float], None]
"""Writes the report of a lesion whose results stand; the number is when the work on it began."""

Measure = Callable[
    [Disconnection, Lesion, LesionOutputs, Mapping[str, Any]],
    Mapping[str, tuple[Any, Mapping[str, Any]]],
]
"""Writes what is asked beyond the maps, given sidecars; returns further columns of the summary."""


@dataclass(frozen=True)
class Choices:
    """What the caller wants, beyond what all results share.

    Parameters
    ----------
    space
        Space of all lesions, if stated by option.
    default_space
        Space of those that state none, as from a configuration file.
    save_streamlines
        Format of the cut streamlines, if they are wanted.
    strict
        Make errors of what is merely suspicious.
    moves
        Brings lesions to where everything else is, if that is wanted.
    """

    space: StatedSpace | None = None
    default_space: StatedSpace | None = None
    save_streamlines: Literal["tck", "trx"] | None = None
    strict: bool = False
    moves: LesionMoves | None = None

    def load(self, file: LesionFile) -> Lesion:
        """Return a lesion in the space in which it is used, checked."""
        lesion = load_lesion(file, self.space, default_space=self.default_space, strict=self.strict)
        return lesion if self.moves is None else self.moves.bring(lesion)


class Shared(Protocol):
    """What the results of a run have in common."""

    @property
    def threads(self) -> int:
        """Lesions at once."""

    @property
    def sources(self) -> Sequence[Path]:
        """Files, beside the lesion, that sidecars name as sources."""

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to repeat the run, as JSON values."""

    def parameters(self) -> dict[str, Any]:
        """Return what results must have in common to be compared, as JSON values."""

    def details(self) -> dict[str, Any]:
        """Return what else decides what is written of a lesion, as JSON values."""


Record = TypeVar("Record", bound=Shared)


@dataclass(frozen=True, eq=False)
class BatchPlan(Generic[Record]):
    """What will be done, before anything is.

    Parameters
    ----------
    record
        What all results share.
    listing
        What was found in the input.
    outputs
        Where the results of each lesion go, in the order of `listing`.
    refused
        Lesions that will not be tried, each with the reason.
    choices
        Options.
    main_result
        What is shown of each lesion's results: arguments of `LesionOutputs.path`.
    standings
        How far each lesion is, by its path; those without are tried, and no record is kept.
    """

    record: Record
    listing: LesionListing
    outputs: tuple[LesionOutputs, ...]
    refused: Mapping[Path, LacunaError]
    choices: Choices
    main_result: tuple[str, str, str] = ("disconnection", "map", ".nii.gz")
    standings: Mapping[Path, Standing] = field(default_factory=dict)

    def resume(
        self,
        fingerprint: Fingerprint,
        details: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> "BatchPlan[Record]":
        """Return the plan that leaves alone what is done already.

        Parameters
        ----------
        details
            What decides what is written beyond the record and the choices, as JSON values.
        fingerprint, inputs, overwrite
            As in `find_standings`.
        """
        parameters = {
            **self.record.parameters(),
            **self.record.details(),
            "SaveStreamlines": self.choices.save_streamlines,
            "Strict": self.choices.strict,
            "LesionMoves": self.choices.moves and self.choices.moves.parameters(),
            **(details or {}),
        }
        stated = zip(self.listing.found, lesion_spaces(self.listing, self.choices), strict=True)
        found = find_standings(
            self.outputs,
            fingerprint,
            parameters,
            spaces={lesion.path: space.name if space else None for lesion, space in stated},
            inputs=inputs,
            overwrite=overwrite,
        )
        return replace(self, standings={**found, **refuse(found, self.refused)})

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        states = [standing.state for standing in self.standings.values()]
        return set(states) == {"done"}

    @property
    def output_dir(self) -> Path:
        """Root of the derivative dataset."""
        return self.outputs[0].output_dir

    def __str__(self) -> str:
        """Return the plan for people: every lesion, and what was passed over and why."""
        n_found, n_ignored = len(self.listing.found), len(self.listing.ignored)
        counts = f"lesion masks: {n_found}; images passed over: {n_ignored}"
        lines = [f"{self.listing.root} ({self.listing.kind}): {counts}"]
        for outputs in self.outputs:
            path = outputs.lesion.path
            place = outputs.path(*self.main_result).relative_to(self.output_dir)
            fate = "refused" if path in self.refused else str(place)
            standing = str(self.standings.get(path, ""))
            fate += f" ({standing})" if standing else ""
            lines.append(f"  {_inside(path, self.listing.root)} → {fate}")
        reasons = defaultdict(list)
        for ignored in self.listing.ignored:
            reasons[ignored.reason].append(_inside(ignored.path, self.listing.root))
        for reason, paths in reasons.items():
            shown = ", ".join(paths[:3]) + (", …" if len(paths) > 3 else "")
            lines.append(f"  passed over, as {reason}: {len(paths)} ({shown})")
        lines.append(count_standings(list(self.standings.values())))
        return "\n".join(filter(None, lines))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one lesion.

    Parameters
    ----------
    outputs
        The lesion, and where its results are.
    error
        Why there are none; none if all went well.
    summary
        The numbers, by column of the summary table; empty if it failed.
    warnings
        What makes one doubt it.
    seconds
        Time it took.
    is_begun
        False if nothing was done, since another lesion had failed.
    """

    outputs: LesionOutputs
    error: Exception | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    is_begun: bool = True


def screen(
    listing: LesionListing,
    tractogram: StatedSpace,
    choices: Choices,
    *,
    tractogram_name: str,
    what: str = "tractogram",
) -> dict[Path, LacunaError]:
    """Return the lesions that are not in the space of the tractogram or atlas, and why.

    Looks at names and sidecars only, so that it can come before the tractogram is read.

    Raises
    ------
    SpaceError
        If no lesion is left.
    """
    refused: dict[Path, LacunaError] = {}
    for lesion in listing.found:
        try:
            stated = decide_space(choices.space, lesion.space, choices.default_space)
            if choices.moves is not None and choices.moves.leads_from(stated):
                continue
            check_spaces(
                stated,
                tractogram,
                lesion_name=lesion.path.name,
                tractogram_name=tractogram_name,
                what=what,
            )
        except LacunaError as error:
            refused[lesion.path] = error
    if len(refused) < len(listing.found):
        return refused
    first = next(iter(refused.values()))
    if len(refused) == 1:
        raise first
    raise SpaceError(f"None of the {len(refused)} lesions can be used. The first: {first}")


def lesion_spaces(listing: LesionListing, choices: Choices) -> list[StatedSpace | None]:
    """Return the space of each lesion; none where it is unstated, or stated at odds."""
    found: list[StatedSpace | None] = []
    for lesion in listing.found:
        try:
            found.append(decide_space(choices.space, lesion.space, choices.default_space))
        except LacunaError:  # `screen` refuses it, and says why
            found.append(None)
    return found


def plan_batch(
    listing: LesionListing,
    output_dir: Path,
    record: RunRecord,
    choices: Choices | None = None,
) -> BatchPlan[RunRecord]:
    """Decide what to do with each lesion; nothing is written.

    Raises
    ------
    DatasetError
        If two lesions would write one file, or the output folder holds results of another kind.
    SpaceError
        If no lesion is in the tractogram's space.
    """
    choices = choices or Choices()
    refused = screen(listing, record.space, choices, tractogram_name=record.tractogram.name)
    check_output(output_dir.absolute(), record.parameters(), sources=[listing.input_path])
    outputs = plan_outputs(
        listing.found,
        output_dir,
        space=record.tractogram_space,
        resolution=resolution_label(record.grid),
    )
    return BatchPlan(record, listing, outputs, refused, choices)


@dataclass(frozen=True, eq=False)
class LesionWork:
    """What is done with each lesion of a plan; a worker process gets all of it.

    Parameters
    ----------
    plan
        From `plan_batch`.
    index
        The tractogram's, with the plan's report grid and rule.
    weighting
        Streamline weights.
    measure
        Writes what is asked beyond the maps.
    draw
        Makes the figures; none are written without it. For worker processes it and the other
        functions must pickle: those of a module, or objects with ``__call__``.
    threads
        For each lesion; results do not depend on it.
    report
        Writes the report, once everything else stands.
    """

    plan: BatchPlan[RunRecord]
    index: Index
    weighting: Weighting | None = None
    measure: Measure | None = None
    draw: Draw | None = None
    threads: int = 1
    report: Report | None = None

    @cached_property
    def same_images(self) -> dict[tuple[str, str], bytes]:
        """Files that are the same for every lesion, by ``desc`` and suffix."""
        record, tdi = self.plan.record, self.index.map.tdi
        density = self.weighting.sums.astype("f4") if self.weighting else tdi.astype("i4")
        arrays = {("tdi", "map"): density, ("coverage", "mask"): tdi >= record.min_tdi}
        pack = partial(pack_map, grid=self.index.map.grid, code=nifti_code(record.tractogram_space))
        return {what: pack(self.index.to_grid(values)) for what, values in arrays.items()}

    def __call__(self, outputs: LesionOutputs) -> Done:
        """Cut with one lesion, and write its results; return its summary and warnings."""
        return _run_lesion(self, outputs)


def prepare_work(
    plan: BatchPlan[RunRecord],
    index: Index,
    *,
    weighting: Weighting | None = None,
    measure: Measure | None = None,
    draw: Draw | None = None,
) -> LesionWork:
    """Return what is to be done with each lesion; parameters as in `LesionWork`."""
    _check_coverage(index, plan.record.min_tdi)
    return LesionWork(plan, index, weighting, measure, draw)


def read_done(
    plan: BatchPlan[Any], on_outcome: Callable[[Outcome], None] | None = None
) -> tuple[Outcome, ...]:
    """Return the outcomes of a plan that is done already, from the tables that are there."""
    outcomes = tuple(Outcome(outputs, None, read_summary(outputs)) for outputs in plan.outputs)
    for outcome in outcomes:
        if on_outcome is not None:
            on_outcome(outcome)
    return outcomes


def work_through(
    plan: BatchPlan[Any],
    work: Callable[[LesionOutputs], Done],
    *,
    crew: Crew | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> tuple[Outcome, ...]:
    """Do one thing with every lesion of a plan, and report those with which it failed.

    Parameters
    ----------
    plan
        Lesions that it refuses fail with its reason.
    work
        Writes the results of a lesion; returns its summary and warnings. For worker processes it
        must pickle: a function of a module, or an object with ``__call__``.
    crew
        Who works; by default the threads of the plan's record, in this process.
    on_outcome
        Called with each outcome, in the order of the lesions, as soon as it is there.

    Returns
    -------
    tuple of Outcome
        In the order of the lesions.
    """
    crew = crew or Crew()
    stops = crew.stops_at_failure
    root = open_dataset(plan.output_dir, plan.listing, plan.record)
    logger.info("writing to %s", root)
    attempt, n = _Attempt(plan, work), len(plan.outputs)
    found: dict[int, Outcome] = {}
    outcomes: list[Outcome] = []
    failures: list[Outcome] = []

    def next_items() -> Iterator[int]:
        for i in range(n):
            if failures and stops:
                return
            yield i

    def lost(i: int, token: str, reason: str) -> Outcome:
        remove_unfinished(plan.output_dir, token)
        error = UnfinishedError(f"The process that worked on it {reason}.")
        return Outcome(plan.outputs[i], error)

    if min(crew.processes, n) > 1:
        crew = replace(crew, processes=min(crew.processes, n))
        results = work_in_processes(attempt, next_items(), crew, lost)
    else:
        results = work_in_threads(attempt, next_items(), min(plan.record.threads, n))
    with closing(results):
        for i, outcome in results:
            found[i] = outcome
            failures += [outcome] if outcome.error else []
            while len(outcomes) in found:
                outcomes.append(found[len(outcomes)])
                if on_outcome is not None:
                    on_outcome(outcomes[-1])
    for outputs in plan.outputs[len(outcomes) :]:
        why = "another lesion had failed" if failures and stops else "no worker process was left"
        error = UnfinishedError(f"It was not begun, since {why}.")
        outcomes.append(Outcome(outputs, error, is_begun=False))
    return tuple(outcomes)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """Tries one lesion after another; raises nothing but what ends the process."""

    plan: BatchPlan[Any]
    work: Callable[[LesionOutputs], Done]

    def __call__(self, i: int) -> Outcome:
        outputs, start = self.plan.outputs[i], time.perf_counter()
        standing = self.plan.standings.get(outputs.lesion.path)
        try:
            if standing is not None and standing.state == "done":
                return Outcome(outputs, None, read_summary(outputs))
            with standing.recording(outputs) if standing else nullcontext():
                refusal = self.plan.refused.get(outputs.lesion.path)
                if refusal is not None:
                    raise refusal
                summary, warnings = self.work(outputs)
        except Exception as error:
            # Whatever it is, it must not cost the other lesions their results.
            logger.debug("%s failed", outputs.lesion.path, exc_info=True)
            return Outcome(outputs, portable(error), seconds=time.perf_counter() - start)
        return Outcome(outputs, None, summary, warnings, time.perf_counter() - start)


def _run_lesion(work: LesionWork, outputs: LesionOutputs) -> Done:
    choices, record, index = work.plan.choices, work.plan.record, work.index
    started = time.perf_counter()
    table = outputs.path("summary", "stats", ".tsv")
    # An earlier run's table would vouch for files that this run fails to write.
    table.unlink(missing_ok=True)
    lesion = choices.load(outputs.lesion)
    warnings = lesion.warnings + check_overlap(lesion, *index.parts.box_mm)
    result = disconnect_voxels(
        index,
        lesion.mask,
        lesion.grid,
        min_tdi=record.min_tdi,
        weighting=work.weighting,
        threads=work.threads,
    )
    warnings += check_cut(lesion, result.n_cut)
    outputs.directory.mkdir(parents=True, exist_ok=True)
    said = sidecars(record, lesion, outputs.lesion.path, warnings)
    _write_images(result, lesion, outputs, said, work.same_images)
    if choices.save_streamlines:
        _write_streamlines(result, outputs, choices.save_streamlines, record, said["cut"])
    if work.draw is not None:
        with _DRAWING:
            go_on()
            png = work.draw(result, lesion, outputs.lesion.path.name)
            # A figure is a knot of cycles that holds 60 MB, for many lesions on end otherwise.
            gc.collect()
        with replacing(outputs.path("disconnection", "map", ".png")) as stream:
            stream.write(png)
    go_on()
    further = work.measure(result, lesion, outputs, said) if work.measure else {}
    # The table comes after all that it vouches for; only the page follows, which reads it.
    summary = summarise(result, lesion, record, outputs.lesion.path.name)
    summary |= {name: value for name, (value, _) in further.items()}
    described = summary_columns() | {name: text for name, (_, text) in further.items()}
    write_table(table, {name: [value] for name, value in summary.items()}, described)
    if work.report is not None:
        go_on()
        work.report(outputs, lesion, result, started)
    return summary, warnings


def _write_images(
    result: Disconnection,
    lesion: Lesion,
    outputs: LesionOutputs,
    said: Mapping[str, Any],
    same: Mapping[tuple[str, str], bytes],
) -> None:
    code = nifti_code(outputs.space)
    cut_tdi: NDArray[Any] = result.cut_tdi
    if result.weighting is not None and result.cut_sums is not None:
        cut_tdi = result.index.to_grid(result.cut_sums.astype("f4"))
    images = {
        ("disconnection", "map"): pack_map(result.disconnection, result.grid, code=code),
        ("cuttdi", "map"): pack_map(cut_tdi, result.grid, code=code),
        **same,
    }
    for (desc, suffix), content in images.items():
        with replacing(outputs.path(desc, suffix, ".nii.gz")) as stream:
            stream.write(content)
        write_json(outputs.path(desc, suffix, ".json"), said[desc])
    save_map(outputs.lesion_path(), lesion.mask, lesion.grid, code=code)
    write_json(outputs.lesion_path(".json"), said["lesion"])


def _write_streamlines(
    result: Disconnection,
    outputs: LesionOutputs,
    kind: Literal["tck", "trx"],
    record: RunRecord,
    said: Mapping[str, Any],
) -> None:
    points, offsets = result.index.streamlines.gather(result.cut_ids)
    path = outputs.path("cut", "tractography", f".{kind}")
    if kind == "tck":
        save_tck(path, points, offsets, step_size_mm=record.step_size_mm)
    else:
        save_trx(path, points, offsets, result.grid)
    write_json(outputs.path("cut", "tractography", ".json"), said)


def _check_coverage(index: Index, min_tdi: int) -> None:
    n_visited, n_covered = len(index.map.voxels), int((index.map.tdi >= min_tdi).sum())
    if 2 * n_covered < n_visited:
        logger.warning(
            "Only %d of %d voxels that any streamline visits have %d or more: numbers about maps "
            "refer to these. A larger tractogram, a coarser --grid or a lower --min-tdi has more.",
            n_covered,
            n_visited,
            min_tdi,
        )


def _inside(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
