"""What became of each lesion: one small record for each, in ``logs/`` of the output folder.

A record is written after everything else of its lesion. From before the first file until then a
list stands in its place, of every file that may be there: what is killed leaves nothing unknown.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lacuna.errors import LacunaError, UnfinishedError
from lacuna.formats.replace import replacing, watching

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
    """
    start = time.perf_counter()
    begun, record = _begun(output_dir, entry.stem), _record(output_dir, entry.stem)
    begun.parent.mkdir(parents=True, exist_ok=True)
    earlier = _read(record)
    known = {*_read_paths(begun), *(earlier.outputs if earlier else ())}
    for path in sorted(known):
        _note(begun, output_dir, output_dir / path)
    begun.touch()
    record.unlink(missing_ok=True)
    with watching(partial(_note, begun, output_dir)) as written:
        try:
            yield
        except UnfinishedError:
            raise  # it did not fail: the list stays, as that of a process that was killed
        except Exception as error:
            _remove(output_dir, {*known, *_inside(written, output_dir)})
            failed = replace(entry, reason=describe_error(error))
            try:
                _end(record, begun, failed, start)
            except OSError as problem:
                logger.warning("%s: the record of its failure: %s", entry.stem, problem)
            raise
        now = {path for path in _inside(written, output_dir) if (output_dir / path).is_file()}
        _remove(output_dir, known - now)
        sizes = {path: (output_dir / path).stat().st_size for path in sorted(now)}
        _end(record, begun, replace(entry, is_done=True, outputs=sizes), start)


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


def _note(begun: Path, output_dir: Path, path: Path) -> None:
    """Name a file before it is there."""
    with begun.open("ab") as stream:
        stream.write(b"".join(f"{inner}\n".encode() for inner in _inside([path], output_dir)))


def _read_paths(begun: Path) -> set[str]:
    with suppress(OSError):
        # The last line may have been cut short, to the name of another file.
        lines = begun.read_bytes().decode(errors="replace").split("\n")[:-1]
        return set(filter(_is_inside, lines))
    return set()


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
