import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.bids.names import (
    ENTITY_ORDER,
    build_name,
    file_stem,
    name_plain_file,
    parse_name,
    resolution_label,
)
from lacuna.geometry.grid import Grid

LABEL = st.from_regex(r"[A-Za-z0-9]{1,6}", fullmatch=True)


def test_parse_name__entities_and_suffix():
    name = parse_name("sub-01_ses-2_space-MNI152Lin_label-lesion_mask.nii.gz")
    assert name is not None
    assert name.entities == {"sub": "01", "ses": "2", "space": "MNI152Lin", "label": "lesion"}
    assert name.suffix == "mask"


def test_parse_name__a_bare_modality_becomes_mod():
    name = parse_name("sub-1_run-4_T2w_desc-lesion_mask.nii.gz")
    assert name is not None
    assert name.entities == {"sub": "1", "run": "4", "mod": "T2w", "desc": "lesion"}


@pytest.mark.parametrize(
    "name",
    ["lesion.nii.gz", "ses-1_sub-1_mask.nii", "sub-1_sub-2_mask.nii", "sub-1_a b_mask.nii", ""],
)
def test_parse_name__what_is_no_bids_name_is_none(name):
    assert parse_name(name) is None


@given(
    st.dictionaries(st.sampled_from(ENTITY_ORDER[1:]), LABEL),
    LABEL,
    st.randoms(use_true_random=False),
)
def test_build_name__parses_back_whatever_the_order(entities, sub, random):
    entities = {"sub": sub, **entities}
    shuffled = list(entities.items())
    random.shuffle(shuffled)
    built = build_name(dict(shuffled), "mask", ".nii.gz")
    parsed = parse_name(built)
    assert parsed is not None
    assert parsed.entities == entities
    assert list(parsed.entities) == [key for key in ENTITY_ORDER if key in entities]


def test_build_name__entities_that_bids_does_not_know_stay():
    built = build_name({"sub": "1", "desc": "x", "foo": "2", "ses": "3"}, "mask", ".nii")
    assert built == "sub-1_ses-3_foo-2_desc-x_mask.nii"


@pytest.mark.parametrize(
    ("file", "entities"),
    [
        ("my_lesion.nii.gz", {"sub": "mylesion"}),
        ("sub-01.nii", {"sub": "01"}),
        ("Läsion (2).nii", {"sub": "Lsion2"}),
        ("P7_space-T1w_lesion.nii.gz", {"sub": "P7lesion", "space": "T1w"}),
        ("-.nii", {"sub": "unnamed"}),
    ],
)
def test_name_plain_file__letters_and_digits_become_the_subject(file, entities):
    assert name_plain_file(file).entities == entities


@pytest.mark.parametrize(
    ("file", "stem"),
    [("d/a.nii.gz", "a"), ("a.b.nii", "a.b"), ("x.trk.gz", "x"), ("x.tck", "x"), ("x", "x")],
)
def test_file_stem__double_extensions_are_one(file, stem):
    assert file_stem(file) == stem


@pytest.mark.parametrize(
    ("sizes", "label"), [((2, 2, 2), "2"), ((1.5, 1.5, 1.5), "1p5"), ((1, 1, 3), "1x1x3")]
)
def test_resolution_label__is_the_voxel_size(sizes, label):
    assert resolution_label(Grid((2, 2, 2), np.diag([*sizes, 1.0]))) == label
