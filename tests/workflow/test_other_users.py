"""A cache that one user filled and another only reads: in a container, on a site's disk, or with
no home directory to write in.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.members import GROUP, Member
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.geometry.grid import Grid

pytestmark = pytest.mark.root

GRID = Grid((20, 20, 1), np.eye(4))
ADMIN, READER = 5001, 5002


@pytest.fixture
def commons(tmp_path: Path) -> Path:
    """Return a directory in which anyone may make something, with a tractogram and a lesion."""
    tmp_path.chmod(0o755)
    place = tmp_path / "commons"
    place.mkdir()
    place.chmod(0o1777)
    write_tck(place / "tract.tck", parallel_tract(20)[0])
    (place / "tract.json").write_text('{"Space": "StudySpace"}')
    write_nifti(place / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :5] = 1
    write_nifti(place / "lesion_space-StudySpace.nii.gz", mask, GRID)
    return place


@pytest.fixture
def warm(commons: Path) -> Path:
    """Return a cache with all that a run needs, which its maker let everyone read."""
    admin = Member(commons.parent, ADMIN, groups=())
    warmed = ("--tractogram", commons / "tract.tck", "--grid", commons / "grid.nii.gz")
    admin.lacuna("cache", "warm", *warmed, "--cache-dir", commons / "site")
    admin.call("chmod", "-R", "a+rX", str(commons / "site"))
    return commons / "site"


def facts(root: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of all that lies below a root."""
    status = {str(path): path.lstat() for path in (root, *root.rglob("*"))}
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns) for path, s in status.items()}


def run_snm(reader: Member, commons: Path, **environment: object) -> str:
    """Run an analysis as another user; return what it said."""
    lesion, out = commons / "lesion_space-StudySpace.nii.gz", commons / "out"
    files = ("--tractogram", commons / "tract.tck", "--grid", commons / "grid.nii.gz")
    said = reader.lacuna(
        *("run", "snm", lesion, out, *files, "--min-tdi", 1, "--no-figures"), **environment
    )[1]
    assert "1 of 1 lesions done" in said
    assert next(out.rglob("*desc-summary_stats.tsv")).stat().st_uid == reader.uid
    shutil.rmtree(out)
    return said


@pytest.mark.parametrize("is_mounted", [False, True], ids=["by-permissions", "by-mount"])
def test_read_only_cache__with_scratch_elsewhere_is_enough_for_a_run(warm, commons, is_mounted):
    if is_mounted:
        subprocess.run(["chmod", "-R", "a+rwX", str(warm)], check=True)
    before = facts(warm)
    reader = Member(commons.parent, READER, groups=(), read_only=(warm,) if is_mounted else ())
    places = {"LACUNA_CACHE_DIR": warm, "LACUNA_TMP_DIR": commons / "scratch"}
    said = run_snm(reader, commons, **places)
    assert "building" not in said
    assert facts(warm) == before
    # Files that are younger than two seconds are not remembered: it may be that there is no memo.
    assert {path.name for path in (commons / "scratch").iterdir()} <= {f".memo-{READER}"}
    shown = reader.lacuna("cache", "info", **places)[0]
    assert "exists, not writable" in shown


def test_read_only_cache__without_scratch_says_what_to_set(warm, commons):
    reader = Member(commons.parent, READER, groups=())
    said = reader.lacuna("tdi", "a.tck", "b.nii", LACUNA_CACHE_DIR=warm, code=1)[1]
    assert "LACUNA_TMP_DIR" in said


@pytest.mark.parametrize("is_mounted", [False, True], ids=["by-permissions", "by-mount"])
def test_shared_cache__is_read_and_the_own_one_gets_what_is_not_there(warm, commons, is_mounted):
    if is_mounted:
        subprocess.run(["chmod", "-R", "a+rwX", str(warm)], check=True)
    before = facts(warm)
    reader = Member(commons.parent, READER, groups=(), read_only=(warm,) if is_mounted else ())
    own = commons / "own"
    places = {"LACUNA_CACHE_DIR": own, "LACUNA_SHARED_CACHE_DIRS": warm}
    run_snm(reader, commons, **places)
    assert not list(own.glob("tdi/v*"))
    grid = ("--grid", commons / "grid.nii.gz", "--rule", "vertex")
    reader.lacuna("tdi", commons / "tract.tck", commons / "map.nii.gz", *grid, **places)
    assert len(list(own.glob("tdi/v1/*/*/meta.json"))) == 1
    assert facts(warm) == before


def test_shared_caches__the_first_that_has_an_entry_gives_it(warm, commons):
    shutil.copytree(warm, commons / "second")
    payload = next((commons / "site" / "tdi").rglob("meta.json"))
    payload.unlink()  # damage is a miss there, and another root has it
    reader = Member(commons.parent, READER, groups=())
    shared = f"{warm}:{commons / 'second'}"
    run_snm(reader, commons, LACUNA_CACHE_DIR=commons / "own", LACUNA_SHARED_CACHE_DIRS=shared)
    assert not list((commons / "own").glob("tdi/v*"))
    assert not payload.exists()
    listed = reader.lacuna(
        "cache", "list", LACUNA_CACHE_DIR=commons / "own", LACUNA_SHARED_CACHE_DIRS=shared
    )[0]
    assert f"in {warm}" in listed
    assert f"in {commons / 'second'}" in listed


@pytest.mark.parametrize("home", ["/no/home", "/", "read-only", "closed"])
def test_home__that_cannot_be_used_is_replaced_and_said(commons, home):
    place = commons / home
    if home in ("read-only", "closed"):
        place.mkdir(mode=0o555 if home == "read-only" else 0o700)
    (commons / "temp").mkdir()
    (commons / "temp").chmod(0o1777)
    reader = Member(commons.parent, READER, groups=())
    said = run_snm(reader, commons, HOME=place, TMPDIR=commons / "temp")
    assert "LACUNA_CACHE_DIR" in said
    own = commons / "temp" / f"lacuna-{READER}"
    assert own.stat().st_uid == READER
    assert own.stat().st_mode & 0o777 == 0o700
    assert list(own.glob("tdi/v1/*/*/meta.json"))
    chosen = reader.lacuna("cache", "dir", HOME=place, LACUNA_CACHE_DIR=commons / "own")
    assert chosen == (f"{commons / 'own'}\n", "")


def test_doctor__tells_a_stranger_which_group_to_ask_for(commons):
    group = commons / "group"
    group.mkdir()
    os.chown(group, ADMIN, GROUP)
    group.chmod(0o2770)
    stranger = Member(commons.parent, READER, groups=())
    said = stranger.lacuna("cache", "doctor", group, LACUNA_CACHE_DIR=commons / "own", code=1)[0]
    assert f"You (uid {READER}) are not in group {GROUP}." in said
    assert "Ask to be added, and log in anew." in said
    assert "chmod" not in said


@pytest.mark.parametrize("is_mounted", [False, True], ids=["by-permissions", "by-mount"])
def test_run__reads_a_dataset_of_others_that_cannot_be_written_with_a_shared_cache(
    warm, commons, is_mounted
):
    raw = commons / "raw"
    folder = raw / "sub-1" / "anat"
    folder.mkdir(parents=True)
    mask = commons / "lesion_space-StudySpace.nii.gz"
    shutil.copy(mask, folder / "sub-1_space-StudySpace_label-lesion_mask.nii.gz")
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    subprocess.run(["chown", "-R", str(ADMIN), str(raw)], check=True)
    for path in (raw, raw / "sub-1", folder):
        path.chmod(0o777 if is_mounted else 0o555)
    before = facts(raw), facts(warm)
    places = (raw, warm) if is_mounted else ()
    reader = Member(commons.parent, READER, groups=(), read_only=places)
    files = ("--tractogram", commons / "tract.tck", "--grid", commons / "grid.nii.gz")
    said = reader.lacuna(
        *("run", "snm", raw, commons / "out", *files, "--min-tdi", 1, "--no-figures"),
        *("-w", commons / "work"),
        LACUNA_CACHE_DIR=commons / "own",
        LACUNA_SHARED_CACHE_DIRS=warm,
    )[1]
    assert "1 of 1 lesions done" in said
    assert "building" not in said
    assert (commons / "out" / "sub-1.html").stat().st_uid == READER
    assert (commons / "work").is_dir()
    assert (facts(raw), facts(warm)) == before
