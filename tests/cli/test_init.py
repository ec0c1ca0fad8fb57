"""``lacuna cache init``: a root for one user, or for a group that this user is in."""

import json
import os
import stat
from pathlib import Path

import pytest

from lacuna.cli.cache.init import group_name
from lacuna.cli.main import main
from lacuna.store import Key, Store, group_of

OURS = os.getegid() if hasattr(os, "getegid") else 0


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def init(*words, code=0):
    assert main(["cache", "init", *map(str, words)]) == code


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def keep(root: Path, number: int = 0) -> Path:
    def make(directory: Path) -> None:
        (directory / "part").mkdir()
        (directory / "part" / "a.npy").write_bytes(b"kept")

    return Store(root).get_or_make(Key("map", {"number": number}), make).path


def contents(root: Path) -> dict[str, tuple[str, float]]:
    return {str(path): (mode(path), path.stat().st_mtime) for path in (root, *root.rglob("*"))}


def test_init__makes_and_marks_a_private_root(root, capsys):
    init()
    assert capsys.readouterr().out == f"cache: {root}\n  private\n"
    assert mode(root) == "700"
    assert {path.name for path in root.iterdir()} == {".lacuna-cache", "CACHEDIR.TAG"}
    assert {mode(path) for path in root.iterdir()} == {"600"}


def test_init__for_a_group_makes_all_that_its_members_share(root, capsys):
    init("--group", group_name(OURS))
    assert f"shared with group {group_name(OURS)}" in capsys.readouterr().out
    assert group_of(root) == OURS
    assert (root / ".lacuna-cache").is_file()
    shared = {path for path in root.iterdir() if path.is_dir() and path.name != "tmp"}
    assert {path.name for path in shared} >= {"tdi", "downloads", ".stage", ".trash", ".leases"}
    assert {mode(path) for path in (root, *shared)} == {"2770"}
    assert mode(root / "tmp") == "3770"
    assert not {".memo", ".kernels"} & {path.name for path in root.iterdir()}


@pytest.mark.parametrize("words", [(), ("--group", OURS)])
def test_init__on_a_root_of_ours_changes_nothing(root, capsys, words):
    init(*words)
    keep(root)
    init(*words)  # the first that counts what this process asked for
    before = contents(root)
    init(*words)
    init()
    assert contents(root) == before


def test_init__a_private_root_with_entries_becomes_the_groups(root, capsys):
    entry = keep(root)
    (root / ".kernels").mkdir(mode=0o700)
    init("--group", OURS)
    below = set(entry.rglob("*"))
    assert {mode(path) for path in (entry, *entry.parents) if root in path.parents} == {"2770"}
    assert {mode(path) for path in below if path.is_file()} == {"660"}
    assert {mode(path) for path in below if path.is_dir()} == {"2770"}
    assert mode(root / ".kernels") in ("700", "2700")
    assert keep(root) == entry


def test_init__mends_what_members_cannot_use(root, capsys):
    init("--group", OURS)
    entry = keep(root)
    (entry / "part" / "a.npy").chmod(0o600)
    (entry / "part").chmod(0o700)
    init("--group", OURS)
    assert (mode(entry / "part"), mode(entry / "part" / "a.npy")) == ("2770", "660")


def test_init__does_not_share_what_a_link_leads_to(root, tmp_path, capsys):
    init("--group", OURS)
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").touch(0o600)
    (root / "tdi" / "link").symlink_to(secret)
    (root / "tdi" / "key").symlink_to(secret / "key")
    init("--group", OURS)
    assert (mode(secret), mode(secret / "key")) == ("700", "600")


def test_init__json(root, capsys):
    init("--json", "--group", OURS)
    assert json.loads(capsys.readouterr().out) == {"path": str(root), "group": group_name(OURS)}


def test_info__says_whose_the_root_is(root, capsys):
    init("--group", OURS)
    capsys.readouterr()
    main(["cache", "info", "--json"])
    assert json.loads(capsys.readouterr().out)["group"] == group_name(OURS)
    main(["cache", "info"])
    assert f"shared with group {group_name(OURS)}" in capsys.readouterr().out


def test_init__a_directory_with_other_data_is_refused(root, capsys):
    root.mkdir()
    (root / "thesis.docx").touch()
    for words in ((), ("--group", OURS)):
        init(*words, code=1)
        said = capsys.readouterr().err
        assert f"{root} holds other data, such as {root}/thesis.docx" in said
        assert "--cache-dir" in said
    assert [path.name for path in root.iterdir()] == ["thesis.docx"]


def test_init__files_of_others_among_the_entries_are_not_given_to_a_group(root, capsys):
    keep(root)
    (root / "tdi" / "mine.nii").touch()
    init("--group", OURS, code=1)
    assert "mine.nii" in capsys.readouterr().err
    assert mode(root) == "700"


def test_init__group_that_does_not_exist_is_refused(root, capsys):
    init("--group", "no-such-group", code=2)
    assert "no group 'no-such-group'" in capsys.readouterr().err
    assert not root.exists()


def test_init__says_what_shuts_the_group_out(root, tmp_path, capsys):
    tmp_path.chmod(0o700)
    init("--group", OURS)
    said = capsys.readouterr().err
    assert "is closed to the group" in said
