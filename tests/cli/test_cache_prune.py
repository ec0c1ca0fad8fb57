"""``lacuna cache prune | pin | unpin``, and what the other actions say about pins and leases."""

import io
import json
import os
import time

import pytest
from tests.store.samples import foreign_record

from lacuna.cli.cache.show import say_if_large
from lacuna.cli.main import main
from lacuna.store import Key, Store

DAY_S = 86_400


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the cache directory of the command line, on a disk that counts as empty enough."""
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "kept"))
    (tmp_path / "lacuna.yaml").write_text("min_free: 0\n")
    return tmp_path / "kept"


@pytest.fixture
def entries(root):
    """Return three maps of 1 kB, unused for 30, 20 and 10 days."""
    kept = {}
    for days in (30, 20, 10):
        label = f"map of {days} d"
        kept[days] = Store(root).get_or_make(
            Key("map", {"days": days}, {}, label),
            lambda place: place.joinpath("payload.bin").write_bytes(b"x" * 1000),
        )
        used_at = time.time() - days * DAY_S
        os.utime(kept[days].path / "meta.json", (used_at, used_at))
    return kept


def run(capsys, *argv, code=0):
    assert main(["cache", *argv]) == code
    return capsys.readouterr().out


def there(entries):
    return [days for days, entry in entries.items() if entry.path.exists()]


def test_prune__without_budgets_deletes_nothing(entries, capsys):
    unset = "No max_size, max_age or min_free is set: nothing to delete\n"
    assert run(capsys, "prune") == unset


def test_prune__says_which_budgets_are_met(entries, capsys):
    text = run(capsys, "prune", "-n", "--max-size", "1 TB")
    assert text == "No max_age or min_free is set; max_size (1.0 TB) is met: nothing to delete\n"
    text = run(capsys, "prune", "--max-size=2GiB", "--max-age=90d", "--min-free=1kB")
    met = "max_size (2 GiB), max_age (13 w) and min_free (1 kB) are met"
    assert text == f"{met}: nothing to delete\n"


def test_prune__prints_what_goes_and_why_and_deletes_it(entries, capsys):
    text = run(capsys, "prune", "--max-size", "2kB", "--yes")
    assert "delete: map of 30 d (1 kB): unused for 4 w; 1 kB have to go\n" in text
    assert "deleted 1 entry, 1 kB freed" in text
    assert there(entries) == [20, 10]


@pytest.fixture
def lease(entries, root):
    """Return a lease on the oldest map, taken on another machine in 1970."""
    lease = root / ".leases" / f"{entries[30].digest}.{'0' * 12}.0"
    lease.parent.mkdir(exist_ok=True)
    lease.write_text(json.dumps(foreign_record()))
    os.utime(lease, (0, 0))
    return lease


ENDING = ("prune", "--end-leases-older-than", "1d", "--max-size", "2kB")


def test_prune__shows_leases_that_would_end_and_ends_none_without_asking(
    entries, lease, capsys, monkeypatch
):
    shown = run(capsys, *ENDING, "-n")
    assert f"end: lease of process {os.getpid()} on node-17 on map of 30 d, taken " in shown
    assert "delete: map of 30 d (1 kB)" in shown
    plan = json.loads(run(capsys, *ENDING, "-n", "--json"))["plan"]
    assert [item["name"] for item in plan["leases"]] == [lease.name]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["cache", *ENDING]) == 1
    captured = capsys.readouterr()
    assert captured.out == shown
    assert captured.err.count("[y/N]") == 1
    assert "Delete 1 kB, and end 1 lease although" in captured.err
    run(capsys, *ENDING, "--json", code=2)
    assert lease.exists()
    assert there(entries) == [30, 20, 10]


def test_prune__does_what_its_dry_run_showed(entries, lease, capsys):
    shown = run(capsys, *ENDING, "-n")
    assert run(capsys, *ENDING, "-y") == f"{shown}deleted 1 entry, 1 kB freed, 1 lease ended\n"
    assert not lease.exists()
    assert there(entries) == [20, 10]


def test_prune__a_lost_marker_is_exit_code_1_and_the_way_out(entries, root, capsys):
    (root / "tdi" / ".lacuna-cache").unlink()
    text = run(capsys, "prune", "--max-size", "2kB", "-y", code=1)
    assert "no marker of the cache lies above it; `lacuna cache adopt` marks it again\n" in text
    assert f"no marker: {root}/tdi; `lacuna cache adopt`" in run(capsys, "info")
    assert there(entries) == [30, 20, 10]


def test_prune__dry_run_deletes_nothing(entries, capsys):
    assert run(capsys, "prune", "--max-age", "15d", "-n").count("delete: ") == 2
    assert there(entries) == [30, 20, 10]


def test_prune__takes_the_budgets_of_the_configuration(entries, tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text("max_age: 25d\nmax_size: 1 kB\nmin_free: 0\n")
    assert run(capsys, "prune", "-n").count("delete: ") == 2
    (tmp_path / "lacuna.yaml").write_text("max_age: 25d\nmin_free: 0\n")
    assert run(capsys, "prune", "-n").count("delete: ") == 1


def test_prune__says_what_stays_and_what_is_missing_to_the_budget(entries, capsys):
    Store(entries[30].root).pin(entries[30])
    with entries[20]:
        text = run(capsys, "prune", "--max-size", "0", "--yes")
    assert "keep: map of 30 d (1 kB): pinned\n" in text
    assert f"keep: map of 20 d (1 kB): in use by process {os.getpid()} on " in text
    assert "the budgets ask for 2 kB more, which may not be deleted" in text
    assert there(entries) == [30, 20]


def test_prune__json_has_plan_and_outcome(entries, capsys):
    found = json.loads(run(capsys, "prune", "--max-age", "15d", "--json", "--yes"))
    assert [item["label"] for item in found["plan"]["removals"]] == ["map of 30 d", "map of 20 d"]
    assert found["cleared"]["freed_bytes"] == 2000


def test_prune__nobody_is_asked_with_json(entries, capsys):
    run(capsys, "prune", "--max-age", "15d", "--json", code=2)
    assert there(entries) == [30, 20, 10]


def test_prune__old_versions(entries, root, capsys):
    (root / "tdi" / "v1").rename(root / "tdi" / "v0")
    assert run(capsys, "prune", "-n").endswith("nothing to delete\n")
    assert run(capsys, "prune", "--old-versions", "-y").count("no longer reads it") == 3
    assert there(entries) == []


@pytest.mark.parametrize(
    ("option", "text"), [("--max-size", "big"), ("--max-age", "5 years"), ("--min-free", "-1")]
)
def test_prune__budget_that_makes_no_sense_is_told(option, text, capsys):
    with pytest.raises(SystemExit):
        main(["cache", "prune", f"{option}={text}"])
    assert repr(text) in capsys.readouterr().err


def test_pin__by_label_or_digest_keeps_entries_until_they_are_unpinned(entries, capsys):
    digest = entries[20].digest[:12]
    text = run(capsys, "pin", "map of 30 d", digest)
    assert f"pinned: map of 20 d ({digest})" in text
    run(capsys, "clear", "--yes", "--force", code=1)
    assert there(entries) == [30, 20]
    assert "no longer pinned: map of 30 d" in run(capsys, "unpin", "map of 30 d")
    assert "`lacuna cache unpin` releases it" in run(capsys, "clear", "--yes", "--force", code=1)
    assert there(entries) == [20]


def test_pin__what_is_not_there_is_exit_code_2(entries, capsys):
    run(capsys, "pin", "map of 3", code=2)
    run(capsys, "pin", entries[30].digest[:3], code=2)


def test_pin__json(entries, capsys):
    found = json.loads(run(capsys, "pin", "map of 10 d", "--json"))
    assert found == [{"label": "map of 10 d", "digest": entries[10].digest}]


def test_list_and_info__show_pins_and_leases(entries, capsys):
    run(capsys, "pin", "map of 10 d")
    with entries[10], entries[20]:
        lines = {line[:11]: line for line in run(capsys, "list").splitlines()}
        rows = {row["label"]: row for row in json.loads(run(capsys, "list", "--json"))}
        info = run(capsys, "info")
    assert lines["map of 10 d"].endswith("pinned, in use")
    assert lines["map of 20 d"].endswith("in use")
    assert [rows[f"map of {days} d"]["pinned"] for days in (10, 20)] == [True, False]
    assert rows["map of 20 d"]["in_use_by"].startswith(f"process {os.getpid()} on ")
    assert rows["map of 30 d"]["in_use_by"] is None
    assert "pinned: 1 entry; in use: 2" in info


def test_clear__what_is_in_use_stays(entries, capsys):
    with entries[30]:
        run(capsys, "clear", "--yes", "--force", code=1)
    assert there(entries) == [30]


def test_info__tells_how_often_runs_found_what_they_asked_for(entries, root, capsys):
    run(capsys, "info")
    Store(root).get_or_make(Key("map", {"days": 30}, {}, "map of 30 d"), fail_to_make)
    run(capsys, "dir")
    assert "1 hit, 3 misses" in run(capsys, "info")
    assert json.loads(run(capsys, "info", "--json"))["usage"]["hits"] == 1


def fail_to_make(_):
    raise AssertionError


def test_say_if_large__a_cache_of_more_than_50_gib_is_told_how_to_stay_small():
    assert say_if_large(50 << 30) == ""
    assert "the cache holds 53.7 GB: `lacuna cache prune --max-size SIZE`" in say_if_large(
        (50 << 30) + 1
    )
