"""What `lacuna run snm` does, for a script or a notebook: one index, one lesion, one result."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.structural import (
    DEFAULT_MIN_TDI,
    Disconnection,
    Weighting,
    disconnect_voxels,
)
from lacuna.config import current_settings
from lacuna.formats.nifti import ImageSource
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.space import StatedSpace
from lacuna.store import Store
from lacuna.tractogram.query import check_weights
from lacuna.workflow import products
from lacuna.workflow.damage import bring_atlas, check_atlases, open_atlas
from lacuna.workflow.lesion import (
    check_cut,
    check_overlap,
    check_spaces,
    load_lesion,
    require_space,
    tractogram_space,
)
from lacuna.workflow.measures import OpenedConnectome
from lacuna.workflow.measures import open_connectome as open_pairs
from lacuna.workflow.products import OpenedIndex, Progress
from lacuna.workflow.report_grid import choose_grid
from lacuna.workflow.stores import open_store
from lacuna.workflow.warped import TransformFile, identify_transform, plan_warp
from lacuna.workflow.weights import find_weights


def open_index(
    tractogram: str | os.PathLike[str],
    *,
    space: str | None = None,
    transform: str | os.PathLike[str] | TransformFile | None = None,
    grid: Grid | str | os.PathLike[str] | float = 2,
    rule: str = "segment",
    upsample: int | None = None,
    threads: int | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> OpenedIndex:
    """Open the index of a tractogram, from the cache; the first time, build it.

    Parameters
    ----------
    tractogram
        A .tck, .trk or .trx file, or one of the first two compressed.
    space
        Template space of its coordinates, such as ``"MNI152NLin6Asym"``, unless its name or the
        JSON file beside it says.
    transform
        Takes the tractogram to its other space, where lesions are: a file whose name says its
        spaces, or what `lacuna.workflow.warped.identify_transform` returns of any other.
    grid
        Report grid: a grid, an image that has it, or the size of its voxels, mm.
    rule
        Mapping rule: segment, mrtrix or vertex; see `lacuna.tractogram.rules`.
    upsample
        Rule ``mrtrix`` only: pieces per step; by default as ``tckmap`` would.
    threads
        Threads to build with; all that this process may use by default.
    store
        Where the index is kept; the cache directory by default.
    progress
        Told what is being built, streamlines done, and streamlines in all.

    Raises
    ------
    SpaceError
        If the space is not stated, ambiguous, or stated twice differently.
    FormatError
        If the tractogram is broken or of another format.
    CacheFullError
        If the index would not fit.
    """
    path, settings = Path(tractogram), current_settings()
    stated = require_space(
        tractogram_space(path, space), path.name, "--tractogram-space", "the tractogram"
    )
    store = store or open_store()
    threads = threads or settings.num_threads
    warp = plan_warp(store, _identify(transform), stated)
    stated = stated if warp is None else warp.space
    if not isinstance(grid, Grid):
        asked = str(grid) if isinstance(grid, float | int) else os.fspath(grid)
        grid = choose_grid(
            asked,
            stated.name,
            lambda: products.find_box(store, path, warp=warp, threads=threads, progress=progress),
        )
    return products.open_index(
        store,
        path,
        grid=grid,
        rule=rule,
        upsample=upsample,
        space=stated,
        warp=warp,
        threads=threads,
        progress=progress,
    )


def disconnect(
    index: OpenedIndex,
    lesion: ImageSource,
    *,
    space: str | None = None,
    min_tdi: int = DEFAULT_MIN_TDI,
    weights: FloatArray | str | os.PathLike[str] | None = None,
) -> Disconnection:
    """Return what a lesion disconnects.

    Parameters
    ----------
    index
        From `open_index`.
    lesion
        Binary mask on any grid: a path, a nibabel image, or an array and its affine.
    space
        Its template space, unless its BIDS name or sidecar says. It must be the tractogram's.
    min_tdi
        Streamlines that a voxel needs to be counted.
    weights : (n_streamlines,), optional
        A weight per streamline, such as SIFT2's; or a text file of them, ``"length"``, or what the
        tractogram (.trx, .trk) calls its own.

    Returns
    -------
    Disconnection
        Frozen; ``disconnection``, ``cut_tdi``, ``tdi`` and ``coverage`` are volumes on the report
        grid, ``cut_ids`` the streamlines cut, ``disconnected_pct`` the number to report.

    Raises
    ------
    SpaceError
        If the lesion's space is not stated, or is not the tractogram's.
    LesionError
        If it is empty, not binary, not finite, or lies wholly outside the tractogram.
    """
    loaded = load_lesion(lesion, space)
    check_spaces(loaded.space, index.space, lesion_name=loaded.name)
    check_overlap(loaded, *index.index.parts.box_mm)
    chosen = _weights_of(index, weights)
    weighting = None if chosen is None else Weighting.of(index.index, chosen)
    result = disconnect_voxels(
        index.index, loaded.mask, loaded.grid, min_tdi=min_tdi, weighting=weighting
    )
    check_cut(loaded, result.n_cut)
    return result


def open_connectome(
    index: OpenedIndex,
    atlas: str | os.PathLike[str] | Parcellation,
    table: str | os.PathLike[str] | None = None,
    *,
    space: str | None = None,
    transform: str | os.PathLike[str] | TransformFile | None = None,
    weights: FloatArray | str | os.PathLike[str] | None = None,
    store: Store | None = None,
) -> OpenedConnectome:
    """Open which streamlines join which parcels of an atlas, from the cache once it is known.

    Parameters
    ----------
    index
        From `open_index`.
    atlas
        Label image, in the space where the tractogram is now; or what was made of one.
    table
        Names of the labels, if they do not lie beside the image.
    space
        Its template space, unless its name or sidecar says.
    transform
        Brings the atlas into the tractogram's space if it is elsewhere; as in `open_index`.
    weights : (n_streamlines,), optional
        As in `disconnect`: give both the same.
    store
        Where it is kept; the cache directory by default.

    Returns
    -------
    OpenedConnectome
        ``disconnect(result)`` says what a result of `disconnect` takes from parcels and from pairs
        of them: ``tables`` and ``matrices``, by name.

    Raises
    ------
    FormatError, GridError
        If image or table cannot be used.
    SpaceError
        If the space of the atlas is not stated, or not the tractogram's.
    """
    if not isinstance(atlas, Parcellation):
        stated = StatedSpace(space, "as given") if space else None
        opened = open_atlas(Path(atlas), Path(table) if table else None, default_space=stated)
        if index.space is not None:
            files = _identify(transform)
            opened = bring_atlas(store or open_store(), files, opened, index.space)
            check_atlases([opened], index.space, index.file.path.name)
        assert isinstance(opened.content, Parcellation)
        atlas = opened.content
    checked = _weights_of(index, weights)
    threads = current_settings().num_threads
    return open_pairs(store or open_store(), index, atlas, weights=checked, threads=threads)


def _identify(transform: str | os.PathLike[str] | TransformFile | None) -> list[TransformFile]:
    if transform is None or isinstance(transform, TransformFile):
        return [] if transform is None else [transform]
    return [identify_transform(Path(transform), source="transform")]


def _weights_of(
    index: OpenedIndex, weights: FloatArray | str | os.PathLike[str] | None
) -> NDArray[np.float64] | None:
    if weights is None:
        return None
    if isinstance(weights, str | os.PathLike):
        return find_weights(weights, index.file.path).of(index.file, index.index.parts)
    return check_weights(weights, index.n_streamlines)
