"""``lacuna cache init``: make a cache, for one user or for a group."""

import argparse
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from lacuna.cli.options import print_json
from lacuna.errors import CacheError, OptionError
from lacuna.utils.cache import describe


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what makes a cache."""
    init = add("init", _init, "Make the cache directory, for this user alone or for a group.")
    init.add_argument(
        "--group",
        metavar="NAME",
        help="share it: members may read, use, refresh and remove what is kept",
    )


def _init(args: argparse.Namespace) -> int:
    from lacuna.store import group_of, make_root

    if args.cache_dir == "":
        raise OptionError("--cache-dir is empty; is a variable not set?")
    location = describe()[0]
    if location.path is None:
        raise CacheError(location.problem)
    make_root(location.path, None if args.group is None else _number(args.group))
    group = group_of(location.path)
    if args.json:
        print_json({"path": location.path, "group": None if group is None else group_name(group)})
    else:
        print(f"cache: {location.path}")
        print("  private" if group is None else f"  shared with group {group_name(group)}")
    if group is not None and (closed := _closed_above(location.path, group)):
        advice = f"to let its members in: chmod g+x {closed}, once it belongs to the group"
        print(f"lacuna: warning: {closed} is closed to the group; {advice}", file=sys.stderr)
    return 0


def group_name(number: int) -> str:
    """Return the name of a group, or its number where it has none."""
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _number(name: str) -> int:
    """Return the number of a group of which this user is a member."""
    import grp

    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        if not name.isdecimal():
            raise OptionError(
                f"There is no group {name!r} on this machine; `id` lists those that you are in."
            ) from None
        number = int(name)
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        raise OptionError(
            f"You are not in group {name!r}, so you cannot share a cache with it. Ask whoever "
            "manages the groups; after being added, log in anew."
        )
    return number


def _closed_above(path: Path, group: int) -> Path | None:
    """Return a directory on the way to a cache that the group's members cannot enter."""
    for above in path.parents:
        status = above.stat()
        by_group = status.st_gid == group and status.st_mode & stat.S_IXGRP
        if not (by_group or status.st_mode & stat.S_IXOTH):
            return above
    return None
