import pytest

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


def test_replacing__names_as_long_as_a_file_system_allows(tmp_path):
    path = tmp_path / ("a" * 248 + ".nii.gz")
    with replacing(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"
