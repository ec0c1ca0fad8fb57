"""``lacuna cache doctor | adopt``: find out if a directory can be trusted, and make it ours."""

import argparse
from collections.abc import Callable


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add nothing yet."""
