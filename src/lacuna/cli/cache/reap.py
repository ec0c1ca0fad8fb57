"""``lacuna cache reap``: remove the scratch that nobody uses any more."""

import argparse
from collections.abc import Callable


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add nothing yet."""
