"""``lacuna tdi`` from the command line to the image."""

from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.oracles.segment import segment_voxels, vertex_voxels
from tests.phantoms import coherent_tractogram, pack, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines

GRID = Grid(
    (12, 14, 10), np.array([[-2.0, 0, 0, 11], [0, 2, 0, -14], [0, 0, 2.5, -12], [0, 0, 0, 1]])
)


@pytest.fixture(scope="module")
def streamlines():
    whole = coherent_tractogram(80, step_mm=6)
    return Streamlines(whole.words / 8, whole.firsts, whole.counts)


@pytest.fixture
def files(tmp_path, streamlines, monkeypatch):
    """Return a tractogram, a reference image and the output; the cache is the test's own."""
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "cache"))
    write_tck(tmp_path / "some.tck", streamlines, step_size_mm=0.75)
    write_nifti(tmp_path / "ref.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    return [str(tmp_path / name) for name in ("some.tck", "ref.nii.gz", "out.nii.gz")]


def count(streamlines, visit, weights=None):
    expected = np.zeros(GRID.canonical.shape)
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    for i, (start, stop) in enumerate(pairwise(offsets)):
        for voxel in visit(points[start:stop], GRID):
            expected[voxel] += 1 if weights is None else weights[i]
    return GRID.orientation.from_canonical(expected)


def tdi(*argv):
    return main(["tdi", *argv])


@pytest.mark.parametrize(
    ("rule", "visit"), [("segment", segment_voxels), ("vertex", vertex_voxels)]
)
def test_tdi__counts_equal_the_oracle_in_every_voxel(rule, visit, files, streamlines, capsys):
    tractogram, reference, output = files
    assert tdi(tractogram, output, "--grid", reference, "--rule", rule) == 0
    image = nib.load(output)
    assert image.get_data_dtype() == np.int32
    np.testing.assert_array_equal(np.asarray(image.dataobj), count(streamlines, visit))
    np.testing.assert_allclose(image.affine, GRID.affine)
    np.testing.assert_allclose(image.get_qform(), GRID.affine, atol=1e-6)
    assert image.header["sform_code"] > 0
    assert image.header["qform_code"] > 0
    assert capsys.readouterr().out == ""


def test_tdi__weights_are_summed(files, streamlines, tmp_path):
    tractogram, reference, output = files
    weights = np.random.default_rng(1).exponential(size=len(streamlines))
    header = "# command_history: tcksift2\n"
    (tmp_path / "w.txt").write_text(header + " ".join(map(repr, weights.tolist())) + "\n")
    code = tdi(tractogram, output, "--grid", reference, "--weights", str(tmp_path / "w.txt"))
    assert code == 0
    image = nib.load(output)
    assert image.get_data_dtype() == np.float32
    expected = count(streamlines, segment_voxels, weights)
    np.testing.assert_allclose(np.asarray(image.dataobj), expected, rtol=1e-6)


def test_tdi__is_the_same_file_from_the_cache(files, tmp_path):
    tractogram, reference, _ = files
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    assert tdi(tractogram, str(first), "--grid", reference) == 0
    entries = sorted((tmp_path / "cache").rglob("meta.json"))
    assert tdi(tractogram, str(second), "--grid", reference) == 0
    assert first.read_bytes() == second.read_bytes()
    assert sorted((tmp_path / "cache").rglob("meta.json")) == entries


def test_tdi__threads_and_file_order_change_nothing(files, tmp_path, streamlines):
    tractogram, reference, output = files
    turned = tmp_path / "turned.tck"
    points, offsets = streamlines.gather(np.arange(len(streamlines))[::-1])
    write_tck(turned, pack([points[a:b] for a, b in pairwise(offsets)]))
    assert tdi(tractogram, output, "--grid", reference) == 0
    other = tmp_path / "other.nii.gz"
    assert tdi(str(turned), str(other), "--grid", reference, "--threads", "2") == 0
    np.testing.assert_array_equal(nib.load(output).dataobj, nib.load(other).dataobj)


def test_tdi__a_voxel_size_lays_a_grid_over_the_tractogram_or_takes_the_spaces_own(files):
    tractogram, _, output = files
    assert tdi(tractogram, output, "--grid", "1") == 0
    image = nib.load(output)
    assert image.header.get_zooms() == (1, 1, 1)
    assert np.asarray(image.dataobj)[[0, -1]].any()
    assert tdi(tractogram, output, "--grid", "2", "--tractogram-space", "MNI152NLin6Asym") == 0
    assert nib.load(output).shape == (91, 109, 91)


def test_tdi__rule_mrtrix_warns_of_a_stale_step_size(files, streamlines, capsys):
    tractogram, reference, output = files
    assert tdi(tractogram, output, "--grid", reference, "--rule", "mrtrix") == 0
    assert "warning" not in capsys.readouterr().err
    write_tck(Path(tractogram), streamlines)
    assert tdi(tractogram, output, "--grid", reference, "--rule", "mrtrix") == 0
    assert "no step_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--grid", "absent.nii.gz"], 2, "neither a file nor a voxel size"),
        (["--rule", "vertex", "--upsample", "2"], 2, "rule mrtrix only"),
        (["--weights", "absent.txt"], 2, "absent.txt is no file, and some.tck keeps nothing"),
        (["--weights", "few.txt"], 2, "2 weights do not fit 80"),
        (["--weights", "text.txt"], 2, "cannot be read as numbers"),
        (["--weights", "negative.txt"], 2, "Weight 80 is -1"),
        (["--tractogram-space", "MNI"], 1, "not one space"),
    ],
)
def test_tdi__what_is_wrong_is_said_and_nothing_is_written(
    argv, code, words, files, tmp_path, capsys
):
    (tmp_path / "few.txt").write_text("1 2")
    (tmp_path / "text.txt").write_text("one\n" * 80)
    (tmp_path / "negative.txt").write_text("1\n" * 79 + "-1\n")
    tractogram, reference, output = files
    grid = [] if "--grid" in argv else ["--grid", reference]
    assert tdi(tractogram, output, *grid, *argv) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("o.txt", "o.txt cannot be written: its name has to end in .nii or .nii.gz."),
        ("o.nii.gz.txt", "has to end in"),
        ("absent/o.nii", "The folder absent does not exist."),
    ],
)
def test_tdi__an_output_that_cannot_be_is_refused_before_any_work(
    output, words, files, tmp_path, capsys
):
    assert tdi(files[0], output) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("cache/tdi/*"))
    assert not Path(output).exists()


def test_tdi__a_file_that_is_no_tractogram_is_an_error(files, tmp_path, capsys):
    _, reference, output = files
    (tmp_path / "broken.tck").write_bytes(b"mrtrix tracks\nEND\n")
    assert tdi(str(tmp_path / "broken.tck"), output, "--grid", reference) == 1
    assert "broken.tck" in capsys.readouterr().err
    assert tdi(str(tmp_path / "absent.tck"), output, "--grid", reference) == 1
    assert "There is no file" in capsys.readouterr().err


def test_tdi__rule_mrtrix_without_a_step_size_line_needs_upsample(shared_data, files, capsys):
    _, reference, output = files
    path = str(shared_data / "tractograms" / "hcp842_small1000.trk")
    assert tdi(path, output, "--grid", reference, "--rule", "mrtrix") == 2
    assert "--upsample" in capsys.readouterr().err
    assert tdi(path, output, "--grid", reference, "--rule", "mrtrix", "--upsample", "2") == 0
