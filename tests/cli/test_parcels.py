"""``lacuna run snm --atlas``: tables and matrices of a phantom, counted by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))
N = "n/a"


def labels():
    """Return parcels 1 and 2 where streamlines begin, 5, 9 and 12 where they end.

    The streamlines at y = 18 and 19 end 4 and 5 mm from parcel 12, in none.
    """
    array = np.zeros(GRID.shape, np.int16)
    array[0, :10], array[0, 10:] = 1, 2
    array[19, :5], array[19, 5:10], array[19, 10:15] = 5, 9, 12
    return array


@pytest.fixture(autouse=True)
def inputs(tmp_path):
    """A tractogram of 20 parallel streamlines, an atlas, and a mask of those with y < 8."""
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :8] = 1
    write_nifti(tmp_path / "one.nii.gz", mask, GRID)
    write_nifti(tmp_path / "grid.nii.gz", mask, GRID)
    write_nifti(tmp_path / "toy.nii.gz", labels(), GRID)
    (tmp_path / "toy.tsv").write_text("index\tname\n1\ta\n2\tb\n5\tc\n9\td\n12\te\n")


def snm(*words, output="out", atlas="toy.nii.gz", code=0):
    options = ["--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures", "--space", "Study"]
    options += ["--tractogram-space", "Study", "--atlas", atlas, "--atlas-space", "Study"]
    assert main(["run", "snm", "one.nii.gz", output, *options, *words]) == code
    return output


def result(output, name):
    (path,) = Path(output).rglob(f"*_seg-toy_res-1_desc-{name}.tsv")
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def column(rows, name):
    return [row[name] for row in rows]


def matrix(output, name):
    rows = result(output, f"{name}_relmat")
    assert column(rows, "name") == list("abcde")
    return [[row[other] for other in "abcde"] for row in rows]


def test_snm__parcel_tables_and_their_dictionaries():
    snm("--tractogram", "tract.tck")
    parcels = result("out", "parcels_stats")
    assert column(parcels, "index") == ["1", "2", "5", "9", "12"]
    assert column(parcels, "name") == list("abcde")
    assert column(parcels, "total") == ["10", "8", "5", "5", "8"]
    assert column(parcels, "cut") == ["8", "0", "5", "3", "0"]
    assert column(parcels, "disconnection") == ["0.8", "0", "1", "0.6", "0"]
    assert column(parcels, "n_indirect") == ["0", "0", "1", "1", "0"]
    assert column(parcels, "mean_delta_sspl") == ["1", "0", "0.75", "0.75", "0"]
    chaco = result("out", "chaco_stats")
    assert column(chaco, "total") == ["10", "10", "5", "5", "8"]
    assert column(chaco, "chaco") == ["0.8", "0", "1", "0.6", "0"]
    damage = result("out", "damage_stats")
    assert column(damage, "damage") == ["0"] * 5
    for name, rows in {"parcels": parcels, "chaco": chaco}.items():
        (path,) = Path("out").rglob(f"*_desc-{name}_stats.json")
        assert json.loads(path.read_text()).keys() == rows[0].keys()


def test_snm__matrices_between_parcels_and_their_sidecars():
    snm("--tractogram", "tract.tck")
    assert matrix("out", "count") == [
        *(["0", "0", "5", "5", "0"], ["0", "0", "0", "0", "8"]),
        *(["5", "0", "0", "0", "0"], ["5", "0", "0", "0", "0"], ["0", "8", "0", "0", "0"]),
    ]
    assert matrix("out", "spared")[0] == ["0", "0", "0", "2", "0"]
    assert matrix("out", "disconnection") == [
        *([N, N, "1", "0.6", N], [N, N, N, N, "0"]),
        *(["1", N, N, N, N], ["0.6", N, N, N, N], [N, "0", N, N, N]),
    ]
    assert matrix("out", "chaco") == matrix("out", "disconnection")
    # Both edges of parcel a are gone; the longest path was c–a–d, so that no path is 3.
    assert matrix("out", "deltasspl") == [
        *(["0", "0", "2", "2", "0"], ["0"] * 5),
        *(["2", "0", "0", "1", "0"], ["2", "0", "1", "0", "0"], ["0"] * 5),
    ]
    (path,) = Path("out").rglob("*_desc-deltasspl_relmat.json")
    said = json.loads(path.read_text())
    assert (said["MinEdge"], said["LongestPath"], said["IndirectPairs"]) == (0, 2, 1)
    assert said["Density"] == 0.3
    assert said["UnassignedEnds"] == 0.05
    assert said["Lacuna"]["Atlases"][0]["Name"] == "toy"
    assert "ends toy" in said["Lacuna"]["CacheKeys"]


def test_snm__the_summary_says_how_many_ends_have_no_parcel(capsys):
    snm("--tractogram", "tract.tck")
    (path,) = Path("out").rglob("*_desc-summary_stats.tsv")
    with path.open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert (row["unassigned_toy"], row["unassigned_cut_toy"]) == ("0.05", "0")
    said = json.loads(path.with_suffix(".json").read_text())
    assert said.keys() == row.keys()
    assert said["unassigned_toy"]["Description"].endswith("every parcel of toy")
    assert "without a parcel" not in capsys.readouterr().err


def test_snm__a_single_parcel_has_no_pair_and_no_way_to_any_other():
    one = np.isin(labels(), (1, 5, 9)).astype(np.float32)
    write_nifti(Path("toy.nii.gz"), one, GRID)
    snm("--tractogram", "tract.tck")
    (row,) = result("out", "parcels_stats")
    shown = ["total", "cut", "disconnection", "n_indirect", "mean_delta_sspl"]
    assert [row[name] for name in shown] == ["0", "0", N, "0", N]
    (row,) = result("out", "chaco_stats")
    assert [row[name] for name in ("total", "cut", "chaco")] == ["0", "0", N]
    # All within it, those at y = 10 to 12, too: less than 4 mm away.
    cells = {name: result("out", f"{name}_relmat") for name in ("count", "spared", "chaco")}
    assert {name: row["a"] for name, (row,) in cells.items()} == {
        "count": "13",
        "spared": "5",
        "chaco": N,
    }
    (row,) = result("out", "disconnection_relmat")
    assert float(row["a"]) == pytest.approx(8 / 13, abs=1e-11)
    (row,) = result("out", "deltasspl_relmat")
    assert row == {"name": "a", "a": "0"}


def test_snm__an_atlas_that_leaves_many_ends_without_a_parcel_is_warned_about(capsys):
    some = np.where(labels() == 1, 1, 0).astype(np.int16)
    write_nifti(Path("some.nii.gz"), some, GRID)
    snm("--tractogram", "tract.tck", atlas="some.nii.gz")
    assert "Atlas some leaves 68 % of all streamline ends" in capsys.readouterr().err


def test_snm__weights_are_summed_between_parcels():
    Path("w.txt").write_text("\n".join(str(number / 4) for number in range(20)))
    snm("--tractogram", "tract.tck", "--weights", "w.txt", "--min-edge", "3")
    parcels = result("out", "parcels_stats")
    assert column(parcels, "total") == ["11.25", "27", "2.5", "8.75", "27"]
    assert column(parcels, "cut") == ["7", "0", "2.5", "4.5", "0"]
    assert column(result("out", "chaco_stats"), "total")[1] == "36.25"
    (path,) = Path("out").rglob("*_desc-deltasspl_relmat.json")
    assert json.loads(path.read_text())["Density"] == 0.2


def lesser(path):
    """Return the files of results, without what says where the atlas lay."""
    return {
        file.name: file.read_bytes()
        for file in Path(path).rglob("*")
        if file.is_file() and file.suffix in {".tsv", ".gz"}
    }


@pytest.mark.parametrize("turn", ["LAS", "LIA"])
def test_snm__an_atlas_stored_otherwise_gives_the_same_files(turn):
    words = ["--tractogram", "tract.tck"]
    snm(*words)
    affine, turned = np.eye(4), labels()[::-1]
    affine[0] = [-1, 0, 0, 19]
    if turn == "LIA":
        turned, affine = turned.transpose(0, 2, 1), affine[:, [0, 2, 1, 3]]
    Path("copy").mkdir()
    write_nifti(Path("copy/toy.nii.gz"), turned, Grid(turned.shape, affine))
    snm(*words, output="other", atlas="copy/toy.nii.gz:toy.tsv")
    assert lesser("other") == lesser("out")
    assert len(lesser("out")) == 9 + 5 + 1


def test_snm__an_atlas_in_another_space_stops_the_run(capsys):
    Path("toy.json").write_text('{"Space": "MNIColin27"}')
    snm("--tractogram", "tract.tck", code=1)
    assert "all must be in one space" in capsys.readouterr().err
    assert not Path("out").exists()


def test_snm__results_with_other_atlases_or_edges_are_made_again(capsys):
    words = ["--tractogram", "tract.tck"]
    snm(*words)
    (path,) = Path("out").rglob("*_desc-parcels_stats.tsv")
    first = path.read_text()
    capsys.readouterr()
    snm(*words)
    assert "done already: 1 of 1" in capsys.readouterr().err
    snm(*words, "--min-edge", "2")
    assert "--min-edge" in capsys.readouterr().err
    changed = labels()
    changed[0, 0] = 2
    write_nifti(Path("toy.nii.gz"), changed, GRID)
    snm(*words, "--min-edge", "2")
    assert "atlas toy changed" in capsys.readouterr().err
    assert path.read_text() != first


@pytest.mark.parametrize("text", ["-1", "x", "nan"])
def test_snm__min_edge_is_a_number_of_0_or_above(text, capsys):
    with pytest.raises(SystemExit):
        snm("--tractogram", "tract.tck", f"--min-edge={text}")
    assert "not a number of 0 or above" in capsys.readouterr().err
