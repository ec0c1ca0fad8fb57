import mmap
import pickle

import numpy as np
import pytest

from lacuna.workflow.handover import SMALL_BYTES, find_place, hand_over, take_over

LARGE = SMALL_BYTES // 8 + 10


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "numbers.npy", np.arange(LARGE * 6.0).reshape(LARGE, 2, 3))
    return np.load(tmp_path / "numbers.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array,
        lambda array: np.asarray(array),
        lambda array: array[7:, 1],
        lambda array: array[::-2, :, ::-1],
        lambda array: array.transpose(2, 0, 1)[1:],
        lambda array: np.asarray(array).reshape(-1).view(np.uint8)[16:].view("<f8"),
    ],
)
def test_hand_over__a_view_of_a_mapped_file_arrives_as_a_view_of_that_file(mapped, tmp_path, view):
    array = view(mapped)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    handed = hand_over({"array": array}, scratch)
    assert len(handed) < 1000
    assert not list(scratch.iterdir())
    taken = take_over(handed)["array"]
    assert np.array_equal(taken, array)
    assert taken.strides == array.strides
    assert not taken.flags.writeable
    root = taken
    while isinstance(root.base, np.ndarray):
        root = root.base
    assert isinstance(root.base, mmap.mmap)
    assert root.filename == str(tmp_path / "numbers.npy")


@pytest.mark.parametrize("order", ["C", "F"])
def test_hand_over__a_large_array_in_memory_is_written_once_for_all(tmp_path, order):
    array = np.asarray(np.random.default_rng(1).random((LARGE, 3)), order=order)
    handed = hand_over([array, array], tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == array.nbytes
    assert len(handed) < 1000
    one, other = take_over(handed)
    assert one is other
    assert np.array_equal(one, array)
    assert one.strides == array.strides


def test_hand_over__who_changes_a_large_array_changes_it_for_nobody_else(tmp_path):
    handed = hand_over(np.zeros(LARGE), tmp_path)
    one, other = take_over(handed), take_over(handed)
    one[:] = 1
    assert (other == 0).all()
    assert (take_over(handed) == 0).all()


def test_hand_over__small_arrays_and_everything_else_are_copied(tmp_path):
    value = {"a": np.arange(5), "b": "text", "c": np.array([None, "x"]), "d": np.empty((0, 3))}
    taken = take_over(hand_over(value, tmp_path))
    assert not list(tmp_path.iterdir())
    assert np.array_equal(taken["a"], value["a"])
    assert taken["c"].tolist() == [None, "x"]
    assert taken["d"].shape == (0, 3)
    assert taken["b"] == "text"


def test_hand_over__a_masked_array_keeps_its_mask(tmp_path):
    array = np.ma.masked_less(np.arange(float(LARGE)), 7)
    taken = take_over(hand_over(array, tmp_path))
    assert taken.mask.sum() == 7
    assert taken.sum() == array.sum()


def test_find_place__is_none_for_what_could_differ_from_the_file(mapped, tmp_path):
    assert find_place(np.arange(3)) is None
    assert find_place(mapped + 0) is None
    changed = np.load(tmp_path / "numbers.npy", mmap_mode="c")
    changed[0] = -1
    assert find_place(changed) is None
    assert (take_over(hand_over(changed, tmp_path))[0] == -1).all()


def test_find_place__of_a_mapped_pickle_does_not_follow_the_working_directory(
    tmp_path, monkeypatch
):
    np.save("here.npy", np.arange(4.0))
    handed = hand_over(np.load("here.npy", mmap_mode="r"), tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert take_over(handed).tolist() == [0, 1, 2, 3]
    assert pickle.loads(handed).tolist() == [0, 1, 2, 3]
