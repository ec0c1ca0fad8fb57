"""``--transform``: a tractogram in the lesions' space, from the command line to the record."""

import json

import h5py
import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import coherent_tractogram, write_nifti, write_tck

import lacuna
from lacuna.cli.main import main
from lacuna.errors import SpaceError
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.workflow.warped import identify_transform

SHIFT = np.array([3.0, -2, 1])
"""From study space A to B, mm RAS+."""

GRID = Grid.cubic(2, (20, 20, 20), (-19, -19, -19))
FORTH = "tpl-A_from-B_mode-image_xfm.h5"  # resamples images of B onto A: points of A go to B
BACK = "tpl-B_from-A_mode-image_xfm.h5"


def write_shift(path, shift):
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup/0")
        group["TransformType"] = ["AffineTransform_double_3_3"]
        group["TransformParameters"] = [*np.eye(3).ravel(), *(shift * [-1, -1, 1])]
        group["TransformFixedParameters"] = np.zeros(3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write a tractogram in A, the same moved to B, transforms both ways, and a lesion in B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "cache"))
    whole = coherent_tractogram(80, step_mm=6)
    points = (whole.words / 8).astype(np.float32)
    moved = (points.reshape(-1, 3) + SHIFT).astype(np.float32)
    write_tck(tmp_path / "space-A_t.tck", Streamlines(points, whole.firsts, whole.counts))
    write_tck(tmp_path / "space-B_t.tck", Streamlines(moved.ravel(), whole.firsts, whole.counts))
    write_shift(tmp_path / FORTH, SHIFT)
    write_shift(tmp_path / BACK, -SHIFT)
    mask = np.zeros(GRID.shape, np.uint8)
    mask[10:14, 8:13, 9:12] = 1
    write_nifti(tmp_path / "ref.nii.gz", mask, GRID)
    write_nifti(tmp_path / "space-B_label-L_mask.nii.gz", mask, GRID)
    return tmp_path


def snm(output, *words, tractogram="space-A_t.tck", space="B"):
    common = ("--grid", "ref.nii.gz", "--min-tdi", "1", "--no-figures", "--space", space)
    lesion = "space-B_label-L_mask.nii.gz" if space == "B" else "ref.nii.gz"
    return main(["run", "snm", lesion, output, "--tractogram", tractogram, *common, *words])


def disconnection(output):
    path = next(output.rglob("*desc-disconnection_map.nii.gz"))
    return np.asarray(nib.load(path).dataobj), json.loads(
        path.with_name(path.name.replace(".nii.gz", ".json")).read_text()
    )


@pytest.mark.parametrize("transform", [FORTH, BACK])
def test_snm__moves_the_tractogram_into_the_lesions_space(files, transform):
    assert snm("direct", tractogram="space-B_t.tck") == 0
    assert snm("moved", "--transform", transform) == 0
    expected, (found, sidecar) = disconnection(files / "direct")[0], disconnection(files / "moved")
    assert expected.any()
    np.testing.assert_array_equal(found, expected)
    assert sidecar["SpatialReference"].startswith("B")
    said = sidecar["Lacuna"]["Transform"]
    assert (said["PointsFrom"], said["PointsTo"]) == ("A", "B")
    assert said["Inverted"] == (transform == BACK)
    assert (said["PointsOutside"], said["PointsUnsolved"]) == (0, 0)
    assert len(said["XXH3-128"]["transform"]) == 32
    assert sidecar["Lacuna"]["CacheKeys"].keys() == {"warped", "streamlines", "hits", "map"}


def test_snm__second_run_takes_everything_from_the_cache(files, capsys):
    assert main(["cache", "warm", "--tractogram", "space-A_t.tck", "--transform", FORTH,
                 "--grid", "ref.nii.gz", "--json"]) == 0  # fmt: skip
    warmed = json.loads(capsys.readouterr().out)
    assert warmed["built"]
    (files / "other_name.h5").write_bytes((files / FORTH).read_bytes())
    names = ("--transform-from", "B", "--transform-to", "A")
    assert snm("out", "--transform", "other_name.h5", *names) == 0
    assert "opened from the cache" in capsys.readouterr().err
    assert disconnection(files / "out")[1]["Lacuna"]["CacheKeys"] == warmed["entries"]
    assert snm("out", "--transform", BACK) == 1
    assert "Transform" in capsys.readouterr().err


def test_notebook__transform_moves_what_the_command_moves(files):
    moved = lacuna.open_index("space-A_t.tck", grid="ref.nii.gz", transform=files / FORTH)
    direct = lacuna.open_index("space-B_t.tck", grid="ref.nii.gz")
    assert moved.space.name == "B"
    ours, expected = (
        lacuna.disconnect(index, "ref.nii.gz", space="B", min_tdi=1) for index in (moved, direct)
    )
    np.testing.assert_array_equal(ours.disconnection, expected.disconnection)
    write_nifti(files / "space-A_atlas-One_dseg.nii.gz", np.ones(GRID.shape, "u1"), GRID)
    with pytest.raises(SpaceError, match="Give --transform FILE between A and B"):
        lacuna.open_connectome(moved, "space-A_atlas-One_dseg.nii.gz")


def test_notebook__tractogram_and_atlas_move_together(files):
    # From centres of GRID to centres of the target's voxels, on multiples of 2 mm.
    write_shift(files / "odd.h5", np.array([3.0, -1, 1]))
    odd = identify_transform(files / "odd.h5", images_from="B", images_to="A")
    labels = np.random.default_rng(0).integers(0, 9, GRID.shape).astype(np.uint8)
    write_nifti(files / "space-A_atlas-Some_dseg.nii.gz", labels, GRID)
    at_home, away = (
        lacuna.open_connectome(
            lacuna.open_index("space-A_t.tck", grid="ref.nii.gz", transform=transform),
            "space-A_atlas-Some_dseg.nii.gz",
            transform=transform,
        )
        for transform in (None, odd)
    )
    assert at_home.connectome.matrix.sum() > 50
    assert away.parcellation.grid is not at_home.parcellation.grid
    np.testing.assert_array_equal(away.connectome.matrix, at_home.connectome.matrix)


def test_tdi__is_that_of_the_moved_tractogram(files):
    for output, tractogram, more in (
        ("a.nii.gz", "space-A_t.tck", ("--transform", FORTH)),
        ("b.nii.gz", "space-B_t.tck", ()),
    ):
        assert main(["tdi", tractogram, output, "--grid", "ref.nii.gz", *more]) == 0
    found, expected = (np.asarray(nib.load(files / f"{name}.nii.gz").dataobj) for name in "ab")
    np.testing.assert_array_equal(found, expected)


def test_snm__transform_is_not_used_where_nothing_differs(files, capsys):
    assert snm("out", "--transform", FORTH, space="A") == 0
    assert f"{FORTH} is not used" in capsys.readouterr().err
    assert disconnection(files / "out")[1]["Lacuna"]["Transform"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --transform FILE between B and A"),
        (("--transform", "absent.h5"), "no such file"),
        (("--transform-from", "A"), "say what --transform FILE is"),
        (("--transform", "plain.h5"), "give --transform-from and --transform-to"),
        (("--transform", "plain.h5", "--transform-from", "A", "--transform-to", "C"),
         "Give --transform FILE between B and A"),
        (("--transform", "plain.h5", "--transform-from", "C", "--transform-to", "B"),
         "plain.h5 connects C and B, and the tractogram is in A"),
        (("--transform", FORTH, "--transform-from", "A", "--transform-to", "B"),
         "points: say --transform-from, --transform-to"),
    ],
)  # fmt: skip
def test_snm__says_what_to_do_where_a_transform_does_not_fit(files, words, message, capsys):
    (files / "plain.h5").write_bytes((files / FORTH).read_bytes())
    assert snm("out", *words) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (files / "out").exists()


def test_snm__names_that_speak_of_points_are_read_so(files):
    (files / "from-A_to-B_mode-points_xfm.h5").write_bytes((files / FORTH).read_bytes())
    assert snm("out", "--transform", "from-A_to-B_mode-points_xfm.h5") == 0
    assert disconnection(files / "out")[1]["Lacuna"]["Transform"]["Inverted"] is False


def test_transform__one_that_is_damaged_is_found_by_a_dry_run(files, capsys):
    content = (files / FORTH).read_bytes()
    (files / FORTH).write_bytes(content[: len(content) // 2])
    for more in ([], ["--move-lesions"]):
        assert snm("out", "--transform", FORTH, "--dry-run", *more) == 1
        assert "cannot be read as an ITK composite" in capsys.readouterr().err
    assert not (files / "out").exists()
