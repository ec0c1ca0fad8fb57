"""Temporary names: new, private, signed by their owner, and removed when they should be."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.errors import CacheDirError, CacheFullError
from lacuna.utils import owner
from lacuna.utils.cache import (
    configure_cache,
    get_temp_base_dir,
    get_temp_dir,
    make_temp_file,
    set_locations,
    temp_dir,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a temp base that does not exist yet."""
    configure_cache(tmp_dir=tmp_path / "base")
    return tmp_path / "base"


def visible(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir() if not path.name.startswith("."))


def records(base: Path) -> list[Path]:
    return sorted(base.glob(f"{owner.RECORD_PREFIX}*"))


def mark_of(name: str | Path) -> tuple[str, str]:
    """Return the token and the lifetime that a temporary name carries."""
    ((token, lifetime),) = re.findall(r"([0-9a-f]{12})_([pc])", Path(name).name)
    return token, lifetime


def test_temp_dir_of_caller__is_new_empty_private_and_directly_in_the_base(base):
    found = get_temp_dir(prefix="snm_sub01_")
    assert found.parent == base == get_temp_base_dir()
    assert found.name.startswith("snm_sub01_")
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert list(found.iterdir()) == []


def test_temp_dir_of_caller__outlives_the_process(tmp_path, run_script):
    configure_cache(tmp_dir=tmp_path / "base")
    (found,) = run_script("from lacuna.utils.cache import *; print(get_temp_dir('a_'))")
    assert Path(found).is_dir()
    assert len(records(tmp_path / "base")) == 1


def test_temp_dir_of_caller__never_the_same_for_many_threads(base):
    found = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.extend(get_temp_dir() for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 400
    assert len(records(base)) == 1


def test_temp_dir_of_caller__never_the_same_for_many_processes(base, run_script):
    lines = run_script(
        """
        import multiprocessing
        from lacuna.utils.cache import get_temp_dir
        def ask(barrier, queue):
            barrier.wait()
            queue.put([str(get_temp_dir()) for _ in range(25)])
        if __name__ == "__main__":
            context = multiprocessing.get_context("fork")
            get_temp_dir()  # children inherit an owner, and must not use it
            barrier, queue = context.Barrier(8), context.Queue()
            workers = [context.Process(target=ask, args=(barrier, queue)) for _ in range(8)]
            for worker in workers: worker.start()
            for _ in workers: print(*queue.get(), sep="\\n")
            for worker in workers: worker.join()
        """
    )
    assert len(set(lines)) == len(lines) == 200
    assert len({mark_of(line)[0] for line in lines}) == 8
    assert len(records(base)) == 9


@pytest.mark.parametrize("text", ["a/b", "/a", "../a", "..", "a\0b", "a\\b", "..\\a", "/", "\0"])
def test_prefix_and_suffix__that_lead_out_of_the_base_are_refused(text, base):
    for make in (
        lambda: get_temp_dir(text),
        lambda: make_temp_file(prefix=text),
        lambda: make_temp_file(suffix=text),
        lambda: temp_dir(text).__enter__(),
    ):
        with pytest.raises(ValueError, match=r"prefix|suffix"):
            make()
    assert not base.exists()


@given(st.text(max_size=20))
def test_prefix__whatever_it_is_the_directory_lies_in_the_base(prefix):
    base = get_temp_base_dir()
    try:
        found = get_temp_dir(prefix)
    except (ValueError, CacheDirError):
        return  # ValueError also for what no file system encodes
    assert found.parent == base
    assert found.resolve().parent == base.resolve()
    found.rmdir()


def test_prefix__too_long_says_so(base):
    with pytest.raises(CacheDirError, match="shorter"):
        get_temp_dir("x" * 300)
    assert visible(base) == []


def test_temp_names__a_mode_or_name_that_is_none_is_not_blamed_on_the_base(base):
    for make in (lambda: make_temp_file(mode="q"), lambda: get_temp_dir("\ud800")):
        with pytest.raises(ValueError, match=r"mode|encode"):
            make()
    assert list(base.iterdir()) == []


def test_temp_file__stays_and_can_be_opened_by_name(base):
    with make_temp_file(suffix=".nii.gz", prefix="mask_") as file:
        file.write(b"abc")
    path = Path(file.name)
    assert path.parent == base
    assert path.name.startswith("mask_")
    assert path.name.endswith(".nii.gz")
    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_temp_file__has_what_named_temporary_file_has(base):
    file = make_temp_file()
    assert file.mode == "rb+"
    file.close()
    assert Path(file.name).exists()


def test_temp_file__vanishes_when_asked_to(base):
    with make_temp_file(delete=True) as file:
        assert Path(file.name).exists()
    assert not Path(file.name).exists()


def test_temp_file__text_modes_work(base):
    with make_temp_file(mode="w+", suffix=".txt") as file:
        file.write("größer\n")
    assert Path(file.name).read_bytes() == "größer\n".encode()


def test_temp_names__carry_token_and_lifetime(base):
    token = owner.current_owner().token
    with (
        make_temp_file(suffix=".nii.gz", prefix="p_") as file,
        make_temp_file(delete=True) as vanishing,
        temp_dir("p_") as ours,
    ):
        names = {
            owner.CALLER: [get_temp_dir("p_").name, Path(file.name).name],
            owner.PROCESS: [ours.name, Path(vanishing.name).name],
        }
    for lifetime, made in names.items():
        for name in made:
            assert mark_of(name) == (token, lifetime)


def test_temp_names__the_record_is_there_before_the_first_name(base):
    with temp_dir():
        (record,) = records(base)
        assert owner.read_record(record) == owner.current_owner().record
        assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_temp_names__one_record_for_each_base(base, tmp_path):
    for _ in range(3):
        get_temp_dir()
    configure_cache(tmp_dir=tmp_path / "other")
    get_temp_dir()
    assert len(records(base)) == len(records(tmp_path / "other")) == 1


def test_own_scratch__marks_what_is_made_for_callers_as_the_process_s(base, run_script):
    lines = run_script(
        """
        import os
        from lacuna.utils.cache import get_temp_dir, make_temp_file
        from lacuna.utils.owner import own_scratch
        with own_scratch():
            print(get_temp_dir().name); print(make_temp_file().name, flush=True)
            if os.fork() == 0:
                print(get_temp_dir().name, flush=True)
                os._exit(0)
            os.wait()
        print(get_temp_dir().name)
        """
    )
    lifetimes = [mark_of(line)[1] for line in lines]
    assert lifetimes == [owner.PROCESS, owner.PROCESS, owner.CALLER, owner.CALLER]


def test_temp_base__that_a_purge_took_is_made_again_with_its_record(base):
    first = get_temp_dir()
    first.rmdir()
    for record in records(base):
        record.unlink()
    base.rmdir()
    assert get_temp_dir().is_dir()
    assert len(records(base)) == 1


def test_full_disk__is_an_error_of_its_own(base, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CacheFullError, match="No space left") as caught:
        get_temp_dir()
    assert caught.value.errno == 28
    assert " MB and " in str(caught.value)
    assert "inodes free on the disk). Make room there, or " in str(caught.value)
    assert list(base.iterdir()) == []


def test_context__removes_its_directory_and_leaves_nothing(base):
    with temp_dir(prefix="a_") as scratch:
        assert scratch.parent == base
        (scratch / "sub").mkdir()
        (scratch / "sub" / "file").write_text("x")
    assert list(base.iterdir()) == []


def test_context__nested_and_repeated_ones_do_not_disturb_each_other(base):
    with temp_dir() as outer:
        for _ in range(3):
            with temp_dir() as inner:
                assert inner != outer
        assert outer.is_dir()
        assert len(records(base)) == 1
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_context__removes_its_directory_when_an_exception_passes(error, base):
    def work() -> None:
        with temp_dir() as scratch:
            (scratch / "file").write_text("x")
            raise error

    with pytest.raises(error):
        work()
    assert list(base.iterdir()) == []


def test_context__removes_what_its_owner_may_not_enter(base):
    with temp_dir() as scratch:
        (scratch / "locked").mkdir()
        (scratch / "locked" / "file").write_text("x")
        (scratch / "locked").chmod(0o000)
    assert not scratch.exists()


def test_context__is_content_if_the_directory_is_gone_already(base):
    with temp_dir() as scratch:
        scratch.rmdir()
    assert list(base.iterdir()) == []


def test_context__does_not_follow_links_out(base, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with temp_dir() as scratch:
        (scratch / "link").symlink_to(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").exists()


def test_context__says_so_if_the_directory_cannot_be_removed(base, tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.warns(RuntimeWarning, match="could not be removed"), temp_dir() as scratch:
        scratch.rmdir()
        scratch.symlink_to(tmp_path / "precious")  # a removal that followed it would be worse
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("kept", ["1", "true", "YES"])
def test_context__keeps_its_directory_when_told_to(kept, base, monkeypatch):
    monkeypatch.setenv("LACUNA_KEEP_TMP", kept)
    with temp_dir() as scratch:
        (scratch / "file").write_text("x")
    assert (scratch / "file").exists()
    assert mark_of(scratch.name)[1] == owner.CALLER


@pytest.mark.parametrize("removed", ["", "0", "false", "No", "off"])
def test_context__removes_its_directory_when_told_not_to_keep_it(removed, base, monkeypatch):
    monkeypatch.setenv("LACUNA_KEEP_TMP", removed)
    with temp_dir() as scratch:
        pass
    assert not scratch.exists()


def test_keep_tmp__a_configuration_beats_the_variable(base, monkeypatch):
    monkeypatch.setenv("LACUNA_KEEP_TMP", "1")
    set_locations(keep_tmp=False)
    with temp_dir() as removed:
        pass
    monkeypatch.delenv("LACUNA_KEEP_TMP")
    set_locations(keep_tmp=True)
    with temp_dir() as kept:
        pass
    set_locations(keep_tmp=None)
    with temp_dir() as again:
        pass
    assert [path.exists() for path in (removed, kept, again)] == [False, True, False]


LEAVES = """
    import signal, sys, time
    from lacuna.utils.cache import temp_dir
    if {exits}:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with temp_dir() as scratch:
        (scratch / "file").write_text("x")
        print(scratch, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(("number", "exits"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_context__removes_its_directory_on_a_signal(number, exits, base, tmp_path):
    import textwrap

    source = textwrap.dedent(LEAVES.format(exits=exits))
    child = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert child.stdout is not None
    scratch = Path(child.stdout.readline().strip())
    assert scratch.is_dir()
    child.send_signal(number)
    child.wait(30)
    child.stdout.close()
    assert list(base.iterdir()) == []


def test_context__a_forked_child_that_leaves_it_removes_nothing(base, run_script):
    lines = run_script(
        """
        import os
        from lacuna.utils.cache import temp_dir
        with temp_dir() as scratch:
            child = os.fork()
            if child:
                os.wait()  # the child leaves the block first
                print(scratch.is_dir())
        if not child:
            os._exit(0)
        print(scratch.is_dir())
        """
    )
    assert lines == ["True", "False"]


def test_process__that_ends_leaves_no_record_where_no_name_is_left(base, run_script):
    run_script(
        """
        import os
        from lacuna.utils.cache import *
        get_temp_dir().rmdir()
        with make_temp_file() as file: os.unlink(file.name)
        make_temp_file(delete=True).close()
        """
    )
    assert list(base.iterdir()) == []


def test_process__a_forked_child_that_exits_leaves_the_parent_s_record(base, run_script):
    lines = run_script(
        """
        import os, sys
        from lacuna.utils.cache import *
        found = get_temp_dir(); found.rmdir()
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(len(list(found.parent.iterdir())))
        """
    )
    assert lines == ["1"]


def test_killed_process__leaves_names_whose_owner_is_proven_dead(base):
    code = (
        "from lacuna.utils.cache import temp_dir; import os\n"
        "with temp_dir() as d: print(d, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    scratch = Path(done.stdout.strip())
    (record,) = records(base)
    token, lifetime = mark_of(scratch)
    assert (record.name, lifetime) == (owner.record_name(token), owner.PROCESS)
    assert owner.verdict(json.loads(record.read_text()), base).state == "dead"


def test_scratch__is_fast_enough_to_be_asked_for_every_lesion(base):
    get_temp_dir()
    started = time.perf_counter()
    for _ in range(200):
        get_temp_dir()
    assert (time.perf_counter() - started) / 200 < 0.01  # a scan or a subprocess would show


def test_temp_names__threads_that_meet_an_absent_base_all_get_theirs(base):
    failures = []
    for n in range(20):
        configure_cache(tmp_dir=base / str(n))
        start = threading.Barrier(8)

        def ask(start: threading.Barrier = start) -> None:
            start.wait()
            try:
                with temp_dir():
                    pass
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list((base / str(n)).iterdir()) == []
    assert failures == []


def test_temp_base__under_two_names_has_one_record(base, tmp_path):
    get_temp_dir()
    (tmp_path / "link").symlink_to(base)
    configure_cache(tmp_dir=tmp_path / "link")
    get_temp_dir()
    assert len(records(base)) == 1
    for record in records(base):
        record.unlink()  # a purge takes old files, and not the directory
    with temp_dir():
        assert len(records(base)) == 1


def test_temp_base__under_two_names_keeps_its_record_while_a_name_is_left(base, tmp_path):
    (tmp_path / "link").symlink_to(base)
    kept = get_temp_dir()
    configure_cache(tmp_dir=tmp_path / "link")
    with temp_dir():
        pass
    assert len(records(base)) == 1
    kept.rmdir()
    with temp_dir():
        pass
    configure_cache(tmp_dir=base)
    get_temp_dir()
    assert len(records(base)) == 1
