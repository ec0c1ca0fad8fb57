"""Damage of parcels and tracts, by phantoms whose answer is counted by hand."""

import numpy as np
import pytest
from tests.phantoms import turned_copies

from lacuna.analysis.damage import parcel_damage, tract_overlap
from lacuna.errors import LesionError
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.tract_atlas import TractAtlas

GRID = Grid.cubic(2, (4, 2, 2), (0, 0, 0))


def parcellation(labels, grid=GRID, numbers=(7, 1002)):
    names = tuple(f"area {number}" for number in numbers)
    return Parcellation("Phantom", labels, grid, np.array(numbers, np.int32), names)


def two_parcels():
    """Return label 7 in the first two slabs of x, 1002 in the third; the last has none."""
    labels = np.zeros(GRID.shape, np.int32)
    labels[:2], labels[2] = 7, 1002
    return labels


def test_parcel_damage__on_one_grid_counts_voxels():
    mask = np.zeros(GRID.shape, bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 0, 0] = True
    damage = parcel_damage(mask, GRID, parcellation(two_parcels()))
    assert damage.volume_mm3.tolist() == [64, 32]
    assert damage.lesioned_mm3.tolist() == [16, 0]
    assert damage.shares.tolist() == [0.25, 0]


def test_parcel_damage__on_another_grid_is_the_overlap_of_boxes():
    # One voxel of 3 mm from x = 2 to 5 and y, z = −1 to 2: parcel 7 ends at x = 3, 1002 at 5.
    lesion = Grid.cubic(3, (1, 1, 1), (3.5, 0.5, 0.5))
    damage = parcel_damage(np.ones((1, 1, 1), bool), lesion, parcellation(two_parcels()))
    assert damage.lesioned_mm3.tolist() == [9, 18]
    assert damage.shares == pytest.approx([9 / 64, 18 / 32])


def test_parcel_damage__by_a_rotated_lesion_keeps_its_volume_where_parcels_are():
    # A rod of 1 × 1 mm whose axis crosses the voxels of 2 mm on a diagonal of x and y.
    half = np.sqrt(0.5)
    affine = np.array([[half, -half, 0, 3], [half, half, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1]])
    damage = parcel_damage(
        np.ones((1, 1, 1), bool), Grid((1, 1, 1), affine), parcellation(two_parcels())
    )
    # It is centred on the face between both parcels, and symmetric about it.
    assert damage.lesioned_mm3 == pytest.approx([0.5, 0.5], abs=1e-10)


def test_parcel_damage__of_a_small_part_of_a_voxel_is_as_exact_as_shares_are():
    # One of the 27 mm³ of a voxel, and a third of its mm³: 12 decimals of shares, 1e-11 mm³.
    labels = np.full((1, 1, 1), 7, np.int32)
    coarse = parcellation(labels, Grid.cubic(3, (1, 1, 1), (0, 0, 0)), (7,))
    thin = Grid((1, 1, 1), np.diag([1 / 3, 1, 1, 1]))
    for grid, mm3 in ((Grid((1, 1, 1), np.eye(4)), 1), (thin, 1 / 3)):
        found = parcel_damage(np.ones((1, 1, 1), bool), grid, coarse)
        assert found.lesioned_mm3 == pytest.approx([mm3], rel=0, abs=3e-11)
        assert found.shares == pytest.approx([mm3 / 27], rel=0, abs=1e-12)


def test_parcel_damage__is_the_same_for_every_orientation_of_either():
    random = np.random.default_rng(3)
    grid = Grid.cubic(0.9, (9, 8, 7), (-1.1, -0.7, -0.9))
    mask = random.random(grid.shape) < 0.5
    labels = random.choice(np.array([0, 7, 1002], np.int32), GRID.shape)
    expected = parcel_damage(mask, grid, parcellation(labels))
    for (copy, copy_grid), (turned, turned_grid) in zip(
        turned_copies(mask, grid), turned_copies(labels, GRID), strict=True
    ):
        found = parcel_damage(copy, copy_grid, parcellation(turned, turned_grid))
        assert np.array_equal(found.lesioned_mm3, expected.lesioned_mm3)
        assert np.array_equal(found.volume_mm3, expected.volume_mm3)


def test_parcel_damage__an_empty_lesion_is_an_error():
    with pytest.raises(LesionError, match="empty"):
        parcel_damage(np.zeros(GRID.shape, bool), GRID, parcellation(two_parcels()))


def tract_atlas(*volumes):
    flat = [np.ravel(volume) for volume in volumes]
    voxels = [np.flatnonzero(volume) for volume in flat]
    return TractAtlas(
        "Phantom",
        GRID,
        tuple(f"tract {i}" for i in range(len(volumes))),
        np.cumsum([0, *map(len, voxels)]),
        np.concatenate(voxels).astype(np.int32),
        np.concatenate([v[at] for v, at in zip(flat, voxels, strict=True)]).astype(np.float32),
    )


def test_tract_overlap__tells_the_maximum_and_the_lesioned_share_above_a_half():
    many, few, none = np.zeros((3, *GRID.shape))
    many[0], many[1], many[2] = 0.25, 0.75, 1
    few[:] = 0.5  # a half is not above a half
    mask = np.zeros(GRID.shape, bool)
    mask[:2, 0, 0] = True
    overlap = tract_overlap(mask, GRID, tract_atlas(many, few, none))
    assert overlap.maxima.tolist() == [0.75, 0.5, 0]
    assert overlap.volume_mm3.tolist() == [64, 0, 0]
    assert overlap.lesioned_mm3.tolist() == [8, 0, 0]
    assert overlap.shares[0] == 1 / 8
    assert np.isnan(overlap.shares[1:]).all()


def test_tract_overlap__on_another_grid_a_voxel_that_is_touched_counts_with_its_part():
    steps = np.zeros(GRID.shape)
    steps[:, 0, 0] = [0.2, 0.6, 0.8, 1]
    # From x = 2 to 3.5: half a millimetre beyond the second voxel's face.
    lesion = Grid(
        (1, 1, 1), np.array([[1.5, 0, 0, 2.75], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    )
    overlap = tract_overlap(np.ones((1, 1, 1), bool), lesion, tract_atlas(steps))
    assert overlap.maxima == pytest.approx([0.8])
    assert overlap.lesioned_mm3.tolist() == [6]
    assert overlap.shares.tolist() == [6 / 24]
