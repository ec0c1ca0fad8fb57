"""What the interactive viewer of a page needs: its program, and volumes and streamlines as text."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.formats.nifti import encode_map
from lacuna.geometry.grid import FloatArray, Grid, IntArray
from lacuna.report.figures import Background, Volume, grey_range, sample

MAX_STREAMLINES = 2000
"""How many of the streamlines cut a page holds."""

MAX_POINTS = 28
"""How many points of each."""

MAX_VOXELS = 1_100_000
"""A finer background is thinned out to about as many."""

BRIGHTEST = 250
"""What a share of 1, or the brightest of a background, is stored as."""


@cache
def viewer_scripts() -> str:
    """Return the program of all viewers of a page as HTML."""
    folder = files("lacuna.report.viewer")
    program = base64.b64encode(folder.joinpath("niivue.js.gz").read_bytes()).decode()
    own = folder.joinpath("viewer.js").read_text(encoding="utf-8")
    licences = folder.joinpath("LICENSES.txt").read_text(encoding="utf-8").replace("--", "- -")
    return (
        f"<!--\n{licences}-->\n"
        f'<script type="application/gzip" id="niivue">{program}</script>\n'
        f"<script>\n{own}</script>\n"
    )


def embed(kind: str, content: bytes) -> str:
    """Return a file as HTML for the viewer around it, compressed."""
    packed = base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
    return f'<script type="application/gzip" data-kind="{kind}">{packed}</script>'


def encode_shares(shares: Volume) -> bytes:
    """Return shares in [0, 1] as NIfTI, to 1 in 250; what is more than 0 remains so."""
    levels = np.ceil(BRIGHTEST * np.clip(shares.array, 0, 1)).astype(np.uint8)
    return encode_map(levels, shares.grid, slope=1 / BRIGHTEST)


def encode_lesion(lesion: Volume) -> bytes:
    """Return a mask as NIfTI on its own grid."""
    return encode_map(np.where(lesion.array, 255, 0).astype(np.uint8), lesion.grid)


def encode_background(background: Background) -> bytes:
    """Return a background as NIfTI in 250 shades, at most as fine as a page can hold."""
    volume = _thin(background.image.canonical())
    values = volume.array.astype(np.float64)
    if background.is_density:
        values = np.log1p(values)
    shades = np.clip(BRIGHTEST * values / grey_range(background)[1], 0, BRIGHTEST)
    return encode_map(shades.astype(np.uint8), volume.grid)


def encode_streamlines(points: FloatArray, offsets: IntArray) -> bytes:
    """Return streamlines with so many points as a page can hold, as .tck.

    Parameters
    ----------
    points : (n, 3)
        Of all, mm RAS+; to an eighth of a millimetre, which compresses.
    offsets : (n_streamlines + 1,)
        Streamline i has ``points[offsets[i]:offsets[i + 1]]``.
    """
    lengths = np.diff(offsets)
    kept: list[NDArray[Any]] = []
    gap = np.full((1, 3), np.nan)
    for first, n in zip(offsets[:-1], lengths, strict=True):
        chosen = np.linspace(0, n - 1, min(int(n), MAX_POINTS)).round().astype(int)
        kept += [np.round(points[first + chosen] * 8) / 8, gap]
    body = np.concatenate([*kept, np.full((1, 3), np.inf)]).astype("<f4").tobytes()
    head = f"mrtrix tracks\ndatatype: Float32LE\ncount: {len(lengths)}\nfile: . 96\nEND\n"
    return head.encode().ljust(96, b"\n") + body


def _thin(volume: Volume) -> Volume:
    step = int(np.ceil((volume.grid.n_voxels / MAX_VOXELS) ** (1 / 3)))
    if step == 1:
        return volume
    shape = tuple(-(-n // step) for n in volume.grid.shape)
    affine = volume.grid.affine @ np.diag([step, step, step, 1.0])
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    places = grid.to_world(np.indices(shape).reshape(3, -1).T.astype(float))
    return Volume(sample(volume, places).reshape(shape), grid)
