import re

import pytest

from lacuna.errors import OptionError
from lacuna.workflow.allowance import check_memory, memory_limit, needed_bytes

GB = 1 << 30


def test_needed_bytes__grow_with_processes_streamlines_and_lesions_at_once():
    assert needed_bytes(3, 1, 0) - needed_bytes(2, 1, 0) == 300 << 20
    assert needed_bytes(1, 4, 0) > needed_bytes(1, 1, 0)
    assert needed_bytes(2, 1, 10**7) > needed_bytes(2, 1, 0)


def test_check_memory__says_how_many_processes_would_fit():
    with pytest.raises(OptionError, match="needs about") as caught:
        check_memory(9, 1, 0, asked_bytes=GB)
    (fits,) = map(int, re.findall(r"--nprocs (\d+) would fit", str(caught.value)))
    assert needed_bytes(fits, 1, 0) <= GB < needed_bytes(fits + 1, 1, 0)
    assert "1.1 GB" in str(caught.value)
    assert check_memory(fits, 1, 0, asked_bytes=GB) == GB


def test_check_memory__where_not_even_two_fit_says_what_one_needs():
    with pytest.raises(OptionError, match=r"--nprocs 1 --threads 1: \d+"):
        check_memory(2, 1, 0, asked_bytes=1 << 20)


def test_check_memory__refuses_to_be_promised_more_than_there_is():
    with pytest.raises(OptionError, match=r"--mem .* is more than the"):
        check_memory(1, 1, 0, asked_bytes=1 << 60)


@pytest.mark.parametrize(
    ("line", "folder", "name"),
    [
        ("0::/job/step", "job", "memory.max"),
        ("4:cpu,memory:/job/step", "cpu,memory/job", "memory.limit_in_bytes"),
    ],
)
def test_memory_limit__is_the_lowest_of_all_control_groups_above(tmp_path, line, folder, name):
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text(f"9:pids:/job\n{line}\n")
    (root / folder / "step").mkdir(parents=True)
    (root / folder / "step" / name).write_text("max\n")
    (root / folder / name).write_text("65536\n")
    assert memory_limit(root, own) == (65536, str(root / folder / name))


def test_memory_limit__is_the_machine_where_no_group_says_anything(tmp_path):
    limit, source = memory_limit(tmp_path, tmp_path / "absent")
    assert limit > 1 << 28
    assert source == "all of this machine"
