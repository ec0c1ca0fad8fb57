import json
from pathlib import Path

import pytest

from lacuna.bids.dataset import find_lesions, read_sidecar, space_in_sidecar
from lacuna.errors import DatasetError
from lacuna.geometry.space import StatedSpace


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    write_json(root / "dataset_description.json", {"Name": "study", "BIDSVersion": "1.10.0"})
    touch(
        root,
        "sub-01/anat/sub-01_space-MNI152NLin6Asym_label-lesion_mask.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_label-L_desc-T1lesion_mask.nii",
        "sub-03/anat/sub-03_roi.nii.gz",
        "sub-03/anat/sub-03_label-hippocampus_roi.nii.gz",
        "sub-04/anat/sub-04_T2w_desc-lesion_mask.nii.gz",
        "sub-04/anat/lesion.nii.gz",
        "derivatives/masks/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "sourcedata/sub-09_label-lesion_mask.nii.gz",
        ".git/annex/sub-08_label-lesion_mask.nii.gz",
    )
    return root


def test_find_lesions__a_dataset_gives_masks_and_rois_that_are_lesions(dataset):
    listing = find_lesions(dataset)
    assert listing.kind == "dataset"
    assert [lesion.path.name for lesion in listing.found] == [
        "sub-01_space-MNI152NLin6Asym_label-lesion_mask.nii.gz",
        "sub-02_ses-1_label-L_desc-T1lesion_mask.nii",
        "sub-03_roi.nii.gz",
        "sub-04_T2w_desc-lesion_mask.nii.gz",
    ]


def test_find_lesions__what_was_ignored_has_its_reason(dataset):
    reasons = {item.path.name: item.reason for item in find_lesions(dataset).ignored}
    assert reasons == {
        "sub-01_T1w.nii.gz": "its suffix is T1w, not mask or roi",
        "sub-01_desc-brain_mask.nii.gz": (
            "no label says that it is a lesion (label-lesion, label-L)"
        ),
        "sub-03_label-hippocampus_roi.nii.gz": "its label hippocampus is not a lesion",
        "lesion.nii.gz": "its name is not a BIDS name",
    }


def test_find_lesions__another_dataset_inside_is_not_searched(dataset):
    touch(dataset, "results/dataset_description.json")
    touch(dataset, "results/sub-01/dwi/sub-01_label-lesion_mask.nii.gz")
    assert len(find_lesions(dataset).found) == 4


def test_find_lesions__a_derivatives_folder_is_a_dataset_of_its_own(dataset):
    (lesion,) = find_lesions(dataset / "derivatives" / "masks").found
    assert lesion.participant == "01"


def test_find_lesions__the_coverage_mask_of_a_run_is_no_lesion(tmp_path):
    touch(
        tmp_path,
        "sub-1/dwi/sub-1_label-lesion_mask.nii.gz",
        "sub-1/dwi/sub-1_res-2_label-lesion_desc-coverage_mask.nii.gz",
    )
    listing = find_lesions(tmp_path)
    assert [lesion.path.name for lesion in listing.found] == ["sub-1_label-lesion_mask.nii.gz"]


def test_find_lesions__a_raw_dataset_without_lesions_points_to_its_derivatives(tmp_path):
    touch(tmp_path, "dataset_description.json", "sub-1/anat/sub-1_T1w.nii.gz")
    touch(tmp_path, "derivatives/manual/sub-1/anat/sub-1_label-lesion_mask.nii.gz")
    with pytest.raises(DatasetError, match=r"No lesion mask .*T1w.*derivatives \(manual\)"):
        find_lesions(tmp_path)


def test_find_lesions__linked_subjects_are_followed_and_circles_are_not(tmp_path):
    touch(tmp_path, "disk/anat/sub-1_label-lesion_mask.nii.gz")
    root = tmp_path / "study"
    touch(root, "dataset_description.json")
    (root / "sub-1").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "again").symlink_to(tmp_path / "disk")
    assert len(find_lesions(root).found) == 1


def test_find_lesions__content_that_was_not_fetched_is_found_not_lost(tmp_path):
    touch(tmp_path, "dataset_description.json")
    mask = tmp_path / "sub-1" / "anat" / "sub-1_label-lesion_mask.nii.gz"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("absent")
    assert [lesion.path for lesion in find_lesions(tmp_path).found] == [mask]


@pytest.mark.usefixtures("refused_permissions")
def test_find_lesions__a_folder_that_cannot_be_listed_is_an_error(dataset):
    (dataset / "sub-01").chmod(0)
    try:
        with pytest.raises(DatasetError, match="sub-01 cannot be listed"):
            find_lesions(dataset)
    finally:
        (dataset / "sub-01").chmod(0o700)


def test_find_lesions__a_folder_of_masks_takes_every_image(tmp_path):
    touch(tmp_path, "my_lesion.nii.gz", "b.nii", "notes.txt", ".hidden.nii", "deeper/c.nii")
    listing = find_lesions(tmp_path)
    assert listing.kind == "folder"
    assert [lesion.participant for lesion in listing.found] == ["b", "mylesion"]


def test_find_lesions__bids_names_in_a_plain_folder_keep_their_entities(tmp_path):
    touch(tmp_path, "sub-01_ses-2_space-MNI152Lin_mask.nii.gz")
    (lesion,) = find_lesions(tmp_path).found
    assert lesion.entities == {"sub": "01", "ses": "2", "space": "MNI152Lin"}
    assert lesion.space == StatedSpace(
        "MNI152Lin", "the name of sub-01_ses-2_space-MNI152Lin_mask.nii.gz"
    )


def test_find_lesions__one_file(tmp_path):
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    listing = find_lesions(tmp_path / "a.nii.gz")
    assert listing.kind == "file"
    assert listing.input_path == tmp_path / "a.nii.gz"
    assert [lesion.participant for lesion in listing.found] == ["a"]


def test_find_lesions__one_file_of_a_dataset_knows_its_dataset(dataset):
    (dataset / "participants.tsv").write_text("participant_id\tlesion_side\nsub-03\tright\n")
    listing = find_lesions(dataset / "sub-03" / "anat" / "sub-03_roi.nii.gz")
    (lesion,) = listing.found
    assert listing.root == dataset
    assert lesion.lesion_side == "right"


def test_find_lesions__a_path_that_does_not_exist(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        find_lesions(tmp_path / "nothing")


def test_find_lesions__a_file_that_is_no_nifti(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(DatasetError, match="is not a NIfTI image"):
        find_lesions(tmp_path / "a.txt")


def test_find_lesions__an_empty_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"holds no \.nii"):
        find_lesions(tmp_path)


@pytest.mark.parametrize("label", ["03", "sub-03"])
def test_find_lesions__participants_with_or_without_sub(dataset, label):
    listing = find_lesions(dataset, [label])
    assert [lesion.participant for lesion in listing.found] == ["03"]
    assert {item.path.name: item.reason for item in listing.ignored}[
        "sub-04_T2w_desc-lesion_mask.nii.gz"
    ] == "its participant was not asked for"


def test_find_lesions__a_participant_who_is_not_there_is_an_error(dataset):
    with pytest.raises(DatasetError, match=r"participant 99 .* holds: 01, 02, 03, 04\."):
        find_lesions(dataset, ["01", "99"])


def test_find_lesions__lesion_side_is_read_where_it_is_known(dataset):
    (dataset / "participants.tsv").write_text(
        "participant_id\tage\tlesion_side\nsub-01\t70\tleft\nsub-02\t71\tn/a\n03\t72\tR\n"
    )
    sides = {lesion.participant: lesion.lesion_side for lesion in find_lesions(dataset).found}
    assert sides == {"01": "left", "02": None, "03": "R", "04": None}


def test_find_lesions__a_table_without_lesion_side_says_nothing(dataset):
    (dataset / "participants.tsv").write_text("participant_id\tage\nsub-01\t70\n")
    assert find_lesions(dataset).found[0].lesion_side is None


def test_sidecar__inherited_from_above_and_overridden_below(dataset):
    mask = dataset / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_label-L_desc-T1lesion_mask.nii"

    def source() -> str:
        return find_lesions(mask).found[0].space.source

    write_json(dataset / "label-other_mask.json", {"Space": "no"})
    write_json(dataset / "dwi.json", {"Space": "no"})
    write_json(dataset / "mask.json", {"Space": "A"})
    assert source() == "Space in mask.json"
    write_json(dataset / "label-L_mask.json", {"SpatialReference": "B"})
    assert source() == "SpatialReference in label-L_mask.json"
    write_json(dataset / "sub-02" / "sub-02_mask.json", {"Space": "C"})
    assert source() == "Space in sub-02_mask.json"
    own = mask.with_suffix(".json")
    write_json(own, {"Rater": "me"})
    assert source() == "Space in sub-02_mask.json"
    write_json(own, {"Space": "D"})
    assert source() == f"Space in {own.name}"


def test_sidecar__states_the_space_where_the_name_does_not(dataset):
    write_json(dataset / "mask.json", {"SpatialReference": "MNI152NLin2009cAsym"})
    lesions = {lesion.participant: lesion for lesion in find_lesions(dataset).found}
    assert lesions["01"].space.name == "MNI152NLin6Asym"
    assert lesions["02"].space == StatedSpace(
        "MNI152NLin2009cAsym", "SpatialReference in mask.json"
    )
    assert lesions["03"].space is None


def test_sidecar__beside_a_plain_mask(tmp_path):
    touch(tmp_path, "x.nii.gz")
    write_json(tmp_path / "x.json", {"Space": "MNIColin27"})
    (lesion,) = find_lesions(tmp_path).found
    assert lesion.space == StatedSpace("MNIColin27", "Space in x.json")


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_read_sidecar__a_broken_one_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"x\.json"):
        read_sidecar(path)


@pytest.mark.parametrize(
    ("sidecar", "space"),
    [
        ({"Space": "ACPC"}, "ACPC"),
        ({"SpatialReference": "https://x.org/tpl-MNI152Lin_res-02_T1w.nii.gz"}, "MNI152Lin"),
        ({"SpatialReference": "bids::sub-01/anat/sub-01_T1w.nii.gz"}, None),
        ({"SpatialReference": {"VolumeReference": "x"}}, None),
        ({}, None),
    ],
)
def test_space_in_sidecar__names_count_and_paths_do_not(sidecar, space):
    stated = space_in_sidecar(sidecar, "x.json")
    assert (stated.name if stated else None) == space


def test_find_lesions__relative_paths_become_absolute(tmp_path):
    touch(tmp_path, "a.nii")
    assert Path.cwd() == tmp_path
    assert find_lesions("a.nii").found[0].path == tmp_path / "a.nii"


@pytest.mark.data
def test_find_lesions__the_real_folders(shared_data):
    soop = find_lesions(shared_data / "lesions" / "soop")
    assert sum("bwsrsub" in lesion.participant for lesion in soop.found) == 40
    (arc,) = find_lesions(next((shared_data / "lesions" / "other").glob("ARC_*.nii.gz"))).found
    assert arc.space is not None
    assert arc.space.name == "T1w"


def test_find_lesions__lesion_side_behind_an_open_quotation_mark(dataset):
    (dataset / "participants.tsv").write_text(
        'participant_id\tnote\tlesion_side\nsub-01\t"open\tleft\nsub-02\tx\tright\n'
    )
    sides = {lesion.participant: lesion.lesion_side for lesion in find_lesions(dataset).found}
    assert (sides["01"], sides["02"]) == ("left", "right")


def test_find_lesions__lesion_side_stands_in_the_dataset_around_derivatives(dataset):
    inner = dataset / "derivatives" / "masks"
    name = "sub-01_label-lesion_mask.nii.gz"
    (inner / "sub-01" / "anat").mkdir(parents=True, exist_ok=True)
    (inner / "sub-01" / "anat" / name).touch()
    (dataset / "participants.tsv").write_text("participant_id\tlesion_side\nsub-01\tleft\n")
    assert find_lesions(inner).found[0].lesion_side == "left"
