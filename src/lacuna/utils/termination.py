"""SIGTERM as an exception that nothing swallows, so that what cleans up on the way out does so."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_S = 0.01
"""After which a signal is sent again whose exception Python dropped."""


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit`; make sure that it and `KeyboardInterrupt` get through.

    Python drops an exception that is raised while it destroys an object (``__del__``, the callback
    of a weak reference), and goes on: here the signal comes again. A second SIGTERM does nothing:
    schedulers may send two, and it must not interrupt the clean-up. In any thread but the main one
    nothing is changed, as only that one may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    leaving: SystemExit | None = None

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal leaving
        if leaving is None:
            leaving = SystemExit(128 + number)
            raise leaving

    def dropped(what: Any) -> None:
        nonlocal leaving
        if isinstance(what.exc_value, KeyboardInterrupt):
            number = signal.SIGINT
        elif leaving is not None and what.exc_value is leaving:
            number, leaving = signal.SIGTERM, None
        else:
            told_before(what)
            return
        # Not at once: that would raise it in here, to be dropped as well.
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()

    told_before, sys.unraisablehook = sys.unraisablehook, dropped
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = told_before
