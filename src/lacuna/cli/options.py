"""Options that commands share, and the types of their values."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def common_options() -> argparse.ArgumentParser:
    """Return the options of every command, for ``add_parser(…, parents=[common_options()])``."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("settings and messages")
    group.add_argument("--config", metavar="FILE", help="configuration file to read")
    group.add_argument("--cache-dir", metavar="DIR", help="keep expensive results in DIR")
    group.add_argument("--tmp-dir", metavar="DIR", help="keep files of the running analysis in DIR")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    group.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: all")
    group.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    return parser


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add ``--threads``; what it says arrives in ``args.settings.num_threads``."""
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="compute with N threads (default: all that this process may use)",
    )


def positive(text: str) -> int:
    """Return a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def not_negative(text: str) -> float:
    """Return a number that is 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or above")
    return value


def size(text: str) -> int:
    """Return the bytes in a size such as ``500 MB``."""
    from lacuna.config import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration(text: str) -> float:
    """Return the seconds in a duration such as ``90min``, ``12h`` or ``30d``."""
    from lacuna.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:  # of whose text argparse would say nothing
        raise argparse.ArgumentTypeError(str(error)) from None


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1 entry`` or ``2 entries``; an s by default."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def show_size(n_bytes: int) -> str:
    """Return a size for reading, such as ``1.4 GB``."""
    from lacuna.store import size_text

    return size_text(n_bytes)


def show_duration(seconds: float) -> str:
    """Return a duration for reading, in its largest whole unit."""
    from lacuna.config import SECONDS

    for unit in ("w", "d", "h", "min"):
        if seconds >= 2 * SECONDS[unit]:
            return f"{seconds / SECONDS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def print_table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print rows to stdout in aligned columns, those numbered in ``right`` to the right."""
    table = [list(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def print_json(value: Any) -> None:
    """Print a value to stdout as JSON: paths as text, other objects as their attributes."""

    def plain(inner: Any) -> Any:
        if isinstance(inner, Path):
            return str(inner)
        names = vars(inner) if hasattr(inner, "__dict__") else inner.__slots__
        return {name: getattr(inner, name) for name in names if name[0] != "_"}

    print(json.dumps(value, indent=2, ensure_ascii=False, default=plain))


def confirm(question: str) -> bool:
    """Ask on stderr and return whether the answer from stdin is yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
