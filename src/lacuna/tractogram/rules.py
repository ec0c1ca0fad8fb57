"""The rules by which a streamline visits voxels and is cut.

``segment``
    It visits every voxel its polyline passes through, and is cut where it passes through a
    lesioned one. Exact geometry; the default.
``mrtrix``
    It visits the voxels of its points and of points interpolated between them, and is cut when a
    stored point lies in a lesioned voxel: MRtrix3's ``tckmap`` and ``tckedit -include``.
``vertex``
    It visits the voxels of its stored points only, and is cut likewise.
"""

from typing import Literal

import numpy as np

from lacuna.errors import OptionError
from lacuna.geometry.grid import Grid
from lacuna.tractogram._kernels.build import MRTRIX, SEGMENT, VERTEX, Frame
from lacuna.tractogram.mrtrix import hermite_weights, mrtrix_frame

Rule = Literal["segment", "mrtrix", "vertex"]
CODES: dict[str, int] = {"segment": SEGMENT, "vertex": VERTEX, "mrtrix": MRTRIX}


def frame_of(grid: Grid, rule: str, upsample: int = 1) -> Frame:
    """Return what the kernels need to visit a grid under a rule.

    Parameters
    ----------
    grid
        Voxels, in any orientation: numbers that come back are of ``grid.canonical``.
    rule
        One of `CODES`.
    upsample
        Rule ``mrtrix`` only: pieces that each step between two points is divided into.

    Raises
    ------
    OptionError
        If there is no such rule.
    """
    if rule not in CODES:
        raise OptionError(f"There is no mapping rule {rule!r}; choose one of {', '.join(CODES)}.")
    canonical = grid.canonical
    single = np.zeros((3, 4), np.float32)
    hermite = np.zeros((0, 4), np.float32)
    if rule == "mrtrix":
        single, hermite = mrtrix_frame(grid)[0], hermite_weights(upsample)
    return Frame(
        CODES[rule],
        np.ascontiguousarray(canonical.voxel_from_world[:3]),
        single,
        np.array(canonical.shape, np.int64),
        hermite,
    )
