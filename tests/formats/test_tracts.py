"""Tables of tracts, and images of their probabilities."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from lacuna.errors import FormatError
from lacuna.formats.tracts import load_tract_atlas, load_tract_ranges


def write_table(path, *rows, header="bundle\tcategory\tstart\tstop"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_load_tract_ranges__stop_is_not_a_member_and_a_tract_may_have_several_rows(tmp_path):
    table = write_table(tmp_path / "t.tsv", "AF\ta\t0\t3", "CST\tp\t3\t3", "AF\ta\t5\t7")
    found = load_tract_ranges(table, 7)
    assert {name: ids.tolist() for name, ids in found.items()} == {"AF": [0, 1, 2, 5, 6], "CST": []}


@pytest.mark.parametrize("row", ["AF\ta\t3\t0", "AF\ta\t-1\t2", "AF\ta\tx\t2", "AF\ta\t1"])
def test_load_tract_ranges__what_is_no_range_is_refused_with_the_tract(row, tmp_path):
    with pytest.raises(FormatError, match="tract AF goes from"):
        load_tract_ranges(write_table(tmp_path / "t.tsv", row), 7)


def test_load_tract_ranges__a_table_of_something_else_is_refused(tmp_path):
    table = write_table(tmp_path / "t.tsv", "1\tAF", header="index\tname")
    with pytest.raises(FormatError, match=r"needs the tab-separated columns .* it has index, name"):
        load_tract_ranges(table, 7)
    with pytest.raises(FormatError, match="cannot be read"):
        load_tract_ranges(tmp_path / "missing.tsv", 7)


def test_load_tract_ranges__overlap_and_windows_tables_count_each_streamline_once(tmp_path):
    table = tmp_path / "t.tsv"
    table.write_bytes("\ufefftract\tstart\tstop\r\nA\t0\t5\r\nB\t3\t7\r\nA\t3\t6\r\n".encode())
    found = load_tract_ranges(table, 7)
    assert {name: ids.tolist() for name, ids in found.items()} == {
        "A": [0, 1, 2, 3, 4, 5],
        "B": [3, 4, 5, 6],
    }


@pytest.mark.parametrize("stop", [8, 10**15])
def test_load_tract_ranges__a_range_beyond_the_tractogram_is_refused_whatever_its_size(
    stop, tmp_path
):
    table = write_table(tmp_path / "t.tsv", f"AF\ta\t3\t{stop}")
    with pytest.raises(FormatError, match=rf"AF goes from 3 to {stop}, but .* holds 7 stream"):
        load_tract_ranges(table, 7)


def test_load_tract_ranges__a_range_without_a_name_or_with_an_endless_one_is_refused(tmp_path):
    with pytest.raises(FormatError, match="from 0 to 5 has no name"):
        load_tract_ranges(write_table(tmp_path / "t.tsv", "0\t5", header="start\tstop\ttract"), 7)
    with pytest.raises(FormatError, match="cannot be read as a table of tracts"):
        load_tract_ranges(write_table(tmp_path / "t.tsv", "A" * 200_000), 7)


def a_probseg(path, values, affine=None):
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header["pixdim"][4] = np.nan
    nib.save(image, path)
    return path


def test_load_tract_atlas__holds_what_is_above_0_in_world_order(tmp_path):
    values = np.zeros((2, 2, 1, 2), np.float32)
    values[0, 1, 0, 0], values[1, 0, 0, 0], values[1, 1, 0, 1] = 0.25, 0.5, 1
    path = a_probseg(tmp_path / "atlas-X_probseg.nii.gz", values, np.diag([-1.0, 1, 1, 1]))
    (tmp_path / "atlas-X_probseg.tsv").write_text("index\tname\n2\tCST\n1\tAF\n")
    atlas = load_tract_atlas(path)
    assert (atlas.name, atlas.names) == ("X", ("AF", "CST"))
    assert np.array_equal(atlas.grid.affine[:3, :3], np.eye(3))
    assert atlas.offsets.tolist() == [0, 2, 3]
    assert atlas.voxels.tolist() == [0, 3, 1]
    assert atlas.values.tolist() == [0.5, 0.25, 1]


def test_load_tract_atlas__one_volume_needs_no_fourth_axis_and_no_names(tmp_path):
    path = tmp_path / "one.nii"
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), path)
    atlas = load_tract_atlas(path)
    assert (atlas.names, atlas.offsets.tolist()) == (("1",), [0, 8])


@pytest.mark.parametrize("wrong", [-0.5, 1.01, 100, np.nan])
def test_load_tract_atlas__what_is_no_probability_is_refused(wrong, tmp_path):
    values = np.zeros((2, 2, 2, 3), np.float32)
    values[0, 0, 0, 1] = wrong
    with pytest.raises(FormatError, match="volume 2 has values from"):
        load_tract_atlas(a_probseg(tmp_path / "a.nii.gz", values))


@pytest.mark.parametrize("kind", ["u1", "i1", "i2"])
def test_load_tract_atlas__probabilities_may_be_stored_as_scaled_integers(kind, tmp_path):
    values = np.linspace(0, 1, 27).reshape(3, 3, 3, 1)
    image = nib.Nifti1Image(values, np.eye(4))
    image.set_data_dtype(kind)
    nib.save(image, tmp_path / "a.nii.gz")
    atlas = load_tract_atlas(tmp_path / "a.nii.gz")
    assert atlas.values.max() == 1
    assert atlas.values == pytest.approx(values.ravel()[1:], abs=2.1e-3)


def test_load_tract_atlas__an_image_of_colours_or_of_nothing_is_refused(tmp_path):
    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(FormatError, match="not probabilities"):
        load_tract_atlas(tmp_path / "rgb.nii")
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2, 0), np.uint8), np.eye(4)), tmp_path / "none.nii")
    with pytest.raises(FormatError, match="no volume"):
        load_tract_atlas(tmp_path / "none.nii")


def test_load_tract_atlas__values_keep_single_precision_around_a_half(tmp_path):
    values = np.array([[[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.25]]], np.float32)
    atlas = load_tract_atlas(a_probseg(tmp_path / "a.nii", values[..., None]))
    assert (atlas.values > 0.5).tolist() == [False, True, False]


def test_fingerprint__of_a_tract_atlas_tells_places_values_and_names_apart(tmp_path):
    def one(values=(0.5, 1), origin=0.0, names="A\nB\n"):
        array = np.array([[[values, (0, 1)]]], np.float32)
        affine = np.eye(4)
        affine[0, 3] = origin
        (tmp_path / "a.txt").write_text(names)
        return load_tract_atlas(a_probseg(tmp_path / "a.nii", array, affine)).fingerprint

    several = [one(), one(values=(0.25, 1)), one(values=(0, 1)), one(origin=1), one(names="A\nC\n")]
    assert len(set(several)) == 5
    assert one() == several[0]


def test_load_tract_atlas__names_and_volumes_must_be_as_many(tmp_path):
    path = a_probseg(tmp_path / "a.nii.gz", np.ones((2, 2, 2, 3), np.uint8))
    names = tmp_path / "names.txt"
    names.write_text("AF\nCST\n")
    with pytest.raises(FormatError, match=r"names 2 tracts, numbered 1 to 2, but .* has 3 volumes"):
        load_tract_atlas(path, names)


def test_load_tract_atlas__a_truncated_file_is_said(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (9, 9, 9, 9)).astype(np.uint8)
    path = a_probseg(tmp_path / "a.nii", values)
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    with pytest.raises(FormatError, match="truncated or damaged"):
        load_tract_atlas(path)
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(whole)[:-200])
    with pytest.raises(FormatError, match="truncated or damaged"):
        load_tract_atlas(packed)
