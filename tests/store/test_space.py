import errno
import os
import stat

import pytest

from lacuna.errors import CacheFullError
from lacuna.store import allocate, size_text


def test_allocate__reserves_blocks_and_reads_as_zeros(tmp_path):
    path = tmp_path / "points.npy"
    allocate(path, 1_000_001)
    assert path.read_bytes() == bytes(1_000_001)
    assert path.stat().st_blocks * 512 >= 1_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_allocate__writes_zeros_where_nothing_can_be_reserved(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    allocate(tmp_path / "a", 2_500_001)
    assert (tmp_path / "a").stat().st_size == 2_500_001
    assert (tmp_path / "a").stat().st_blocks * 512 >= 2_500_000


def test_allocate__nothing_is_a_file_too(tmp_path):
    allocate(tmp_path / "a", 0)
    assert (tmp_path / "a").stat().st_size == 0


def test_allocate__what_does_not_fit_leaves_nothing(tmp_path):
    with pytest.raises(CacheFullError, match=r"LACUNA_CACHE_DIR|cache_dir") as caught:
        allocate(tmp_path / "a", os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize * 2)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "a").exists()


def test_allocate__a_quota_that_stops_the_reservation_leaves_nothing(tmp_path, monkeypatch):
    def refuse(handle: int, start: int, n_bytes: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(CacheFullError, match="the disk quota is used up"):
        allocate(tmp_path / "a", 1000)
    assert not (tmp_path / "a").exists()


def test_allocate__never_replaces_a_file(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        allocate(tmp_path / "a", 10)
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "2 kB"), (8_500_000_000, "8.5 GB")],
)
def test_size_text__is_decimal(n_bytes, text):
    assert size_text(n_bytes) == text
