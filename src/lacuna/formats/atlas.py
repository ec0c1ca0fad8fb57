"""Atlases: a label image and the table of its names.

Tables are BIDS ``_dseg.tsv``, BIDS ``.json`` with a ``LabelMap``, colour tables of FreeSurfer and
ITK-SNAP, CSV with a header, numbers and names in two columns, or names alone, of which line n is
label n.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.errors import FormatError
from lacuna.formats.nifti import Image, load_image
from lacuna.geometry.parcellation import Parcellation

TABLE_SUFFIXES = (".tsv", ".csv", ".txt", ".nii.txt", ".ctab", ".json")
"""Endings of a label table beside its image, in the order in which they are looked for."""

WHOLE_TOLERANCE = 1e-3
"""How far from whole numbers float labels may be: the rounding of scaled integers."""

_NUMBER_COLUMNS = ("index", "id", "label_id", "roi_id", "number", "value", "key", "roi", "label")
_NAME_COLUMNS = ("name", "label", "label_name", "region", "roi_name", "structure", "abbreviation")
_SIDE_COLUMNS = ("hemisphere", "hemi", "side")
_LABEL = re.compile(r"[0-9]{1,18}")
_FREESURFER = re.compile(r"\s*([0-9]{1,18})\s+(\S.*?)(?:\s+\d+){3,4}\s*")
_ITK_SNAP = re.compile(r"\s*([0-9]{1,18})(?:\s+[0-9.]+){6}\s+\"(.+)\"\s*")
_TWO_COLUMNS = re.compile(r"\s*([0-9]{1,18})\s*[\s,:=]\s*(\S.*?)\s*")
_SPACED = re.compile(r"\s*[0-9]{1,18} +[^\s,;|:=].*")
_NO_NAMES = ("", "n/a")
_SHOWN = 12


def load_atlas(
    path: str | PathLike[str], table: str | PathLike[str] | None = None, *, name: str | None = None
) -> Parcellation:
    """Load a label image with its names.

    Parameters
    ----------
    path
        Image of whole numbers; 0 is background.
    table
        File of names; by default one beside the image that has its name, with or without its
        resolution. Without any, regions are called by their numbers.
    name
        Of the atlas; by default from the name of the image.

    Raises
    ------
    FormatError
        If it is no label image, the table cannot be read, or a label in the image has no name.
    GridError
        As `lacuna.formats.nifti.load_image`.
    """
    path = Path(path)
    image = load_image(path)
    labels = _whole_numbers(image)
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    if not len(numbers):
        raise FormatError(f"{path} has no voxel above 0: it names no region.")
    table = find_table(path) if table is None else Path(table)
    notes = image.notes
    names = [str(number) for number in numbers]
    if table is None:
        notes += (f"No table of names lies beside {path.name}: regions are called by number.",)
    else:
        known, is_numbered = _read_table(table)
        names, unused = _match(path, table, numbers, known)
        if unused and not is_numbered:
            raise FormatError(
                f"{table} names {len(known)} regions without their numbers, but {path} has no "
                f"voxels of {len(unused)} of them: {_shown(unused)}. Is it the table of another "
                "atlas, or is its first line the background? Write the numbers before the names."
            )
        if unused:
            said = f"{table.name} names {len(unused)} labels that {path.name} has no voxels of"
            notes += (f"{said}: {_shown(unused)}.",)
    name = name or atlas_name(path)
    return Parcellation(name, labels, image.grid, numbers, _distinct(names, numbers), notes)


def find_table(path: Path) -> Path | None:
    """Return the label table beside an image, if there is one."""
    stem = _stem(path)
    for base in dict.fromkeys([stem, re.sub(r"_res-[A-Za-z0-9]+", "", stem)]):
        for suffix in TABLE_SUFFIXES:
            found = path.with_name(base + suffix)
            # Most sidecars describe an image without naming its labels.
            if found.is_file() and (suffix != ".json" or "LabelMap" in _read_json(found)):
                return found
    return None


def read_labels(path: str | PathLike[str]) -> dict[int, str]:
    """Return the names in a label table by their numbers, without background.

    Raises
    ------
    FormatError
        If it cannot be read, or names one label twice.
    """
    return _read_table(Path(path))[0]


def _read_table(path: Path) -> tuple[dict[int, str], bool]:
    """Return the names in a label table, and whether it says their numbers."""
    is_numbered = True
    if path.suffix.lower() == ".json":
        said = _read_json(path)
        said = said.get("LabelMap", said)
        if not isinstance(said, dict):
            raise FormatError(f"{path}: its LabelMap holds no pairs of label and name.")
        pairs = [_from_json(path, item) for item in said.items()]
    else:
        pairs, is_numbered = _read_rows(path)
    names: dict[int, str] = {}
    for number, label in pairs:
        if label not in _NO_NAMES and names.setdefault(number, label) != label:
            raise FormatError(
                f"{path} calls label {number} both {names[number]!r} and {label!r}: correct it."
            )
    names.pop(0, None)
    if not names:
        raise FormatError(f"{path} names no label: give a table of numbers and names.")
    return names, is_numbered


def atlas_name(path: Path) -> str:
    """Return what an atlas is called: its BIDS entities, else the letters of its file's name."""
    stem = _stem(path)
    parts = re.findall(r"(?:^|_)(?:atlas|seg|scale|desc)-([A-Za-z0-9+]+)", stem)
    named = re.search(r"(?:^|_)(?:atlas|seg)-[A-Za-z0-9+]", stem)
    return "".join(parts) if named else re.sub(r"[^A-Za-z0-9]", "", stem) or "atlas"


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$|\.hdr$|\.img$", "", path.name)


def _whole_numbers(image: Image[Any]) -> NDArray[np.int32]:
    values = image.array
    if values.dtype.kind not in "buif":
        raise FormatError(f"{image.name} holds {values.dtype} values, not labels.")
    if values.dtype.kind == "f":
        rounded = np.rint(values)
        with np.errstate(invalid="ignore"):  # of infinities, which are odd, as NaN is
            odd = ~(np.abs(values - rounded) <= WHOLE_TOLERANCE)
        if odd.any():
            raise FormatError(
                f"{image.name} has {int(odd.sum())} voxels that are no whole numbers, such as "
                f"{float(values[odd][0]):g}: it is no label image, or was interpolated. Resample "
                "labels by nearest neighbour."
            )
        values = rounded
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise FormatError(f"{image.name} has values from {low} to {high}: labels are 0, 1, 2, …")
    return values.astype(np.int32)


def _match(
    path: Path, table: Path, numbers: NDArray[np.int32], known: dict[int, str]
) -> tuple[list[str], list[int]]:
    missing = [int(number) for number in numbers if int(number) not in known]
    if missing:
        raise FormatError(
            f"{table} has no name for {len(missing)} of the {len(numbers)} labels in {path}: "
            f"{_shown(missing)}. Is it the table of another atlas? Give the right one, or complete "
            "it."
        )
    return [known[int(number)] for number in numbers], sorted(known.keys() - set(numbers.tolist()))


def _shown(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")


def _distinct(names: Sequence[str], numbers: NDArray[np.int32]) -> tuple[str, ...]:
    """Return the names, followed by the label where several have the same."""
    counts = Counter(names)
    pairs = list(zip(names, numbers, strict=True))
    some = tuple(f"{name}_{number}" if counts[name] > 1 else name for name, number in pairs)
    if len(set(some)) == len(some):
        return some
    # A third region may be called what one of two now is.
    return tuple(f"{name}_{number}" for name, number in pairs)


def _read_rows(path: Path) -> tuple[list[tuple[int, str]], bool]:
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    # "7 Pars triangularis, left": a separator in every name separates no columns.
    is_spaced = all(map(_SPACED.fullmatch, lines))
    for separator in ("\t",) if is_spaced else ("\t", "|", ",", ";"):
        if lines and all(separator in line for line in lines):
            rows = [
                [cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)
            ]
            header = [] if any(map(_LABEL.fullmatch, rows[0])) else rows.pop(0)
            return _from_columns(path, [name.casefold() for name in header], rows), True
    kinds = _FREESURFER, _ITK_SNAP, _TWO_COLUMNS
    matches = [next(filter(None, (kind.fullmatch(line) for kind in kinds)), None) for line in lines]
    if lines and not any(matches):
        return [(number, line.strip()) for number, line in enumerate(lines, 1)], False
    pairs = []
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            raise FormatError(f"{path}: the line {line!r} is no number and name, as others are.")
        pairs.append((int(match[1]), match[2]))
    return pairs, True


def _from_columns(path: Path, header: list[str], rows: list[list[str]]) -> list[tuple[int, str]]:
    width = min((len(row) for row in rows), default=0)
    whole = [at for at in range(width) if all(_LABEL.fullmatch(row[at]) for row in rows)]
    called = [header.index(name) for name in _NUMBER_COLUMNS if name in header]
    number = next((at for at in called if at in whole), 0 if 0 in whole else None)
    # Numbers elsewhere may be networks or sizes: whoever writes "index" means that column.
    if called and called[0] != number and header[called[0]] != "label":
        cells = ["".join(row[called[0] : called[0] + 1]) for row in rows]
        wrong = next((cell for cell in cells if not _LABEL.fullmatch(cell)), "")
        raise FormatError(
            f"{path}: {wrong[:20]!r} in the column {header[called[0]]} is no label: labels are "
            "0, 1, 2, …"
        )
    others = [at for at in range(width) if at != number]
    label = next(
        (at for name in _NAME_COLUMNS for at in others if header[at : at + 1] == [name]),
        next((at for at in others if at not in whole), None),
    )
    if number is None or label is None:
        raise FormatError(
            f"{path} has no column of whole numbers beside one of names. Call them index and name."
        )
    names = [row[label] for row in rows]
    side = next((header.index(name) for name in _SIDE_COLUMNS if name in header), None)
    if side is not None and side < width and len(set(names)) < len(names):
        counts = Counter(names)
        names = [
            f"{name}_{row[side]}" if counts[name] > 1 else name
            for name, row in zip(names, rows, strict=True)
        ]
    return [(int(row[number]), name) for row, name in zip(rows, names, strict=True)]


def _from_json(path: Path, item: tuple[str, Any]) -> tuple[int, str]:
    key, value = item
    if _LABEL.fullmatch(key) and isinstance(value, str):
        return int(key), value
    if isinstance(value, int) and not isinstance(value, bool):
        return value, key
    raise FormatError(f"{path}: {key!r}: {value!r} is no label and name.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except ValueError as error:
        raise FormatError(f"{path} is no JSON file ({error}).") from error
    return content if isinstance(content, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FormatError(f"There is no file {path}. Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} cannot be read as a table of labels ({error}).") from error
