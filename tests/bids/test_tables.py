"""What is said of participants, and tables as they are written."""

from pathlib import Path

import pytest

from lacuna.bids.tables import read_participants, read_table
from lacuna.errors import DatasetError


def write(text, folder="."):
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "participants.tsv").write_bytes(text.encode())


def test_read_participants__cells_stay_text_without_marks_and_blank_lines():
    write("\ufeffage\tparticipant_id\tx\r\n007\tsub-1\t\r\n\r\n1e3\t2\ta b\r\n")
    found = read_participants(Path())
    assert list(found.columns) == ["age", "x"]
    assert found.cells("1") == ["007", "n/a"]
    assert found.cells("2") == ["1e3", "a b"]
    assert found.cells("3") == ["n/a", "n/a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("participant_id\tage\nsub-1 3\n", "line 2 has 1 cells, the header 2"),
        ("participant_id\tage\nsub-1\t3\n1\t4\n", "participant 1 twice"),
        ("participant_id\tage\tage\nsub-1\t3\t4\n", "no column twice"),
        ("id\tage\n1\t3\n", "one column participant_id"),
        ("", "one column participant_id"),
    ],
)
def test_read_participants__what_is_ambiguous_is_an_error(text, message):
    write(text)
    with pytest.raises(DatasetError, match=message):
        read_participants(Path())


def test_read_participants__derivatives_find_those_of_the_dataset_around_them():
    write("participant_id\tage\nsub-1\t3\n", "raw")
    for folder in ("raw/derivatives/masks", "raw/other/masks"):
        Path(folder).mkdir(parents=True)
    assert read_participants(Path("raw/derivatives/masks").absolute()).cells("1") == ["3"]
    assert read_participants(Path("raw/other/masks").absolute()).columns == {}
    write("participant_id\tage\nsub-1\t4\n", "raw/derivatives/masks")
    assert read_participants(Path("raw/derivatives/masks").absolute()).cells("1") == ["4"]


@pytest.mark.parametrize("content", [b"a\tb\n1\n", b"a\tb\n1\t2\t3\n", b"a\n\xff\n"])
def test_read_table__ragged_rows_and_what_is_no_text_are_errors(content):
    Path("x.tsv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"x\.tsv .*run the participant level again"):
        read_table(Path("x.tsv"))


def test_read_table__separators_of_lines_that_are_no_line_ends_stay_in_cells():
    Path("x.tsv").write_text("a\n1\u2028\x0b2\n", "utf-8")
    assert read_table(Path("x.tsv")).rows == (("1\u2028\x0b2",),)


def test_read_participants__an_open_quotation_mark_takes_no_other_line_into_its_cell():
    write('participant_id\tnote\nsub-1\t"open\nsub-2\tok\nsub-3\tx"y\nsub-4\t"a ""b"""\n')
    found = read_participants(Path())
    assert [found.cells(label) for label in "1234"] == [['"open'], ["ok"], ['x"y'], ['a "b"']]
