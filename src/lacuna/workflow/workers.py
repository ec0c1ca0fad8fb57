"""Worker processes: one item at a time each, none left behind, and none that takes others along.

Workers are forked by a server that has loaded the code and runs no thread, where forking is safe;
so they start in hundredths of a second and share the pages of all that code. Elsewhere each is
started anew. All they get is a pickle in which arrays are places in files (`handover`).

A worker that dies costs the item that it had. When the parent goes, by whatever signal, they go.
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lacuna.config import Settings, apply_settings, current_settings, no_library_threads
from lacuna.errors import UnfinishedError
from lacuna.utils.cache import temp_dir
from lacuna.utils.owner import current_owner, own_scratch
from lacuna.utils.termination import ENDING, terminable
from lacuna.workflow.handover import hand_over, take_over

logger = logging.getLogger(__name__)

LONGEST_SOCKET = 107
"""Characters of the path of a socket; the fork server's lies in the scratch directory."""
SOCKET_NAME = 20
"""Of those, what its own name takes."""
PATIENCE_S = 2.5
"""Time for workers to remove what they began, before they are killed."""

Result = TypeVar("Result")

_stopped = threading.Event()
_repeated: set[str] = set()


@dataclass(frozen=True)
class Crew:
    """How many processes and threads work at once.

    Parameters
    ----------
    processes
        Worker processes; with 1 the calling process works.
    threads
        In each worker, for one lesion.
    stops_at_failure
        Whether nothing more is begun after a lesion that failed.
    preload
        Modules that the workers share.
    """

    processes: int = 1
    threads: int = 1
    stops_at_failure: bool = False
    preload: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Start:
    """What a worker needs to know before it begins."""

    handed: bytes
    settings: Settings
    level: int


class _Worker:
    """A process, and the item that it has."""

    def __init__(self, context: Any, start: _Start) -> None:
        self.connection, theirs = context.Pipe()
        self.item: int | None = None
        self.token = ""
        self.process = context.Process(
            target=_serve, args=(theirs, start), name="lacuna-worker", daemon=True
        )
        self.process.start()
        theirs.close()  # so that the end of the worker is the end of what we read

    def give(self, item: int | None) -> None:
        """Hand it an item; none sends it home."""
        self.item = item
        with suppress(OSError):  # if it has died, reading says so
            self.connection.send(item)


def work_in_threads(
    attempt: Callable[[int], Result], items: Iterator[int], n_threads: int
) -> Generator[tuple[int, Result], None, None]:
    """Yield each item and what became of it, as soon as it is known.

    Parameters
    ----------
    attempt
        Raises nothing but what `go_on` does.
    items
        Asked for the next one only when a thread is free.
    """
    pool, pending = ThreadPoolExecutor(n_threads), dict[Future[Result], int]()
    try:
        pending |= {pool.submit(attempt, i): i for i in islice(items, n_threads)}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
                pending |= {pool.submit(attempt, i): i for i in islice(items, 1)}
    finally:
        # After an interrupt what was begun stops at the next step, and nothing else begins.
        _stopped.set()
        try:
            pool.shutdown(cancel_futures=True)
        finally:  # a second interrupt must not stop the next run of this process
            _stopped.clear()


def go_on() -> None:
    """Leave an item between two steps if the run was interrupted: threads cannot be ended."""
    if _stopped.is_set():
        raise UnfinishedError("The run was interrupted.")


def work_in_processes(
    attempt: Callable[[int], Result],
    items: Iterator[int],
    crew: Crew,
    lost: Callable[[int, str, str], Result],
) -> Generator[tuple[int, Result], None, None]:
    """Yield each item and what became of it, as soon as it is known.

    Parameters
    ----------
    attempt
        Pickles, and raises nothing; runs in the workers.
    items
        Asked for the next one only when a worker is free.
    crew
        Processes.
    lost
        Returns what became of an item whose worker died, from the token of the worker's temporary
        files and the reason.

    It ends before the items do if no worker is left, which is logged.
    """
    with temp_dir("lacuna_workers_") as directory:
        level = logging.getLogger("lacuna").getEffectiveLevel()
        handed = hand_over(attempt, directory)
        start = _Start(handed, current_settings(), level)
        workers: list[_Worker] = []
        _repeated.clear()
        with _context(crew.preload) as context:
            try:
                for _ in range(crew.processes):
                    _begin(context, start, workers)
                while workers:
                    begin = partial(_begin, context, start, workers)
                    yield from _listen(workers, items, lost, begin)
            finally:
                for worker in _stop(workers):
                    if worker.item is not None:
                        lost(worker.item, worker.token, "was stopped")


def _listen(
    workers: list[_Worker],
    items: Iterator[int],
    lost: Callable[[int, str, str], Result],
    begin: Callable[[], None],
) -> Iterator[tuple[int, Result]]:
    """Wait for workers to say something, and act on it."""
    ready = connection.wait([worker.connection for worker in workers])
    for worker in [worker for worker in workers if worker.connection in ready]:
        try:
            kind, said = worker.connection.recv()
        except (EOFError, OSError):
            workers.remove(worker)
            worker.process.join()
            if worker.item is not None:
                yield worker.item, lost(worker.item, worker.token, _reason(worker.process.exitcode))
                begin()
            elif not worker.token:  # not replaced: the next might do the same for ever
                reason = _reason(worker.process.exitcode)
                logger.warning("A worker process, before it could begin, %s.", reason)
            continue
        if kind == "log":
            _repeat(said)
        elif kind == "broken":
            raise said
        else:
            if kind == "done":
                assert worker.item is not None
                yield worker.item, said
            else:
                worker.token = said
            worker.give(next(items, None))


def _begin(context: Any, start: _Start, workers: list[_Worker]) -> None:
    # Signals reach every process of a terminal or a job: what is started now must not see them,
    # and does not where it inherits that they are blocked. The tracker would unblock Ctrl-C.
    resource_tracker.ensure_running()
    try:
        with no_library_threads(), _without_main():
            with _blocked():
                if context.get_start_method() == "forkserver":
                    forkserver.ensure_running()
                else:
                    workers.append(_Worker(context, start))
                    return
            # May be interrupted again: the server first loads all the code, maybe over a network.
            workers.append(_Worker(context, start))
    except (OSError, EOFError) as error:
        said = f"{type(error).__name__}: {error}"
        logger.warning(
            "A worker process could not be started (%s): memory, or what `ulimit` allows of "
            "processes and open files, may be used up.",
            said,
        )


@contextmanager
def _context(preload: tuple[str, ...]) -> Iterator[Any]:
    """Yield how processes are started; leave no fork server behind, nor settings for others."""
    directory, server = tempfile.gettempdir(), vars(forkserver)["_forkserver"]
    room = LONGEST_SOCKET - SOCKET_NAME - len(os.fsencode(directory))
    # System libraries of macOS do not survive a fork; a server of our caller has other code.
    if sys.platform != "linux" or room < 0 or server._forkserver_pid is not None:
        yield multiprocessing.get_context("spawn")
        return
    # Otherwise it makes a directory of its own in our scratch, and when Python exits complains
    # that it is gone, or leaves it elsewhere when we are killed.
    config = vars(multiprocessing.current_process())["_config"]
    before = config.get("tempdir"), server._preload_modules
    config["tempdir"] = directory
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    try:
        yield context
    finally:
        config["tempdir"], server._preload_modules = before
        if pid := vars(server)["_forkserver_pid"]:
            os.kill(pid, signal.SIGKILL)  # it may still be loading code
        server._stop()


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide the program that called us: without ``if __name__`` each worker would run it again."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _stop(workers: list[_Worker]) -> list[_Worker]:
    """End all workers, and return those that had to be killed: they could clear nothing away."""
    killed = []
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + PATIENCE_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()
            killed.append(worker)
        worker.connection.close()
    return killed


def _reason(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return (
            "was killed (signal 9), most likely because memory ran out: use fewer workers "
            "(--nprocs), or allow the job more memory"
        )
    if code is not None and code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit status {code}"


def _repeat(record: logging.LogRecord) -> None:
    """Log what a worker logged; what Python warns of once per process, once."""
    message = record.getMessage()
    if record.name == "lacuna.warnings":
        if message in _repeated:
            return
        _repeated.add(message)
    logging.getLogger(record.name).handle(record)


@contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# From here on: in the worker.


def _serve(parent: Connection, start: _Start) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # the parent's turn
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # to look for cycles in what the fork server loaded would copy all of it
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    lock = threading.Lock()

    def tell(kind: str, said: Any) -> None:
        # What is destroyed while something is pickled may log as well.
        data = ForkingPickler.dumps((kind, said))
        with lock:
            parent.send_bytes(data)

    with terminable(), suppress(BrokenPipeError, EOFError, ConnectionResetError), own_scratch():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        try:
            attempt = _prepare(start, tell)
        except Exception as error:
            tell("broken", portable(error))
            return
        tell("ready", current_owner().token)
        while (item := parent.recv()) is not None:
            tell("done", attempt(item))


def _prepare(start: _Start, tell: Callable[[str, Any], None]) -> Callable[[int], Any]:
    apply_settings(start.settings)
    told = logging.getLogger("lacuna")
    told.handlers[:] = [_Teller(tell)]
    told.setLevel(start.level)
    warnings.showwarning = _show
    from lacuna.workflow.kernels import keep_kernels

    keep_kernels()
    attempt: Callable[[int], Any] = take_over(start.handed)
    return attempt


class _Teller(logging.Handler):
    """Sends what is logged to the parent, which knows where it goes."""

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        plain = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
        self._tell("log", logging.makeLogRecord({**plain, "msg": text}))


def _show(message: Warning | str, *_: object, **__: object) -> None:
    logging.getLogger("lacuna.warnings").warning("%s", message)


def _outlive_nobody() -> None:
    """Leave as on SIGTERM when the parent has gone without a word."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_S)
    os._exit(128 + signal.SIGTERM)


def portable(error: Exception) -> Exception:
    """Return an error that crosses processes: the same, or one that says the same."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def remove_unfinished(root: Path, token: str) -> None:
    """Remove the files that a worker was writing when it was killed."""
    if token:
        for path in root.rglob(f".*.{token}_*.part"):
            path.unlink(missing_ok=True)
