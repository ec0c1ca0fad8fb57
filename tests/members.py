"""Processes of other users, by number: no account is needed, and nothing of theirs is ours.

The interpreter, the source and the test's own directory may lie behind directories that only we
may enter (a checkout in /root, pytest's base). Each process then gets a mount namespace in which
just these are shown, at the paths that they have.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = 6000
LACUNA = "import sys; from lacuna.cli.main import main; sys.exit(main())"
NEEDED = (sys.base_prefix, sys.prefix, str(ROOT))


@dataclass(frozen=True)
class Member:
    """A user, a directory whose tests it takes part in, and how it was set up."""

    directory: Path
    uid: int
    umask: int = 0o077
    groups: tuple[int, ...] = (GROUP,)
    environment: dict[str, str] = field(default_factory=dict)
    read_only: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Say at once what no mount can help with: files that were made under a strict umask."""
        for file in (ROOT / "src" / "lacuna" / "__init__.py", Path(sys.prefix) / "pyvenv.cfg"):
            may_read = file.stat().st_mode & 0o004
            assert may_read, f"other users cannot read {file}: chmod -R a+rX its directory"

    def start(self, *command: str, **environment: object) -> "subprocess.Popen[str]":
        ours = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
        given = {name: str(value) for name, value in environment.items()}
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        user = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", groups, "--")
        masked = ("sh", "-c", f'umask {self.umask:03o} && exec "$@"', "sh")
        return subprocess.Popen(
            [*self._shown(), *user, *masked, *command],
            env=ours | self._kernels() | self.environment | given,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *command: str, code: int = 0, **environment: object) -> str:
        """Return what a program wrote to stdout; what it wrote to stderr must not matter."""
        return self.both(*command, code=code, **environment)[0]

    def both(self, *command: str, code: int = 0, **environment: object) -> tuple[str, str]:
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, f"{process.returncode}: {out}\n{err[-4000:]}"
        return out, err

    def python(self, text: str, *arguments: object, **environment: object) -> str:
        program = (sys.executable, "-c", text, *map(str, arguments))
        return self.call(*program, **environment).strip()

    def lacuna(self, *arguments: object, code: int = 0, **environment: object) -> tuple[str, str]:
        program = (sys.executable, "-c", LACUNA, *map(str, arguments))
        return self.both(*program, code=code, **environment)

    def _kernels(self) -> dict[str, str]:
        """Return where this user's compiled kernels are kept from test to test."""
        directory = ROOT / ".pytest_cache" / f"kernels-{self.uid}"
        with contextlib.suppress(OSError):  # in a read-only checkout every process compiles
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chown(directory, self.uid, self.uid)
        return {"NUMBA_CACHE_DIR": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}

    def _shown(self) -> list[str]:
        script = show_to_all([*NEEDED, str(self.directory)])
        for path in map(shlex.quote, map(str, self.read_only)):
            script += [f"mount --bind {path} {path}", f"mount -o remount,ro,bind {path}"]
        if not script:
            return []
        text = "\n".join(["set -e", "umask 022", *script, f"cd {self.directory}", 'exec "$@"'])
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", text, "sh"]


def show_to_all(paths: Sequence[str]) -> list[str]:
    """Return the shell commands that show paths which only we can reach, and nothing else there."""
    wanted = [part for path in map(os.path.realpath, paths) for part in parts_of(path)]
    closed = {path: top for path in wanted if (top := closed_above(path))}
    if not closed:
        return []
    places = [Path(place) for place in ("/mnt", "/media", "/srv", "/opt")]
    free = next(p for p in places if p.is_dir() and p not in all_above(closed))
    aside = [f"aside={free}", 'mount -t tmpfs -o mode=755 none "$aside"']
    back = []
    for number, path in enumerate(closed):
        make = "mkdir -p" if Path(path).is_dir() else "touch"
        here, there = shlex.quote(path), f'"$aside/{number}"'
        aside += [f"{make} {there}", f"mount --bind {here} {there}"]
        back += [f"mkdir -p {shlex.quote(str(Path(path).parent))}", f"{make} {here}"]
        back += [f"mount --bind {there} {here}"]
    tops = [f"mount -t tmpfs -o mode=755 none {shlex.quote(top)}" for top in set(closed.values())]
    return [*aside, *tops, *back]


def parts_of(path: str) -> list[str]:
    """Return a path, or what is in it, if others may not enter it."""
    is_open = Path(path).stat().st_mode & 0o001
    return [path] if is_open else [item.path for item in os.scandir(path) if not item.is_symlink()]


def all_above(paths: Iterable[str]) -> set[Path]:
    return {above for path in paths for above in Path(path).parents}


def closed_above(path: str) -> str | None:
    """Return the first directory on the way to a path that others cannot enter."""
    for above in reversed(Path(path).parents):
        if not above.stat().st_mode & 0o001:
            return str(above)
    return None
