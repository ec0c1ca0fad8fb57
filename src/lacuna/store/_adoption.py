"""Adoption: marking again what a purge left without its marker, where it is provably ours."""

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lacuna.store._digest import digest_of
from lacuna.store._entry import read_file
from lacuna.store._layout import META, TAG, is_marked, is_ours, listing, walk, write_marks
from lacuna.store._probes import existing
from lacuna.store._space import explained
from lacuna.store.buckets import BUCKETS


@dataclass(frozen=True)
class AdoptionPlan:
    """Which directories of a root would be marked; nothing happens until `execute`.

    Parameters
    ----------
    root
        The directory.
    marks
        Directories that hold nothing but what is ours, and lack the marker or its tag.
    foreign
        What is not ours: it keeps the directories above it from being marked.
    n_entries
        Entries that lie below the root.
    n_unmarked
        Those among them above which no marker lies, now.
    n_left
        Those above which none would lie afterwards.
    """

    root: str
    marks: tuple[str, ...]
    foreign: tuple[str, ...]
    n_entries: int
    n_unmarked: int
    n_left: int

    def execute(self) -> tuple[str, ...]:
        """Mark what the plan names and what is still nothing but ours; return what was marked.

        Raises
        ------
        CacheDirError
            It cannot be written.
        """
        still = plan_adoption(self.root).marks
        marked = tuple(directory for directory in self.marks if directory in still)
        with explained(self.root, "the marker"):
            for directory in marked:
                write_marks(directory)
        return marked


def plan_adoption(root: str) -> AdoptionPlan:
    """Decide what is marked: a bucket, a version of it where others use the bucket, the root.

    A bucket, or a version of it, has to hold an entry: an empty directory proves nothing.

    Raises
    ------
    CacheDirError
        There is no such directory.
    OSError
        It cannot be read.
    """
    root = existing(root)
    versions: Counter[str] = Counter()
    foreign = []
    for path, lies_so in walk(root):
        judged = _judge(path) if lies_so else "foreign"
        if judged == "entry":
            versions[os.path.dirname(os.path.dirname(path))] += 1
        elif judged == "foreign":
            foreign.append(path)
    ours: list[str] = []
    for place in dict.fromkeys(map(os.path.dirname, versions)):
        inner = [version for version in versions if version.startswith(f"{place}/")]
        candidates = inner if _below(place, foreign) else [place]
        ours += [found for found in candidates if not _below(found, foreign)]
    others = [item.path for item in listing(root) if not _is_ours_too(item, ours, foreign)]
    if ours and not others:
        ours.append(root)
    unmarked = {version: n for version, n in versions.items() if not _has_mark(version)}
    left = [n for place, n in unmarked.items() if not {place, os.path.dirname(place)} & set(ours)]
    return AdoptionPlan(
        root,
        tuple(place for place in ours if not _is_whole(place)),
        tuple(foreign + [path for path in others if not _below(path, foreign)]),
        versions.total(),
        sum(unmarked.values()),
        sum(left),
    )


def _is_ours_too(item: "os.DirEntry[str]", ours: list[str], foreign: list[str]) -> bool:
    """Whether something in a root is, or will be, no reason not to mark the root."""
    if item.name in BUCKETS and item.is_dir(follow_symlinks=False):
        return is_marked(item.path) or not _below(item.path, foreign)
    try:
        return item.path in ours or is_ours(item)
    except PermissionError:
        return False  # what cannot be looked at is somebody's


def _below(directory: str, paths: list[str]) -> bool:
    return any(path.startswith(f"{directory}/") for path in paths)


def _has_mark(version: str) -> bool:
    return is_marked(version) or is_marked(os.path.dirname(version))


def _is_whole(directory: str) -> bool:
    return is_marked(directory) and os.path.lexists(f"{directory}/{TAG}")


def _judge(path: str) -> str:
    """Tell an ``entry``, or what a purge left of one, from an ``empty`` place and ``foreign``."""
    try:
        names = {
            item.relative_to(path).as_posix()
            for item in (Path(path), *Path(path).rglob("*"))
            # What lies in a closed directory is passed over in silence: it counts itself.
            if item.is_symlink() or not item.is_dir() or not os.access(item, os.R_OK | os.X_OK)
        }
        if not names:
            return "empty"  # a purge deletes files, and leaves directories
        meta = json.loads(read_file(f"{path}/{META}"))
        fits = os.path.basename(path) == meta["digest"] == digest_of(meta["key"])
        return "entry" if fits and names <= {META, *meta["files"]} else "foreign"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "foreign"
