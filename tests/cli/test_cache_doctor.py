"""``lacuna cache doctor | adopt``."""

import io
import json
from contextlib import suppress

import pytest

from lacuna.cli.main import main
from lacuna.store import Key, Store


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the cache directory of the command line."""
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def purged(root):
    """Return a bucket with an entry, which a purge deprived of its marker."""
    Store(root).get_or_make(
        Key("map", {}, {}, "map"), lambda place: place.joinpath("a.bin").write_bytes(b"x")
    )
    for directory in (root, root / "tdi"):
        (directory / ".lacuna-cache").unlink()
    return root / "tdi"


def output(capsys, *argv, code=0):
    assert main(["cache", *argv]) == code
    return capsys.readouterr().out


def answer(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_doctor__examines_the_cache_and_scratch(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "scratch"))
    text = output(capsys, "doctor")
    assert f"{root}\n  " in text
    assert f"{tmp_path}/scratch\n  " in text
    assert "  ok       publication: an entry was published and read back in " in text
    assert text.count("publication") == 1
    assert text.splitlines()[-1].startswith("0 problems, ")
    assert text.endswith(": nothing was found that breaks a promise of the cache\n")
    assert not [path for path in root.iterdir() if path.name.startswith(".lacuna-doctor")]


def test_doctor__of_a_directory_prints_json(tmp_path, capsys):
    (tmp_path / "here").mkdir()
    found = json.loads(output(capsys, "doctor", "--json", str(tmp_path / "here")))
    (findings,) = found.values()
    assert set(findings[0]) == {"name", "verdict", "seen", "meaning", "advice"}


def test_doctor__what_is_amiss_says_what_to_do(purged, root, capsys):
    text = output(capsys, "doctor", str(root))
    assert "warning  marker: entries: 1, 1 of them below no marker\n" in text
    assert f"           `lacuna cache adopt {root}`\n" in text


def test_doctor__of_a_shared_cache_does_not_write(root, tmp_path, monkeypatch, capsys):
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", str(tmp_path / "site"))
    assert "publication" not in output(capsys, "doctor", str(tmp_path / "site"))


def test_doctor__looks_at_shared_caches_too(root, tmp_path, monkeypatch, capsys):
    lab = Store(tmp_path / "lab")
    lab.get_or_make(Key("map"), lambda place: place.joinpath("a.bin").write_bytes(b"x"))
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", f"{tmp_path}/lab:{tmp_path}/typo")
    text = output(capsys, "doctor", code=1)
    of_lab = text.partition(f"{tmp_path}/lab\n")[2].partition(f"{tmp_path}/typo\n")[0]
    assert "marked as a cache; entries: 1" in of_lab
    assert "publication" not in of_lab
    assert "problem  access: absent (LACUNA_SHARED_CACHE_DIRS)" in text


@pytest.mark.parametrize("argv", [("doctor", ""), ("adopt", ""), ("init", "--cache-dir", "")])
def test_directory__that_is_empty_is_refused(argv, root, capsys):
    with suppress(SystemExit):
        assert main(["cache", *argv]) == 2
    assert "is empty; is a variable not set?" in capsys.readouterr().err
    assert not root.exists()


def test_doctor__of_what_is_absent_is_an_error(tmp_path, capsys):
    assert main(["cache", "doctor", str(tmp_path / "absent")]) == 1
    assert "Make it first" in capsys.readouterr().err


def test_doctor__alone_with_a_peer_says_what_to_run_there(tmp_path, capsys):
    assert main(["cache", "doctor", "--peer", "--wait", "1s", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"lacuna cache doctor --peer {tmp_path}" in captured.err
    assert "No other node came within 1 s" in captured.err


def test_adopt__plan_question_and_marks(purged, root, monkeypatch, capsys):
    assert "mark: " in output(capsys, "adopt", "--dry-run")
    answer(monkeypatch, "n\n")
    assert main(["cache", "adopt"]) == 1
    assert not (purged / ".lacuna-cache").exists()
    capsys.readouterr()
    answer(monkeypatch, "y\n")
    text = output(capsys, "adopt", str(root))
    assert text == (
        f"mark: {purged}\nmark: {root}\n1 entry, 1 below no marker\nmarked 2 directories\n"
    )
    assert (purged / ".lacuna-cache").exists()
    assert output(capsys, "adopt") == "1 entry, 0 below no marker\nnothing to mark\n"


def test_adopt__other_data_is_listed_and_refused(purged, root, capsys):
    entry = next((purged / "v1").glob("*/*"))
    (entry / "notes.txt").touch()
    text = output(capsys, "adopt", "--yes", code=1)
    assert f"not ours: {entry}\n" in text
    assert "nothing to mark" in text
    assert not (purged / ".lacuna-cache").exists()


def test_adopt__of_what_is_absent_is_an_error(tmp_path, capsys):
    assert main(["cache", "adopt", str(tmp_path / "absent")]) == 1
    assert "absent is not a directory" in capsys.readouterr().err


def test_adopt__json(purged, root, capsys):
    assert main(["cache", "adopt", "--json"]) == 2
    capsys.readouterr()
    shown = json.loads(output(capsys, "adopt", "--json", "--dry-run"))
    assert (shown["plan"]["n_unmarked"], shown["marked"]) == (1, None)
    assert json.loads(output(capsys, "adopt", "--json", "-y"))["marked"] == [str(purged), str(root)]
