"""Finding lesion masks in a BIDS dataset, in a folder of masks, or in one file.

In a BIDS dataset a lesion is a ``*_mask`` or ``*_roi`` image whose label or description says so;
in a plain folder every image is taken for one. What was passed over is listed with its reason.
"""

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lacuna.bids.names import BidsName, file_stem, name_plain_file, parse_name
from lacuna.bids.selection import Selection, Value
from lacuna.errors import DatasetError
from lacuna.geometry.space import StatedSpace

IMAGE_EXTENSIONS = (".nii", ".nii.gz")
_LESION_WORD = re.compile(r"lesion|stroke|infarct|lacune|haemorrhage|hemorrhage", re.IGNORECASE)
_SKIPPED_DIRECTORIES = ("derivatives", "sourcedata", "code", "stimuli")


@dataclass(frozen=True)
class LesionFile:
    """A mask that was found, and what is known about it before it is opened.

    Parameters
    ----------
    path
        The image.
    entities
        Of its BIDS name, or of the name made for a plain file.
    space
        The space that its name states, or else the nearest of the JSON files that apply to it, as
        it is written there.
    lesion_side
        Its participant's ``lesion_side`` in ``participants.tsv``, if any.
    """

    path: Path
    entities: Mapping[str, str]
    space: StatedSpace | None = None
    lesion_side: str | None = None

    @property
    def participant(self) -> str:
        """The subject's label, without ``sub-``."""
        return self.entities["sub"]


@dataclass(frozen=True)
class IgnoredFile:
    """An image that was passed over, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class LesionListing:
    """What was found in an input, and what was passed over.

    Parameters
    ----------
    input_path
        What was given, absolute.
    root
        The dataset or folder that it is, or is in.
    kind
        ``"dataset"``, ``"folder"`` or ``"file"``.
    found, ignored
        In the order of their paths.
    selection
        What was asked for.
    """

    input_path: Path
    root: Path
    kind: str
    found: tuple[LesionFile, ...]
    ignored: tuple[IgnoredFile, ...]
    selection: Selection = field(default_factory=Selection)


def find_lesions(
    input_path: str | os.PathLike[str],
    participant_labels: Sequence[str] | None = None,
    *,
    session_labels: Sequence[str] | None = None,
    query: Mapping[str, tuple[Value, ...]] | None = None,
) -> LesionListing:
    """List the lesion masks of an input.

    Parameters
    ----------
    input_path
        Exactly one of: a BIDS dataset (raw or derivatives), a folder of masks, one mask.
    participant_labels
        Take only these subjects; with or without ``sub-``.
    session_labels
        Take only these sessions; with or without ``ses-``.
    query
        Take only what meets it, as `lacuna.bids.selection.read_filter` returns. Where it names
        labels or descriptions, these are what a lesion is.

    Raises
    ------
    DatasetError
        If the input is none of the three, holds no lesion, or lacks what was asked for.
    """
    path = Path(input_path).absolute()
    if path.is_dir():
        root = path
        kind = "dataset" if _is_dataset(path) else "folder"
        images = list(_walk_dataset(path) if kind == "dataset" else sorted(path.iterdir()))
        images = [image for image in images if _is_image(image.name)]
    elif path.is_file() and path.name.endswith(IMAGE_EXTENSIONS):
        root, kind, images = _dataset_of(path), "file", [path]
    else:
        problem = "is not a NIfTI image" if path.exists() else "does not exist"
        raise DatasetError(
            f"{path} {problem}. INPUT is a BIDS dataset, a folder of masks, or one .nii or "
            ".nii.gz mask."
        )
    selection = Selection(participant_labels or (), session_labels or (), query or {})
    found, ignored = _select(images, root, kind, names_lesions=selection.names_lesions)
    if not found:
        raise DatasetError(_explain_none(path, kind, ignored))
    selection.check([(lesion.path, lesion.entities) for lesion in found], root)
    refusals = {lesion.path: selection.refusal(lesion.path, lesion.entities) for lesion in found}
    ignored += [IgnoredFile(path, reason) for path, reason in refusals.items() if reason]
    ignored.sort(key=lambda item: item.path)
    found = [lesion for lesion in found if refusals[lesion.path] is None]
    return LesionListing(path, root, kind, tuple(found), tuple(ignored), selection)


def read_sidecar(path: Path) -> dict[str, object]:
    """Return the content of a JSON sidecar.

    Raises
    ------
    DatasetError
        If it cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"The sidecar {path} cannot be read ({error}); mend it.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"The sidecar {path} is not a JSON object; mend it.")
    return content


def space_in_sidecar(sidecar: Mapping[str, object], source: str) -> StatedSpace | None:
    """Return the space that a sidecar's ``Space`` or ``SpatialReference`` states, if any.

    A reference to a file counts if its name holds a template, as in ``tpl-MNI152Lin_T1w.nii``;
    any other path or address names no space.
    """
    for key in ("Space", "SpatialReference"):
        value = sidecar.get(key)
        if not isinstance(value, str) or not value:
            continue
        template = re.search(r"tpl-([A-Za-z0-9]+)", value)
        if template:
            return StatedSpace(template.group(1), f"{key} in {source}")
        if "/" not in value and ":" not in value:
            return StatedSpace(value, f"{key} in {source}")
    return None


def _is_dataset(path: Path) -> bool:
    return (path / "dataset_description.json").is_file() or any(
        child.is_dir() for child in path.glob("sub-*")
    )


def _dataset_of(path: Path) -> Path:
    for parent in path.parents:
        if (parent / "dataset_description.json").is_file():
            return parent
    return path.parent


def _walk_dataset(root: Path) -> Iterator[Path]:
    seen = set()
    # Subjects are often links to another disk: they are followed, but no circle is.
    for directory, names, files in os.walk(root, onerror=_refuse_unreadable, followlinks=True):
        here = Path(directory)
        is_another = here != root and "dataset_description.json" in files
        if is_another or here.resolve() in seen:
            names.clear()
            continue
        seen.add(here.resolve())
        skipped = _SKIPPED_DIRECTORIES if here == root else ()
        names[:] = sorted(n for n in names if not n.startswith(".") and n not in skipped)
        # A dangling link is kept: content that was not fetched must fail aloud, not vanish.
        yield from (here / name for name in sorted(files))


def _refuse_unreadable(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be listed ({error.strerror}); check its mode.")


def _is_image(name: str) -> bool:
    return name.endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def _select(
    images: Iterable[Path], root: Path, kind: str, *, names_lesions: bool
) -> tuple[list[LesionFile], list[IgnoredFile]]:
    sides = _read_sides(root)
    found, ignored = [], []
    for path in images:
        name = parse_name(path.name)
        reason = _reason_to_ignore(name, is_any_lesion=names_lesions) if kind == "dataset" else None
        if reason is not None:
            ignored.append(IgnoredFile(path, reason))
            continue
        name = name or name_plain_file(path.name)
        space = _stated_space(path, name, root)
        found.append(LesionFile(path, name.entities, space, sides.get(name.entities["sub"])))
    return found, ignored


def _reason_to_ignore(name: BidsName | None, *, is_any_lesion: bool) -> str | None:
    if name is None:
        return "its name is not a BIDS name"
    if name.suffix not in ("mask", "roi"):
        return f"its suffix is {name.suffix}, not mask or roi"
    label, description = name.entities.get("label", ""), name.entities.get("desc", "")
    if description == "coverage":
        return "it is the coverage mask of another run"
    if is_any_lesion or label == "L":
        return None
    if _LESION_WORD.search(label) or _LESION_WORD.search(description):
        return None
    if name.suffix == "roi" and not label:
        return None
    if label:
        return f"its label {label} is not a lesion"
    return "no label says that it is a lesion (label-lesion, label-L)"


def _stated_space(path: Path, name: BidsName, root: Path) -> StatedSpace | None:
    if "space" in name.entities:
        return StatedSpace(name.entities["space"], f"the name of {path.name}")
    own = path.with_name(file_stem(path) + ".json")
    sidecars = [own] if own.is_file() else []
    for directory in path.parents:
        if directory.is_relative_to(root):
            shared = (s for s in directory.glob(f"*{name.suffix}.json") if _applies(s.name, name))
            sidecars += sorted(shared, key=lambda sidecar: -sidecar.name.count("-"))
    stated = (space_in_sidecar(read_sidecar(sidecar), sidecar.name) for sidecar in sidecars)
    return next(filter(None, stated), None)


def _applies(sidecar: str, name: BidsName) -> bool:
    """Tell whether a sidecar of this name, in a folder above, is about a file (inheritance)."""
    subject = "" if sidecar.startswith("sub-") else f"sub-{name.entities['sub']}_"
    other = parse_name(subject + sidecar)
    return (
        other is not None
        and other.suffix == name.suffix
        and other.entities.items() <= name.entities.items()
    )


def _read_sides(root: Path) -> dict[str, str]:
    """Return the ``lesion_side`` of each participant, by label without ``sub-``."""
    table = find_participants(root)
    if table is None:
        return {}
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header, *lines = split_rows(stream.read()) or [[]]
    header = [name.strip() for name in header]
    sides = {}
    for line in lines:
        row = dict(zip(header, line, strict=False))
        side = (row.get("lesion_side") or "n/a").strip()
        if side.lower() not in ("n/a", "na", "nan", "") and row.get("participant_id"):
            sides[row["participant_id"].strip().removeprefix("sub-")] = side
    return sides


def find_participants(root: Path) -> Path | None:
    """Return ``participants.tsv``; for a dataset ``derivatives/X`` else that around it."""
    roots = [root, *(root.parents[1:2] if root.parent.name == "derivatives" else [])]
    return next(filter(Path.is_file, (each / "participants.tsv" for each in roots)), None)


def split_rows(text: str) -> list[list[str]]:
    """Return the cells of each line of a table; empty for a blank one.

    A line is a row: a quotation mark that nothing closes is one that somebody wrote, and must not
    take the lines that follow into its cell.
    """
    rows = []
    for line in re.split(r"\r\n|\r|\n", text):
        try:
            rows += list(csv.reader([line], delimiter="\t", strict=True)) or [[]]
        except csv.Error:
            rows.append(line.split("\t"))
    return rows


def _explain_none(path: Path, kind: str, ignored: Sequence[IgnoredFile]) -> str:
    if kind == "folder":
        return (
            f"{path} holds no .nii or .nii.gz image and no sub-* folder. Give a BIDS dataset, a "
            "folder of masks, or one mask."
        )
    hint = f", for example {ignored[0].path.name}: {ignored[0].reason}" if ignored else ""
    inner = sorted(child.name for child in path.glob("derivatives/*") if _is_dataset(child))
    way_out = (
        f"Masks may be in {path / 'derivatives'} ({', '.join(inner)}): give that folder."
        if inner
        else "Name masks *_label-lesion_mask.nii.gz, or give a folder of masks or one mask."
    )
    return (
        f"No lesion mask in the dataset {path} ({len(ignored)} images passed over{hint}). {way_out}"
    )
