"""``lacuna cache init``: make a cache, for one user or for a group."""

import argparse
from collections.abc import Callable


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add nothing yet."""
