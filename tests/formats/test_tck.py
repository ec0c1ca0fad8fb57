import gzip
import re
import subprocess

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.errors import FormatError
from lacuna.formats import open_tractogram, save_tck


def split(opened):
    points, offsets = opened.streamlines.gather(np.arange(len(opened.streamlines)))
    return np.split(points, offsets[1:-1])


def is_mapped(array):
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [("<f4", "Float32LE"), (">f4", "Float32BE"), ("<f8", "Float64LE"), (">f8", "Float64BE")],
)
@pytest.mark.parametrize("padding", [0, 1])
def test_open_tck__every_datatype_and_alignment_gives_the_same_points(
    write_tck, polylines, dtype, datatype, padding
):
    opened = open_tractogram(write_tck(polylines, dtype=dtype, datatype=datatype, padding=padding))
    found = split(opened)
    assert len(found) == len(polylines)
    for ours, theirs in zip(found, polylines, strict=True):
        assert np.array_equal(ours, theirs)
    assert is_mapped(opened.streamlines.words)


# nibabel refuses 64 bit.
@pytest.mark.parametrize(("dtype", "datatype"), [("<f4", "Float32LE"), (">f4", "Float32BE")])
def test_open_tck__agrees_with_nibabel(write_tck, polylines, dtype, datatype):
    path = write_tck([p for p in polylines if len(p)], dtype=dtype, datatype=datatype)
    theirs = nib.streamlines.load(path).streamlines
    ours = split(open_tractogram(path))
    assert len(ours) == len(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_open_tck__empty_streamlines_keep_their_place(write_tck):
    a, none = np.ones((2, 3)), np.empty((0, 3))
    opened = open_tractogram(write_tck([none, a, none, none, a[:1], none]))
    assert opened.streamlines.counts.tolist() == [0, 2, 0, 0, 1, 0]


def test_open_tck__gz_gives_the_same_points(write_tck, polylines):
    path = write_tck(polylines)
    packed = path.with_name("a.tck.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert all(
        np.array_equal(a, b) for a, b in zip(split(open_tractogram(packed)), polylines, strict=True)
    )


def test_open_tck__spans_of_an_earlier_opening_replace_the_search(write_tck, polylines):
    path = write_tck(polylines)
    opened = open_tractogram(path).streamlines
    spans = (opened.firsts, opened.counts)
    again = open_tractogram(path, spans)
    assert again.streamlines.firsts is spans[0]
    assert all(np.array_equal(a, b) for a, b in zip(split(again), polylines, strict=True))
    with pytest.raises(FormatError, match="has changed"):
        open_tractogram(write_tck(polylines[:10]), spans)


def test_open_tck__count_may_be_missing_or_wrong(write_tck, polylines):
    assert "no “count” line; 50" in open_tractogram(write_tck(polylines)).warnings[0]
    wrong = open_tractogram(write_tck(polylines, lines=("count: 7",)))
    assert "counts 7 streamlines; the 50" in wrong.warnings[0]
    assert len(wrong.streamlines) == 50
    right = open_tractogram(write_tck(polylines, lines=("count: 0000000050",)))
    assert right.warnings == ()


def test_open_tck__only_the_line_step_size_is_the_step_size(write_tck, polylines):
    lines = ("output_step_size: 0.5", "count: 50")
    assert open_tractogram(write_tck(polylines, lines=lines)).step_size_mm is None
    opened = open_tractogram(write_tck(polylines, lines=(*lines, "step_size: 1.25")))
    assert opened.step_size_mm == 1.25
    odd = open_tractogram(write_tck(polylines, lines=(*lines, "step_size: variable")))
    assert odd.step_size_mm is None
    assert "“variable”" in odd.warnings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": "mrtrix image"}, "no .tck file"),
        ({"datatype": "Int32LE"}, "Int32LE, not one of"),
        ({"datatype": None}, "missing, not one of"),
        ({"file": None}, "at which byte"),
        ({"file": "other.dat 0"}, "at which byte"),
        ({"file": ". x"}, "at which byte"),
        ({"file": ". 9999999"}, "should start at byte 9999999"),
        ({"file": ". 12"}, "should start at byte 12"),
        ({"end": False}, "truncated: it stops after"),
    ],
)
def test_open_tck__broken_files_are_refused_with_the_reason(write_tck, polylines, change, message):
    with pytest.raises(FormatError, match=message):
        open_tractogram(write_tck(polylines, **change))


@pytest.mark.parametrize("n_bytes", [1, 5, 12, 13, 500])
def test_open_tck__cut_off_at_any_byte_is_truncated(write_tck, polylines, n_bytes):
    path = write_tck(polylines)
    path.write_bytes(path.read_bytes()[:-n_bytes])
    with pytest.raises(FormatError, match=r"truncated: it stops after \d+ points"):
        open_tractogram(path)


def test_open_tck__cut_off_in_the_header_is_truncated(write_tck, polylines):
    path = write_tck(polylines)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(FormatError, match="no END line"):
        open_tractogram(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="is empty"):
        open_tractogram(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, np.float32(1e30)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_open_tck__one_coordinate_that_is_not_finite_is_located(write_tck, polylines, value, axis):
    first = next(i for i, p in enumerate(polylines) if len(p) > 3)
    point = sum(len(p) + 1 for p in polylines[:first]) + 1
    polylines[first][1, axis] = value
    path = write_tck(polylines)
    with pytest.raises(
        FormatError, match=rf"point {point} \(byte \d+\) is \[.*{re.escape(str(float(value)))}"
    ):
        open_tractogram(path)


@pytest.mark.parametrize("triple", [[1e30] * 3, [np.nan, np.inf, np.nan], [np.inf, np.nan, 0]])
def test_open_tck__three_odd_numbers_are_no_delimiter(write_tck, polylines, triple):
    first = next(i for i, p in enumerate(polylines) if len(p) > 3)
    polylines[first][1] = triple
    with pytest.raises(FormatError, match="is damaged"):
        open_tractogram(write_tck(polylines))


def test_open_tck__no_streamlines_is_an_error(write_tck):
    with pytest.raises(FormatError, match="holds no streamlines"):
        open_tractogram(write_tck([]))


def test_open_tck__unclosed_streamline_and_trailing_points_are_ignored_and_said(
    write_tck, polylines
):
    tail = np.vstack([np.ones((4, 3)), np.full((1, 3), np.inf), np.zeros((2, 3))])
    path = write_tck(polylines, end=False, tail=tail.astype("<f4").tobytes())
    opened = open_tractogram(path)
    assert len(opened.streamlines) == 50
    assert "2 points after the end marker" in opened.warnings[0]
    assert "4 points before the end marker" in opened.warnings[1]


@pytest.mark.parametrize("factor", [0.001, 1000])
def test_open_tck__points_that_are_not_mm_are_a_warning(write_tck, polylines, factor):
    opened = open_tractogram(write_tck([p * factor for p in polylines], lines=("count: 50",)))
    assert "not a brain in mm" in opened.warnings[0]


def test_open_tck__points_outside_any_brain_are_a_warning(write_tck, polylines):
    opened = open_tractogram(write_tck([p - 200 for p in polylines], lines=("count: 50",)))
    assert "no brain in template space is" in opened.warnings[0]


lengths = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@given(lengths, st.integers(0, 2**32 - 1))
def test_save_tck__round_trip(tmp_path_factory, lengths, seed):
    points = np.random.default_rng(seed).normal(size=(sum(lengths), 3)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    path = tmp_path_factory.mktemp("tck") / "b.tck"
    save_tck(path, points, offsets, 0.5)
    opened = open_tractogram(path)
    found, found_offsets = opened.streamlines.gather(np.arange(len(lengths)))
    assert np.array_equal(found, points)
    assert np.array_equal(found_offsets, offsets)
    assert opened.step_size_mm == 0.5
    assert not any("count" in warning for warning in opened.warnings)


def test_save_tck__nibabel_reads_it(tmp_path, polylines):
    kept = [p for p in polylines if len(p)]
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in kept])])
    save_tck(tmp_path / "b.tck", np.concatenate(kept), offsets)
    theirs = nib.streamlines.load(tmp_path / "b.tck").streamlines
    assert all(np.array_equal(a, b) for a, b in zip(kept, theirs, strict=True))


def test_save_tck__a_failure_leaves_the_old_file_and_nothing_else(tmp_path, polylines):
    path = tmp_path / "b.tck"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="shape"):
        save_tck(path, np.zeros((4, 2)), np.array([0, 4]))
    with pytest.raises(FileNotFoundError):
        save_tck(tmp_path / "absent" / "b.tck", np.zeros((4, 3)), np.array([0, 4]))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.peer
def test_save_tck__mrtrix_counts_the_same_streamlines(tmp_path, polylines):
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])])
    save_tck(tmp_path / "b.tck", np.concatenate(polylines), offsets, 0.5)
    run = subprocess.run(
        ["tckinfo", "-count", tmp_path / "b.tck"], capture_output=True, text=True, check=True
    )
    assert "actual count in file: 50" in run.stdout
    assert "step_size:            0.5" in run.stdout
