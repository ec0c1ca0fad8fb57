import json

import pytest

from lacuna.bids.dataset import find_lesions
from lacuna.bids.selection import read_filter
from lacuna.errors import DatasetError, OptionError


@pytest.fixture
def dataset(tmp_path):
    for name in (
        "sub-01_ses-a_run-01_label-lesion_mask",
        "sub-01_ses-b_label-lesion_mask",
        "sub-02_ses-a_label-tumour_mask",
        "sub-02_ses-a_acq-x_label-lesion_mask",
    ):
        folder = tmp_path / "in" / name[:6] / name[7:12] / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.nii.gz").touch()
    return tmp_path / "in"


def names(dataset, query=None, sessions=None, tmp=None):
    if query is not None:
        file = dataset.parent / "filter.json"
        file.write_text(json.dumps({"lesion": query}))
        query = read_filter(file)
    listing = find_lesions(dataset, session_labels=sessions, query=query)
    return [lesion.path.name[:12] for lesion in listing.found]


def test_sessions__are_chosen_with_or_without_their_prefix(dataset):
    assert names(dataset, sessions=["ses-b"]) == names(dataset, sessions=["b"]) == ["sub-01_ses-b"]


def test_sessions__that_only_others_have_are_an_error(dataset):
    with pytest.raises(DatasetError, match=r"session b in .*It holds: a\."):
        find_lesions(dataset, ["sub-02"], session_labels=["b"])


def test_filter__another_number_is_another_run(dataset):
    with pytest.raises(DatasetError, match="None of the 3 lesion masks"):
        names(dataset, {"run": 2})


def test_filter__yes_and_no_are_no_labels(dataset):
    with pytest.raises(OptionError, match="run is True"):
        names(dataset, {"run": True})


def test_sessions__that_are_absent_are_an_error_that_lists_what_there_is(dataset):
    with pytest.raises(DatasetError, match=r"session c in .*It holds: a, b\."):
        names(dataset, sessions=["a", "c"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"session": "b"}, ["sub-01_ses-b"]),
        ({"ses": ["b", "zz"]}, ["sub-01_ses-b"]),
        ({"run": 1}, ["sub-01_ses-a"]),
        ({"run": None, "acquisition": "Query.NONE"}, ["sub-01_ses-b"]),
        ({"acquisition": "*"}, ["sub-02_ses-a"]),
        ({"label": "tumour"}, ["sub-02_ses-a"]),
        # What merely must be there does not say what a lesion is.
        ({"label": "*", "session": "a"}, ["sub-01_ses-a", "sub-02_ses-a"]),
        ({"run": "Query.OPTIONAL", "ses": "b"}, ["sub-01_ses-b"]),
        ({"ses": "b", "run": [2, None]}, ["sub-01_ses-b"]),
        (
            {"datatype": "anat", "extension": ".nii.gz", "suffix": "mask", "run": "01"},
            ["sub-01_ses-a"],
        ),
    ],
)
def test_filter__takes_what_meets_all_of_it(dataset, query, expected):
    assert names(dataset, query) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"t1w": {}}, "query for t1w; known: lesion"),
        ({"lesion": {"colour": "red"}}, "asks for colour; known: .*session"),
        ({"lesion": {"run": 1.5}}, "run is 1.5"),
        ([], "not an object of queries"),
        ({"lesion": ["01"]}, "not an object of queries"),
        ({"lesion": {"ses": "a", "session": "b"}}, "one entity under two names"),
    ],
)
def test_filter__says_what_it_does_not_know(tmp_path, content, said):
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(OptionError, match=said):
        read_filter(tmp_path / "f.json")


@pytest.mark.parametrize("content", ["{half", "", b"\xff{}".decode("latin-1"), "[" * 100_000])
def test_filter__that_is_no_json_cannot_be_read(tmp_path, content):
    (tmp_path / "f.json").write_text(content, encoding="latin-1")
    with pytest.raises(OptionError, match=r"f\.json cannot be read"):
        read_filter(tmp_path / "f.json")


def test_filter__that_nothing_meets_is_an_error(dataset):
    with pytest.raises(DatasetError, match=r"None of the 3 lesion masks.*sub-01_ses-a"):
        names(dataset, {"session": "zz"})
