import time

import nibabel as nib
import numpy as np
import pytest

from lacuna.errors import FormatError, GridError, LesionError
from lacuna.formats.nifti import load_image, load_mask, save_map
from lacuna.geometry.grid import Grid

RAS = np.array([[2.0, 0, 0, -20], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])
LAS = RAS * [[-1], [1], [1], [1]]


def block(dtype=np.uint8, value=1):
    array = np.zeros((20, 30, 10), dtype)
    array[5:8, 10:14, 3:5] = value
    return array


def saved(tmp_path, array, affine=RAS, name="m.nii.gz", **codes):
    image = nib.Nifti1Image(array, affine)
    for kind, (matrix, code) in codes.items():
        getattr(image, f"set_{kind}")(matrix, code)
    nib.save(image, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("affine", [RAS, LAS])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_load_mask__array_and_grid_are_as_stored(tmp_path, affine, dtype):
    image = load_mask(saved(tmp_path, block(dtype), affine))
    assert image.array.dtype == bool
    assert np.array_equal(image.array, block(bool))
    assert np.array_equal(image.grid.affine, affine)
    assert image.notes == ()


def test_load_mask__a_path_an_image_or_an_array_with_its_affine(tmp_path):
    path = saved(tmp_path, block())
    for source in (path, str(path), nib.load(path), nib.Nifti1Image(block(), RAS), (block(), RAS)):
        image = load_mask(source)
        assert np.array_equal(image.array, block(bool))
        assert np.array_equal(image.grid.affine, RAS)
    assert np.array_equal(load_mask((block(bool), RAS.tolist())).grid.affine, RAS)


def test_load_image__a_format_that_may_not_know_left_from_right_is_refused(tmp_path):
    analyze = nib.AnalyzeImage(block(), RAS)
    nib.save(analyze, tmp_path / "a.img")
    for source in (analyze, tmp_path / "a.img"):
        with pytest.raises(FormatError, match="convert it to NIfTI"):
            load_image(source)


def test_load_mask__axes_of_length_one_are_dropped(tmp_path):
    assert load_mask(saved(tmp_path, block()[..., None, None])).array.shape == (20, 30, 10)
    flat = load_mask(saved(tmp_path, np.ones((4, 4, 1), np.uint8), name="flat.nii"))
    assert flat.array.shape == (4, 4, 1)


def test_load_mask__several_volumes_are_refused(tmp_path):
    path = saved(tmp_path, np.stack([block(), block()], axis=-1))
    with pytest.raises(GridError, match=r"shape \(20, 30, 10, 2\): one volume"):
        load_mask(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (block() * 0, "is empty"),
        (block(np.float32, np.nan), "24 voxels that are NaN or infinite"),
        (block(np.float32, np.inf), "24 voxels that are NaN or infinite"),
        (block(np.float32, 0.5), "no value above 0.5.*threshold"),
        (block() + block(np.uint8, 2) * (np.arange(10) < 4), "several values from 0 to 3"),
        (block(np.float32) * np.linspace(0, 1, 10), "several values from 0 to .*threshold"),
        (block(np.int16, -1), "values down to -1"),
        (block(np.complex64), "not numbers"),
    ],
)
def test_load_mask__what_is_no_mask_is_refused_with_the_reason(array, message):
    with pytest.raises(LesionError, match=message):
        load_mask((array, RAS))


def test_load_mask__one_value_of_255_is_taken_and_said(tmp_path):
    image = load_mask(saved(tmp_path, block(np.uint8, 255)))
    assert image.array.sum() == 24
    assert "255, taken as lesion" in image.notes[0]


def test_load_mask__scaled_integers_may_miss_one_by_rounding(tmp_path):
    image = nib.Nifti1Image(block(np.uint8, 255), RAS)
    image.header.set_slope_inter(np.float32(1 / 255), 0)
    nib.save(image, tmp_path / "s.nii")
    loaded = load_mask(tmp_path / "s.nii")
    assert loaded.array.sum() == 24
    assert loaded.notes == ()


def test_load_image__sform_is_preferred_and_disagreement_is_said(tmp_path):
    moved = RAS.copy()
    moved[0, 3] += 1
    path = saved(tmp_path, block(), sform=(RAS, 2), qform=(moved, 1))
    image = load_image(path)
    assert np.array_equal(image.grid.affine, RAS)
    assert "sform and qform place it differently" in image.notes[0]


def test_load_image__qform_is_used_without_an_sform(tmp_path):
    path = saved(tmp_path, block(), sform=(None, 0), qform=(LAS, 1))
    image = load_image(path)
    assert np.allclose(image.grid.affine, LAS)


def test_load_image__opposite_handedness_of_sform_and_qform_is_an_error(tmp_path):
    path = saved(tmp_path, block(), sform=(RAS, 2), qform=(LAS, 1))
    with pytest.raises(GridError, match=r"disagree about handedness.*fslorient -copysform2qform"):
        load_image(path)


def test_load_image__neither_sform_nor_qform_is_an_error(tmp_path):
    path = saved(tmp_path, block(), sform=(None, 0), qform=(None, 0))
    with pytest.raises(GridError, match="neither a valid sform nor qform"):
        load_image(path)


@pytest.mark.parametrize("i", [1, 4])
def test_load_image__nan_in_pixdim_is_tolerated(tmp_path, i):
    path = saved(tmp_path, block(), name="p.nii")
    content = bytearray(path.read_bytes())
    content[76 + 4 * i : 80 + 4 * i] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    image = load_image(path)
    assert np.array_equal(image.grid.affine, RAS)


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii"])
@pytest.mark.parametrize("kept", [0, 100, 360, 400])
def test_load_image__truncated_files_are_refused(tmp_path, name, kept):
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 10)).astype(np.uint8)
    path = saved(tmp_path, array, name=name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match=r"cannot be read as an image|truncated or damaged"):
        load_image(path)


def test_load_image__missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(FormatError, match="There is no file"):
        load_image(tmp_path / "absent.nii")
    (tmp_path / "t.nii.gz").write_text("no image")
    with pytest.raises(FormatError, match="cannot be read as an image"):
        load_image(tmp_path / "t.nii.gz")


OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) * [1, 2, 3]


@pytest.mark.parametrize("affine", [RAS, LAS, OBLIQUE], ids=["RAS", "LAS", "oblique"])
@pytest.mark.parametrize("name", ["o.nii.gz", "o.nii"])
def test_save_map__sform_qform_codes_and_units_are_right(tmp_path, affine, name):
    array = np.random.default_rng(0).random((20, 30, 10)).astype(np.float32)
    save_map(tmp_path / name, array, Grid(array.shape, affine), code=4)
    image = nib.load(tmp_path / name)
    assert np.array_equal(image.get_fdata(dtype=np.float32), array)
    for read in (image.header.get_sform, image.header.get_qform):
        matrix, code = read(coded=True)
        assert code == 4
        assert np.abs(matrix - affine).max() < 1e-4
    assert image.header.get_xyzt_units()[0] == "mm"
    assert load_image(tmp_path / name).notes == ()


def test_save_map__a_shear_leaves_the_qform_without_a_code(tmp_path):
    affine = RAS.copy()
    affine[0, 1] = 0.5
    save_map(tmp_path / "s.nii", block(), Grid((20, 30, 10), affine))
    header = nib.load(tmp_path / "s.nii").header
    assert header.get_qform(coded=True) == (None, 0)
    assert np.allclose(header.get_sform(), affine)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (bool, np.uint8),
        (np.uint8, np.uint8),
        (np.int64, np.int32),
        (np.uint32, np.int32),
        (np.float64, np.float32),
    ],
)
def test_save_map__masks_labels_and_maps_have_their_types(tmp_path, given, stored):
    save_map(tmp_path / "t.nii", block(given), Grid((20, 30, 10), RAS))
    image = nib.load(tmp_path / "t.nii")
    assert image.get_data_dtype() == stored
    assert np.array_equal(np.asarray(image.dataobj), block(stored))


def test_save_map__the_same_input_makes_the_same_bytes(tmp_path):
    grid = Grid((20, 30, 10), RAS)
    save_map(tmp_path / "a.nii.gz", block(), grid)
    time.sleep(1.1)
    save_map(tmp_path / "b.nii.gz", block(), grid)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)


def test_save_map__array_and_grid_must_fit_and_failure_leaves_nothing(tmp_path):
    with pytest.raises(GridError, match="does not fit"):
        save_map(tmp_path / "a.nii", block(), Grid((10, 30, 20), RAS))
    with pytest.raises(FileNotFoundError):
        save_map(tmp_path / "absent" / "a.nii", block(), Grid((20, 30, 10), RAS))
    assert not list(tmp_path.iterdir())


def test_save_map__order_of_the_array_in_memory_does_not_matter(tmp_path):
    array = np.random.default_rng(0).random((10, 30, 20)).astype(np.float32).T
    save_map(tmp_path / "a.nii", array, Grid((20, 30, 10), RAS))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii").dataobj), array)


def test_load_mask__every_real_lesion_loads(shared_data):
    paths = [
        *sorted((shared_data / "lesions" / "soop").glob("*lesion.nii.gz"))[::8],
        *sorted((shared_data / "lesions" / "lesymap").glob("Subject_*.nii.gz"))[::30],
        *sorted((shared_data / "lesions" / "lqt").glob("*.nii.gz")),
        *sorted((shared_data / "lesions" / "other").glob("*.nii.gz")),
    ]
    assert len(paths) >= 15
    for path in paths:
        assert load_mask(path).array.any()


def test_load_mask__real_atlases_are_no_masks(shared_data):
    folder = shared_data / "parcellations"
    with pytest.raises(LesionError, match="several values"):
        load_mask(folder / "mricron_natbrainlab.nii.gz")
    atlas = "tpl-MNI152NLin2009aAsym_res-01_atlas-HCP1065_desc-thr0p1_probseg.nii.gz"
    with pytest.raises(GridError, match="one volume"):
        load_mask(folder / atlas)
