"""Moved points: what is written, what is carried over, and what is doubted."""

import gzip
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import coherent_tractogram, write_tck

from lacuna.errors import FormatError, SpaceError
from lacuna.formats import save_trx
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import StatedSpace
from lacuna.store import Store
from lacuna.workflow.products import open_index
from lacuna.workflow.warped import identify_transform, plan_warp

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
