"""Many processes ask for one missing key at once; a program, run by test_stress.

usage: python -m tests.store.race DIRECTORY N_PROCESSES HOLDERS_TO_KILL

Prints the number of builds that were begun. Fails if a process gets no whole entry.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tests.store.samples import key_of, leftovers

from lacuna.store import Store

KEY = key_of()
BUILD_S = 0.5
CONTENT = b"x" * 100_000


def ask(directory: Path, start: float, n_deaths: int) -> None:
    log = directory / "builds.log"

    def make(stage: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        (stage / "a.npy").write_bytes(CONTENT[:10])
        if len(log.read_text().splitlines()) <= n_deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(BUILD_S)
        (stage / "a.npy").write_bytes(CONTENT)

    time.sleep(max(0.0, start - time.time()))
    entry = Store(directory / "cache").get_or_make(KEY, make, on_wait=lambda _: None)
    os._exit(0 if (entry.path / "a.npy").read_bytes() == CONTENT else 1)


def race(directory: Path, n_processes: int, n_deaths: int) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    start = time.time() + 0.3
    children = []
    for _ in range(n_processes):
        child = os.fork()
        if child == 0:
            ask(directory, start, n_deaths)
        children.append(child)
    killed = 0
    for child in children:
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:
            assert os.WEXITSTATUS(status) == 0
    assert killed == n_deaths
    assert not leftovers(Store(directory / "cache"))
    return len((directory / "builds.log").read_text().splitlines())


if __name__ == "__main__":
    sys.stdout.write(f"{race(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))}\n")
