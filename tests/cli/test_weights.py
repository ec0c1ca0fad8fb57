"""``--weights``: every output against sums that were made one streamline at a time."""

import csv
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.sparse.csgraph import shortest_path
from tests.phantoms import write_nifti

import lacuna
from lacuna.cli.main import main
from lacuna.errors import OptionError
from lacuna.formats.trx import save_trx
from lacuna.geometry.grid import Grid

SHAPE = (12, 12, 12)
GRID = Grid(SHAPE, np.eye(4))
N = 60
SIFT = np.random.default_rng(5).uniform(0, 2, N).astype(np.float32)
WAYS = ["length", "sift.txt", "sift"]


@pytest.fixture(scope="module")
def lines():
    """Random walks of whole-mm steps between corners of a cube, as arrays of points."""
    random = np.random.default_rng(3)
    return [
        np.clip(
            np.cumsum(random.integers(-2, 3, (n, 3)), axis=0) + random.integers(0, 12, 3), 0, 11
        )
        for n in random.integers(2, 9, N)
    ]


@pytest.fixture(autouse=True)
def scene(lines):
    save(lines, "lines.trk")
    np.savetxt("sift.txt", SIFT, fmt="%.9g")
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7, 3:9, 4:9] = 1
    write_nifti(Path("one_space-Study.nii.gz"), mask, GRID)
    labels = np.indices(SHAPE).reshape(3, -1).T // 3 @ [16, 4, 1] + 1
    write_nifti(
        Path("atlas-A_space-Study_dseg.nii.gz"), labels.reshape(SHAPE).astype(np.int16), GRID
    )


def save(some, path, sift=SIFT):
    kept = {"sift": np.asarray(sift)[:, None], "pair": np.ones((len(some), 2), np.float32)}
    tractogram = nib.streamlines.Tractogram(
        [line.astype(np.float32) for line in some], kept, affine_to_rasmm=np.eye(4)
    )
    nib.streamlines.save(tractogram, path)


def weights_of(way, some):
    steps = [np.sqrt((np.diff(line, axis=0) ** 2).sum(axis=1)).sum() for line in some]
    return np.array(steps) if way == "length" else SIFT.astype(float)


def snm(*words, code=0, out="out"):
    options = ["--tractogram-space", "Study", "--grid", "one_space-Study.nii.gz", "--no-figures"]
    options += ["--rule", "vertex", "--min-tdi", "1", "--atlas", "atlas-A_space-Study_dseg.nii.gz"]
    words = words if "--tractogram" in words else [*words, "--tractogram", "lines.trk"]
    return main(["run", "snm", "one_space-Study.nii.gz", out, *options, *words]) == code


def find(name, out="out"):
    (path,) = Path(out).rglob(f"*{name}")
    return path


def table(name, out="out"):
    with find(name, out).open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def column(rows, name):
    return [np.nan if row[name] == "n/a" else float(row[name]) for row in rows]


def matrix(desc):
    rows = table(f"{desc}_relmat.tsv")
    return np.array([column(rows, name) for name in rows[0] if name != "name"]).T


def is_cut(some):
    mask = nib.load("one_space-Study.nii.gz").get_fdata() > 0
    return np.array([mask[tuple(line.T)].any() for line in some])


@pytest.mark.parametrize("way", WAYS)
def test_weights__maps_and_sums(lines, way):
    assert snm("--weights", way)
    weights, cut = weights_of(way, lines), is_cut(lines)
    total, taken = np.zeros((2, *SHAPE))
    for line, weight, gone in zip(lines, weights, cut, strict=True):
        for voxel in set(map(tuple, line)):
            total[voxel] += weight
            taken[voxel] += weight * gone
    for desc, expected in {
        "tdi": total,
        "cuttdi": taken,
        "disconnection": np.divide(taken, total, out=np.zeros(SHAPE), where=total > 0),
    }.items():
        found = nib.load(find(f"desc-{desc}_map.nii.gz")).get_fdata()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
        assert expected.any()
    (row,) = table("desc-summary_stats.tsv")
    assert float(row["weight_total"]) == pytest.approx(weights.sum(), rel=1e-6)
    assert float(row["weight_cut"]) == pytest.approx(weights[cut].sum(), rel=1e-6)
    assert row["weights"] == way
    sidecars = [json.loads(path.read_text()) for path in Path("out").rglob("*_map.json")]
    assert {sidecar["Lacuna"]["Weights"] for sidecar in sidecars} == {way}
    said = json.loads(find("desc-cuttdi_map.json").read_text())
    assert said["Units"] == ("mm" if way == "length" else "summed weight")
    assert f"({way})" in said["Description"]


@pytest.mark.parametrize("way", WAYS)
def test_weights__parcels_and_pairs(lines, way):
    assert snm("--weights", way, "--min-edge", "1.5")
    weights, cut = weights_of(way, lines), is_cut(lines)
    whole, gone = np.zeros((2, 64, 64))
    for line, weight, taken in zip(lines, weights, cut, strict=True):
        a, b = sorted(int(end // 3 @ [16, 4, 1]) for end in line[[0, -1]])
        for sums in [whole, gone] if taken else [whole]:
            sums[a, b] += weight
            sums[b, a] = sums[a, b]
    pairs = np.divide(gone, whole, out=np.full_like(whole, np.nan), where=whole > 0)
    np.testing.assert_allclose(matrix("count"), whole, rtol=1e-6)
    np.testing.assert_allclose(matrix("spared"), whole - gone, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(matrix("disconnection"), pairs, rtol=1e-6)
    np.fill_diagonal(pairs, np.nan)
    np.testing.assert_allclose(matrix("chaco"), pairs, rtol=1e-6)
    np.fill_diagonal(whole, 0)
    np.fill_diagonal(gone, 0)
    for name, share in {"parcels": "disconnection", "chaco": "chaco"}.items():
        rows = table(f"desc-{name}_stats.tsv")
        np.testing.assert_allclose(column(rows, "total"), whole.sum(axis=0), rtol=1e-6)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(
                column(rows, share), gone.sum(axis=0) / whole.sum(axis=0), rtol=1e-6
            )
    edges = whole >= 1.5
    before = shortest_path(edges, unweighted=True)
    after = shortest_path(edges & (whole - gone >= 0.5 * whole), unweighted=True)
    longest = max(steps[np.isfinite(steps)].max() for steps in (before, after))
    before, after = (np.where(np.isinf(steps), longest + 1, steps) for steps in (before, after))
    np.testing.assert_array_equal(matrix("deltasspl"), after - before)
    assert (after > before).any()


@pytest.mark.parametrize("way", WAYS)
def test_weights__tracts_of_a_table_and_of_a_folder(lines, way):
    Path("tracts.tsv").write_text("tract\tstart\tstop\nlow\t0\t20\nhigh\t20\t60\n")
    Path("tracts").mkdir()
    save(lines[:20], "tracts/low.trk", SIFT[:20])
    save(lines[20:], "tracts/high.trk", SIFT[20:])
    weights, cut = weights_of(way, lines), is_cut(lines)
    for source in ("tracts.tsv", "tracts"):
        assert snm("--weights", way, "--tracts", source, out=f"out-{source}")
        for row in table("desc-tracts_stats.tsv", f"out-{source}"):
            part = slice(0, 20) if row["name"] == "low" else slice(20, 60)
            assert int(row["n_cut"]) == cut[part].sum()
            if (way, source) == ("sift.txt", "tracts"):  # whose numbers are about lines.trk
                assert row["weighted_disconnection"] == "n/a"
                continue
            expected = (weights * cut)[part].sum() / weights[part].sum()
            assert float(row["weighted_disconnection"]) == pytest.approx(expected, rel=1e-6)


def test_weights__numbers_that_a_trx_keeps(lines):
    points = np.concatenate(lines).astype(np.float32)
    offsets = np.cumsum([0, *map(len, lines)])
    save_trx(Path("lines.trx"), points, offsets, GRID)
    with zipfile.ZipFile("lines.trx", "a") as archive:
        archive.writestr("dps/sift.float32", SIFT.tobytes())
    assert snm("--weights", "sift", "--tractogram", "lines.trx")
    (row,) = table("desc-summary_stats.tsv")
    assert float(row["weight_cut"]) == pytest.approx(SIFT[is_cut(lines)].sum(), rel=1e-6)
    assert main(["tdi", "lines.trx", "tdi.nii.gz", "--grid", "2", "--weights", "sift"]) == 0
    assert snm("--weights", "length", "--tractogram", "lines.trx", code=1)  # another result


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("sitf", "lines.trk keeps only pair, sift with each streamline"),
        ("pair", "keeps 2 numbers of that name"),
        ("bad.txt", "Weight 2 is nan"),
        ("less.txt", "Weight 1 is -1.0"),
        ("none.txt", "all weights are 0"),
        ("table.txt", "it has 30 lines of 2 numbers"),
    ],
)
def test_weights__what_cannot_be_used_is_said_with_what_can(way, said, capsys):
    Path("bad.txt").write_text("1\nnan\n" + "1\n" * 58)
    Path("less.txt").write_text("-1\n" * 60)
    Path("none.txt").write_text("0\n" * 60)
    Path("table.txt").write_text("1 2\n" * 30)
    assert snm("--weights", way, code=2)
    err = capsys.readouterr().err
    assert said in err
    assert "index of" not in err or way == "pair"  # a file is looked at before all else
    assert not Path("out").exists()


def test_weights__stored_numbers_that_are_no_weights_are_an_error(lines, capsys):
    save(lines, "lines.trk", np.where(np.arange(N) == 7, -0.5, SIFT))
    assert snm("--weights", "sift", code=2)
    assert "--weights sift for lines.trk: Weight 8 is -0.5" in capsys.readouterr().err


def test_disconnect__takes_weights_by_name(lines):
    index = lacuna.open_index("lines.trk", space="Study", grid="one_space-Study.nii.gz")
    for way in WAYS:
        weights = weights_of(way, lines)
        result = lacuna.disconnect(index, "one_space-Study.nii.gz", min_tdi=1, weights=way)
        assert result.weight_total == pytest.approx(weights.sum(), rel=1e-6)
        same = lacuna.disconnect(index, "one_space-Study.nii.gz", min_tdi=1, weights=weights)
        np.testing.assert_allclose(result.ratios, same.ratios, rtol=1e-6)
        connectome = lacuna.open_connectome(index, "atlas-A_space-Study_dseg.nii.gz", weights=way)
        assert connectome.connectome.matrix.max() > 0
    with pytest.raises(OptionError, match="keeps only pair, sift"):
        lacuna.disconnect(index, "one_space-Study.nii.gz", weights="lengths")
