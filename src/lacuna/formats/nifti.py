"""NIfTI images: arrays as they are stored, with the grid that places them in the world."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import ArrayLike, NDArray

from lacuna.errors import FormatError, GridError, LesionError
from lacuna.formats.replace import replacing
from lacuna.geometry.grid import FloatArray, Grid

ImageSource: TypeAlias = str | PathLike[str] | SpatialImage | tuple[ArrayLike, ArrayLike]
"""A path, a nibabel image, or an array with its affine."""

Stored = TypeVar("Stored", bound=np.generic)

BINARY_TOLERANCE = 1e-6
"""How far from 0 and 1 a float mask may be: the rounding of scaled integers."""

GZIP_LEVEL = 1
"""Maps are mostly zeros: higher levels cost ten times the time for a few per cent."""


_READ_ERRORS = (
    *(ImageFileError, HeaderDataError, gzip.BadGzipFile, zlib.error),
    *(EOFError, OverflowError, ValueError),
)
"""What nibabel lets through from a damaged file."""


@dataclass(frozen=True, eq=False)
class Image(Generic[Stored]):
    """An image as it is stored.

    Parameters
    ----------
    array : (i, j, k)
        Voxel values; axes point wherever the file has them.
    grid
        Where the voxels are.
    name
        The path, or what stands for it in messages.
    notes
        What is odd about the image, one sentence each.
    """

    array: NDArray[Stored]
    grid: Grid
    name: str
    notes: tuple[str, ...] = ()


def load_image(source: ImageSource) -> Image[Any]:
    """Load one volume.

    Parameters
    ----------
    source
        What to load. Axes of length 1 after the third are dropped.

    Raises
    ------
    FormatError
        If the file is missing, damaged, or no NIfTI image: others may not say which side is left.
    GridError
        If its place in the world is not stated, or stated twice with different handedness, or it
        has more than one volume.
    """
    notes: tuple[str, ...] = ()
    if isinstance(source, tuple):
        name, voxels = "array", np.asarray(source[0])
        grid = Grid(_volume_shape(voxels, name), np.asarray(source[1]))
    else:
        if isinstance(source, SpatialImage):
            image, name = source, source.get_filename() or "image"
        else:
            image, name = _open(Path(source)), str(source)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise FormatError(f"{name} is a {type(image).__name__}: convert it to NIfTI.")
        grid, notes = _placement(image, name, _volume_shape(image, name))
        voxels = _values(image.dataobj, name)
    return Image(voxels.reshape(grid.shape, order="F"), grid, name, notes)


@dataclass(frozen=True, eq=False)
class Vectors:
    """A NIfTI image of three numbers per voxel, and what its header says of them.

    Parameters
    ----------
    vectors : (i, j, k, 3)
        As stored.
    affine : (4, 4)
        Where it places the voxels; some programs keep other things there.
    intent
        NIfTI's code of what they are.
    parameters, offsets, voxel_sizes : (3,)
        ``intent_p``, ``qoffset`` and ``pixdim`` of the header.
    notes
        What is odd about its place, one sentence each.
    """

    vectors: NDArray[Any]
    affine: FloatArray
    intent: int
    parameters: FloatArray
    offsets: FloatArray
    voxel_sizes: FloatArray
    notes: tuple[str, ...]

    @property
    def grid(self) -> Grid:
        """Where the voxels are."""
        i, j, k = self.vectors.shape[:3]
        return Grid((i, j, k), self.affine)


def load_vectors(path: Path) -> Vectors:
    """Load an image of three numbers per voxel, on the fourth or fifth axis.

    Raises
    ------
    FormatError, GridError
        As `load_image`.
    """
    image = _open(path)
    shape = tuple(image.shape) if isinstance(image, nibabel.Nifti1Pair) else (0,)
    if len(shape) not in (4, 5) or shape[-1] != 3 or shape[3:-1] not in ((), (1,)):
        raise FormatError(
            f"{path} has shape {shape}: a field of displacements has three numbers per voxel, "
            "such as (91, 109, 91, 1, 3)."
        )
    grid, notes = _placement(image, str(path), (shape[0], shape[1], shape[2]))
    header = image.header
    return Vectors(
        _values(image.dataobj, str(path)).reshape(*grid.shape, 3, order="F"),
        grid.affine,
        int(header["intent_code"]),
        np.array([header[f"intent_p{i}"] for i in (1, 2, 3)], np.float64),
        np.array([header[f"qoffset_{axis}"] for axis in "xyz"], np.float64),
        np.array(header["pixdim"][1:4], np.float64),
        notes,
    )


def open_volumes(path: Path) -> tuple[Grid, Iterator[NDArray[Any]]]:
    """Open an image of one volume or many, to be read one after another.

    Returns
    -------
    grid
        Of each volume.
    volumes
        Each as stored; never two in memory.

    Raises
    ------
    FormatError, GridError
        As `load_image`; of damage only when the volumes are read.
    """
    # Without the file kept open, each volume of a compressed image is unpacked from its begin.
    image = _open(path, keep_file_open=True)
    if not isinstance(image, nibabel.Nifti1Pair) or len(image.shape) not in (3, 4):
        raise FormatError(f"{path} is no NIfTI image of three or four axes: convert it.")
    grid, _ = _placement(image, str(path), image.shape[:3])
    if len(image.shape) == 3:
        return grid, iter([_values(image.dataobj, str(path))])
    return grid, (_values(image.dataobj, str(path), (..., i)) for i in range(image.shape[3]))


def load_mask(source: ImageSource) -> Image[np.bool_]:
    """Load a lesion mask: zeros, and one other value.

    Parameters
    ----------
    source
        What to load.

    Raises
    ------
    FormatError, GridError
        As `load_image`.
    LesionError
        If it is empty, has values that are not finite, or more than two values, as a map of
        probabilities has.
    """
    image = load_image(source)
    values, name = image.array, image.name
    if values.dtype.kind not in "buif":
        raise LesionError(f"{name} holds {values.dtype} values, not numbers: it is no mask.")
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not np.isfinite([low, high]).all():
        n = int((~np.isfinite(values)).sum())
        raise LesionError(
            f"{name} has {n} voxels that are NaN or infinite. If they are background, set them "
            "to 0 and save the mask as uint8."
        )
    if low < -BINARY_TOLERANCE:
        raise LesionError(f"{name} has values down to {low:g}: a mask holds 0 and 1.")
    if high <= BINARY_TOLERANCE:
        raise LesionError(f"{name} is empty: no voxel is above 0. Was the right file given?")
    mask = values > BINARY_TOLERANCE * high
    # In memory order, in which alone a mask is looked up fast.
    above = values.ravel("K")[mask.ravel("K")]
    if values.dtype.kind != "b" and not (above >= high * (1 - BINARY_TOLERANCE)).all():
        raise LesionError(
            f"{name} has several values from {low:g} to {high:g}, as probabilities or labels do. "
            "Choose a threshold (or a label) and save it as a mask of 0 and 1."
        )
    if high < 1 - BINARY_TOLERANCE:
        raise LesionError(
            f"{name} has no value above {high:g}: it seems to be a map of probabilities. "
            "Choose a threshold and save it as a mask of 0 and 1."
        )
    notes = image.notes
    if high > 1 + BINARY_TOLERANCE:
        notes += (f"Its only value beside 0 is {high:g}, taken as lesion.",)
    return Image(mask, image.grid, name, notes)


def save_map(
    path: str | PathLike[str],
    array: NDArray[Any],
    grid: Grid,
    *,
    code: Literal[1, 2, 3, 4] = 2,
) -> None:
    """Write an image; an existing file is replaced in one step.

    The same input makes the same bytes.

    Parameters
    ----------
    path
        Where to; compressed if it ends in ``.gz``.
    array : (i, j, k)
        Voxel values in the order of the grid; stored as uint8 if they are that or Boolean, other
        integers as int32, all else as float32.
    grid
        Where the voxels are.
    code
        What NIfTI calls the space: 1 scanner, 2 aligned to another image, 3 Talairach, 4 MNI152.

    Raises
    ------
    GridError
        If array and grid have different shapes.
    """
    path = Path(path)
    encode = pack_map if path.suffix == ".gz" else encode_map
    content = encode(array, grid, code=code)
    with replacing(path) as stream:
        stream.write(content)


def pack_map(array: NDArray[Any], grid: Grid, *, code: int = 2) -> bytes:
    """Return a compressed NIfTI file; parameters as in `save_map`."""
    return gzip.compress(encode_map(array, grid, code=code), GZIP_LEVEL, mtime=0)


def encode_map(array: NDArray[Any], grid: Grid, *, code: int = 2, slope: float = 1) -> bytes:
    """Return an uncompressed NIfTI file; parameters as in `save_map`.

    Parameters
    ----------
    slope
        What readers multiply the stored numbers with.
    """
    if array.shape != grid.shape:
        raise GridError(f"An array of shape {array.shape} does not fit a grid of {grid.shape}.")
    kind = "<u1" if array.dtype in (np.bool_, np.uint8) else "<i4"
    stored = np.asarray(array, kind if array.dtype.kind in "biu" else "<f4")
    return _header(grid, stored.dtype, code, slope) + stored.tobytes(order="F")


@lru_cache(maxsize=16)
def _header(grid: Grid, dtype: np.dtype[Any], code: int, slope: float) -> bytes:
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(grid.shape)
    header.set_xyzt_units("mm")
    header.set_qform(grid.affine, code)
    header.set_sform(grid.affine, code)
    # A qform cannot hold shears: without a code nobody reads it.
    if not Grid(grid.shape, header.get_qform()).is_same(grid):
        header["qform_code"] = 0
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["magic"], header["vox_offset"] = b"n+1", 352
    return bytes(header.binaryblock) + bytes(4)


def _open(path: Path, **how: Any) -> Any:
    try:
        return nibabel.load(path, **how)
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}. Check the path.") from error
    except _READ_ERRORS as error:
        raise FormatError(
            f"{path} cannot be read as an image ({error}). Copy it again, or convert it to NIfTI."
        ) from error


def _values(stored: Any, name: str, part: Any = ()) -> NDArray[Any]:
    try:
        whole = None if part else _unpack(stored)
        return np.asanyarray(stored[part]) if whole is None else whole
    except (OSError, *_READ_ERRORS) as error:
        raise FormatError(
            f"{name} is truncated or damaged ({error}). Copy or write it again."
        ) from error


def _unpack(stored: Any) -> NDArray[Any] | None:
    """Return what a compressed file stores, if that is its values; else none, for nibabel to read.

    In one piece: nibabel copies the pieces that it reads, which takes as long again.
    """
    path, n = getattr(stored, "file_like", None), int(np.prod(stored.shape, dtype=np.int64))
    is_gzip = isinstance(path, str) and path.endswith(".gz")
    if not is_gzip or not isinstance(stored, ArrayProxy) or (stored.slope, stored.inter) != (1, 0):
        return None
    size = stored.offset + n * stored.dtype.itemsize
    content = zlib.decompress(Path(str(path)).read_bytes(), wbits=31, bufsize=size)
    if len(content) < size:  # in several members, or truncated
        return None
    values = np.frombuffer(content, stored.dtype, n, stored.offset)
    return values.reshape(stored.shape, order=stored.order)


def _placement(
    image: nibabel.Nifti1Pair, name: str, shape: tuple[int, int, int]
) -> tuple[Grid, tuple[str, ...]]:
    sform: FloatArray | None = image.header.get_sform(coded=True)[0]
    try:
        qform = image.header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):
        qform = None
    if qform is not None and not np.isfinite(qform).all():
        qform = None
    affine = qform if sform is None else sform
    if affine is None:
        raise GridError(
            f"{name} has neither a valid sform nor qform (codes 0): which side is left is unknown. "
            "Set its affine from the image it was drawn on."
        )
    grid = Grid(shape, affine)
    if qform is None:
        return grid, ()
    if np.linalg.det(affine[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise GridError(
            f"{name}: sform and qform disagree about handedness, so that left and right depend on "
            "the program that reads it. Find out which is right by a landmark whose side is known, "
            "and copy it over the other: fslorient -copysform2qform if it is the sform, "
            "-copyqform2sform if the qform."
        )
    if grid.is_same(Grid(shape, qform)):
        return grid, ()
    return grid, ("Its sform and qform place it differently; the sform is used.",)


def _volume_shape(image: Any, name: str) -> tuple[int, int, int]:
    shape = image.shape
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise GridError(
            f"{name} has shape {shape}: one volume of three axes is needed. "
            "Choose one, for example with fslroi or nibabel's slicer."
        )
    return shape[0], shape[1], shape[2]
