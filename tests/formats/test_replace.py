import errno
import os
import time
from pathlib import Path

import pytest

from lacuna.errors import CacheFullError
from lacuna.formats.replace import MOST_PENDING, reaching_disk, replacing
from lacuna.utils.owner import current_owner


def test_replacing__the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "map.nii.gz"
    path.write_bytes(b"old")
    with replacing(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        (beside,) = set(tmp_path.iterdir()) - {path}
        assert current_owner().token in beside.name
        assert beside.name.startswith(".")
        assert not list(tmp_path.glob("*.nii.gz"))[1:]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_replacing__what_was_begun_is_removed_on_any_exception(tmp_path, error):
    path = tmp_path / "a.tck"

    def write_half():
        with replacing(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_replacing__on_a_full_disk_says_which_folder_and_what_to_do(tmp_path, number):
    def write(*where):
        with replacing(tmp_path / "map.nii.gz"):
            raise OSError(number, os.strerror(number), *where)

    with pytest.raises(CacheFullError) as caught:
        write()
    assert f"map.nii.gz could not be written to {tmp_path}: {os.strerror(number)}; " in str(
        caught.value
    )
    assert "MB are free on the disk. Make room there" in str(caught.value)
    assert caught.value.errno == number
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="another") as caught:
        write("/another/place")
    assert not isinstance(caught.value, CacheFullError)


def test_replacing__names_as_long_as_a_file_system_allows(tmp_path):
    path = tmp_path / ("a" * 248 + ".nii.gz")
    with replacing(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"


def count_open():
    return len(list(Path("/dev/fd").iterdir()))


def test_reaching_disk__keeps_few_files_open_however_slow_the_disk(tmp_path, monkeypatch):
    most = 0

    def slow(_handle):
        nonlocal most
        time.sleep(0.01)
        most = max(most, count_open())

    before = count_open()
    monkeypatch.setattr(os, "fsync", slow)
    with reaching_disk():
        for number in range(60):
            with replacing(tmp_path / f"{number}") as stream:
                stream.write(b"x")
    assert most <= before + MOST_PENDING + 2
    assert len(list(tmp_path.iterdir())) == 60
    assert count_open() <= before


def test_reaching_disk__tells_in_the_end_what_could_not_be_kept(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused = pytest.raises(CacheFullError, match="could not be written")
    with refused, reaching_disk(), replacing(tmp_path / "x") as stream:
        stream.write(b"x")
