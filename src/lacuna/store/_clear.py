"""Clearing: decide, show, do.

Only what lies where entries lie, below a marker of ours, is ever removed; and of the
dot-directories only names that we gave.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from lacuna.store._entry import Damage, Entry, read
from lacuna.store._layout import TRASH, walk_entries
from lacuna.store._removal import (
    discard,
    find_leftovers,
    is_marked,
    leftover_size,
    remove_leftover,
    tree_size,
)

_UNMARKED = "no marker of the cache lies above it"

Select = Callable[[Entry], bool]


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
    """

    directory: str
    label: str
    size_bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Cleared:
    """What executing a plan came to.

    Parameters
    ----------
    removed
        Entries that are gone.
    failed
        Entries that are still there, each with the reason.
    freed_bytes
        Payload of the removed entries, and the leftovers.
    """

    removed: tuple[Removal, ...]
    failed: tuple[Removal, ...]
    freed_bytes: int


@dataclass(frozen=True)
class ClearPlan:
    """What clearing would remove; nothing happens until `execute`.

    Parameters
    ----------
    root
        The cache root.
    removals
        Entries that go.
    kept
        Entries that were selected but stay, with the reason.
    leftovers
        Trash, and records of owners proven dead; paths below the root.
    leftover_bytes
        Their size.
    """

    root: str
    removals: tuple[Removal, ...]
    kept: tuple[Removal, ...]
    leftovers: tuple[str, ...]
    leftover_bytes: int

    @property
    def expected_freed_bytes(self) -> int:
        """What executing the plan frees."""
        return sum(item.size_bytes for item in self.removals) + self.leftover_bytes

    def execute(self) -> Cleared:
        """Remove what the plan names."""
        for leftover in self.leftovers:
            remove_leftover(self.root, leftover)
        removed, failed = [], []
        for item in self.removals:
            try:
                if not is_marked(self.root, item.directory):
                    failed.append(replace(item, reason=_UNMARKED))
                    continue
                trash = discard(self.root, item.directory, "cleared")
            except OSError as error:
                failed.append(replace(item, reason=str(error)))
                continue
            if trash is not None:
                remove_leftover(self.root, f"{TRASH}/{trash}")
                removed.append(item)
        freed = sum(item.size_bytes for item in removed) + self.leftover_bytes
        return Cleared(tuple(removed), tuple(failed), freed)


def plan_clear(root: str, select: Select | None, *, unused_for_s: float) -> ClearPlan:
    """Decide what clearing a root removes; damaged entries go whatever is selected."""
    removals, kept = [], []
    for digest, directory in walk_entries(root):
        entry = read(directory, digest, root=root)
        if isinstance(entry, Entry):
            if select is not None and not select(entry):
                continue
            item = Removal(directory, entry.label or entry.product, entry.size_bytes)
            if time.time() - entry.used_at < unused_for_s:
                kept.append(replace(item, reason=f"used in the last {unused_for_s / 3600:g} hours"))
                continue
        elif isinstance(entry, Damage):
            item = Removal(directory, f"damaged: {entry.reason}", tree_size(directory))
        else:
            continue
        if is_marked(root, directory):
            removals.append(item)
        else:
            kept.append(replace(item, reason=_UNMARKED))
    leftovers = tuple(find_leftovers(root))
    leftover_bytes = sum(leftover_size(root, leftover) for leftover in leftovers)
    return ClearPlan(root, tuple(removals), tuple(kept), leftovers, leftover_bytes)
