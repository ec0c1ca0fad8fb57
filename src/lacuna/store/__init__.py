"""How artifacts are kept: made once, whole or absent, found by what they are.

>>> from lacuna.store import Key, Store
>>> store = Store("/scratch/me/lacuna")  # doctest: +SKIP
>>> key = Key("map", {"rule": "segment"}, {"tractogram": store.fingerprint("all.tck")}, "map")
... # doctest: +SKIP
>>> with store.get_or_make(key, make=write_arrays, check=open_arrays) as entry:  # doctest: +SKIP
...     use(entry.path / "offsets.npy")

What may be kept is listed in `lacuna.store.buckets`; where it lies, in the layout::

    <cache_dir>/
      downloads/ tdi/ transforms/   buckets; in each: v1/ab/<digest>/ payload files, meta.json
      tmp/                          default scratch
      .stage/ .trash/ .claims/ .leases/ .pins/
      .memo/                        fingerprints of input files, by path and stat
      .kernels/                     compiled kernels, in a private cache only
"""

from lacuna.store._digest import Key
from lacuna.store._entry import Entry
from lacuna.store._jobs import ask_schedulers
from lacuna.store._reap import Reaped, ReapPlan, Scratch, plan_reap, reap_ended
from lacuna.store._removal import Cleared, ClearPlan, Removal
from lacuna.store._space import allocate, size_text
from lacuna.store._store import Store, Verification

__all__ = [
    "ClearPlan",
    "Cleared",
    "Entry",
    "Key",
    "ReapPlan",
    "Reaped",
    "Removal",
    "Scratch",
    "Store",
    "Verification",
    "allocate",
    "ask_schedulers",
    "plan_reap",
    "reap_ended",
    "size_text",
]
