"""``lacuna cache prune | pin | unpin``: keep within the budgets, and keep what must stay."""

import argparse
from collections.abc import Callable


def add_actions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add nothing yet."""
