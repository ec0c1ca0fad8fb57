"""Clearing and eviction: decide what goes, show it, look again, and remove it.

Only what lies where entries lie, below a marker of ours, is ever removed, and nothing that is
pinned or in use. Eviction takes what was unused for longest first, and no more than the budgets ask
for. Between the plan and its execution anything may happen, so that each entry is looked at again:
before it goes to the trash, and, for leases, when it is there.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from lacuna.errors import CacheDirError
from lacuna.store._entry import (
    Damage,
    Entry,
    mark,
    read,
    read_file,
    survey,
    unmark,
)
from lacuna.store._layout import (
    LEASES,
    META,
    TRASH,
    USAGE,
    make_directory,
    version_lag,
    walk,
    write_file,
)
from lacuna.store._layout import is_marked as has_marker
from lacuna.store._lease import DoubtfulLease, find_doubtful, holders, is_pinned
from lacuna.store._removal import (
    Cleared,
    evict,
    find_leftovers,
    leftover_size,
    opened,
    remove_leftover,
    restore,
    restore_leased,
    settle,
    tree_size,
)
from lacuna.store._space import size_text
from lacuna.utils.filesystem import free_space
from lacuna.utils.modes import is_shared

RECENT_S = 24 * 3600.0
"""What was used in this time is not evicted."""

UNMARKED = "no marker of the cache lies above it"
"""Why what nobody can prove to be the cache's is not deleted."""

_EVERY_S = 300.0
_ROOM = 1 << 30
_STAMP = "evicted"
_USED = "it was used since this was planned"

Select = Callable[[Entry], bool]


@dataclass(frozen=True)
class Budget:
    """What the cache may take.

    Parameters
    ----------
    max_size
        Bytes of all entries; None: any.
    max_age_s
        Entries that were unused for longer go; None: none do.
    min_free
        Bytes that should be free on the disk.
    at_least
        Bytes to free whatever the disk says: a quota does not show there.
    old_versions
        Whether entries in a form that this version no longer reads go in any case.
    """

    max_size: int | None = None
    max_age_s: float | None = None
    min_free: int = 0
    at_least: int = 0
    old_versions: bool = False


@dataclass(frozen=True)
class Removal:
    """An entry that a plan removes, or keeps.

    Parameters
    ----------
    directory
        Where it lies.
    label
        What it is, for people.
    size_bytes
        Its payload; what removing it frees.
    reason
        Why it is kept; empty for one that goes.
    because
        Why it goes, if a budget says so.
    used_at
        When it was last asked for, seconds since the epoch.
    """

    directory: str
    label: str
    size_bytes: int
    reason: str = ""
    because: str = field(default="", compare=False)
    used_at: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class PrunePlan:
    """What clearing or eviction would remove; nothing happens until `execute`.

    Parameters
    ----------
    root
        The cache root.
    removals
        Entries that go.
    kept
        Entries that would go, but stay, with the reason.
    leftovers
        Trash, and records of owners proven dead; paths below the root.
    leftover_bytes
        Their size.
    unused_for_s
        Entries that were used in this time stay.
    missing_bytes
        What would have to be freed beyond that to meet the budgets.
    leases
        Leases that end first, as nobody can say whether their owners live.
    budget
        What asks for it; None where that was a choice of entries.
    """

    root: str
    removals: tuple[Removal, ...]
    kept: tuple[Removal, ...]
    leftovers: tuple[str, ...]
    leftover_bytes: int
    unused_for_s: float
    missing_bytes: int = 0
    leases: tuple[DoubtfulLease, ...] = ()
    budget: Budget | None = None

    @property
    def expected_freed_bytes(self) -> int:
        """What executing the plan frees."""
        return sum(item.size_bytes for item in self.removals) + self.leftover_bytes

    def require_writable(self) -> None:
        """Make sure, before anybody is asked, that this user may remove what the plan names.

        Raises
        ------
        CacheDirError
            The trash, or every place from which something goes, cannot be written.
        """
        trash = f"{self.root}/{TRASH}"
        sources = {os.path.dirname(item.directory) for item in self.removals}
        places = [trash if os.path.isdir(trash) else self.root]
        if sources and not any(map(_may_write, sources)):
            places += sources
        if any(not _may_write(place) for place in places):
            raise CacheDirError(
                errno.EACCES,
                f"{self.root} cannot be written by you: nothing was deleted. Ask whoever owns it, "
                "or set cache_dir, LACUNA_CACHE_DIR or --cache-dir to a cache of yours.",
                self.root,
            )

    def execute(self) -> Cleared[Removal]:
        """Remove what the plan names, but for what was used, or changed, since it was made."""
        looked_at = [_end(self.root, lease) for lease in self.leases]
        restore_leased(self.root)
        for leftover in self.leftovers:
            remove_leftover(self.root, leftover)
        removed, spared = [], []
        failed: list[Removal | DoubtfulLease] = [lease for lease in looked_at if lease.reason]
        for item in self.removals:
            try:
                reason = _remove(self.root, item, self.unused_for_s)
            except OSError as error:
                why = f"it could not be removed: {error.strerror or error}"
                failed.append(replace(item, reason=why))
                continue
            if reason == UNMARKED:
                failed.append(replace(item, reason=reason))
            elif reason:
                spared.append(replace(item, reason=reason))
            elif reason is not None:
                removed.append(item)
        freed = sum(item.size_bytes for item in removed) + self.leftover_bytes
        ended = tuple(lease for lease in looked_at if not lease.reason)
        return Cleared(tuple(removed), tuple(failed), freed, tuple(spared), ended)


def plan_clear(root: str, select: Select | None, *, unused_for_s: float) -> PrunePlan:
    """Decide what clearing a root removes; damaged entries go whatever is selected."""
    found = [
        _describe(item)
        for item in survey(root)
        if isinstance(item, Damage) or select is None or select(item)
    ]
    if select is None:
        found += [item for item in _scan(root, old_only=True) if not item.used_at]
    plan, in_use = _plan(root, unused_for_s)
    return _decided(plan, [_judge(root, item, in_use, unused_for_s) for item in found])


def plan_prune(
    root: str,
    budget: Budget,
    *,
    unused_for_s: float = RECENT_S,
    end_leases_older_than_s: float | None = None,
) -> PrunePlan:
    """Decide what has to go for the budgets, what was unused for longest first."""
    now = time.time()
    items = sorted(_scan(root), key=lambda item: item.used_at)
    plan, in_use = _plan(root, unused_for_s, end_leases_older_than_s)
    names = {os.path.basename(item.directory): item.label for item in items}
    leases = (replace(lease, entry=names.get(lease.digest, "")) for lease in plan.leases)
    plan = replace(plan, budget=budget, leases=tuple(leases))
    total = sum(item.size_bytes for item in items)
    missing = _missing_bytes(root, budget, total, plan.leftover_bytes)
    judged = []
    for item in items:
        if because := _because(item, budget, now, missing):
            item = _judge(root, item, in_use, unused_for_s, because)
            judged.append(item)
            missing -= 0 if item.reason else item.size_bytes
    return _decided(plan, judged, max(missing, 0))


def evict_when_due(root: str, budget: Budget) -> PrunePlan | None:
    """Evict, if the budgets may be exceeded and nobody looked in the last minutes.

    Returns
    -------
    PrunePlan or None
        What was done, if anything was.
    """
    free, _ = free_space(root)
    has_room = free is None or free >= budget.min_free
    if has_room and budget.max_size is None and budget.max_age_s is None:
        return None
    if is_shared(root) or not _is_due(f"{root}/{USAGE}"):
        return None
    plan = plan_prune(root, budget)
    if plan.removals or plan.leftovers:
        plan.execute()
    return plan


def make_room(root: str, number: int | None, need: int | None, keep_free: int) -> bool:
    """Try once to free what a build lacked, if that can be had; say whether it was.

    Parameters
    ----------
    root
        The cache root; nothing is evicted from a group's without being asked.
    number
        The error that said so.
    need
        Bytes that it needs, if that is known.
    keep_free
        Bytes that must stay free beside it.
    """
    if is_shared(root):
        return False
    wanted = _ROOM if need is None else need
    free, inodes = free_space(root)
    hidden = number == errno.EDQUOT or inodes == 0 or free is None or free >= wanted + keep_free
    budget = Budget(min_free=wanted + keep_free, at_least=wanted if hidden else 0)
    plan = plan_prune(root, budget)
    if need is not None and plan.missing_bytes:
        return False
    cleared = plan.execute()
    return bool(cleared.removed or cleared.freed_bytes)


def total_bytes(root: str) -> int:
    """Return what the entries of a root take."""
    return sum(item.size_bytes for item in _scan(root))


def _is_due(directory: str) -> bool:
    """Say whether nobody looked lately, and leave word that somebody does now."""
    stamp = f"{directory}/{_STAMP}"
    with suppress(OSError):
        # abs: a clock that was wrong once must not end eviction for ever.
        if abs(time.time() - os.lstat(stamp).st_mtime) < _EVERY_S:
            return False
    with suppress(OSError):
        make_directory(directory)
        write_file(stamp, b"")
        os.utime(stamp)
    return True


def _missing_bytes(root: str, budget: Budget, total: int, leftover_bytes: int) -> int:
    free, _ = free_space(root)
    over = 0 if budget.max_size is None else total - budget.max_size
    short = 0 if free is None else budget.min_free - free - leftover_bytes
    return max(over, short, budget.at_least - leftover_bytes, 0)


def _because(item: Removal, budget: Budget, now: float, missing: int) -> str:
    if budget.old_versions and version_lag(item.directory) > 0:
        return "this version no longer reads it"
    if budget.max_age_s is not None and now - item.used_at > budget.max_age_s:
        return "unused for longer than max_age"
    return f"{size_text(missing)} have to go" if missing > 0 else ""


def _scan(root: str, *, old_only: bool = False) -> Iterator[Removal]:
    """Yield what may go, from the sidecars alone; an old form that cannot be read by its files."""
    for directory, is_entry in walk(root):
        lag = version_lag(directory) if is_entry else -1
        if lag < 0 or (old_only and not lag):
            continue
        try:
            meta = json.loads(read_file(f"{directory}/{META}"))
            found = _describe(Entry(directory, meta, root))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if not os.path.isdir(directory):
                continue
            found = _describe(Damage(directory, f"{META} cannot be read"))
        yield found


def _plan(
    root: str, unused_for_s: float, end_leases_older_than_s: float | None = None
) -> tuple[PrunePlan, Mapping[str, str]]:
    """Return a plan without entries, and who will use some after the leases in it have ended."""
    leases: list[DoubtfulLease] = []
    if end_leases_older_than_s is not None:
        leases = find_doubtful(root, end_leases_older_than_s)
    found, in_use = find_leftovers(root), holders(root, ignored={lease.name for lease in leases})
    # Trash of what is in use stays, or comes back.
    staying = tuple(f"{TRASH}/{digest}." for digest in in_use)
    left = tuple(path for path in found if not path.startswith(staying))
    size = sum(leftover_size(root, path) for path in left)
    return PrunePlan(root, (), (), left, size, unused_for_s, leases=tuple(leases)), in_use


def _decided(plan: PrunePlan, judged: list[Removal], missing: int = 0) -> PrunePlan:
    removals = tuple(item for item in judged if not item.reason)
    kept = tuple(item for item in judged if item.reason)
    return replace(plan, removals=removals, kept=kept, missing_bytes=missing)


def _describe(found: Entry | Damage) -> Removal:
    directory = found.directory
    if isinstance(found, Entry):
        label = found.label or found.product
        return Removal(directory, label, found.size_bytes, used_at=found.used_at)
    label = f"damaged: {found.reason}"
    if version_lag(directory) > 0:
        label = f"of an older version: {'/'.join(directory.split('/')[-4:-1])}"
    return Removal(directory, label, tree_size(directory))


def _judge(
    root: str, item: Removal, in_use: Mapping[str, str], unused_for_s: float, because: str = ""
) -> Removal:
    """Return an entry with the reason for which it stays, if there is one."""
    directory = item.directory
    digest, version = os.path.basename(directory), os.path.dirname(os.path.dirname(directory))
    reason = ""
    if not (has_marker(version) or has_marker(os.path.dirname(version))):
        reason = UNMARKED
    elif digest in in_use:
        reason = f"in use by {in_use[digest]}"
    elif item.used_at and is_pinned(root, digest):
        reason = "pinned"
    elif time.time() - item.used_at < unused_for_s:
        reason = f"used in the last {unused_for_s / 3600:g} hours"
    return replace(item, reason=reason, because=because)


def _may_write(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _end(root: str, lease: DoubtfulLease) -> DoubtfulLease:
    """End a lease, and return it; with the reason, if it stays."""
    try:
        if os.path.lexists(f"{root}/{LEASES}/{lease.name}"):
            if not find_doubtful(root, 0.0, lease.name):
                return replace(lease, reason="its owner is known by now")
            with opened(root, LEASES) as place:
                os.unlink(lease.name, dir_fd=place)
    except FileNotFoundError:
        pass
    except OSError as error:
        return replace(lease, reason=f"it could not be ended: {error.strerror or error}")
    return lease


def _remove(root: str, item: Removal, unused_for_s: float) -> str | None:
    """Remove an entry; return why it stays, or None if it was gone already."""
    digest = os.path.basename(item.directory)
    found = read(item.directory, digest, root=root)
    if found is None:
        return None
    now = _judge(root, _describe(found), holders(root, digest), unused_for_s)
    if now.reason:
        return now.reason
    if isinstance(found, Entry) and now != item:
        return "it is not what it was when this was planned"
    try:
        marked_ns = mark(item.directory)
    except FileNotFoundError:
        marked_ns = 0  # without its sidecar it is nobody's to use
    if marked_ns is None:
        return "another process is about to remove it"
    if in_use := holders(root, digest):
        unmark(item.directory, marked_ns)
        return f"in use by {in_use[digest]}"
    if _was_used(item.directory, marked_ns):
        return _USED
    trash = evict(root, item.directory)
    return None if trash is None else _look_again(root, trash, digest, marked_ns)


def _look_again(root: str, trash: str, digest: str, marked_ns: int) -> str:
    """Remove what is in the trash, unless it was used on its way there; then say so."""
    with suppress(OSError):
        os.utime(f"{root}/{LEASES}")  # makes a client of a file server ask what is in it by now
    if _was_used(f"{root}/{TRASH}/{trash}", marked_ns):
        restore(root, digest)
        return _USED
    return "" if settle(root, trash) else _USED


def _was_used(directory: str, marked_ns: int) -> bool:
    """Whether an entry was touched since it was marked; one without a sidecar cannot be."""
    with suppress(OSError):
        return os.stat(f"{directory}/{META}", follow_symlinks=False).st_mtime_ns != marked_ns
    return False
