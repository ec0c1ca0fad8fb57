"""``lacuna cache``: dir, info, list, verify, clear, warm."""

import io
import json
import os
import time

import numpy as np
import pytest

from lacuna.cli.main import main
from lacuna.formats.tck import save_tck
from lacuna.store import Key, Store


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the cache directory of the command line."""
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


def keep(root, label, *, product="map", n_bytes=1000, unused_for_s=0.0):
    """Put an entry into a cache, last used some time ago."""
    entry = Store(root).get_or_make(
        Key(product, {"label": label}, {}, label),
        lambda place: place.joinpath("payload.bin").write_bytes(b"x" * n_bytes),
    )
    used_at = time.time() - unused_for_s
    os.utime(entry.path / "meta.json", (used_at, used_at))
    return entry


@pytest.fixture
def filled(root):
    """Return three entries: a large old map, a small map of this week, hits of an hour ago."""
    return {
        "old": keep(root, "tdi map old", n_bytes=50_000, unused_for_s=40 * 86_400),
        "week": keep(root, "tdi map week", unused_for_s=5 * 86_400),
        "fresh": keep(root, "hits fresh", product="hits", n_bytes=2000, unused_for_s=3600),
    }


def run(*argv, code=0):
    assert main(["cache", *argv]) == code


def output(capsys, *argv, code=0):
    run(*argv, code=code)
    return capsys.readouterr().out


def labels(capsys, *argv):
    return [row["label"] for row in json.loads(output(capsys, "list", "--json", *argv))]


def flip_byte(entry):
    path = entry.path / "payload.bin"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def answer(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


# dir


def test_dir__prints_the_cache_directory_and_nothing_else(root, capsys):
    assert output(capsys, "dir") == f"{root}\n"


def test_dir__json_has_all_locations(root, capsys):
    shown = json.loads(output(capsys, "dir", "--json"))
    assert shown["cache"] == str(root)
    assert shown["temp"] == str(root / "tmp")
    assert set(shown) == {"cache", "tdi", "transforms", "temp"}


def test_dir__obeys_the_option(tmp_path, root, capsys):
    assert output(capsys, "dir", "--cache-dir", "other") == f"{tmp_path}/other\n"


def test_dir__creates_nothing(root, capsys):
    run("dir")
    assert not root.exists()


def test_dir__location_that_cannot_be_told_is_an_error(monkeypatch, capsys):
    monkeypatch.setenv("LACUNA_CACHE_DIR", "$ABSENT/kept")
    run("dir", code=1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ABSENT" in captured.err


# info


def test_info__says_who_chose_each_location_and_how_it_stands(root, tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text("tmp_dir: scratch\n")
    text = output(capsys, "info")
    assert f"cache: {root}\n  chosen by: LACUNA_CACHE_DIR\n  absent, writable" in text
    assert f"temp: {tmp_path}/scratch\n  chosen by: tmp_dir in lacuna.yaml, line 1\n" in text
    assert "free" in text


def test_info__totals_per_bucket(filled, capsys):
    held = json.loads(output(capsys, "info", "--json"))
    assert held["buckets"]["tdi"] == {"entries": 3, "bytes": 53_000}
    assert held["buckets"]["downloads"] == {"entries": 0, "bytes": 0}
    assert "tdi: 3 entries, 53 kB" in output(capsys, "info")


def test_info__shared_caches_are_counted_apart(filled, tmp_path, monkeypatch, capsys):
    keep(tmp_path / "lab", "tdi map of the lab")
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", str(tmp_path / "lab"))
    held = json.loads(output(capsys, "info", "--json"))
    assert held["shared"] == {str(tmp_path / "lab"): {"entries": 1, "bytes": 1000}}
    assert held["buckets"]["tdi"]["entries"] == 3


def test_info__shared_caches_that_cannot_be_used_say_why(root, tmp_path, monkeypatch, capsys):
    keep(tmp_path / "lab", "tdi map of the lab")
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", f"{tmp_path}/lab:{tmp_path}/typo")
    text = output(capsys, "info")
    source = "(LACUNA_SHARED_CACHE_DIRS)"
    assert f"shared, read only: {tmp_path}/lab {source}: 1 entr" in text
    assert f"shared, read only: {tmp_path}/typo {source}: absent\n" in text
    assert not root.exists()


def test_info__unmanaged_files_are_shown(filled, root, capsys):
    (root / "tdi" / "mine.nii.gz").write_bytes(b"")
    assert f"unmanaged, never deleted: {root}/tdi/mine.nii.gz" in output(capsys, "info")


def test_info__configuration_files_read_and_not_read(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "lacuna.yaml").write_text("")
    (tmp_path / "lab.yaml").write_text("")
    text = output(capsys, "info", "--config", "lab.yaml")
    assert f"configuration file: {tmp_path}/lab.yaml\n" in text
    assert "configuration file not read: lacuna.yaml: lab.yaml comes before it" in text


def test_info__works_where_no_location_can_be_used(monkeypatch, capsys):
    monkeypatch.setenv("LACUNA_CACHE_DIR", "$ABSENT/kept")
    assert "ABSENT" in output(capsys, "info")


def test_info__creates_nothing(root, capsys):
    run("info")
    assert not root.exists()


# list


def test_list__names_entries_by_what_they_are(filled, capsys):
    lines = output(capsys, "list").splitlines()
    assert lines[0].split() == ["label", "bucket", "size", "unused", "for", "digest"]
    assert lines[1].startswith("hits fresh")
    digest = filled["old"].digest[:12]
    assert lines[3].split() == ["tdi", "map", "old", "tdi", "50", "kB", "6", "w", digest]


def test_list__json_has_what_scripts_need(filled, capsys):
    row = json.loads(output(capsys, "list", "--json"))[0]
    assert row["label"] == "hits fresh"
    assert row["product"] == "hits"
    assert row["bucket"] == "tdi"
    assert row["size_bytes"] == 2000
    assert row["digest"] == filled["fresh"].digest
    assert row["path"] == str(filled["fresh"].path)
    assert row["read_only"] is False
    assert row["used"].endswith("+00:00")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["hits fresh", "tdi map week", "tdi map old"]),
        (["--bucket", "tdi"], ["hits fresh", "tdi map week", "tdi map old"]),
        (["--bucket", "downloads"], []),
        (["--label", "map"], ["tdi map week", "tdi map old"]),
        (["--min-size", "1.5kB"], ["hits fresh", "tdi map old"]),
        (["--unused-for", "2d"], ["tdi map week", "tdi map old"]),
        (["--unused-for", "1w", "--min-size", "1"], ["tdi map old"]),
    ],
)
def test_list__filters(filled, capsys, options, expected):
    assert labels(capsys, *options) == expected


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--sort", "size"], "tdi map old"),
        (["--sort", "label"], "hits fresh"),
        (["--sort", "used"], "hits fresh"),
    ],
)
def test_list__sorts(filled, capsys, options, first):
    assert labels(capsys, *options)[0] == first


@pytest.mark.parametrize(
    "options", [["--bucket", "x"], ["--min-size", "big"], ["--unused-for", "5"]]
)
def test_list__filter_that_makes_no_sense_is_exit_code_2(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["cache", "list", *options])
    assert caught.value.code == 2
    assert repr(options[1]) in capsys.readouterr().err


def test_list__shared_entries_say_where_they_are(root, tmp_path, monkeypatch, capsys):
    keep(tmp_path / "lab", "tdi map of the lab")
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", str(tmp_path / "lab"))
    assert f"in {tmp_path}/lab" in output(capsys, "list")


def test_list__empty_cache_is_empty_output(root, capsys):
    assert output(capsys, "list") == ""
    assert output(capsys, "list", "--json") == "[]\n"


# verify


def test_verify__whole_cache(filled, capsys):
    assert output(capsys, "verify").count("whole: ") == 3


def test_verify__damage_is_exit_code_1_and_the_entry_goes(filled, capsys):
    flip_byte(filled["week"])
    text = output(capsys, "verify", code=1)
    assert "damaged: tdi map week: " in text
    assert "it will be made again when needed" in text
    assert not filled["week"].path.exists()
    assert filled["old"].path.exists()


def test_verify__dry_run_leaves_damage_in_place(filled, capsys):
    flip_byte(filled["week"])
    assert "damaged" in output(capsys, "verify", "--dry-run", code=1)
    assert filled["week"].path.exists()


def test_verify__json(filled, capsys):
    flip_byte(filled["week"])
    reports = json.loads(output(capsys, "verify", "--json", "--label", "week", code=1))
    assert [report["label"] for report in reports] == ["tdi map week"]
    assert reports[0]["discarded"] is True
    assert "payload.bin" in reports[0]["problem"]


# clear


def test_clear__prints_its_plan_asks_and_deletes_on_yes(filled, monkeypatch, capsys):
    answer(monkeypatch, "y\n")
    run("clear", "--label", "map")
    captured = capsys.readouterr()
    assert "delete: tdi map old (50 kB)\n" in captured.out
    assert "deleted 2 entries, 51 kB freed" in captured.out
    assert captured.err == "Delete 51 kB? [y/N] "
    assert [entry.path.exists() for entry in filled.values()] == [False, False, True]


@pytest.mark.parametrize("text", ["n\n", "\n", "", "maybe\n"])
def test_clear__any_other_answer_deletes_nothing(filled, monkeypatch, capsys, text):
    answer(monkeypatch, text)
    run("clear", code=1)
    assert "nothing was deleted" in capsys.readouterr().err
    assert all(entry.path.exists() for entry in filled.values())


def test_clear__dry_run_only_prints_the_plan(filled, capsys):
    text = output(capsys, "clear", "--dry-run")
    assert text.count("delete: ") == 2
    assert all(entry.path.exists() for entry in filled.values())


def test_clear__refuses_what_was_used_in_the_last_24_hours(filled, capsys):
    text = output(capsys, "clear", "--yes", code=1)
    assert "keep: hits fresh (2 kB): used in the last 24 hours; --force deletes it" in text
    assert [entry.path.exists() for entry in filled.values()] == [False, False, True]


def test_clear__force_deletes_that_too(filled, capsys):
    assert "deleted 3 entries" in output(capsys, "clear", "--yes", "--force")
    assert not any(entry.path.exists() for entry in filled.values())


def test_clear__filters(filled, capsys):
    run("clear", "--yes", "--unused-for", "30d")
    assert [entry.path.exists() for entry in filled.values()] == [False, True, True]


def test_clear__unmanaged_files_stay(filled, root, capsys):
    (root / "tdi" / "mine.nii.gz").write_bytes(b"")
    (root / "notes.txt").write_text("mine")
    run("clear", "--yes", "--force")
    assert (root / "tdi" / "mine.nii.gz").exists()
    assert (root / "notes.txt").exists()


def test_clear__entries_of_shared_caches_stay(root, tmp_path, monkeypatch, capsys):
    entry = keep(tmp_path / "lab", "tdi map of the lab", unused_for_s=1e7)
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", str(tmp_path / "lab"))
    assert output(capsys, "clear", "--yes", "--force") == "nothing to delete\n"
    assert entry.path.exists()


@pytest.mark.usefixtures("refused_permissions")
def test_clear__of_what_this_user_cannot_write_says_so_and_shows_no_plan(filled, root, capsys):
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o500)
    try:
        assert output(capsys, "clear", "--dry-run").count("delete: ") == 2
        run("clear", "--yes", code=1)
        captured = capsys.readouterr()
    finally:
        for path in (root, *root.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
    assert captured.out == ""
    assert f"error: {root} cannot be written by you: nothing was deleted." in captured.err
    assert all(entry.path.exists() for entry in filled.values())


def test_clear__json_plan_and_outcome(filled, capsys):
    plan = json.loads(output(capsys, "clear", "--dry-run", "--json"))["plan"]
    assert {item["label"] for item in plan["removals"]} == {"tdi map old", "tdi map week"}
    assert [item["label"] for item in plan["kept"]] == ["hits fresh"]
    done = json.loads(output(capsys, "clear", "--yes", "--json", code=1))["cleared"]
    assert len(done["removed"]) == 2
    assert done["freed_bytes"] == 51_000


def test_clear__json_without_yes_or_dry_run_is_an_error(filled, capsys):
    run("clear", "--json", code=2)
    assert "add --dry-run or --yes" in capsys.readouterr().err


# warm


@pytest.fixture
def tractogram(tmp_path):
    """Return a tractogram of three straight streamlines."""
    line = np.linspace([-20, 0, 0], [20, 0, 0], 21)
    points = np.concatenate([line + np.array([0, 3 * i, 0]) for i in range(3)]).astype(np.float32)
    save_tck(tmp_path / "lines.tck", points, np.array([0, 21, 42, 63]))
    return tmp_path / "lines.tck"


def test_warm__builds_what_a_second_call_finds(root, tractogram, capsys):
    options = ["--tractogram", "lines.tck", "--tractogram-space", "MNI152NLin6Asym"]
    assert "lines.tck: 3 streamlines, index built\n" in output(capsys, "warm", *options)
    assert "lines.tck: 3 streamlines, index was there\n" in output(capsys, "warm", *options)
    assert len(labels(capsys, "--label", "lines.tck")) == 3


def test_warm__json_has_the_entries(root, tractogram, capsys):
    options = ["--tractogram", "lines.tck", "--tractogram-space", "MNI152NLin6Asym", "--json"]
    warmed = json.loads(output(capsys, "warm", *options, "--threads", "1"))
    assert warmed["tractogram"] == str(tractogram)
    assert warmed["built"] is True
    kept = {row["digest"] for row in json.loads(output(capsys, "list", "--json"))}
    assert set(warmed["entries"]) == {"streamlines", "hits", "map"}
    assert set(warmed["entries"].values()) == kept


def test_warm__another_rule_or_grid_is_another_map(root, tractogram, capsys):
    options = ["--tractogram", "lines.tck", "--tractogram-space", "MNI152NLin6Asym"]
    for more in ([], ["--rule", "vertex"], ["--grid", "1"]):
        output(capsys, "warm", *options, *more)
    assert len(labels(capsys)) == 5


def test_warm__takes_the_tractogram_of_the_configuration(root, tractogram, tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text(
        "tractogram: lines.tck\ntractogram_space: MNI152NLin6Asym\n"
    )
    assert "index built" in output(capsys, "warm")


def test_warm__no_tractogram_is_exit_code_2(root, capsys):
    run("warm", code=2)
    assert "--tractogram" in capsys.readouterr().err


def test_warm__what_it_built_can_be_cleared(root, tractogram, capsys):
    run("warm", "--tractogram", "lines.tck", "--tractogram-space", "MNI152NLin6Asym")
    run("clear", "--yes", "--force")
    assert "deleted 3 entries" in capsys.readouterr().out
    assert labels(capsys) == []
