import errno
import os

import pytest

from lacuna.errors import CacheFullError
from lacuna.formats.replace import replacing
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
