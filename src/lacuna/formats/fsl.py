"""Transforms of FSL: FLIRT matrices and FNIRT fields, as steps for points in mm RAS+.

They speak of voxels times voxel size, with x reversed where an image is stored left to right, so
that they mean nothing without the two images that were aligned.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.nifti import Vectors
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.warp import DisplacementField

FNIRT_FIELD, FNIRT_COEFFICIENTS = 2006, 2007
"""NIfTI intents."""


@dataclass(frozen=True, eq=False)
class AlignedImages:
    """The two images that FSL aligned.

    Parameters
    ----------
    moving, reference
        Grids of what was ``-in`` and ``-ref``.
    """

    moving: Grid
    reference: Grid


def flirt_step(matrix: FloatArray, images: AlignedImages) -> FloatArray:
    """Return the affine, (4, 4), that takes points of the reference image to the moving one.

    Parameters
    ----------
    matrix : (4, 4)
        As in FLIRT's file, which goes the other way.
    """
    moved = np.linalg.inv(matrix) @ _fsl_from_world(images.reference)
    return np.linalg.inv(_fsl_from_world(images.moving)) @ moved


def fnirt_steps(
    path: Path, field: Vectors, images: AlignedImages
) -> tuple[FloatArray | DisplacementField, ...]:
    """Return what takes points of the reference image to the moving one.

    Parameters
    ----------
    path
        Of the field, for messages.
    field
        Displacements, absolute coordinates or spline coefficients.

    Raises
    ------
    FormatError
        If the field was made for another reference image.
    """
    reference = images.reference
    vectors: FloatArray
    if not np.isfinite(field.vectors).all():
        raise FormatError(f"{path}: displacements are NaN or infinite. Write or copy it again.")
    if field.intent == FNIRT_COEFFICIENTS:
        shape, sizes = tuple(field.offsets.astype(int)), field.parameters
        vectors = _expand(field, shape)
        matrix = np.linalg.inv(field.affine)
    else:
        shape, sizes = field.vectors.shape[:3], np.array(reference.voxel_sizes_mm)
        vectors, matrix = _relative(field.vectors, reference), np.eye(4)
        if shape == reference.shape and not field.grid.is_same(reference):
            raise FormatError(
                f"{path} lies elsewhere than the reference image given, or is stored the other way "
                "round: give the image that was fnirt's --ref."
            )
    if shape != reference.shape or np.abs(sizes - reference.voxel_sizes_mm).max() > 1e-3:
        raise FormatError(
            f"{path} was made for a reference image of {shape} voxels, and the one given has "
            f"{reference.shape}: give the image that was fnirt's --ref."
        )
    world_from_fsl = np.linalg.inv(_fsl_from_world(images.moving))
    affine = world_from_fsl @ matrix @ _fsl_from_world(reference)
    turn = np.linalg.inv(affine[:3, :3]) @ world_from_fsl[:3, :3]
    return DisplacementField(reference, vectors @ turn.T), affine


def _fsl_from_world(grid: Grid) -> FloatArray:
    sizes = np.array(grid.voxel_sizes_mm)
    fsl_from_voxel = np.diag([*sizes, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        fsl_from_voxel[0, [0, 3]] = -sizes[0], sizes[0] * (grid.shape[0] - 1)
    return fsl_from_voxel @ grid.voxel_from_world


def _relative(vectors: FloatArray, reference: Grid) -> FloatArray:
    """Return displacements; a field of coordinates varies more than its distance from them."""
    voxels = np.moveaxis(np.indices(vectors.shape[:3]), 0, -1).reshape(-1, 3)
    world = reference.to_world(voxels)
    matrix = _fsl_from_world(reference)
    less = vectors - (world @ matrix[:3, :3].T + matrix[:3, 3]).reshape(vectors.shape)
    spread = [each.std(axis=(0, 1, 2)).sum() for each in (less, vectors)]
    return less if spread[0] < spread[1] else vectors


def _expand(field: Vectors, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the displacements that cubic B-spline coefficients stand for."""
    found = field.vectors.astype(np.float64)
    for axis, (n, spacing) in enumerate(zip(shape, field.voxel_sizes, strict=True)):
        # The first knot lies one spacing before the first voxel.
        at = np.abs(np.arange(n)[:, None] / spacing + 1 - np.arange(found.shape[axis]))
        near, far = 2 / 3 - at**2 + at**3 / 2, np.clip(2 - at, 0, None) ** 3 / 6
        weights = np.where(at < 1, near, far)
        found = np.moveaxis(np.tensordot(weights, found, (1, axis)), 0, axis)
    return found
