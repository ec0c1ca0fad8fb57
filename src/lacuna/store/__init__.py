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
      others/                       one more bucket, for what other packages keep
      tmp/                          default scratch
      .stage/ .trash/ .claims/ .leases/ .pins/
      .partial/                     what came so far of files that are fetched
      .libraries/                   templates and atlases that other libraries fetch
      .memo/                        fingerprints of input files, by path and stat
      .kernels/                     compiled kernels, in a private cache only
      .usage/                       hits and misses of runs, and when eviction was last considered
"""

from lacuna.store._digest import Key
from lacuna.store._entry import Entry
from lacuna.store._jobs import ask_schedulers
from lacuna.store._partial import Partial
from lacuna.store._prune import UNMARKED, PrunePlan, Removal
from lacuna.store._reap import ReapPlan, Scratch, plan_reap, reap_ended
from lacuna.store._removal import Cleared
from lacuna.store._root import group_of, make_root
from lacuna.store._space import allocate, size_text
from lacuna.store._store import Store, Verification
from lacuna.store._usage import record_usage

__all__ = [
    "UNMARKED",
    "Cleared",
    "Entry",
    "Key",
    "Partial",
    "PrunePlan",
    "ReapPlan",
    "Removal",
    "Scratch",
    "Store",
    "Verification",
    "allocate",
    "ask_schedulers",
    "group_of",
    "make_root",
    "plan_reap",
    "reap_ended",
    "record_usage",
    "size_text",
]
