"""``lacuna config``: show, write and check the configuration."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lacuna.cli.options import common_options, print_json, print_table

_DIRECTORIES = {"cache": "cache_dir", "temp": "tmp_dir"}


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna config`` and its actions."""
    parser = subparsers.add_parser("config", help="show, write and check the configuration")
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")

    def add(name: str, action: Callable[[argparse.Namespace], int], needs: str, text: str) -> Any:
        added = actions.add_parser(name, parents=[common_options()], help=text, description=text)
        added.set_defaults(action=action, needs=needs)
        return added

    show = add("show", _show, "settings", "Print every setting, its value and its source.")
    show.add_argument("--json", action="store_true", help="print JSON")
    init = add("init", _init, "nothing", "Write a commented configuration file.")
    init.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="where (default: your own, for all runs)"
    )
    init.add_argument("--force", action="store_true", help="overwrite an existing file")
    validate = add("validate", _validate, "nothing", "Check a configuration file.")
    validate.add_argument("file", type=Path, metavar="FILE", help="file to check")
    validate.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    code: int = args.action(args)
    return code


def template() -> str:
    """Return a configuration file that says nothing yet, and explains every key."""
    from lacuna.config import descriptions

    parts = ["# Configuration of Lacuna. Take away the # before a key to set it.\n"]
    for key, facts in descriptions()["keys"].items():
        parts.append(
            "# {description}\n# Without it: {default}.\n# {key}: {example}\n".format(
                key=key, **facts
            )
        )
    return "\n".join(parts)


def _show(args: argparse.Namespace) -> int:
    from lacuna.config import KEYS
    from lacuna.utils import cache

    settings = args.settings
    shown = {
        key: {"value": getattr(settings, key), "source": settings.sources[key]} for key in KEYS
    }
    for location in cache.describe():
        if key := _DIRECTORIES.get(location.name):
            shown[key] = {"value": location.path or location.problem, "source": location.source}
    if args.json:
        files = {"files": settings.files, "files_not_read": settings.unread}
        print_json({"settings": shown, **files})
        return 0
    print_table((key, _text(key, said["value"]), said["source"]) for key, said in shown.items())
    print()
    for file in settings.files or ("none",):
        print(f"configuration file: {file}")
    for file in settings.unread:
        print(f"not read: {file}")
    return 0


def _text(key: str, value: Any) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    units = {"max_size": "bytes", "min_free": "bytes", "max_age": "s"}
    return f"{value:,} {units[key]}" if key in units else str(value)


def _init(args: argparse.Namespace) -> int:
    from lacuna.config import user_config_file
    from lacuna.errors import ConfigError

    path = args.file or user_config_file()
    if path is None:
        raise ConfigError("There is no home directory to write to; name a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w" if args.force else "x", encoding="utf-8") as stream:
            stream.write(template())
    except FileExistsError:
        raise ConfigError(f"{path} exists already; --force overwrites it.") from None
    print(path)
    return 0


def _validate(args: argparse.Namespace) -> int:
    from lacuna.config import read_config_file

    said = read_config_file(args.file)
    if args.json:
        values = {key: stated.value for key, stated in said.items()}
        print_json({"file": args.file, "valid": True, "settings": values})
    else:
        print(f"{args.file}: valid, sets {', '.join(said) or 'nothing'}")
    return 0
