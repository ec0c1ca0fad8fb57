"""Compiling kernels in advance, for whoever installs Lacuna for others.

A run compiles a kernel for the kinds of arrays it meets: read-only or not, aligned in memory or
not. `compile_into` meets all of them; a test runs every format and rule and finds none missing.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from lacuna.analysis.connectome import Connectome, disconnect_parcels
from lacuna.analysis.structural import Weighting, disconnect_voxels
from lacuna.assets.bundled import DEMO, TRACTOGRAM
from lacuna.errors import CacheDirError
from lacuna.formats import open_tractogram
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.streamlines import Streamlines
from lacuna.tractogram import index as building
from lacuna.tractogram.ends import assign_ends
from lacuna.tractogram.query import Index
from lacuna.tractogram.rules import CODES
from lacuna.workflow.kernels import SHIPPED, keep_in, private_directory

N_STREAMLINES = 50


def compile_into(directory: Path) -> None:
    """Compile every kernel for everything that it may be called with.

    To be called in a process of its own, in an environment that holds
    `lacuna.workflow.kernels.BASELINE`.

    Parameters
    ----------
    directory
        Exists and is private; what was compiled goes to ``.kernels`` in it.
    """
    keep_in(private_directory(directory))
    demo = sample_demo()
    # A .trx keeps its points wherever in the file they come to lie.
    unaligned = np.frombuffer(b"\0" + demo.words.tobytes(), np.uint8)[1:].view(np.float32)
    for words in (demo.words, unaligned):
        for rule in CODES:
            work = directory / f"{rule}-{words.flags.aligned}"
            work.mkdir()
            use_kernels(replace(demo, words=words), rule, work)


def sample_demo() -> Streamlines:
    """Return some streamlines of the demonstration data."""
    demo = open_tractogram(DEMO / TRACTOGRAM).streamlines
    points, offsets = demo.gather(np.arange(0, len(demo), len(demo) // N_STREAMLINES))
    return Streamlines(points.reshape(-1), offsets[:-1] * 3, np.diff(offsets))


def use_kernels(streamlines: Streamlines, rule: str, work: Path) -> None:
    """Index streamlines in an empty directory and lesion them, on all kinds of grids."""
    building.build_streamlines(streamlines, work)
    parts = building.open_streamlines(work)
    low, high = parts.box_mm
    grid = Grid.over_box(low, high, 2.0)
    for name in ("hits", "map"):
        (work / name).mkdir()
    building.build_hits(streamlines, parts, work / "hits")
    building.build_map(streamlines, parts, grid, work / "map", rule=rule, upsample=2)
    mapped = building.open_map(work / "map", grid, rule, 2)
    index = Index(streamlines, parts, building.open_hits(work / "hits", parts), mapped)
    turned = np.array([[2, 0.5, 0, 0], [-0.5, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    turned[:3, 3] = grid.affine[:3, 3]
    weighting = Weighting.of(index, np.ones(len(streamlines)))
    for where in (Grid.over_box(low, high, 1.0), grid, Grid(grid.shape, turned)):
        mask = np.zeros(where.shape, bool)
        mask[tuple(slice(n // 4, n // 2) for n in where.shape)] = True
        found = disconnect_voxels(index, mask, where, weighting=weighting)
        index.ratio_volume(found.cut_counts)
    atlas = Parcellation("a", mask.astype(np.int32), where, np.array([1], np.int32), ("1",))
    connectome = Connectome.of(assign_ends(parts.ends, atlas), atlas.n_parcels)
    disconnect_parcels(connectome, found.cut_ids).indirect  # noqa: B018 # for what it compiles


def ship(directory: Path) -> int:
    """Put what `compile_into` made beside the kernels' sources; return how many kernels that is.

    Raises
    ------
    CacheDirError
        If this user may not write there.
    """
    fresh = SHIPPED.with_name("compiled.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(directory / ".kernels", fresh)
        for file in fresh.iterdir():
            file.chmod(0o644)
        fresh.chmod(0o755)
        if SHIPPED.exists():
            shutil.rmtree(SHIPPED)
        fresh.rename(SHIPPED)
    except OSError as error:
        raise CacheDirError(
            error.errno,
            f"Compiled kernels cannot be put into {SHIPPED}: {error.strerror or error}. Only "
            "whoever installed Lacuna can ship them; everybody else keeps their own.",
            str(SHIPPED),
        ) from error
    return len(list(SHIPPED.glob("*.nbi")))
