import os
import stat
import threading
import time
from pathlib import Path

import pytest

from lacuna.errors import CacheDirError
from lacuna.utils import cache
from lacuna.utils.modes import is_shared, make_directory, share_directory, share_file
from lacuna.utils.owner import write_record


@pytest.fixture(params=[0o077, 0o002], ids=["strict", "lax"])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def shared(tmp_path, umask):
    """Return a directory that is a group's, and empty."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o2770)
    return directory


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def make_file(path: Path) -> Path:
    handle = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    share_file(handle, path.parent)
    os.close(handle)
    return path


def test_make_directory__below_a_groups_is_the_groups_all_the_way_down(shared):
    make_directory(f"{shared}/a")
    make_directory(f"{shared}/a/b")
    assert (mode(shared / "a"), mode(shared / "a" / "b")) == ("2770", "2770")
    assert mode(make_file(shared / "a" / "b" / "file")) == "660"


@pytest.mark.parametrize("above", [0o700, 0o755, 0o770, 0o777, 0o2755])
def test_make_directory__elsewhere_is_private(tmp_path, umask, above):
    directory = tmp_path / "above"
    directory.mkdir()
    directory.chmod(above)
    make_directory(f"{directory}/a")
    assert stat.S_IMODE((directory / "a").stat().st_mode) & 0o777 == 0o700
    assert mode(make_file(directory / "file")) == "600"


def test_make_directory__what_is_there_stays_as_it_is(shared):
    for name, bits in (("open", 0o2775), ("private", 0o700)):
        (shared / name).mkdir()
        (shared / name).chmod(bits)
        make_directory(f"{shared}/{name}")
        assert mode(shared / name) == f"{bits:o}"
    (shared / "link").symlink_to("open")
    assert stat.S_ISLNK(make_directory(f"{shared}/link").st_mode)


def test_make_directory__one_that_was_never_shared_is_made_anew_if_it_is_empty(shared):
    for name in ("empty", "full"):
        (shared / name).mkdir(mode=0o700)
        (shared / name).chmod(0o2700)
    (shared / "full" / "file").touch()
    for name in ("empty", "full"):
        make_directory(f"{shared}/{name}")
    assert (mode(shared / "empty"), mode(shared / "full")) == ("2770", "2700")


def test_make_directory__waits_for_another_who_is_about_to_share_it(shared):
    (shared / "a").mkdir()
    (shared / "a").chmod(0o2700)
    inode = (shared / "a").stat().st_ino
    timer = threading.Timer(0.03, (shared / "a").chmod, (0o2770,))
    timer.start()
    assert make_directory(f"{shared}/a").st_ino == inode
    timer.join()


def test_make_directory__without_a_parent_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_directory(f"{tmp_path}/absent/a")


def test_share_directory__a_link_is_refused(shared, tmp_path):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (shared / "link").symlink_to(private)
    with pytest.raises(OSError, match=r"link"):
        share_directory(f"{shared}/link")
    assert mode(private) == "700"


def test_is_shared__absent_is_not(tmp_path):
    assert not is_shared(tmp_path / "absent")


def test_record__the_group_reads_it_and_only_the_owner_writes(shared, tmp_path):
    for directory, bits in ((shared, "640"), (tmp_path, "600")):
        write_record(directory / "record")
        assert mode(directory / "record") == bits


def test_cache_directories__below_a_groups_root_are_shared_and_scratch_is_not(shared, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(shared))
    assert mode(cache.get_tdi_cache_dir()) == mode(cache.get_transform_cache_dir()) == "2770"
    assert mode(cache.get_temp_base_dir()) == "3770"
    scratch = cache.get_temp_dir("run_")
    assert stat.S_IMODE(scratch.stat().st_mode) & 0o777 == 0o700
    with cache.make_temp_file() as file:
        assert mode(Path(file.name)) == "600"


def test_temp_dir__first_in_an_empty_groups_root_makes_a_sticky_base(shared, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(shared))
    cache.get_temp_dir()
    assert mode(shared / "tmp") == "3770"


@pytest.mark.parametrize("variable", ["LACUNA_CACHE_DIR", "LACUNA_TMP_DIR"])
def test_root__that_is_made_in_a_groups_directory_is_private(shared, monkeypatch, variable):
    monkeypatch.setenv(variable, str(shared / "mine"))
    find = cache.get_cache_dir if variable == "LACUNA_CACHE_DIR" else cache.get_temp_base_dir
    assert not is_shared(find())
    assert stat.S_IMODE(find().stat().st_mode) & 0o777 == 0o700


def test_cache_directories__a_file_in_their_place_is_an_error(shared, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(shared))
    (shared / "tdi").touch()
    with pytest.raises(CacheDirError, match="is not a directory"):
        cache.get_tdi_cache_dir()


def test_matplotlib__reads_no_settings_from_a_base_that_a_group_shares(shared, monkeypatch):
    monkeypatch.setenv("LACUNA_TMP_DIR", str(shared))
    assert "MPLCONFIGDIR" not in cache.child_environment()
    assert "MPLCONFIGDIR" in cache.child_environment(shared / "mine")


def test_other_libraries__keep_nothing_in_a_groups_root(shared, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(shared))
    assert cache.library_environment() == {}


def test_make_directory__costs_no_pause_where_nothing_is_shared(tmp_path):
    tmp_path.chmod(0o2700)
    started = time.perf_counter()
    for _ in range(10):
        make_directory(f"{tmp_path}/a")
    assert time.perf_counter() - started < 0.1
