"""What became of each lesion: one small record for each, in ``logs/`` of the output folder.

A record is written after everything else of its lesion. From before the first file until then a
list stands in its place, of every file that may be there: what is killed leaves nothing unknown.
Each line of it says for whom: of two runs that ask a lesion different things at once none ends it.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from lacuna.errors import LacunaError, UnfinishedError
from lacuna.formats.replace import reaching_disk, replacing, watching

logger = logging.getLogger(__name__)

FOLDER = "logs"
"""Where the records are, in the output folder."""


@dataclass(frozen=True)
class LedgerEntry:
    """What became of one lesion.

    Parameters
    ----------
    stem
        What the names of its outputs begin with, and the name of its record.
    lesion
        Path of the mask, as it was when it was used.
    fingerprint
        xxh3-128 of the mask's file; empty if it cannot be read.
    parameters
        All that decides what its outputs hold, as JSON values.
    inputs
        Further files that they come from, by path: xxh3-128 of each.
    version
        Of Lacuna.
    space, resolution
        Of the outputs, as in `LesionOutputs`.
    is_done
        Whether it came to its end; else it failed.
    reason
        Why it failed, as it was shown.
    outputs
        Size of each file, bytes, by its path in the output folder; none if it failed.
    seconds
        Time it took.
    ended
        When, UTC.
    """

    stem: str
    lesion: str
    fingerprint: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    version: str
    space: str
    resolution: str
    is_done: bool = False
    reason: str = ""
    outputs: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    ended: str = ""


def read_ledger(output_dir: Path) -> dict[str, LedgerEntry]:
    """Return the record of each lesion that was done or failed, by stem.

    A lesion that was begun and not ended has none; nor has one whose record is damaged.
    """
    stems = sorted(path.stem for path in (output_dir / FOLDER).glob("*.json"))
    entries = {stem: read_entry(output_dir, stem) for stem in stems}
    return {stem: entry for stem, entry in entries.items() if entry is not None}


def read_entry(output_dir: Path, stem: str) -> LedgerEntry | None:
    """Return the record of a lesion, if there is one that is whole."""
    if is_begun(output_dir, stem):
        return None
    return _read(_record(output_dir, stem))


def is_begun(output_dir: Path, stem: str) -> bool:
    """Tell whether work on a lesion was begun and not ended: it goes on, or was killed."""
    return _begun(output_dir, stem).exists()


def has_record(output_dir: Path, stem: str) -> bool:
    """Tell whether a lesion has a record, be it damaged or of no use to this version."""
    return os.path.lexists(_record(output_dir, stem))


def describe_error(error: Exception) -> str:
    """Return an error as it is shown; the kind of those that nobody foresaw goes first."""
    return str(error) if isinstance(error, LacunaError) else f"{type(error).__name__}: {error}"


@contextmanager
def recording(output_dir: Path, entry: LedgerEntry) -> Iterator[None]:
    """Keep the record of a lesion while its outputs are written, in this thread.

    In the end the files that it had before, and was not given again, are gone; all are if the
    block raises. Nothing is removed that no record names.

    Parameters
    ----------
    entry
        What is known of the lesion before.

    Raises
    ------
    UnfinishedError
        Another run wrote or removed its files meanwhile: it stays one that was begun.
    """
    start = time.perf_counter()
    begun, record = _begun(output_dir, entry.stem), _record(output_dir, entry.stem)
    begun.parent.mkdir(parents=True, exist_ok=True)
    earlier, mark = _read(record), _mark(entry)
    known = {*_read_paths(begun), *(earlier.outputs if earlier else ())}
    first = f"{mark} {uuid4().hex}\n"
    _append(begun, first)  # names no file, also behind a last line that was cut short
    for path in sorted(known):
        _append(begun, f"{mark} {path}\n")
    record.unlink(missing_ok=True)
    with watching(partial(_note, begun, output_dir, mark)) as written:
        try:
            with reaching_disk():
                yield
        except UnfinishedError:
            raise  # it did not fail: the list stays, as that of a process that was killed
        except Exception as error:
            _check_alone(begun, record, first, error)
            _remove(output_dir, {*known, *_inside(written, output_dir)})
            failed = replace(entry, reason=describe_error(error))
            try:
                _end(record, begun, failed, start)
            except OSError as problem:
                logger.warning("%s: the record of its failure: %s", entry.stem, problem)
            raise
        now = {path for path in _inside(written, output_dir) if not _is_part(path)}
        if gone := sorted(path for path in now if not (output_dir / path).is_file()):
            raise _interference(entry.stem, f"{gone[0]} was removed meanwhile")
        _check_alone(begun, record, first)
        _remove(output_dir, known - now)
        sizes = {path: (output_dir / path).stat().st_size for path in sorted(now)}
        _end(record, begun, replace(entry, is_done=True, outputs=sizes), start)


def _check_alone(begun: Path, record: Path, first: str, error: Exception | None = None) -> None:
    """Check that since the line that came first nobody noted a file for other results."""
    mark, text = first.partition(" ")[0], ""
    with suppress(FileNotFoundError):
        text = begun.read_bytes().decode(errors="replace")
    _, found, later = text.partition(first)
    lines = (later if found else text).split("\n")[:-1]
    marks = {line.partition(" ")[0] for line in lines}
    # Another run has ended if the list is no longer that to which the line was added.
    ended = None if found else _read(record)
    marks |= {_mark(ended)} if ended else set()
    if marks - {mark}:
        raise _interference(record.stem, "it does so with other options or masks") from error


def _interference(stem: str, what: str) -> UnfinishedError:
    return UnfinishedError(
        f"Another run works on {stem} at the same time: {what}. Run again when it has ended."
    )


def _mark(entry: LedgerEntry) -> str:
    """Return what tells apart results that would not be the same."""
    said = json.dumps([entry.fingerprint, entry.version, entry.parameters], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _end(record: Path, begun: Path, entry: LedgerEntry, start: float) -> None:
    seconds, now = time.perf_counter() - start, datetime.now(UTC).isoformat(timespec="milliseconds")
    content = asdict(replace(entry, seconds=round(seconds, 3), ended=now))
    # As ASCII: a lesion's name may hold bytes that are no UTF-8.
    with replacing(record) as stream:
        stream.write(json.dumps(content, indent=1).encode() + b"\n")
    begun.unlink(missing_ok=True)


def _record(output_dir: Path, stem: str) -> Path:
    return output_dir / FOLDER / f"{stem}.json"


def _begun(output_dir: Path, stem: str) -> Path:
    return output_dir / FOLDER / f"{stem}.begun"


def _read(path: Path) -> LedgerEntry | None:
    try:
        entry = LedgerEntry(**json.loads(path.read_bytes()))
        is_sound = entry.stem == path.stem and all(map(_is_inside, entry.outputs))
        is_sound &= all(isinstance(size, int) for size in entry.outputs.values())
        is_sound &= isinstance(entry.parameters, dict) and isinstance(entry.inputs, dict)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return entry if is_sound else None


def _note(begun: Path, output_dir: Path, mark: str, path: Path) -> None:
    """Name a file before it is there."""
    for inner in _inside([path], output_dir):
        _append(begun, f"{mark} {inner}\n")


def _append(begun: Path, line: str) -> None:
    with begun.open("ab") as stream:
        stream.write(line.encode())


def _read_paths(begun: Path) -> set[str]:
    with suppress(OSError):
        # The last line may have been cut short, to the name of another file.
        lines = begun.read_bytes().decode(errors="replace").split("\n")[:-1]
        return set(filter(_is_inside, (line.rpartition(" ")[2] for line in lines)))
    return set()


def _is_part(path: str) -> bool:
    """Tell whether a file is one that is being written beside its place."""
    name = PurePosixPath(path).name
    return name.startswith(".") and name.endswith(".part")


def _inside(paths: Iterable[Path], output_dir: Path) -> set[str]:
    """Return the paths of files of a participant: what lies above is not one lesion's."""
    relative = [path.relative_to(output_dir) for path in paths if path.is_relative_to(output_dir)]
    return {path.as_posix() for path in relative if len(path.parts) > 1}


def _is_inside(path: str) -> bool:
    """Tell whether a path stays in the folder: records are files that anyone may have edited."""
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and parts[0] != "/" and ".." not in parts and "\0" not in path


def _remove(output_dir: Path, paths: Iterable[str]) -> None:
    for path in paths:
        (output_dir / path).unlink(missing_ok=True)
