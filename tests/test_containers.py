"""The container files name paths, options and values that exist; building them needs a network."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from lacuna.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent
CONTAINERS = ROOT / "containers"
DOCKERFILE = (CONTAINERS / "Dockerfile").read_text(encoding="utf-8")
DEFINITION = (CONTAINERS / "lacuna.def").read_text(encoding="utf-8")
INSTALL = (CONTAINERS / "install").read_text(encoding="utf-8")


def instructions():
    """Yield each instruction of the Dockerfile with the words after it."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M))
    for line in filter(None, joined.splitlines()):
        name, _, rest = line.partition(" ")
        yield name, rest


def sections():
    parts = re.split(r"^%(\w+)\n", re.sub(r"^#.*\n", "", DEFINITION, flags=re.M), flags=re.M)
    return {"header": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def docker_arguments():
    return dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")


def apptainer_arguments():
    lines = sections()["arguments"].split()
    return dict(line.split("=", 1) for line in lines)


def docker_files():
    """Yield what is copied from the checkout."""
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            words = re.sub(r"\$\{(\w+)\}", lambda each: docker_arguments()[each[1]], rest).split()
            yield from words[:-1]


def apptainer_files():
    for line in sections()["files"].strip().splitlines():
        filled = re.sub(r"\{\{ (\w+) \}\}", lambda each: apptainer_arguments()[each[1]], line)
        yield filled.split()[0]


def test_containers__both_are_made_of_the_same():
    assert docker_arguments() == apptainer_arguments()
    assert sorted(docker_files()) == sorted(apptainer_files())


@pytest.mark.parametrize("name", sorted(docker_files()))
def test_containers__what_they_copy_exists_and_is_not_ignored(name):
    assert (ROOT / name).exists()
    ignored = (ROOT / ".dockerignore").read_text().split()
    parents = [name, *(str(parent) for parent in Path(name).parents)]
    assert not [pattern for pattern in ignored if fnmatch.filter(parents, pattern)]


def test_containers__the_tractogram_by_default_is_the_demonstrations():
    from lacuna.assets.bundled import TRACTOGRAM

    assert docker_arguments()["TRACTOGRAM"] == f"src/lacuna/assets/demo/{TRACTOGRAM}"


def test_containers__install_where_they_look():
    (docker,) = [rest for name, rest in instructions() if name == "RUN"]
    (apptainer,) = re.findall(r"^ +(containers/install .*)$", sections()["post"], re.M)
    places = "containers/install /opt/lacuna /opt/lacuna-cache tractogram/* "
    assert docker.startswith(places)
    assert apptainer.startswith(places)
    for text in (DOCKERFILE, sections()["environment"]):
        assert "PATH=/opt/lacuna/bin:" in text
        assert "LACUNA_SHARED_CACHE_DIRS=/opt/lacuna-cache" in text


def test_containers__start_the_command_that_the_package_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (entry,) = [json.loads(rest) for name, rest in instructions() if name == "ENTRYPOINT"]
    assert set(entry) <= set(project["project"]["scripts"])
    assert 'exec lacuna "$@"' in sections()["runscript"]
    # A number, so that it can be checked not to be root where that is demanded.
    assert [rest for name, rest in instructions() if name == "USER"] == ["1000:1000"]


@pytest.mark.parametrize(
    "line",
    re.findall(r'"\$prefix/bin/lacuna" (.*)', INSTALL)
    + re.findall(r"^ +lacuna (.*)$", sections()["test"], re.M),
)
def test_containers__call_commands_that_exist(line):
    words = shlex.split(line)
    if "$@" in words:
        words[words.index("$@") :] = ["--grid", "2", "--rule", "segment"]
    if words != ["--version"]:
        build_parser().parse_args(words)


def test_install__is_a_script_that_installs_the_lock_first():
    path = CONTAINERS / "install"
    assert path.stat().st_mode & 0o111
    subprocess.run([shutil.which("sh") or "sh", "-n", path], check=True)
    lock = (ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements/run.lock" in INSTALL
    assert re.search(r"^hatchling==", lock, re.M)  # what --no-build-isolation builds with
