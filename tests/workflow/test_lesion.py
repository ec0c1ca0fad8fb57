import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from lacuna.bids.dataset import find_lesions
from lacuna.errors import DatasetError, GridError, LesionError, SpaceError
from lacuna.formats import open_tractogram
from lacuna.geometry.space import StatedSpace, canonical_grid
from lacuna.workflow.lesion import (
    check_cut,
    check_overlap,
    check_spaces,
    load_lesion,
    tractogram_space,
)

SHAPE = (20, 24, 18)
AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.WARNING, "lacuna")


def block(*, x=slice(2, 5), shape=SHAPE, value=1, dtype=np.uint8):
    array = np.zeros(shape, dtype)
    array[x, 4:8, 5:9] = value
    return array


def save(path: Path, array, affine=AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def turned(array, affine, codes):
    image = nibabel.Nifti1Image(array, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(codes)))


# What a lesion is


def test_load_lesion__volume_side_and_centre(tmp_path):
    lesion = load_lesion(save(tmp_path / "a.nii.gz", block()), "ACPC")
    assert lesion.n_voxels == 3 * 4 * 4
    assert lesion.volume_mm3 == 3 * 4 * 4 * 8
    assert (lesion.side, lesion.left_share) == ("left", 1)
    assert lesion.centre_of_mass_mm == (-14, -19, 3)
    assert lesion.space == StatedSpace("ACPC", "as given")
    assert lesion.warnings == ()
    assert lesion.mask.dtype == bool
    assert lesion.mask.shape == SHAPE


@pytest.mark.parametrize("kind", ["path", "str", "image", "array", "listed"])
def test_load_lesion__every_way_of_giving_a_mask_is_the_same(tmp_path, kind):
    path = save(tmp_path / "a.nii.gz", block())
    sources = {
        "path": path,
        "str": str(path),
        "image": nibabel.load(path),
        "array": (block(), AFFINE),
        "listed": find_lesions(path).found[0],
    }
    lesion = load_lesion(sources[kind], "ACPC")
    assert np.array_equal(lesion.mask, block().astype(bool))
    assert np.array_equal(lesion.grid.affine, AFFINE)


@pytest.mark.parametrize(
    ("x", "side", "left"),
    [
        (slice(0, 9), "left", 1),
        (slice(12, 14), "right", 0),
        (slice(9, 12), "bilateral", 0.5),  # centres at −2, 0 and 2 mm
        (slice(10, 11), "bilateral", 0.5),  # on the midline alone
        (slice(0, 20), "bilateral", 10.5 / 20),
    ],
)
def test_load_lesion__side_by_share_of_volume(x, side, left):
    lesion = load_lesion((block(x=x), AFFINE), "ACPC")
    assert (lesion.side, lesion.left_share) == (side, left)


def test_load_lesion__a_twentieth_across_the_midline_is_still_one_side():
    array = np.zeros((40, 1, 1), np.uint8)
    array[1:20] = array[30] = 1
    affine = np.eye(4)
    affine[0, 3] = -20  # so that 19 voxels lie left of x = 0, and one right of it
    lesion = load_lesion((array, affine))
    assert lesion.left_share == 0.95
    assert lesion.side == "left"


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LIA", "ASR", "PIL"])
@given(
    seed=st.integers(0, 2**32 - 1),
    origin=st.tuples(*[st.floats(-100, 100)] * 3),
    size=st.sampled_from([0.5, 0.7, 1.0, 1.1, 2.0]),
)
def test_load_lesion__orientation_changes_nothing_to_the_last_bit(codes, seed, origin, size):
    random = np.random.default_rng(seed)
    array = (random.random((7, 6, 5)) < 0.3).astype(np.uint8)
    array[3, 3, 3] = 1
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = np.round(origin, 1)
    image = turned(array, affine, codes)
    one = load_lesion((array, affine))
    other = load_lesion((np.asarray(image.dataobj), image.affine))
    for fact in ("n_voxels", "volume_mm3", "side", "left_share", "centre_of_mass_mm"):
        assert getattr(one, fact) == getattr(other, fact)


def test_load_lesion__the_mask_is_kept_as_stored():
    image = turned(block(), AFFINE, "LIA")
    lesion = load_lesion(image, "ACPC")
    assert np.array_equal(lesion.mask, np.asarray(image.dataobj) > 0)
    assert np.array_equal(lesion.grid.affine, image.affine)


# Masks that are none


def test_load_lesion__an_empty_mask_is_an_error(tmp_path):
    with pytest.raises(LesionError, match="empty"):
        load_lesion(save(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.uint8)), "ACPC")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_load_lesion__values_that_are_not_finite_are_an_error(value):
    array = block(dtype=np.float32)
    array[0, 0, 0] = value
    with pytest.raises(LesionError, match="NaN or infinite"):
        load_lesion((array, AFFINE), "ACPC")


def test_load_lesion__a_probability_map_is_asked_for_a_threshold():
    array = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    with pytest.raises(LesionError, match="threshold"):
        load_lesion((array, AFFINE), "ACPC")


def test_load_lesion__several_volumes_are_an_error():
    with pytest.raises(GridError, match="one volume"):
        load_lesion((np.ones((*SHAPE, 2), np.uint8), AFFINE), "ACPC")


def test_load_lesion__a_single_volume_of_four_axes_is_squeezed():
    assert load_lesion((block()[..., np.newaxis], AFFINE), "ACPC").mask.shape == SHAPE


def test_load_lesion__another_value_than_one_is_noted():
    (warning,) = load_lesion((block(value=255), AFFINE), "ACPC").warnings
    assert "255" in warning


def test_load_lesion__a_path_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        load_lesion(tmp_path / "a.nii.gz", "ACPC")


def test_load_lesion__a_folder_is_not_a_mask(tmp_path):
    with pytest.raises(LesionError, match="is a folder"):
        load_lesion(tmp_path, "ACPC")


# Which space


def test_load_lesion__space_from_its_name(tmp_path):
    lesion = load_lesion(save(tmp_path / "sub-1_space-ch2_mask.nii.gz", block()))
    assert lesion.space == StatedSpace("MNIColin27", "the name of sub-1_space-ch2_mask.nii.gz")


def test_load_lesion__space_from_its_sidecar(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"Space": "MNI152Lin"}))
    lesion = load_lesion(save(tmp_path / "a.nii.gz", block()))
    assert lesion.space == StatedSpace("MNI152Lin", "Space in a.json")


def test_load_lesion__the_default_space_is_the_last_resort(tmp_path):
    default = StatedSpace("ACPC", "space in lab.yaml, line 3")
    assert load_lesion((block(), AFFINE), default_space=default).space == default
    named = save(tmp_path / "sub-1_space-MNI152Lin_mask.nii.gz", block())
    assert load_lesion(named, default_space=default).space.name == "MNI152Lin"
    assert load_lesion((block(), AFFINE), "MNI152Lin", default_space=default).space.name == (
        "MNI152Lin"
    )


def test_load_lesion__an_option_that_contradicts_the_name_is_an_error(tmp_path):
    path = save(tmp_path / "sub-1_space-T1w_mask.nii.gz", block())
    with pytest.raises(SpaceError, match=r"MNI152NLin6Asym \(--space\), but T1w by the name"):
        load_lesion(path, StatedSpace("MNI152NLin6Asym", "--space"))


def test_load_lesion__an_option_may_repeat_the_name(tmp_path):
    path = save(tmp_path / "sub-1_space-MNIColin27_mask.nii.gz", block())
    assert load_lesion(path, "ch2").space.name == "MNIColin27"


def test_load_lesion__an_option_may_say_which_mni_a_name_means(tmp_path):
    path = save(tmp_path / "sub-1_space-MNI_mask.nii.gz", block())
    with pytest.raises(SpaceError, match="not one space"):
        load_lesion(path)
    assert load_lesion(path, "MNI152NLin6Asym").space.name == "MNI152NLin6Asym"


def test_load_lesion__no_space_is_no_guess():
    grid = canonical_grid("MNI152NLin6Asym", 2)
    lesion = load_lesion((block(shape=grid.shape), grid.affine))
    assert lesion.space is None
    assert lesion.warnings == ()


def test_load_lesion__another_templates_grid_is_a_warning_that_names_both(caplog):
    grid = canonical_grid("MNI152NLin2009cAsym", 2)
    lesion = load_lesion((block(shape=grid.shape), grid.affine), "MNI152NLin6Asym")
    (warning,) = lesion.warnings
    assert "MNI152NLin6Asym" in warning
    assert "MNI152NLin2009cAsym" in warning
    assert warning in caplog.messages


def test_load_lesion__another_templates_grid_is_an_error_if_strict():
    grid = canonical_grid("MNI152NLin2009cAsym", 2)
    with pytest.raises(SpaceError, match=r"MNI152NLin6Asym.*MNI152NLin2009cAsym"):
        load_lesion((block(shape=grid.shape), grid.affine), "MNI152NLin6Asym", strict=True)


@pytest.mark.parametrize("space", ["MNI152NLin6Asym", "MNI152Lin", "MNIColin27"])
def test_load_lesion__a_grid_that_several_spaces_share_fits_each(space):
    grid = canonical_grid(space, 2)
    lesion = load_lesion((block(shape=grid.shape), grid.affine), space, strict=True)
    assert lesion.warnings == ()


def load_with_side(folder, side):
    (folder / "participants.tsv").write_text(f"participant_id\tlesion_side\nsub-1\t{side}\n")
    save(folder / "sub-1_mask.nii.gz", block())
    return load_lesion(find_lesions(folder).found[0], "ACPC")


@pytest.mark.parametrize("side", ["left", "L", "Left "])
def test_load_lesion__a_side_that_agrees_is_silent(tmp_path, side):
    assert load_with_side(tmp_path, side).warnings == ()


def test_load_lesion__a_side_that_disagrees_with_participants_is_a_warning(tmp_path):
    (warning,) = load_with_side(tmp_path, "right").warnings
    assert "lesion_side right" in warning
    assert "100% of the mask is left" in warning


def test_load_lesion__a_side_that_is_no_side_is_a_warning(tmp_path):
    (warning,) = load_with_side(tmp_path, "up").warnings
    assert "lesion_side up, which is not left" in warning


# The lesion and the tractogram


def said(space):
    return StatedSpace(space, "by somebody")


def test_check_spaces__the_same_by_any_alias():
    assert check_spaces(said("ch2"), said("MNIColin27")) == "MNIColin27"
    assert check_spaces(said("ACPC"), said("ACPC")) == "ACPC"


def test_check_spaces__different_spaces_are_refused_with_the_way_out():
    with pytest.raises(SpaceError, match=r"Bring the mask into B.*--transform FILE.*--space"):
        check_spaces(said("A"), said("B"))


def test_check_spaces__templates_on_one_grid_are_still_different():
    with pytest.raises(SpaceError, match="differ"):
        check_spaces(said("MNI152NLin2009aAsym"), said("MNI152NLin2009bAsym"))


def test_check_spaces__a_native_mask_is_to_be_normalised():
    with pytest.raises(SpaceError, match="Bring the mask into MNI152NLin6Asym by normalising"):
        check_spaces(said("T1w"), said("MNI152NLin6Asym"))


def test_check_spaces__an_unknown_lesion_space_names_the_option():
    with pytest.raises(SpaceError, match=r"space of the lesion is not stated.*--space NAME"):
        check_spaces(None, said("MNI152NLin6Asym"))


def test_check_spaces__an_unknown_tractogram_space_names_the_option_and_a_guess():
    with pytest.raises(SpaceError, match=r"suggests MNI152NLin6Asym.*--tractogram-space"):
        check_spaces(said("ACPC"), None, tractogram_name="hcp842_MNI152NLin6Asym.trk")


def test_tractogram_space__by_option(tmp_path):
    option = StatedSpace("ch2", "--tractogram-space")
    assert tractogram_space(tmp_path / "x.trk", option) == StatedSpace(
        "MNIColin27", "--tractogram-space"
    )


@pytest.mark.parametrize("name", ["x.trk", "x.tck.gz", "x.trx", "x.tck"])
@pytest.mark.parametrize("key", ["Space", "SpatialReference"])
def test_tractogram_space__by_a_json_beside_it(tmp_path, name, key):
    (tmp_path / "x.json").write_text(json.dumps({key: "ACPC"}))
    assert tractogram_space(tmp_path / name) == StatedSpace("ACPC", f"{key} in x.json")


def test_tractogram_space__by_an_entity_in_its_name():
    stated = tractogram_space("sub-1_space-ACPC_tractography.trx")
    assert stated == StatedSpace("ACPC", "the name of sub-1_space-ACPC_tractography.trx")


def test_tractogram_space__a_cohort_is_not_cut_off_its_name():
    with pytest.raises(SpaceError, match=r"MNIInfant\+2"):
        tractogram_space("space-MNIInfant+2_t.tck")


def test_tractogram_space__by_default_and_by_nothing():
    default = StatedSpace("ACPC", "tractogram_space in lab.yaml")
    assert tractogram_space("x.trk", default_space=default) == default
    assert tractogram_space("hcp842_MNI152NLin6Asym.trk") is None


def test_tractogram_space__an_option_that_contradicts_the_json_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text('{"Space": "MNI152NLin6Asym"}')
    with pytest.raises(SpaceError, match=r"but MNI152NLin6Asym by Space in x\.json"):
        tractogram_space(tmp_path / "x.trk", "MNI152NLin2009cAsym")


def test_tractogram_space__a_name_that_contradicts_the_json_is_an_error(tmp_path):
    (tmp_path / "x_space-ACPC.json").write_text('{"Space": "MNI152NLin6Asym"}')
    with pytest.raises(SpaceError, match=r"MNI152NLin6Asym \(Space in .*but ACPC by the name of"):
        tractogram_space(tmp_path / "x_space-ACPC.trk")


def test_check_overlap__wholly_outside_is_an_error():
    lesion = load_lesion((block(), AFFINE), "ACPC")
    with pytest.raises(LesionError, match=r"wholly outside .*\(-14, -19, 3\) mm.*x 50 to 90"):
        check_overlap(lesion, np.array([50, 50, 50]), np.array([90, 90, 90]))


def test_check_overlap__mostly_outside_suspects_native_space(caplog):
    lesion = load_lesion((block(), AFFINE), "ACPC")
    (warning,) = check_overlap(lesion, np.array([-14.9, -90, -90]), np.array([-14.1, 90, 90]))
    assert "33% of the lesion" in warning
    assert "native space" in warning
    assert warning in caplog.messages


def test_check_overlap__inside_is_silent():
    lesion = load_lesion((block(), AFFINE), "ACPC")
    assert check_overlap(lesion, np.array([-90, -90, -90]), np.array([90, 90, 90])) == ()


def test_check_overlap__a_voxel_that_only_touches_the_box_is_inside():
    lesion = load_lesion((block(), AFFINE), "ACPC")
    low, high = np.array([-90.0, -90, -90]), np.array([-16.9, 90, 90])
    check_overlap(lesion, low, high)  # its first centres are at x = −16


def test_check_cut__no_streamline_suspects_native_space():
    lesion = load_lesion((block(), AFFINE), "ACPC")
    assert check_cut(lesion, 1) == ()
    (warning,) = check_cut(lesion, 0)
    assert "native space" in warning


# Real masks


def test_real_masks__soop_are_las_and_flip_to_the_same_facts(shared_data):
    masks = sorted((shared_data / "lesions" / "soop").glob("bwsrsub-*_lesion.nii.gz"))
    assert len(masks) == 40
    sides = {}
    for mask in masks:
        lesion = load_lesion(mask, "IXI549Space", strict=True)
        sides[mask.name.removeprefix("bwsr").removesuffix("_lesion.nii.gz")] = lesion
    rows = (shared_data / "lesions" / "soop" / "summary.tsv").read_text().splitlines()[1:]
    for name, n_voxels, *centre in (row.split("\t")[:5] for row in rows):
        assert sides[name].n_voxels == int(n_voxels)
        assert np.allclose(sides[name].centre_of_mass_mm, [float(c) for c in centre], atol=0.051)
    image = nibabel.load(masks[0])
    assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
    for codes in ("RAS", "LIA"):
        other = image.as_reoriented(
            ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
        )
        lesion = load_lesion(other, "IXI549Space")
        reference = load_lesion(image, "IXI549Space")
        assert lesion.centre_of_mass_mm == reference.centre_of_mass_mm
        assert lesion.left_share == reference.left_share
        assert lesion.volume_mm3 == reference.volume_mm3


def test_real_masks__soop_stated_as_another_space_warn_or_are_refused(shared_data):
    mask = next((shared_data / "lesions" / "soop").glob("bwsrsub-*"))
    (warning,) = load_lesion(mask, "MNI152NLin6Asym").warnings
    assert "IXI549Space or MNI152Lin" in warning
    with pytest.raises(SpaceError):
        load_lesion(mask, "MNI152NLin6Asym", strict=True)
    with pytest.raises(SpaceError, match="Bring the mask into MNI152NLin6Asym"):
        check_spaces(load_lesion(mask, "IXI549Space").space, said("MNI152NLin6Asym"))


def test_real_masks__lesymap_are_float_and_left(shared_data):
    masks = sorted((shared_data / "lesions" / "lesymap").glob("Subject_*.nii.gz"))
    assert len(masks) == 131
    lesions = [load_lesion(mask, "ch2", strict=True) for mask in masks[::10]]
    assert all(lesion.left_share > 0.85 for lesion in lesions)
    assert {lesion.space.name for lesion in lesions} == {"MNIColin27"}


def test_real_masks__lqt_fit_their_tractogram(shared_data):
    tractogram = shared_data / "tractograms" / "hcp842_wholebrain_MNI152NLin6Asym.trk"
    streamlines = open_tractogram(tractogram).streamlines
    points, _ = streamlines.gather(np.arange(len(streamlines)))
    for mask in sorted((shared_data / "lesions" / "lqt").glob("*.nii.gz")):
        lesion = load_lesion(mask, "MNI152NLin6Asym", strict=True)
        assert lesion.warnings == ()
        assert check_overlap(lesion, points.min(axis=0), points.max(axis=0)) == ()


def test_real_masks__a_native_mask_is_refused_by_its_name(shared_data):
    (mask,) = (shared_data / "lesions" / "other").glob("ARC_*_space-T1w.nii.gz")
    lesion = load_lesion(mask)
    with pytest.raises(SpaceError, match="by normalising"):
        check_spaces(lesion.space, said("MNI152NLin6Asym"), lesion_name=lesion.name)
    with pytest.raises(SpaceError, match="T1w by the name"):
        load_lesion(mask, "MNI152NLin6Asym")


def test_real_masks__tractograms_without_translation_leave_every_lesion_outside(shared_data):
    original = shared_data / "tractograms" / "ORIGINAL_HCP842_F_L.trk"
    streamlines = open_tractogram(original).streamlines
    points, _ = streamlines.gather(np.arange(len(streamlines)))
    mask = shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz"
    with pytest.raises(LesionError, match="wholly outside"):
        check_overlap(load_lesion(mask, "ACPC"), points.min(axis=0), points.max(axis=0))


@pytest.mark.parametrize("atlas", ["soop/ArterialAtlas136", "lesymap/Parcellation_403areas"])
def test_real_masks__an_atlas_is_no_mask(shared_data, atlas):
    with pytest.raises(LesionError, match="label"):
        load_lesion(shared_data / "lesions" / f"{atlas}.nii.gz", "ACPC")
