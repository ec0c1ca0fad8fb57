"""Moved points: what is written, what is carried over, and what is doubted."""

import gzip
import logging
import shutil
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import coherent_tractogram, turned_copies, write_tck

from lacuna.errors import FormatError, SpaceError
from lacuna.formats import save_trx
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import StatedSpace
from lacuna.store import Store
from lacuna.workflow.products import open_index
from lacuna.workflow.resampled import LesionMoves
from lacuna.workflow.warped import (
    TransformFile,
    choose_warp,
    find_warp,
    identify_transform,
    plan_warp,
)

GRID = Grid.cubic(2, (20, 20, 20), (-19, -19, -19))
A = StatedSpace("A", "a test")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def streamlines():
    whole = coherent_tractogram(60, step_mm=6)
    whole.words[:] = whole.words / 8
    return whole


def write_field(path, vectors, grid=GRID):
    image = nib.Nifti1Image(vectors.astype(np.float32)[..., None, :], grid.affine)
    image.header["intent_code"] = 1007
    nib.save(image, path)
    return path


def plan(store, path, **more):
    return plan_warp(store, [identify_transform(path, images_from="B", images_to="A", **more)], A)


def test_open_index__moved_points_keep_groups_order_and_step_size(tmp_path, store, streamlines):
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    save_trx(tmp_path / "t.trx", points, offsets, GRID, groups={"some": np.array([3, 5])})
    write_tck(tmp_path / "t.tck", streamlines, step_size_mm=0.75)
    with (tmp_path / "t.tck").open("rb") as plain, gzip.open(tmp_path / "z.tck.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    warp = plan(store, write_field(tmp_path / "f.nii.gz", np.full((*GRID.shape, 3), [1, 2, 3])))
    for name in ("t.trx", "t.tck", "z.tck.gz"):
        for _ in range(2):
            opened = open_index(store, tmp_path / name, grid=GRID, warp=warp)
            moved, spans = opened.file.streamlines.gather(np.arange(len(streamlines)))
            np.testing.assert_allclose(moved, points + np.array([-1, -2, 3]), atol=1e-5)
            np.testing.assert_array_equal(spans, offsets)
        assert not opened.built
        assert opened.file.step_size_mm == (None if name == "t.trx" else 0.75)
        assert [*opened.file.groups] == (["some"] if name == "t.trx" else [])
        assert opened.warped == {"moved": len(points), "outside": 0, "unsolved": 0}
        unmoved = open_index(store, tmp_path / name, grid=GRID)
        assert unmoved.fingerprint != opened.fingerprint
        assert unmoved.keys["hits"] != opened.keys["hits"]


def test_open_index__moves_all_encodings_and_turned_headers_alike(tmp_path, store, streamlines):
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    grids = [GRID, *(grid for _, grid in turned_copies(np.zeros(GRID.shape, "u1"), GRID))]
    write_tck(tmp_path / "t.tck", streamlines)
    lines = [points[a:b] for a, b in pairwise(offsets)]
    for code, grid in zip(("RAS", "LAS", "LIA", "PSR"), grids, strict=True):
        save_trx(tmp_path / f"{code}.trx", points, offsets, grid)
        header = {
            "voxel_to_rasmm": grid.affine.astype("f4"),
            "voxel_sizes": grid.voxel_sizes_mm,
            "dimensions": grid.shape,
            "voxel_order": code,
        }
        whole = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
        nib.streamlines.save(whole, tmp_path / f"{code}.trk", header=header)
    vectors = np.random.default_rng(1).normal([1, 2, 3], 0.2, (*GRID.shape, 3))
    field = write_field(tmp_path / "f.nii", vectors)
    forth, back = (
        plan_warp(store, [identify_transform(field, images_from=ends[0], images_to=ends[1])], A)
        for ends in ("BA", "AB")
    )
    for warp in (forth, back):
        found = {}
        for path in sorted(tmp_path.glob("*.t[cr][kx]")):
            opened = open_index(store, path, grid=GRID, warp=warp)
            found[path.name] = opened.file.streamlines.gather(np.arange(len(streamlines)))
        assert len(found) == 9
        assert np.abs(found["t.tck"][0] - points).max() > 2
        for name, (moved, spans) in found.items():
            # A .trk holds mm from a corner, in single precision.
            atol = 1e-5 if name.endswith("trk") else 0
            np.testing.assert_allclose(moved, found["t.tck"][0], rtol=0, atol=atol, err_msg=name)
            np.testing.assert_array_equal(spans, offsets)


def test_open_index__warns_of_points_outside_the_field(tmp_path, store, streamlines, caplog):
    write_tck(tmp_path / "t.tck", streamlines)
    small = Grid.cubic(2, (4, 4, 4), (-3, -3, -3))
    warp = plan(store, write_field(tmp_path / "f.nii", np.ones((4, 4, 4, 3)), small))
    with caplog.at_level(logging.WARNING):
        opened = open_index(store, tmp_path / "t.tck", grid=GRID, warp=warp)
    assert 0 < opened.warped["outside"] < opened.warped["moved"]
    assert (
        f"{opened.warped['outside']} of {opened.warped['moved']} points lie outside" in caplog.text
    )


def test_open_index__keeps_nothing_of_a_transform_that_fails(tmp_path, store, streamlines):
    write_tck(tmp_path / "t.tck", streamlines)
    folds = np.random.default_rng(0).normal(0, 40, (*GRID.shape, 3))
    field = write_field(tmp_path / "f.nii", folds)
    there = plan_warp(store, [identify_transform(field, images_from="A", images_to="B")], A)
    with pytest.raises(SpaceError, match="it folds there"):
        open_index(store, tmp_path / "t.tck", grid=GRID, warp=there)
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"bad.h5 cannot be read as an ITK composite"):
        open_index(store, tmp_path / "t.tck", grid=GRID, warp=plan(store, tmp_path / "bad.h5"))
    assert not [*store.entries()]


def files_of(folder, *given):
    """Return transforms that differ: (images from, images to, source)."""
    made = []
    for i, (start, end, source) in enumerate(given):
        (folder / f"{i}.h5").write_bytes(bytes([i]))
        made.append(TransformFile(folder / f"{i}.h5", start, end, source=source))
    return made


def test_find_warp__prefers_what_was_asked_for_and_then_what_goes_the_right_way(tmp_path, store):
    files = files_of(tmp_path, ("A", "B", "--transform"), ("B", "A", "--transform"),
                     ("B", "A", "a configuration file"))  # fmt: skip
    assert find_warp(store, files, "A", "B").file is files[1]
    assert find_warp(store, files, "B", "A").file is files[0]
    # A file of the command line is meant, if it has to be inverted, too.
    chosen = find_warp(store, [files[0], files[2]], "A", "B")
    assert (chosen.file, chosen.is_inverted) == (files[0], True)
    assert find_warp(store, files, "A", "C") is None


def test_find_warp__two_files_that_fit_alike_are_refused(tmp_path, store):
    one, two = files_of(tmp_path, ("A", "B", "--transform"), ("A", "B", "--transform"))
    with pytest.raises(SpaceError, match=r"0\.h5 and .*1\.h5 both resample images of A onto B"):
        find_warp(store, [one, two], "A", "B")
    assert find_warp(store, [one, one], "A", "B").file is one


def test_transforms__are_not_chained_and_that_is_said(tmp_path, store, caplog):
    chain = files_of(tmp_path, ("A", "B", "--transform"), ("B", "C", "--transform"))
    with pytest.raises(SpaceError, match=r"between C and A.* \(two are not chained\)"):
        choose_warp(store, chain, A, [StatedSpace("C", "a test")])
    with caplog.at_level(logging.WARNING):
        assert plan_warp(store, chain, A).points_to == "B"
    assert "1.h5 is not used" in caplog.text
    assert "0.h5 is not used" not in caplog.text
    with pytest.raises(SpaceError, match=r"Give one transform that leads from A"):
        plan_warp(store, chain[1:], A)


def test_find_warp__is_known_by_the_contents_of_transform_and_images(tmp_path, store):
    def inputs():
        return find_warp(store, [file], "B", "A").inputs

    (xfm,) = files_of(tmp_path, ("A", "B", "--transform"))
    images = (tmp_path / "in.nii", tmp_path / "ref.nii")
    for image in images:
        image.write_bytes(b"one")
    file = TransformFile(xfm.path, "A", "B", images)
    seen = [inputs()]
    for path in (xfm.path, *images):
        path.write_bytes(b"another content")
        seen.append(inputs())
    assert all(each.keys() == {"transform", "moving", "reference"} for each in seen)
    assert len({tuple(each.values()) for each in seen}) == 4


def test_identify_transform__a_cohort_is_not_cut_off_a_name(tmp_path):
    path = tmp_path / "from-MNIInfant+2_to-A_mode-image_xfm.h5"
    path.touch()
    with pytest.raises(SpaceError, match=r"MNIInfant\+2"):
        identify_transform(path)
    assert identify_transform(path, images_from="MNIInfant2", images_to="A").images_to == "A"


def test_lesion_moves__two_files_of_one_name_both_decide(tmp_path, store):
    def said(first, second):
        files = []
        for folder, content in (("a", first), ("b", second)):
            path = tmp_path / folder / "xfm.h5"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            files.append(TransformFile(path, "A", folder, source="--transform"))
        return LesionMoves(store, files, A).parameters()

    assert said(b"1", b"2") != said(b"3", b"2")
    assert said(b"1", b"2") != said(b"1", b"3")
    assert said(b"1", b"2") == said(b"1", b"2")
