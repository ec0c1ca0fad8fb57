"""The ``lacuna`` command: finds the command that was asked for, and runs it in order.

Exit codes: 0 all done; 1 it could not be done, or not for every lesion; 2 the command line is
wrong; 130 interrupted; 141 the reader of stdout went away; 128 and
its number for other signals: 143 terminated, 129 the terminal was closed.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from lacuna.errors import LacunaError, OptionError
from lacuna.utils.termination import terminable

COMMANDS = (
    "lacuna.cli.run",
    "lacuna.cli.status",
    "lacuna.cli.demo",
    "lacuna.cli.tdi",
    "lacuna.cli.fetch",
    "lacuna.cli.cache",
    "lacuna.cli.config",
)
"""The commands, in the order of the help: each has ``add_parser`` and ``run``.

``add_parser(subparsers)`` adds a parser with `lacuna.cli.options.common_options` as a parent.
``run(args)`` returns the exit code; it finds the settings in ``args.settings``, read and applied,
and runs with the scratch files of all libraries in the scratch directory. A parser whose default
``needs`` is ``"settings"`` gets no scratch directory; with ``"nothing"``, not even settings.
"""


def command() -> int:
    """Run the command line of this process, which ends with it, and return its exit code."""
    return main(ends_process=True)


def main(
    argv: Sequence[str] | None = None,
    commands: Sequence[str] = COMMANDS,
    *,
    ends_process: bool = False,
) -> int:
    """Run a command line and return its exit code."""
    args = build_parser(commands).parse_args(argv)
    try:
        with terminable(ends_process=ends_process), _messages(args), ExitStack() as stack:
            _prepare(args, stack)
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        print("lacuna: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Otherwise Python flushes stdout at exit, and complains again.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _report(error, debug=args.debug)


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="lacuna",
        description="What does a brain lesion disconnect?",
        epilog="`lacuna COMMAND --help` explains a command; `lacuna demo` shows what it does.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version of Lacuna and stop"
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name in commands:
        module = importlib.import_module(name)
        module.add_parser(subparsers)
        subparsers.choices[name.rpartition(".")[2]].set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Print the version; looked up only when asked for, as it reads the disk."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from lacuna import __version__

        print(f"lacuna {__version__}")
        parser.exit()


def _prepare(args: argparse.Namespace, stack: ExitStack) -> None:
    """Read and apply the settings, and keep libraries' scratch files where they say."""
    needs = getattr(args, "needs", "scratch")
    if needs == "nothing":
        return
    stack.callback(_record_usage)
    from lacuna.config import apply_settings, load_settings

    args.settings = load_settings(
        args.config,
        cache_dir=args.cache_dir,
        tmp_dir=args.tmp_dir,
        num_threads=getattr(args, "threads", None),
    )
    apply_settings(args.settings)
    if needs == "scratch":
        stack.enter_context(_scratch_environment())


def _record_usage() -> None:
    """Keep how often the cache had what was asked for, if it was asked."""
    if "lacuna.store" in sys.modules:
        from lacuna.store import record_usage

        record_usage()


@contextmanager
def _scratch_environment() -> Iterator[None]:
    """Make every library write its scratch files into one directory, which ends with the run.

    What it fetches goes below the cache.
    """
    import tempfile

    from lacuna.utils.cache import child_environment, library_environment, temp_dir
    from lacuna.utils.owner import own_scratch

    _reap_ended()
    with own_scratch(), temp_dir("lacuna_") as directory:
        ours = child_environment(directory) | library_environment()
        before = {name: os.environ[name] for name in ours if name in os.environ}
        os.environ.update(ours)
        tempfile.tempdir = None  # it remembers the directory of its first use
        try:
            yield
        finally:
            for name in ours:
                os.environ.pop(name, None)
            os.environ.update(before)
            tempfile.tempdir = None


def _reap_ended() -> None:
    """Remove what earlier runs left that were killed; on a full disk this one needs the space."""
    import logging

    from lacuna.store import reap_ended
    from lacuna.utils.locations import find_temp_base

    # Whatever is wrong there is reported, better, by those who need the place.
    with suppress(OSError):
        reaped = reap_ended(find_temp_base(make=False)[0])
        for item in reaped.removed:
            if item.lifetime:
                logging.getLogger(__name__).info("removed %s: %s", item.path, item.evidence)


@contextmanager
def _messages(args: argparse.Namespace) -> Iterator[None]:
    """Print warnings, and as much of the log as was asked for, to stderr."""
    import logging
    import warnings

    class Stderr(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
            print(f"lacuna: {level}{record.getMessage()}", file=sys.stderr)

    def show(message: Warning | str, *_: object, **__: object) -> None:
        logger.warning("%s", message)

    logger = logging.getLogger("lacuna")
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    handler, level_before = Stderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if args.quiet else level)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level_before)


def _report(error: Exception, *, debug: bool) -> int:
    """Print an error as one message and return the exit code for it."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, LacunaError):
        print(f"lacuna: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    advice = "" if debug else "; run it again with --debug to see where"
    kind = "" if isinstance(error, OSError) else f"unexpected {type(error).__name__}: "
    print(f"lacuna: error: {kind}{error}{advice}", file=sys.stderr)
    return 1
