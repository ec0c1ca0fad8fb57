"""Transforms of ITK and ANTs: composites (.h5), affines (.txt, .tfm, .mat), as steps for points.

Coordinates are LPS+ mm. A file moves points of the fixed image to the moving one, and a composite
applies its members from the last to the first. nitransforms is not used: see the decision record.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.geometry.grid import FloatArray, Grid
from lacuna.geometry.warp import DisplacementField

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Its own inverse."""

Numbers = NDArray[np.float64]
Step = FloatArray | DisplacementField

_CONVERT = (
    "Only affine transforms and displacement fields can be read: write it as one field, for "
    "example with antsApplyTransforms -o [field.nii.gz,1]."
)


def read_composite(path: Path) -> tuple[Step, ...]:
    """Return the steps of a .h5 file, in the order in which points meet them.

    Raises
    ------
    FormatError
        If it is damaged, or holds transforms of another kind.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = file["TransformGroup"]
            # A missing one is an error, not a shorter chain.
            members = [_read_group(groups[str(i)]) for i in range(len(groups))]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise FormatError(
            f"{path} cannot be read as an ITK composite transform ({error}): it is truncated, or "
            "another kind of HDF5 file. Copy it again."
        ) from error
    return _steps(path, members)


def read_text(path: Path, text: str) -> tuple[Step, ...]:
    """Return the steps of a text file of ITK, ``#Insight Transform File``."""
    members = []
    for part in re.split(r"^Transform:", text, flags=re.MULTILINE)[1:]:
        kind, _, rest = part.partition("\n")
        lines = dict(line.split(":", 1) for line in rest.splitlines() if ":" in line)
        try:
            numbers = [
                np.array(lines.get(key, "").split(), np.float64)
                for key in ("Parameters", "FixedParameters")
            ]
        except ValueError as error:
            raise FormatError(f"{path}: {error}. Copy or write it again.") from error
        members.append((kind.strip(), numbers[0], numbers[1]))
    return _steps(path, members)


def read_matlab(path: Path, data: bytes) -> tuple[Step, ...]:
    """Return the steps of a binary .mat file as ANTs writes them (MATLAB level 4)."""
    try:
        matrices = list(_read_matrices(data))
    except (struct.error, ValueError) as error:
        raise FormatError(
            f"{path} is neither text nor a .mat file of ANTs ({error}): it is truncated, or "
            "another kind of file."
        ) from error
    members = [(kind, numbers, np.zeros(3)) for kind, numbers in matrices if kind != "fixed"]
    if len(members) == 1:
        members = [(*members[0][:2], dict(matrices).get("fixed", np.zeros(3)))]
    return _steps(path, members)


def _read_group(group: Any) -> tuple[str, Numbers, Numbers]:
    kind = group["TransformType"][0]
    # Before version 5, ITK wrote "Tranform".
    found = {key.replace("Tranform", "Transform"): value for key, value in group.items()}
    numbers, fixed = (
        np.array(found.get(key, ()), np.float64)
        for key in ("TransformParameters", "TransformFixedParameters")
    )
    return kind.decode() if isinstance(kind, bytes) else str(kind), numbers, fixed


def _read_matrices(data: bytes) -> Iterator[tuple[str, Numbers]]:
    at = 0
    while at < len(data):
        kind, rows, columns, imaginary, n_name = struct.unpack_from("<5i", data, at)
        if kind not in (0, 10) or imaginary or min(rows, columns) < 0 or not 0 < n_name < 99:
            raise ValueError("no MATLAB level 4 matrix")
        name = data[at + 20 : at + 20 + n_name].rstrip(b"\0").decode("ascii")
        dtype = np.dtype("<f4" if kind else "<f8")
        at += 20 + n_name
        yield name, np.frombuffer(data, dtype, rows * columns, at).astype(np.float64)
        at += rows * columns * dtype.itemsize


def _steps(path: Path, members: list[tuple[str, Numbers, Numbers]]) -> tuple[Step, ...]:
    if members and members[0][0].startswith("CompositeTransform"):
        members = members[1:]
    elif len(members) > 1:
        # ANTs applies all of them, SimpleITK the first alone.
        raise FormatError(
            f"{path} holds {len(members)} transforms that are no composite, of which programs make "
            "different things. Write them as one composite (.h5), or give the one that is meant."
        )
    if not members:
        raise FormatError(f"{path} holds no transform. {_CONVERT}")
    steps: list[Step] = []
    for kind, numbers, fixed in members:
        name = kind.split("_")[0]
        if name == "IdentityTransform":
            continue
        try:
            if name in ("AffineTransform", "MatrixOffsetTransformBase"):
                steps.append(_affine(numbers, fixed))
            elif name == "DisplacementFieldTransform":
                steps.append(_field(numbers, fixed))
            else:
                raise FormatError(f"{path} holds a {kind or 'nameless transform'}. {_CONVERT}")
        except ValueError as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"{path}: the {kind} is damaged ({error}). Copy or write it again."
            ) from error
    return tuple(reversed(steps))


def _affine(numbers: Numbers, fixed: Numbers) -> FloatArray:
    if len(numbers) != 12 or len(fixed) not in (0, 3):
        raise ValueError(f"{len(numbers)} parameters and a centre of {len(fixed)}")
    centre = fixed if len(fixed) else np.zeros(3)
    matrix = np.eye(4)
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    if not np.isfinite(matrix).all() or not np.linalg.det(matrix):
        raise ValueError("its matrix is not finite, or has no inverse")
    return LPS_FROM_RAS @ matrix @ LPS_FROM_RAS


def _field(numbers: Numbers, fixed: Numbers) -> DisplacementField:
    if len(fixed) != 18:
        raise ValueError(f"{len(fixed)} numbers describe its grid, not 18")
    shape = fixed[:3].astype(int)
    if (shape < 1).any() or len(numbers) != 3 * shape.prod():
        raise ValueError(f"{len(numbers)} numbers for a grid of {shape.tolist()}")
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    vectors = numbers.reshape(*shape[::-1], 3).transpose(2, 1, 0, 3)
    return field_from_lps(Grid(tuple(shape), LPS_FROM_RAS @ affine), vectors)


def field_from_lps(grid: Grid, vectors: FloatArray) -> DisplacementField:
    """Return a field whose displacements, (i, j, k, 3), point towards +L, +P, +S.

    Raises
    ------
    ValueError
        If one is not finite.
    """
    if not np.isfinite(vectors).all():
        raise ValueError("displacements are NaN or infinite")
    return DisplacementField(grid, vectors * [-1, -1, 1])
