"""The store's face: look up, make once, list, verify, pin, clear, evict."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.store._digest import Key
from lacuna.store._entry import Damage, Entry, read, rehash, survey
from lacuna.store._fingerprint import Fingerprints
from lacuna.store._layout import prepare, walk
from lacuna.store._lease import holders, pin, unpin
from lacuna.store._partial import Partial
from lacuna.store._prune import (
    RECENT_S,
    Budget,
    PrunePlan,
    Select,
    evict_when_due,
    make_room,
    plan_clear,
    plan_prune,
    total_bytes,
)
from lacuna.store._publish import Make, Request, make_once
from lacuna.store._removal import discard as throw_away
from lacuna.store._removal import sweep
from lacuna.store._space import explained, size_text
from lacuna.store._usage import Usage, count, read_usage
from lacuna.utils.modes import is_shared

_logger = logging.getLogger(__name__)

_REFRESH_EVERY_S = 3600.0


@dataclass(frozen=True)
class Verification:
    """What verifying an entry found.

    Parameters
    ----------
    path
        The entry's directory.
    label
        What it is, for people; empty where the sidecar cannot be read.
    size_bytes
        What was read.
    problem
        What is wrong with it; None if it is whole.
    discarded
        Whether it went to the trash, to be built again when it is next asked for.
    """

    path: Path
    label: str
    size_bytes: int
    problem: str | None
    discarded: bool


class Store:
    """Artifacts that are expensive to make, each made once and kept.

    Nothing is created or read before it is asked for.

    Parameters
    ----------
    root
        The cache directory.
    read_only_roots
        Searched after the root, in order, and never written.
    scratch
        Where fingerprints are remembered if the root cannot be written.
    max_size, max_age_s
        Budgets: what was unused for longest goes when the entries take more bytes, and what was
        unused for longer goes in any case. Looked at after something was made, every few minutes
        at most, and never in a root that a group shares; nor does what is pinned, in use, or was
        used in the last 24 hours ever go.
    min_free
        Bytes that must stay free: eviction aims at it, and a build whose size is known in advance
        is refused if it would leave less.
    evict_below
        Bytes below which eviction begins where no `min_free` is given; refuses nothing.
    foreign_wait_s
        How long to wait for a builder of which nobody can say whether it lives (on another host)
        before building as well.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        read_only_roots: Sequence[Path | str] = (),
        scratch: Path | str | None = None,
        max_size: int | None = None,
        max_age_s: float | None = None,
        min_free: int | None = None,
        evict_below: int = 0,
        foreign_wait_s: float = 900.0,
    ) -> None:
        self._root = os.path.abspath(root)
        self._read_only_roots = tuple(os.path.abspath(path) for path in read_only_roots)
        self._min_free = min_free or 0
        self._budget = Budget(max_size, max_age_s, self._min_free or evict_below)
        self._foreign_wait_s = foreign_wait_s
        self._fingerprints = Fingerprints(
            self._root, None if scratch is None else os.path.abspath(scratch)
        )
        self._refreshed: dict[str, float] = {}
        self._damaged: set[Damage] = set()

    @property
    def root(self) -> Path:
        """The cache directory."""
        return Path(self._root)

    def find(self, key: Key) -> Entry | None:
        """Return a whole entry, or None; nothing is changed.

        Raises
        ------
        CacheDirError
            The root cannot be read.
        """
        found = read(f"{self._root}/{key.location}", key.digest, root=self._root)
        if isinstance(found, Entry):
            return found
        for root in self._read_only_roots:
            with suppress(CacheDirError):
                found = read(f"{root}/{key.location}", key.digest, root=root, read_only=True)
                if isinstance(found, Entry):
                    return found
        return None

    def get_or_make(
        self,
        key: Key,
        make: Make,
        check: Make | None = None,
        *,
        expected_bytes: int | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Entry:
        """Return the entry of a key; make it if it is missing, once however many ask.

        Parameters
        ----------
        key
            What is wanted.
        make
            Writes the payload files, under the names they are to have, into the empty directory
            that it is given.
        check
            Opens what was made, in the directory that it is given, and raises if it is no good.
        expected_bytes
            Size of the payload; refused before the work begins if it would not fit.
        on_wait
            Told, in a sentence, for whom we wait; the log is told otherwise.

        Raises
        ------
        CacheFullError
            There is no space, quota or inode left, or the payload will not fit.
        CacheDirError
            The root cannot be read or written.
        CacheEntryError
            What was made cannot be kept, or did not pass the check.
        """
        entry = self._look_up(key)
        if entry is not None and (entry.read_only or self._refresh(entry)):
            count(self._root, hit=True)
            return entry
        count(self._root, hit=False)
        self._warn_of_damage(key)
        request = Request(
            root=self._root,
            key=key,
            make=make,
            check=check,
            expected_bytes=expected_bytes,
            keep_free=self._min_free,
            foreign_wait_s=self._foreign_wait_s,
            tell=on_wait or _logger.warning,
        )
        try:
            entry = make_once(request, lambda: self.find(key))
        except CacheFullError as error:
            need = error.need_bytes if expected_bytes is None else expected_bytes
            if not self._make_room(error, need):
                raise
            entry = make_once(request, lambda: self.find(key))
        self._evict()
        return entry

    def partial(self, key: Key) -> Partial:
        """Return what is there of a file that arrives bit by bit, to be entered while it is made.

        It outlives a maker that fails, and is taken up again by whoever makes the entry next.
        """
        return Partial(self._root, key, self._min_free)

    def fingerprint(self, path: Path | str) -> str:
        """Return the xxh3-128 of a file's content, or of a folder's names and files.

        A file is read once, and again only when its size, inode or times changed.

        Returns
        -------
        str
            32 hexadecimal digits, for the inputs of a `Key`.

        Raises
        ------
        InputError
            It is no file or folder, or it changes while it is read.
        OSError
            It cannot be read.
        """
        return self._fingerprints.of(os.fspath(path))

    def entries(self) -> Iterator[Entry]:
        """Yield all whole entries, of the root first; of all versions, in a fixed order."""
        for root in (self._root, *self._read_only_roots):
            for found in survey(root, read_only=root != self._root):
                if isinstance(found, Entry):
                    yield found

    def unmanaged(self) -> Iterator[Path]:
        """Yield what others put among the entries of the root; it is never deleted."""
        return (Path(path) for path, is_entry in walk(self._root) if not is_entry)

    def verify(
        self, select: Select | None = None, *, discard: bool = True
    ) -> Iterator[Verification]:
        """Read every entry again and compare it with what was written.

        Parameters
        ----------
        select
            Which entries; unreadable ones are always reported.
        discard
            Move damaged entries of the root to the trash, to be built anew when asked for.
        """
        for root in (self._root, *self._read_only_roots):
            for found in survey(root, read_only=root != self._root):
                damage: Damage | None
                if isinstance(found, Damage):
                    label, size_bytes, damage = "", 0, found
                elif select is None or select(found):
                    label, size_bytes, damage = found.label, found.size_bytes, rehash(found)
                else:
                    continue
                problem = None if damage is None else damage.reason
                gone = False
                if problem is not None and discard and root == self._root:
                    with suppress(OSError):
                        gone = throw_away(root, found.directory, problem) is not None
                yield Verification(Path(found.directory), label, size_bytes, problem, gone)

    def pin(self, entry: Entry) -> None:
        """Keep an entry, whatever the budgets say, until it is unpinned.

        Raises
        ------
        CacheDirError
            The root of the entry cannot be written, or is one of those that never are.
        """
        with _pin_explained(entry):
            pin(entry.root, entry.digest, entry.label)

    def unpin(self, entry: Entry) -> bool:
        """Take the pin of an entry away; say whether there was one."""
        with _pin_explained(entry):
            return unpin(entry.root, entry.digest)

    def users(self) -> Mapping[str, str]:
        """Return who uses entries of the root now, or may do so, by digest."""
        return holders(self._root)

    def usage(self) -> Usage:
        """Return how often earlier runs found what they asked the root for."""
        return read_usage(self._root)

    def total_bytes(self) -> int:
        """Return what the entries of the root take."""
        return total_bytes(self._root)

    def plan_prune(
        self,
        *,
        max_size: int | None = None,
        max_age_s: float | None = None,
        min_free: int | None = None,
        old_versions: bool = False,
        end_leases_older_than_s: float | None = None,
    ) -> PrunePlan:
        """Decide what has to go for the budgets; those not given here are the store's own.

        Parameters
        ----------
        max_size, max_age_s, min_free
            As of the store.
        old_versions
            Remove what lies in a form that this version does not read, too.
        end_leases_older_than_s
            End leases, taken so long ago, of which nobody can say whether their owner lives. What
            such an owner still uses may then be deleted.
        """
        ours = self._budget
        budget = Budget(
            ours.max_size if max_size is None else max_size,
            ours.max_age_s if max_age_s is None else max_age_s,
            ours.min_free if min_free is None else min_free,
            old_versions=old_versions,
        )
        return plan_prune(self._root, budget, end_leases_older_than_s=end_leases_older_than_s)

    def plan_clear(self, select: Select | None = None, *, force: bool = False) -> PrunePlan:
        """Decide what clearing removes: entries, trash and what dead processes left.

        Parameters
        ----------
        select
            Which entries; all without it. Damaged ones go in any case.
        force
            Remove entries that were used in the last 24 hours too.
        """
        return plan_clear(self._root, select, unused_for_s=0.0 if force else RECENT_S)

    def _look_up(self, key: Key) -> Entry | None:
        """Find a key; what keeps others of a group out of a new, empty directory is mended."""
        try:
            return self.find(key)
        except CacheDirError:
            if not is_shared(self._root):
                raise
            with suppress(OSError):
                prepare(self._root, key.location)
            return self.find(key)

    def _warn_of_damage(self, key: Key) -> None:
        """Say, once, that the work begins because a read-only root has lost what it held."""
        for root in self._read_only_roots:
            try:
                found = read(f"{root}/{key.location}", key.digest, root=root, read_only=True)
            except CacheDirError as error:
                if not os.access(root, os.X_OK):
                    continue  # nothing in it is used, which whoever chose it was told
                reason = os.strerror(error.errno or errno.EIO)
                found = Damage(str(error.filename), f"it cannot be read ({reason})")
            if isinstance(found, Damage) and found not in self._damaged:
                self._damaged.add(found)
                message = "%s in the shared cache %s cannot be used: %s. Its owner has to mend it."
                _logger.warning(message, key.label or key.product, root, found.reason)

    def _make_room(self, error: CacheFullError, need: int | None) -> bool:
        """Evict what a build lacked room for, if it was on our disk."""
        if not os.path.join(str(error.filename), "").startswith(os.path.join(self._root, "")):
            return False
        with suppress(OSError):
            return make_room(self._root, error.errno, need, self._min_free)
        return False

    def _evict(self) -> None:
        """Meet the budgets after something was made; what was made is there in any case."""
        with suppress(OSError):
            plan = evict_when_due(self._root, self._budget)
            if plan is not None and plan.removals:
                freed = size_text(sum(item.size_bytes for item in plan.removals))
                message = "evicted %d entries unused for longest from the cache (%s)"
                _logger.info(message, len(plan.removals), freed)

    def _refresh(self, entry: Entry) -> bool:
        """Note the use, and clear up after a builder that died between publishing and tidying.

        Returns
        -------
        bool
            Whether the entry is still there.
        """
        now = time.monotonic()
        last = self._refreshed.get(entry.digest)
        if last is None or now - last > _REFRESH_EVERY_S:
            self._refreshed[entry.digest] = now
            try:
                entry.touch()
            except FileNotFoundError:
                self._refreshed.pop(entry.digest)
                return False
            except OSError:
                pass
            sweep(self._root, entry.digest)
        return True


@contextmanager
def _pin_explained(entry: Entry) -> Iterator[None]:
    what = entry.label or entry.product
    if entry.read_only:
        raise CacheDirError(
            errno.EROFS,
            f"{what} lies in {entry.root}, which is only read from here, so that no pin can be "
            "changed. Nothing is deleted there either; whoever looks after it can pin it.",
            entry.root,
        )
    with explained(entry.root, f"the pin of {what}"):
        yield
