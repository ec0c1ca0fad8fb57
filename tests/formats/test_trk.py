import gzip

import nibabel as nib
import numpy as np
import pytest

from lacuna.errors import FormatError
from lacuna.formats import list_per_streamline, open_tractogram


def split(opened):
    points, offsets = opened.streamlines.gather(np.arange(len(opened.streamlines)))
    return np.split(points, offsets[1:-1])


@pytest.fixture
def stored(polylines):
    """Return points in voxel-mm, inside an image of 182×218×182 mm."""
    return [p + np.float32([91, 109, 91]) for p in polylines]


def oblique(*, left: bool):
    cos, sin = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = [[cos, -sin, 0], [sin, cos, 0.1], [0, -0.1, 1]]
    affine[:3, :3] *= [-2 if left else 2, 1.5, 3]
    affine[:3, 3] = 80, -110, -70
    return affine


def test_open_trk__the_corner_of_the_first_voxel_is_half_a_voxel_from_its_centre(write_trk):
    path = write_trk(
        [np.float32([[0, 0, 0], [1, 1, 1], [5, 3, 1]])],
        voxel_sizes=2,
        vox_to_ras=np.diag([2.0, 2, 2, 1]),
        voxel_order=b"RAS",
    )
    assert split(open_tractogram(path))[0].tolist() == [[-1, -1, -1], [0, 0, 0], [4, 2, 0]]


def check_against_nibabel(path):
    theirs = nib.streamlines.load(path).streamlines
    ours = split(open_tractogram(path))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() < 1e-4


@pytest.mark.parametrize("order", [b"RAS", b"LAS", b"LPS", b"RPI", b"las"])
@pytest.mark.parametrize("left", [False, True])
def test_open_trk__every_flip_between_points_and_affine_agrees_with_nibabel(
    write_trk, stored, order, left
):
    path = write_trk(
        [p for p in stored if len(p)],
        voxel_order=order,
        vox_to_ras=oblique(left=left),
        voxel_sizes=(2, 1.5, 3),
        dimensions=(91, 145, 60),
    )
    check_against_nibabel(path)


@pytest.mark.parametrize("order", [[0, 2, 1], [1, 2, 0], [2, 0, 1]])
def test_open_trk__an_affine_in_any_order_agrees_with_nibabel(write_trk, stored, order):
    affine = oblique(left=True)
    affine[:, :3] = affine[:, order]
    path = write_trk(
        [p for p in stored if len(p)],
        voxel_order="".join(nib.aff2axcodes(affine)).encode(),
        vox_to_ras=affine,
    )
    check_against_nibabel(path)


def test_open_trk__swapped_axes_are_turned_and_said(write_trk):
    # nibabel applies the inverse of this turn; the two are the same for flips alone.
    path = write_trk(
        [np.float32([[1, 2, 3]])],
        voxel_order=b"LIA",
        vox_to_ras=np.eye(4),
        dimensions=(10, 20, 30),
    )
    opened = open_tractogram(path)
    assert split(opened)[0].tolist() == [[9 - 0.5, 2.5, 19 - 1.5]]
    assert any("voxel_order is LIA" in warning for warning in opened.warnings)


def test_open_trk__nibabel_written_scalars_and_properties_are_stepped_over(tmp_path, polylines):
    kept = [p for p in polylines if len(p)]
    rng = np.random.default_rng(0)
    tractogram = nib.streamlines.Tractogram(
        kept,
        data_per_point={"fa": [rng.random((len(p), 1)) for p in kept]},
        data_per_streamline={
            "weight": rng.random((len(kept), 1)),
            "ends": rng.random((len(kept), 3)),
        },
        affine_to_rasmm=np.eye(4),
    )
    header = {"voxel_to_rasmm": oblique(left=True), "voxel_sizes": (2, 1.5, 3)}
    path = tmp_path / "n.trk"
    nib.streamlines.save(tractogram, path, header={**header, "voxel_order": "LAS"})
    opened = open_tractogram(path)
    assert opened.streamlines.stride == 4
    for a, b in zip(split(opened), kept, strict=True):
        assert np.abs(a - b).max() < 1e-4
    stored = nib.streamlines.load(path).tractogram.data_per_streamline
    assert set(opened.per_streamline) == set(stored) == set(list_per_streamline(path))
    assert opened.per_streamline["ends"].shape == (len(kept), 3)
    for name, values in stored.items():
        found = opened.per_streamline[name].reshape(len(kept), -1)
        np.testing.assert_array_equal(found, values)


def test_open_trk__properties_without_names_are_called_so(write_trk, stored):
    path = write_trk(stored, properties=np.arange(100, dtype=np.float32).reshape(50, 2))
    opened = open_tractogram(path)
    assert list(opened.per_streamline) == ["properties"]
    assert opened.per_streamline["properties"][:2].tolist() == [[0, 1], [2, 3]]
    reopened = open_tractogram(path, (opened.streamlines.firsts, opened.streamlines.counts))
    assert reopened.per_streamline["properties"][49].tolist() == [98, 99]


def test_open_trk__scalars_and_properties_are_stepped_over(write_trk, stored):
    plain = split(open_tractogram(write_trk(stored)))
    scalars = [np.full((len(p), 2), i, np.float32) for i, p in enumerate(stored)]
    properties = np.arange(100, dtype=np.float32).reshape(50, 2)
    opened = open_tractogram(write_trk(stored, "b.trk", scalars, properties))
    assert all(np.array_equal(a, b) for a, b in zip(split(opened), plain, strict=True))
    assert opened.streamlines.counts.min() == 0


def test_open_trk__count_of_zero_is_unknown_and_of_too_few_is_said(write_trk, stored):
    assert open_tractogram(write_trk(stored, n_count=0)).warnings == ()
    opened = open_tractogram(write_trk(stored, n_count=30))
    assert len(opened.streamlines) == 50
    assert "counts 30 streamlines; the 50" in opened.warnings[0]


def test_open_trk__gz_gives_the_same_points(write_trk, stored):
    path = write_trk(stored)
    packed = path.with_name("a.trk.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    ours = split(open_tractogram(packed))
    assert all(
        np.array_equal(a, b) for a, b in zip(ours, split(open_tractogram(path)), strict=True)
    )


def test_open_trk__spans_of_an_earlier_opening_replace_the_walk(write_trk, stored):
    path = write_trk(stored)
    opened = open_tractogram(path)
    spans = (opened.streamlines.firsts, opened.streamlines.counts)
    again = open_tractogram(path, spans)
    assert all(np.array_equal(a, b) for a, b in zip(split(again), split(opened), strict=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"magic": b"TRUCK"}, "no .trk file"),
        ({"hdr_size": 999}, "its own size as"),
        ({"n_scalars": -1}, "n_scalars = -1"),
        ({"n_scalars": 1}, r"streamline \d+ claims -?\d+ points"),
        ({"voxel_sizes": 0}, r"no place in the world.*voxels of \[0.0"),
        ({"voxel_sizes": np.nan}, r"no place in the world.*voxels of \[nan"),
        ({"vox_to_ras": np.diag([1, 0, 1, 1])}, "no place in the world"),
        ({"vox_to_ras": np.zeros((4, 4))}, "no place in the world"),
        ({"vox_to_ras": np.full((4, 4), np.nan)}, "no place in the world"),
        ({"version": 1}, r"no place in the world.*version 1"),
        ({"voxel_order": b"RRS"}, "voxel_order “RRS”"),
        ({"n_count": 51}, "50 of the 51 streamlines"),
    ],
)
def test_open_trk__broken_headers_are_refused_with_the_reason(write_trk, stored, fields, message):
    with pytest.raises(FormatError, match=message):
        open_tractogram(write_trk(stored, **fields))


@pytest.mark.parametrize("n_bytes", [1, 4, 11, 300])
def test_open_trk__cut_off_at_any_byte_is_truncated(write_trk, stored, n_bytes):
    path = write_trk(stored[:2] if len(stored[1]) else stored[:1])
    path.write_bytes(path.read_bytes()[:-n_bytes])
    with pytest.raises(FormatError, match=r"file ends at byte \d+|of the \d+ streamlines"):
        open_tractogram(path)


def test_open_trk__cut_off_in_the_header_is_truncated(write_trk, stored):
    path = write_trk(stored)
    path.write_bytes(path.read_bytes()[:999])
    with pytest.raises(FormatError, match="has 999 bytes"):
        open_tractogram(path)


def test_open_trk__negative_point_count_is_located(write_trk, stored):
    tail = np.int32(-5).tobytes()
    with pytest.raises(FormatError, match="streamline 50 claims -5 points"):
        open_tractogram(write_trk(stored, tail=tail))


def test_open_trk__no_streamlines_is_an_error(write_trk):
    with pytest.raises(FormatError, match="holds no streamlines"):
        open_tractogram(write_trk([]))


def test_open_trk__a_coordinate_that_is_not_finite_is_located(write_trk, stored):
    i = next(i for i, p in enumerate(stored) if len(p) > 3)
    stored[i][2, 1] = np.nan
    with pytest.raises(FormatError, match=f"point 2 of streamline {i} has"):
        open_tractogram(write_trk(stored))


def test_open_trk__scalars_and_properties_may_be_nan(write_trk, stored):
    scalars = [np.full((len(p), 1), np.nan, np.float32) for p in stored]
    properties = np.full((50, 2), np.nan, np.float32)
    opened = open_tractogram(write_trk(stored, scalars=scalars, properties=properties))
    assert len(opened.streamlines) == 50


def test_open_trk__header_without_translation_is_a_warning_that_names_it(write_trk, stored):
    opened = open_tractogram(write_trk(stored, vox_to_ras=np.diag([-1, -1, 1, 1])))
    assert "vox_to_ras has no translation" in opened.warnings[0]
    assert "LPS is assumed" in open_tractogram(write_trk(stored, voxel_order=b"")).warnings[0]


def test_open_trk__no_translation_is_fine_where_points_lie_around_the_origin(tmp_path, polylines):
    # What nibabel writes without a reference image.
    tractogram = nib.streamlines.Tractogram(
        [p for p in polylines if len(p)], affine_to_rasmm=np.eye(4)
    )
    nib.streamlines.save(tractogram, tmp_path / "n.trk")
    assert open_tractogram(tmp_path / "n.trk").warnings == ()


@pytest.mark.parametrize("name", ["ORIGINAL_HCP842_F_L.trk", "ORIGINAL_HCP1065_C_PHP_L.trk"])
def test_open_trk__originals_without_translation_lie_outside_the_brain(shared_data, name):
    opened = open_tractogram(shared_data / "tractograms" / name)
    assert "vox_to_ras has no translation" in opened.warnings[0]
    points = np.concatenate(split(opened))
    assert points[:, :2].max() < 0
    assert points[:, 0].min() > -157
