"""What a path lies on, and what is left there."""

import os
import pickle
from pathlib import Path

import pytest

from lacuna.utils.cache import configure_cache, describe
from lacuna.utils.filesystem import (
    filesystem_type,
    free_space,
    is_local,
    is_writable,
    nearest_existing,
)

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:40 / /proc/self rw shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /proc/self/fd rw - tmpfs tmpfs rw
32 31 0:42 / /proc/self/fd rw - lustre mgs@tcp:/scratch rw
33 22 0:43 / /with\\040space rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/nowhere/at/all", "ext4"),
        ("/proc", "proc"),
        ("/processes", "ext4"),
    ],
)
def test_filesystem_type__is_that_of_the_innermost_mount(path, kind):
    assert filesystem_type(path, MOUNTS) == kind


def test_filesystem_type__a_later_mount_hides_an_earlier_one(tmp_path):
    mounts = "\n".join(
        f"{n} 1 0:{n} / {tmp_path} rw - {kind} x rw" for n, kind in enumerate(["tmpfs", "lustre"])
    )
    assert filesystem_type(tmp_path / "not" / "there", mounts) == "lustre"


def test_filesystem_type__mount_points_may_hold_spaces(tmp_path):
    place = tmp_path / "with space"
    place.mkdir()
    mounts = f"1 1 0:1 / {str(place).replace(' ', chr(92) + '040')} rw - xfs x rw"
    assert filesystem_type(place, mounts) == "xfs"


def test_filesystem_type__follows_links(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mounts = f"1 1 0:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path / 'real'} rw - nfs x rw"
    assert filesystem_type(tmp_path / "link" / "file", mounts) == "nfs"


def test_filesystem_type__of_this_machine_is_known():
    if Path("/proc/self/mountinfo").exists():
        assert filesystem_type("/proc") == "proc"
        assert not is_local("/proc")


def test_filesystem_type__nothing_known_is_none_and_not_local():
    assert filesystem_type("/", "") is None


def test_free_space__counts_bytes_and_inodes(tmp_path):
    n_bytes, n_inodes = free_space(tmp_path / "not" / "there")
    facts = os.statvfs(tmp_path)
    assert n_bytes == pytest.approx(facts.f_bavail * facts.f_frsize, rel=0.1)
    assert n_inodes is None or n_inodes > 0


def test_free_space__inodes_are_none_where_none_are_counted():
    assert free_space("/proc")[1] is None


def test_nearest_existing__is_the_path_or_its_closest_ancestor(tmp_path):
    assert nearest_existing(tmp_path) == str(tmp_path)
    assert nearest_existing(tmp_path / "a" / "b") == str(tmp_path)


def test_is_writable__asks_for_the_place_where_it_would_be_made(tmp_path, refused_permissions):
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o500)
    assert is_writable(tmp_path / "a" / "b")
    assert not is_writable(tmp_path / "file" / "b")
    assert not is_writable(tmp_path / "locked")
    assert not is_writable(tmp_path / "locked" / "b")


def test_location__survives_pickling(tmp_path):
    configure_cache(tmp_path)
    place = pickle.loads(pickle.dumps(describe()[0]))
    assert (place.path, place.source, place.exists) == (tmp_path, "configure_cache()", True)
