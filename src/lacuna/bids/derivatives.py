"""Writing a BIDS derivative dataset: names, tables, sidecars, and what the dataset is.

An output folder holds results of one kind: one tractogram, space, rule and report grid. What they
are stands in ``dataset_description.json``, and a run that would mix in others does not start.
"""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from lacuna.bids.dataset import LesionFile, read_sidecar
from lacuna.bids.names import build_name
from lacuna.config import describe_container
from lacuna.errors import DatasetError
from lacuna.formats.replace import replacing

BIDS_VERSION = "1.10.0"
SUFFIXES: dict[str, tuple[str, ...]] = {
    "map": (".nii.gz", ".json", ".png"),
    "mask": (".nii.gz", ".json"),
    "stats": (".tsv", ".json"),
    "relmat": (".tsv", ".json"),
    "tractography": (".tck", ".trx", ".json"),
}
"""Every suffix that is written, with its extensions; ``mask`` alone is a BIDS suffix."""

_OF_GROUP = ("map", "stats", "relmat")
_NOT_BIDS = ("/logs/", "/group.html", "/sub-*.html", "/sub-*/figures")

_REPLACED = ("seg", "res", "desc")
"""Entities of a lesion that say something else in the name of a result; ``seg``: its atlas."""

_GENERATOR = "Lacuna"
_CODE = ("source", "source code", "repository", "code", "homepage")


@dataclass(frozen=True)
class LesionOutputs:
    """Where the results of one lesion go.

    Parameters
    ----------
    lesion
        The mask they come from; its entities carry through.
    output_dir
        Root of the derivative dataset.
    space
        Space of the results.
    resolution
        Value of ``res``: the report grid, as `resolution_label` names it; empty without one.
    """

    lesion: LesionFile
    output_dir: Path
    space: str
    resolution: str

    @property
    def directory(self) -> Path:
        """``sub-X[/ses-Y]/dwi`` in the output folder."""
        entities = self.lesion.entities
        parts = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
        return self.output_dir.joinpath(*parts, "dwi")

    def path(self, desc: str, suffix: str, extension: str, *, seg: str = "") -> Path:
        """Return the path of a result.

        Parameters
        ----------
        desc, suffix, extension
            As in ``disconnection``, ``map``, ``.nii.gz``; suffix and extension from `SUFFIXES`.
        seg
            Name of the atlas that it is about, if any.
        """
        own = {"seg": seg, "res": self.resolution, "desc": desc}
        return self._path({key: value for key, value in own.items() if value}, suffix, extension)

    def lesion_path(self, extension: str = ".nii.gz") -> Path:
        """Return the path of the lesion as it was used, on its own grid."""
        label = self.lesion.entities.get("label", "lesion")
        return self._path({"label": label}, "mask", extension)

    def _path(self, own: Mapping[str, str], suffix: str, extension: str) -> Path:
        if extension not in SUFFIXES[suffix]:
            raise ValueError(f"{suffix} is not written as {extension}")
        carried = {k: v for k, v in self.lesion.entities.items() if k not in _REPLACED}
        entities = {**carried, "space": self.space, **own}
        return self.directory / build_name(entities, suffix, extension)


def plan_outputs(
    lesions: Sequence[LesionFile],
    output_dir: str | os.PathLike[str],
    *,
    space: str,
    resolution: str,
) -> tuple[LesionOutputs, ...]:
    """Return where the results of each lesion go, in the order of the lesions.

    Raises
    ------
    DatasetError
        If two lesions would write one file.
    """
    root = Path(output_dir).absolute()
    planned = tuple(LesionOutputs(lesion, root, space, resolution) for lesion in lesions)
    taken: dict[str, Path] = {}
    for outputs in planned:
        for path in (outputs.path("summary", "stats", ".tsv"), outputs.lesion_path()):
            # Compared without case: macOS and Windows would write both into one file.
            other = taken.setdefault(str(path).casefold(), outputs.lesion.path)
            if other != outputs.lesion.path:
                raise DatasetError(
                    f"{other} and {outputs.lesion.path} would both write {path.name}. Rename one, "
                    "or tell them apart by ses-, acq-, run- or label-; or use two folders."
                )
    return planned


def open_output(
    output_dir: str | os.PathLike[str],
    parameters: Mapping[str, object],
    *,
    sources: Sequence[str | os.PathLike[str]] = (),
    links: Mapping[str, str] | None = None,
    documents: Mapping[str, str] | None = None,
) -> Path:
    """Make an output folder ready, or check that it holds results of the same kind.

    Writes ``dataset_description.json`` where it is absent, and adds sources and links that it
    lacks; writes the documents. Many processes may do so at once.

    Parameters
    ----------
    parameters
        What all results in the folder share, such as rule, tractogram fingerprint, space and
        report grid; JSON values.
    sources
        Datasets that the lesions come from.
    links
        Address of each dataset that BIDS URIs in sidecars name.
    documents
        Texts of further files, by path in the folder; a ``README`` that is there is kept.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    DatasetError
        If the folder holds another dataset, or results under other parameters.
    """
    root = Path(output_dir).absolute()
    check_output(root, parameters, sources=sources)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatasetError(
            f"OUTPUT_DIR {root} cannot be made ({error.strerror}): give another."
        ) from error
    described = _describe(parameters, sources, links or {})
    description = root / "dataset_description.json"
    if not description.exists():
        _write_once(description, _format_json(described))
    for name, text in (documents or {}).items():
        _write_document(root / name, text)
    _complete(description, described)
    # Since the first look another process may have described the folder, and otherwise.
    check_output(root, parameters, sources=sources)
    return root


def add_descriptions(root: Path, descriptions: Mapping[str, str]) -> None:
    """Say in ``descriptions.tsv`` what values of ``desc`` mean, of which it says nothing yet."""
    lines = [f"desc-{desc}\t{format_value(text)}" for desc, text in sorted(descriptions.items())]
    lines.insert(0, "desc_id\tdescription")
    _write_document(root / "descriptions.tsv", "".join(f"{line}\n" for line in lines))


def check_output(
    output_dir: Path,
    parameters: Mapping[str, object],
    *,
    sources: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Check, without writing, that results with these parameters may go into a folder.

    Raises
    ------
    DatasetError
        As `open_output`.
    """
    if output_dir.resolve() in [Path(source).resolve() for source in sources]:
        raise DatasetError(f"OUTPUT_DIR and INPUT are both {output_dir}: give another OUTPUT_DIR.")
    if output_dir.exists() and not output_dir.is_dir():
        raise DatasetError(f"OUTPUT_DIR {output_dir} is not a folder: give another.")
    description = output_dir / "dataset_description.json"
    if not description.exists():
        if any(output_dir.glob("sub-*")):
            raise DatasetError(
                f"{output_dir} holds sub-* folders but no dataset_description.json, so nothing "
                "says what its results are: give another OUTPUT_DIR."
            )
        return
    content = read_sidecar(description)
    recorded = _recorded_parameters(content)
    if recorded is None:
        raise DatasetError(
            f"{output_dir} holds the dataset {content.get('Name', 'without a name')!r}, which "
            f"{_GENERATOR} did not make: give another OUTPUT_DIR."
        )
    wanted = json.loads(_format_json(parameters))
    differing = [
        f"{key} {recorded.get(key, 'not recorded')} there, {wanted.get(key, 'not given')} now"
        for key in sorted(recorded.keys() | wanted.keys())
        if recorded.get(key) != wanted.get(key)
    ]
    if differing:
        raise DatasetError(
            f"{output_dir} holds results of another kind ({'; '.join(differing)}), and they are "
            "never pooled: give another OUTPUT_DIR."
        )


def read_parameters(output_dir: Path) -> dict[str, Any] | None:
    """Return what all results in an output folder share; none if it holds no results.

    Raises
    ------
    DatasetError
        If the folder's description cannot be read.
    """
    description = output_dir / "dataset_description.json"
    return _recorded_parameters(read_sidecar(description)) if description.is_file() else None


def write_table(
    path: Path,
    columns: Mapping[str, Sequence[object]],
    descriptions: Mapping[str, Mapping[str, object]],
) -> None:
    """Write a table and, beside it, its data dictionary.

    Parameters
    ----------
    path
        Ends in ``.tsv``.
    columns
        Name to values, all equally many. None and NaN become ``n/a``.
    descriptions
        For each column, what a BIDS data dictionary says: ``Description``, ``Units`` …
    """
    if columns.keys() != descriptions.keys():
        raise ValueError(f"columns without description: {columns.keys() ^ descriptions.keys()}")
    rows = zip(*columns.values(), strict=True)
    lines = ["\t".join(columns), *("\t".join(map(format_value, row)) for row in rows)]
    write_text(path, "\n".join(lines) + "\n")
    write_json(path.with_suffix(".json"), descriptions)


def write_matrix(
    path: Path, matrix: NDArray[Any], names: Sequence[str], sidecar: Mapping[str, object]
) -> None:
    """Write a matrix with the names of its rows in the first column, and its sidecar.

    Parameters
    ----------
    path
        Ends in ``.tsv``.
    matrix : (n, n)
        NaN becomes ``n/a``.
    names : (n,)
        Of rows and columns.
    sidecar
        What the JSON file beside it says.
    """
    # Many cells hold the same few numbers: each is put into words once.
    values, places = np.unique(matrix, return_inverse=True)
    cells = np.array([format_value(value) for value in values], object)[places]
    heads = [format_value(name) for name in names]
    rows = zip(heads, cells.reshape(matrix.shape).tolist(), strict=True)
    lines = ["\t".join(["name", *heads]), *("\t".join([head, *row]) for head, row in rows)]
    write_text(path, "\n".join(lines) + "\n")
    write_json(path.with_suffix(".json"), sidecar)


def format_value(value: object) -> str:
    """Return a table cell: ``n/a`` for what is missing, numbers to 12 significant digits."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # Adding 0.0 turns −0 into 0.
        return f"{value + 0.0:.12g}"
    return re.sub(r"[\t\r\n]+", " ", str(value)) or "n/a"


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file whole or not at all; NaN and infinities become null."""
    write_text(path, _format_json(content))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text.encode())


def bidsignore(suffixes: Mapping[str, Sequence[str]]) -> str:
    """Return the content of ``.bidsignore``: the names that are ours and that BIDS does not know.

    Parameters
    ----------
    suffixes
        Those of each value of ``desc``. A name with another is misspelt, and is not ignored.
    """
    own = {suffix: extensions for suffix, extensions in SUFFIXES.items() if suffix != "mask"}
    lines = [
        f"sub-*_desc-{desc}_{suffix}{extension}"  # the validator fails at a second * here
        for desc, used in suffixes.items()
        for suffix in used
        for extension in own.get(suffix, ())
    ]
    lines += [f"/group_*_{suffix}{ext}" for suffix in _OF_GROUP for ext in own[suffix][:2]]
    return "\n".join([*lines, *_NOT_BIDS]) + "\n"


def _format_json(content: Mapping[str, object]) -> str:
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write_once(path: Path, text: str) -> None:
    """Write a file whole unless it exists: of many processes, the first one wins."""
    beside = path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.link(beside, path)
    except FileExistsError:
        pass
    except OSError:
        # No hard links here: the last of processes that start in the same moment wins.
        write_text(path, text)
    finally:
        beside.unlink(missing_ok=True)


def _write_document(path: Path, text: str) -> None:
    """Write a document unless it says so already; lines of ``descriptions.tsv`` are only added."""
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    if path.name == "descriptions.tsv":
        known = {line.partition("\t")[0] for line in there.splitlines()}
        new = [line for line in text.splitlines() if line.partition("\t")[0] not in known]
        text = "".join(f"{line}\n" for line in [*there.splitlines(), *new])
    if text != there and not (there and path.name == "README"):
        write_text(path, text)


def _complete(path: Path, wanted: Mapping[str, Any]) -> None:
    """Bring up to date which program writes; add sources and links of lesions from elsewhere."""
    before = read_sidecar(path)
    content = {**before, "GeneratedBy": _generators(before, wanted)}
    sources, links = content.get("SourceDatasets"), content.get("DatasetLinks")
    sources = list(sources) if isinstance(sources, list) else []
    links = dict(links) if isinstance(links, dict) else {}
    new = [source for source in wanted["SourceDatasets"] if source not in sources]
    lacking = wanted.get("DatasetLinks", {}).items() - links.items()
    if new or lacking or content != before:
        both = {"SourceDatasets": [*sources, *new], "DatasetLinks": {**links, **dict(lacking)}}
        write_json(path, {**content, **{key: value for key, value in both.items() if value}})


def _generators(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Any]:
    """Return a dataset's generators, with ourselves as we are now."""
    (ours,) = json.loads(_format_json({"now": wanted["GeneratedBy"]}))["now"]
    return [
        # Parameters stay: another process may have described the folder otherwise just now.
        {**ours, "Parameters": other["Parameters"]}
        if isinstance(other, dict) and other.get("Name") == _GENERATOR and "Parameters" in other
        else other
        for other in content["GeneratedBy"]
    ]


def _describe(
    parameters: Mapping[str, object],
    sources: Sequence[str | os.PathLike[str]],
    links: Mapping[str, str],
) -> dict[str, object]:
    about = metadata("lacuna-lnm")
    labelled = [url.partition(", ") for url in about.get_all("Project-URL") or ()]
    code = [url for label, _, url in labelled if label.casefold() in _CODE]
    return {
        "Name": "What lesions damage and disconnect",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": _GENERATOR,
                "Version": about["Version"],
                "Description": "What each lesion damages, or cuts of a normative tractogram",
                "Parameters": dict(parameters),
                **({"CodeURL": code[0]} if code else {}),
                **describe_container(),
            }
        ],
        "SourceDatasets": [{"URL": Path(source).absolute().as_uri()} for source in sources],
        **({"DatasetLinks": dict(links)} if links else {}),
    }


def _recorded_parameters(content: Mapping[str, object]) -> dict[str, object] | None:
    generators = content.get("GeneratedBy")
    for generator in generators if isinstance(generators, list) else []:
        if isinstance(generator, dict) and generator.get("Name") == _GENERATOR:
            parameters = generator.get("Parameters")
            return parameters if isinstance(parameters, dict) else {}
    return None


def _plain(value: object) -> object:
    """Return a value in types that JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
