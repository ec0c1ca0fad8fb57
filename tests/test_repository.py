"""What is in the repository beside the code: locks, change notes, metadata."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import lacuna

ROOT = Path(__file__).resolve().parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.M)
CHANGE = re.compile(r"^\+[a-z0-9-]+\.(added|changed|fixed|removed)\.md$")


def tracked_text() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def pins(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall(lock.read_text()):
        found.setdefault(name, set()).add(version)
    return found


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks__hold_hashes_and_no_addresses(lock):
    text = lock.read_text()
    assert not re.search(r"https?:|file:|^\s*(-i|-f|-e|--index|--extra-index|--find-links)", text)
    entries = re.split(r"(?m)^(?=\S)", text)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_locks__include_the_build_backend():
    # `pip install --no-build-isolation -e .` finds it nowhere else.
    assert all({"hatchling", "editables"} <= pins(lock).keys() for lock in LOCKS)


def test_locks__the_one_for_development_extends_the_one_for_running():
    run, dev = (pins(ROOT / "requirements" / f"{name}.lock") for name in ("run", "dev"))
    assert {name: dev.get(name) for name in run} == run


def test_locks__hold_every_declared_dependency():
    declared = project()
    groups = declared["dependency-groups"]
    names = {
        "run": declared["project"]["dependencies"] + groups["build"],
        "dev": sum(groups.values(), declared["project"]["dependencies"]),
    }
    for lock, requirements in names.items():
        wanted = {re.match(r"[A-Za-z0-9._-]+", each)[0].lower() for each in requirements}
        assert wanted <= pins(ROOT / "requirements" / f"{lock}.lock").keys()


def test_changes__each_note_has_a_kind_and_says_something():
    notes = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert notes
    kinds = {each["directory"] for each in project()["tool"]["towncrier"]["type"]}
    for note in notes:
        assert CHANGE.match(note.name), f"{note.name} is not +what-it-is.KIND.md"
        assert CHANGE.match(note.name)[1] in kinds
        assert note.read_text(encoding="utf-8").strip().endswith(".")


def test_citation__names_the_version_that_is_installed():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {lacuna.__version__}\n" in text
    assert "\nlicense: BSD-3-Clause\n" in text


def test_text__names_no_machine():
    private = re.compile(r"(?<![\w$}.~-])/(?:root|work)/|" + re.escape(str(ROOT)))
    found = {
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked_text()
        if (match := private.search(path.read_text(encoding="utf-8", errors="replace")))
    }
    assert not found
