"""Transforms between spaces, of ITK, ANTs and FSL, by what their files hold."""

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from lacuna.errors import FormatError
from lacuna.formats.fsl import (
    FNIRT_COEFFICIENTS,
    FNIRT_FIELD,
    AlignedImages,
    flirt_step,
    fnirt_steps,
)
from lacuna.formats.itk import Step, field_from_lps, read_composite, read_matlab, read_text
from lacuna.formats.nifti import Vectors, load_image, load_vectors
from lacuna.geometry.space import resolve_space
from lacuna.geometry.warp import Transform

ITK_VECTORS = 1007
"""NIfTI intent of what ITK writes."""


def load_transform(
    path: str | PathLike[str],
    images_from: str,
    images_to: str,
    *,
    fsl_images: Sequence[str | PathLike[str]] | None = None,
) -> Transform:
    """Load what brings images of one space into another, as what it does to points: the reverse.

    Parameters
    ----------
    path
        An ITK composite (.h5), a displacement field of ITK or FNIRT or FNIRT's coefficients
        (.nii, .nii.gz), or an affine of ITK (.txt, .tfm, .mat) or FLIRT (.mat).
    images_from, images_to
        Space of the moving image and of the fixed (reference) one.
    fsl_images
        The two images that were aligned, moving first. Only files of FSL need them.

    Returns
    -------
    Transform
        Moves points from `images_to` to `images_from`.

    Raises
    ------
    FormatError
        If the file is damaged, of another kind, or needs images that are not given.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(f"There is no file {path}. Check the path, and that its disk is mounted.")
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        steps = _read_field(path, fsl_images)
    elif name.endswith((".h5", ".hdf5")):
        steps = read_composite(path)
    elif name.endswith((".txt", ".tfm", ".mat")):
        steps = _read_affine(path, fsl_images)
    else:
        raise FormatError(
            f"{path} is no transform that can be read: its name should end in .h5, .nii.gz, .txt, "
            ".tfm or .mat. Write it as a displacement field, for example with ANTs' "
            "antsApplyTransforms -o [field.nii.gz,1]."
        )
    return Transform(steps, resolve_space(images_to), resolve_space(images_from))


def _read_field(path: Path, fsl_images: Sequence[str | PathLike[str]] | None) -> tuple[Step, ...]:
    field = load_vectors(path)
    if field.intent in (FNIRT_FIELD, FNIRT_COEFFICIENTS):
        return fnirt_steps(path, field, _aligned(path, fsl_images))
    if field.intent != ITK_VECTORS:
        raise FormatError(
            f"{path} holds vectors of intent {field.intent}, neither a displacement field of ITK "
            f"({ITK_VECTORS}) nor of FNIRT. Was it written by ANTs, or is it another image?"
        )
    if field.notes:
        raise FormatError(f"{path}: {field.notes[0]} Copy the right one over the other.")
    if _holds_places(field):
        raise FormatError(
            f"{path} holds places, as deformations of SPM do, not displacements. Write it as a "
            "displacement field of ITK: subtract each voxel's own place, and reverse x and y."
        )
    try:
        return (field_from_lps(field.grid, field.vectors),)
    except ValueError as error:
        raise FormatError(f"{path}: {error}. Write or copy it again.") from error


def _holds_places(field: Vectors) -> bool:
    """Tell whether vectors lie much closer to where their voxels are than to nothing."""
    voxels = np.moveaxis(np.indices(field.grid.shape), 0, -1).reshape(-1, 3)
    vectors, places = field.vectors.reshape(-1, 3), field.grid.to_world(voxels)
    # In RAS+, or as in ITK in LPS+.
    less = [(vectors - places * signs).std(axis=0).sum() for signs in ([1, 1, 1], [-1, -1, 1])]
    return bool(min(less) < vectors.std(axis=0).sum() / 3)


def _read_affine(path: Path, fsl_images: Sequence[str | PathLike[str]] | None) -> tuple[Step, ...]:
    data = path.read_bytes()
    if data.startswith(b"#Insight Transform File"):
        return read_text(path, data.decode("utf-8", "replace"))
    if re.search(rb"[^\x09-\x0d -~]", data):
        return read_matlab(path, data)
    try:
        matrix = np.array([line.split() for line in data.decode().splitlines() if line.strip()])
        matrix = matrix.astype(np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or not np.linalg.det(matrix):
            raise ValueError(f"it holds {matrix.shape[0]} rows")
        if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
            raise ValueError("its last row is not 0 0 0 1")
    except ValueError as error:
        raise FormatError(
            f"{path} is neither an affine of ITK nor FLIRT's invertible 4 × 4 matrix ({error}). "
            "Copy or write it again."
        ) from error
    return (flirt_step(matrix, _aligned(path, fsl_images)),)


def _aligned(path: Path, images: Sequence[str | PathLike[str]] | None) -> AlignedImages:
    if images is None:
        raise FormatError(
            f"{path} is a transform of FSL, which means nothing without the two images that were "
            "aligned: give them with --transform-images MOVING REFERENCE."
        )
    moving, reference = (load_image(Path(image)).grid for image in images)
    return AlignedImages(moving, reference)
