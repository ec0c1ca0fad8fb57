"""Who uses or builds an entry in another container, or on another host, keeps it."""

import os
import subprocess
import sys

import pytest
from tests.store.samples import Maker, key_of, leftovers, unused
from tests.store.test_reap import AWAY, ROOT

from lacuna.store import Store

pytestmark = pytest.mark.faults

START = """
import sys
from lacuna.store import Store
from tests.store.samples import Maker, key_of
def wait(stage=None):
    (stage / "half").touch() if stage else None
    print("ready", flush=True)
    sys.stdin.read()
    Maker()(stage) if stage else None
store = Store(sys.argv[1])
"""
USE = f"{START}\nwith store.get_or_make(key_of(), Maker()):\n    wait()\n"
BUILD = f"{START}\nstore.get_or_make(key_of(), wait)\n"


@pytest.fixture(params=AWAY)
def start(request, store, tmp_path):
    """Return a function that starts a program there, and waits until it is where it should be."""
    (tmp_path / "boot_id").write_text("11111111-2222-4333-8444-555555555555\n")
    words = [
        str(tmp_path / "boot_id") if word == "BOOT_ID" else word for word in AWAY[request.param]
    ]
    started = []

    def begin(program):
        process = subprocess.Popen(
            [*words, sys.executable, "-c", program, str(store.root)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.communicate(timeout=60)


def test_lease__of_whom_nothing_can_be_proven_keeps_the_entry(store, start):
    user = start(USE)
    (lease,) = (store.root / ".leases").iterdir()
    os.utime(lease, (1, 1))
    entry = unused(store.find(key_of()))
    plan = store.plan_prune(max_size=0)
    assert "in use by" in plan.kept[0].reason
    store.plan_clear(force=True).execute()
    assert (entry.path / "offsets.npy").exists()
    assert lease.exists()
    user.communicate()
    assert user.returncode == 0
    unused(entry)
    assert len(store.plan_prune(max_size=0).execute().removed) == 1


def test_builder__of_whom_nothing_can_be_proven_keeps_its_stage(store, start):
    builder, told = start(BUILD), []
    (stage,) = (store.root / ".stage").iterdir()
    here = Store(store.root, foreign_wait_s=0.2)
    entry = here.get_or_make(key_of(), Maker(), on_wait=told.append)
    assert "Building" in told[-1]
    here.plan_clear(lambda _: False).execute()
    assert (stage / "half").exists()
    builder.communicate()
    assert builder.returncode == 0
    assert (entry.path / "offsets.npy").exists()
    assert not leftovers(store)
