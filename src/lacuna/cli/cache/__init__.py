"""``lacuna cache``: look after what is kept between runs; a module for each kind of action."""

import argparse
from collections.abc import Callable
from typing import Any

from lacuna.cli.cache import clear, doctor, init, prune, reap, show, warm
from lacuna.cli.options import common_options

_MODULES = (init, show, prune, clear, reap, doctor, warm)


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna cache`` and its actions."""
    parser = subparsers.add_parser("cache", help="look after what is kept between runs")
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions")

    def add(
        name: str, action: Callable[[argparse.Namespace], int], text: str, **needs: str
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, parents=[common_options()], help=text, description=text
        )
        added.add_argument("--json", action="store_true", help="print JSON")
        added.set_defaults(action=action, **({"needs": "settings"} | needs))
        return added

    for module in _MODULES:
        module.add_actions(add)


def run(args: argparse.Namespace) -> int:
    """Run the action that was asked for."""
    code: int = args.action(args)
    return code
