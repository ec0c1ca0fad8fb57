"""``lacuna demo``: what a newcomer sees first."""

import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from lacuna.cli.main import main
from lacuna.cli.run import EXAMPLE


def demo(directory):
    """Run the demonstration, and return what it prints."""
    printed = io.StringIO()
    places = ["--cache-dir", str(directory / "kept"), "--tmp-dir", str(directory / "scratch")]
    with redirect_stdout(printed):
        assert main(["demo", str(directory / "here"), *places]) == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def shown(root):
    return demo(root)


@pytest.fixture
def here(shown, root):
    return root / "here"


def test_demo__says_what_it_did_what_it_cost_and_where_everything_is(shown, here, root):
    assert "SyntheticArcuate (1.5 ml, left) cuts" in shown
    assert "SyntheticCorticospinal (0.5 ml, right) cuts" in shown
    costs = shown[shown.index("What it cost") :]
    for part in ("cold", "from the cache", "index of 4992", "2 lesions", "2000 lesions"):
        assert part in costs
    assert f"Data and results  {here}" in shown
    assert f"Cache             {root / 'kept'} (chosen by: --cache-dir)" in shown
    assert list((root / "scratch").rglob("*")) == []
    assert "not a normative tractogram" in shown.lower()
    for line in shown.splitlines():
        if line.startswith("  a picture"):
            assert Path(line.split()[-1]).read_bytes().startswith(b"\x89PNG")


def test_demo__every_sidecar_says_that_the_space_is_no_template(here):
    found = [path for path in here.rglob("*.json") if path.parent.name != "logs"]
    sidecars = [path for path in found if "SpatialReference" in path.read_text()]
    assert len(sidecars) >= 11
    for path in sidecars:
        assert "one person's own scan" in json.loads(path.read_text())["SpatialReference"]


def test_demo__maps_how_much_a_lesion_here_would_disconnect(shown, here):
    said = re.search(r"Most at .* mm: \d+ streamlines, ([0-9.]+) %", shown)
    highest = float(said[1])
    (image,) = (here / "spheres").glob("*_map.nii.gz")
    values = np.asarray(nib.load(image).dataobj)
    assert 0.5 * highest < values.max() <= highest + 0.1
    (tdi,) = (here / "results/sub-SyntheticArcuate").rglob("*desc-tdi_map.nii.gz")
    covered = np.asarray(nib.load(tdi).dataobj) >= 3
    assert not values[~covered].any()
    assert (values[covered] > 0).mean() > 0.9


def test_demo__again_takes_the_index_from_the_cache(shown, root):
    assert "built earlier" not in shown
    assert "index of 4992 streamlines, built earlier" in demo(root)


def test_demo__quietly_says_nothing(shown, root, capsys):
    places = ["--cache-dir", str(root / "kept"), "--tmp-dir", str(root / "scratch")]
    assert main(["demo", str(root / "quiet"), "-q", *places]) == 0
    assert capsys.readouterr() == ("", "")
    assert list((root / "quiet").rglob("*_map.nii.gz"))


def test_demo__the_last_command_runs_as_it_is_printed(shown, capsys):
    words = shlex.split(shown.splitlines()[-1])
    assert words[0] == "lacuna"
    assert main([*words[1:], "--no-figures"]) == 0
    assert "690" in capsys.readouterr().out


def test_demo__the_example_in_the_help_of_run_snm_runs_as_it_is_printed(capsys):
    text = EXAMPLE.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("lacuna ")]
    assert [shlex.split(line)[1] for line in lines] == ["demo", "run"]
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0
    assert len(list(Path("my-results").rglob("*_tractography.trx"))) == 2
