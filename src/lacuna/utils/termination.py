"""Signals as exceptions that nothing swallows, so that what cleans up on the way out does so."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_S = 0.01
"""After which a signal is sent again whose exception Python dropped."""
CLEAN_UP_S = 10.0
"""For which no further signal interrupts what the first one began."""
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")
ENDING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""What ends a process: terminals that close send SIGHUP, schedulers any but the first."""


@contextmanager
def terminable(*, ends_process: bool = False) -> Iterator[None]:
    """Turn signals into `KeyboardInterrupt` or `SystemExit`, and make sure that these get through.

    Python drops an exception that is raised while it destroys an object (``__del__``, the callback
    of a weak reference), and goes on: here the signal comes again. A second signal does nothing:
    schedulers may send two, and people press Ctrl-C twice; it must not interrupt the clean-up.
    Signals that are ignored, as under ``nohup``, or that somebody handles stay as they are. So do
    all in any thread but the main one, as only that one may set handlers.

    Parameters
    ----------
    ends_process
        Once one came, ignore all further ones also afterwards: the process is about to end, and a
        third Ctrl-C in its last moments must not make another exit status of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    leaving: BaseException | None = None
    since, raised = 0.0, signal.SIGTERM

    def leave(number: int, _frame: FrameType | None) -> None:
        nonlocal leaving, since, raised
        if leaving is None or time.monotonic() - since > CLEAN_UP_S:
            since, raised = time.monotonic(), signal.Signals(number)
            by_hand = number == signal.SIGINT
            leaving = KeyboardInterrupt() if by_hand else SystemExit(128 + number)
            raise leaving

    def dropped(what: Any) -> None:
        nonlocal leaving
        if leaving is None or what.exc_value is not leaving:
            told_before(what)
            return
        leaving = None
        # Not at once: that would raise it in here, to be dropped as well.
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), raised)).start()

    ours = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler in ours}
    told_before, sys.unraisablehook = sys.unraisablehook, dropped
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        is_over = ends_process and leaving is not None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if is_over else handler)
        sys.unraisablehook = told_before
