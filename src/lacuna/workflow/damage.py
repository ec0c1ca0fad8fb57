"""What lesions take of parcels and tracts of atlases: no tractogram is needed.

Atlases are opened once, checked against each other, and asked by every lesion.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacuna.analysis.damage import ParcelDamage, TractOverlap, parcel_damage, tract_overlap
from lacuna.bids.dataset import LesionListing
from lacuna.bids.derivatives import (
    LesionOutputs,
    check_output,
    plan_outputs,
    write_json,
    write_table,
)
from lacuna.bids.sources import source_uri
from lacuna.errors import OptionError, SpaceError
from lacuna.formats.atlas import load_atlas
from lacuna.formats.nifti import save_map
from lacuna.formats.tracts import load_tract_atlas
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.space import StatedSpace
from lacuna.geometry.tract_atlas import TractAtlas
from lacuna.store import Store
from lacuna.workflow.batch import BatchPlan, Choices, Done, Report, screen
from lacuna.workflow.lesion import (
    Lesion,
    require_space,
    suspect_grid,
    tractogram_space,
)
from lacuna.workflow.record import (
    describe_lesion,
    nifti_code,
    space_reference,
    summarise_lesion,
    versions,
    words,
)
from lacuna.workflow.resampled import move_parcels, move_tracts
from lacuna.workflow.warped import TransformFile, Warp, advise_transform, find_warp

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenedAtlas:
    """An atlas that was read, and what is known about it.

    Parameters
    ----------
    path
        Its image.
    content
        Parcels, or probabilities of tracts.
    space
        Its space, and where that was stated.
    warp, moved
        What it was brought there with, if it was, and what a record says of that.
    warnings
        What is odd about it.
    """

    path: Path
    content: Parcellation | TractAtlas
    space: StatedSpace
    warp: Warp | None = None
    moved: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what a record says of it, as JSON values."""
        return {
            "Name": self.content.name,
            "Kind": "parcels" if isinstance(self.content, Parcellation) else "tracts",
            "Path": str(self.path),
            "BLAKE2b-128": self.content.fingerprint,
            "Space": self.space.name,
            "SpaceStatedBy": self.space.source,
            "Transform": self.moved,
            "Warnings": self.warnings,
        }


def open_atlas(
    path: Path,
    table: Path | None = None,
    *,
    default_space: StatedSpace | None = None,
    has_tracts: bool = False,
    strict: bool = False,
) -> OpenedAtlas:
    """Read an atlas and find out its space; what is odd about it is logged.

    Parameters
    ----------
    path, table
        Image, and its table of names if that does not lie beside it.
    default_space
        Its space if neither name nor sidecar says.
    has_tracts
        Whether it has a volume of probabilities for each tract, not labels of parcels.
    strict
        Refuse an image on another template's grid instead of warning.

    Raises
    ------
    FormatError, GridError
        If image or table cannot be used.
    SpaceError
        If its space is not stated, or contradicted by its grid (strict).
    """
    stated = tractogram_space(path, default_space=default_space)
    stated = require_space(stated, path.name, "--atlas-space", "the atlas")
    content = load_tract_atlas(path, table) if has_tracts else load_atlas(path, table)
    notes = content.notes if isinstance(content, Parcellation) else ()
    warnings = (*notes, *suspect_grid(path.name, content.grid, stated, strict=strict))
    for warning in warnings:
        logger.warning("%s", warning)
    return OpenedAtlas(path, content, stated, warnings=warnings)


def choose_space(
    store: Store,
    files: Sequence[TransformFile],
    atlases: Sequence[OpenedAtlas],
    lesions: Sequence[StatedSpace | None],
) -> StatedSpace:
    """Return the space of lesions to which all atlases can be brought, else that of the first.

    Parameters
    ----------
    store, files
        As in `bring_atlas`.
    atlases
        At least one.
    lesions
        Space of each lesion, if it is stated.
    """
    first = atlases[0].space
    stated = [space for space in lesions if space is not None]
    # The atlas stays if it is where any lesion is.
    for space in sorted(stated, key=lambda space: space.name != first.name):
        if all(
            atlas.space.name == space.name or find_warp(store, files, space.name, atlas.space.name)
            for atlas in atlases
        ):
            return first if space.name == first.name else space
    return first


def bring_atlas(
    store: Store,
    files: Sequence[TransformFile],
    atlas: OpenedAtlas,
    space: StatedSpace,
    *,
    threads: int = 1,
) -> OpenedAtlas:
    """Return an atlas in another space; as it is, where no transform leads there.

    Parameters
    ----------
    store
        Keeps what was moved.
    files
        Transforms that may be used.
    space
        Where it is wanted.
    threads
        Threads to move it with.
    """
    if atlas.space.name == space.name:
        return atlas
    warp = find_warp(store, files, space.name, atlas.space.name)
    if warp is None:
        return atlas
    content: Parcellation | TractAtlas
    if isinstance(atlas.content, Parcellation):
        content, moved = move_parcels(store, atlas.content, warp, threads=threads)
    else:
        content, moved = move_tracts(store, atlas.content, warp, threads=threads)
    warnings = atlas.warnings
    if outside := moved["VoxelsOutside"]:
        warning = (
            f"{atlas.path.name}: {outside} of {moved['VoxelsMoved']} voxels lie outside the field "
            f"of {warp.path.name}, which tells nothing of them."
        )
        warnings += (warning,)
        logger.warning("%s", warning)
    source = f"as {warp.path.name} brings the atlas there from {warp.points_to}"
    stated = StatedSpace(space.name, source)
    return OpenedAtlas(atlas.path, content, stated, warp, moved, warnings)


def check_atlases(atlases: Sequence[OpenedAtlas], space: StatedSpace, name: str) -> None:
    """Check that atlases can be used together.

    Parameters
    ----------
    space
        Where all must be.
    name
        What is there already, for messages.

    Raises
    ------
    SpaceError
        If one is in another space.
    OptionError
        If two have one name, and so would write one file.
    """
    names: dict[str, Path] = {}
    for atlas in atlases:
        if atlas.space.name != space.name:
            raise SpaceError(
                f"{name} is in {space.name} ({space.source}), {atlas.path.name} in "
                f"{atlas.space.name} ({atlas.space.source}): all must be in one space, that of the "
                f"lesions. Give {advise_transform(atlas.space.name, space.name)}; or "
                f"take an atlas in {space.name}; if its space is stated wrongly, correct it or "
                "give --atlas-space."
            )
        other = names.setdefault(atlas.content.name.casefold(), atlas.path)
        if other is not atlas.path:
            raise OptionError(
                f"{other} and {atlas.path} are both called {atlas.content.name}, and would "
                "write one file: rename one, or run them into two folders."
            )


def settle_atlases(atlases: Sequence[OpenedAtlas]) -> None:
    """Work out what every lesion asks of an atlas: worker processes then share one answer."""
    for atlas in atlases:
        if isinstance(atlas.content, Parcellation):
            _ = atlas.content.n_voxels


@dataclass(frozen=True, eq=False)
class DamageRecord:
    """How the results of one run came about.

    Parameters
    ----------
    command
        The command line, or what stands for it.
    atlases
        All in one space, at least one.
    threads
        Lesions at once; results do not depend on it.

    Raises
    ------
    SpaceError
        If the atlases are in different spaces.
    OptionError
        If two have one name, and so would write one file.
    """

    command: Sequence[str]
    atlases: tuple[OpenedAtlas, ...]
    threads: int = 1

    def __post_init__(self) -> None:
        check_atlases(self.atlases, self.space, self.atlases[0].path.name)

    @property
    def space(self) -> StatedSpace:
        """The space of all atlases."""
        return self.atlases[0].space

    @property
    def sources(self) -> tuple[Path, ...]:
        """Files, beside the lesion, that sidecars name as sources: none."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """Return what results must have in common to be compared, as JSON values."""
        return {"Analysis": "damage", "Space": self.space.name}

    def details(self) -> dict[str, Any]:
        """Return what else decides what is written of a lesion, as JSON values."""
        atlases = {atlas.content.name: atlas.content.fingerprint for atlas in self.atlases}
        return {"Atlases": atlases}

    def to_json(self) -> dict[str, Any]:
        """Return everything that is needed to repeat the run, as JSON values."""
        return {
            "Command": list(self.command),
            "Analysis": "damage",
            "Atlases": [atlas.to_json() for atlas in self.atlases],
            "Versions": dict(versions()),
        }


def plan_damage(
    listing: LesionListing, output_dir: Path, record: DamageRecord, choices: Choices
) -> BatchPlan[DamageRecord]:
    """Decide what to do with each lesion; nothing is written.

    Raises
    ------
    DatasetError
        If two lesions would write one file, or the output folder holds results of another kind.
    SpaceError
        If no lesion is in the space of the atlases.
    """
    refused = screen(
        listing,
        record.space,
        choices,
        tractogram_name=record.atlases[0].path.name,
        what="atlas",
    )
    check_output(output_dir.absolute(), record.parameters(), sources=[listing.input_path])
    outputs = plan_outputs(listing.found, output_dir, space=record.space.name, resolution="")
    return BatchPlan(record, listing, outputs, refused, choices, ("summary", "stats", ".tsv"))


def damage_lesion(
    plan: BatchPlan[DamageRecord], outputs: LesionOutputs, *, report: Report | None = None
) -> Done:
    """Write what one lesion takes of every atlas; return its summary and warnings."""
    started = time.perf_counter()
    record, choices, name = plan.record, plan.choices, outputs.lesion.path.name
    table = outputs.path("summary", "stats", ".tsv")
    # An earlier run's table would vouch for files that this run fails to write.
    table.unlink(missing_ok=True)
    lesion = choices.load(outputs.lesion)
    n_damaged = [write_damage(outputs, lesion, atlas.content) for atlas in record.atlases]
    warnings = lesion.warnings
    if not any(n_damaged):
        warnings += (f"{lesion.name} touches no region of any atlas. Is it in native space?",)
        logger.warning("%s", warnings[-1])
    code = nifti_code(outputs.space)
    save_map(outputs.lesion_path(), lesion.mask, lesion.grid, code=code)
    sidecar = {
        **words()["outputs"]["lesion"],
        "Sources": [source_uri(outputs.lesion.path)],
        "SpatialReference": space_reference(outputs.space),
        "Lesion": describe_lesion(lesion, outputs.lesion.path),
        "Warnings": warnings,
        "Lacuna": record.to_json(),
    }
    write_json(outputs.lesion_path(".json"), sidecar)
    # The table comes last: where it stands, everything else does.
    summary = summarise_lesion(lesion, name)
    columns = {key: words()["summary"][key] for key in summary} | words()["summary_of_damage"]
    summary |= {"n_regions_damaged": sum(n_damaged), "space": outputs.space}
    write_table(table, {key: [value] for key, value in summary.items()}, columns)
    if report is not None:
        report(outputs, lesion, None, started)
    return summary, warnings


def write_damage(outputs: LesionOutputs, lesion: Lesion, atlas: Parcellation | TractAtlas) -> int:
    """Write the table of what a lesion takes of one atlas; return how many regions it touches."""
    found: ParcelDamage | TractOverlap
    columns: dict[str, Any]
    if isinstance(atlas, Parcellation):
        found = parcel_damage(lesion.mask, lesion.grid, atlas)
        desc, is_touched = "damage", found.lesioned_mm3 > 0
        columns = {"index": atlas.numbers, "name": atlas.names}
    else:
        found = tract_overlap(lesion.mask, lesion.grid, atlas)
        desc, is_touched = "tractoverlap", found.maxima > 0
        columns = {"name": atlas.names, "max_probability": found.maxima}
    columns |= {
        "volume_mm3": found.volume_mm3,
        "lesioned_mm3": found.lesioned_mm3,
        "damage": found.shares,
    }
    path = outputs.path(desc, "stats", ".tsv", seg=atlas.name)
    write_table(path, columns, words()["tables"][desc])
    return int(is_touched.sum())
