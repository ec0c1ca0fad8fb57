import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.errors import SpaceError
from lacuna.geometry.grid import Grid
from lacuna.geometry.space import (
    canonical_grid,
    grid_names,
    known_spaces,
    resolve_space,
)


@pytest.mark.parametrize(
    ("space", "size", "shape", "origin"),
    [
        ("MNI152NLin6Asym", 1, (182, 218, 182), (-91, -126, -72)),
        ("MNI152NLin6Asym", 2, (91, 109, 91), (-90, -126, -72)),
        ("MNI152NLin2009cAsym", 1, (193, 229, 193), (-96, -132, -78)),
        ("MNI152NLin2009cAsym", 2, (97, 115, 97), (-96.5, -132.5, -78.5)),
        ("MNI152NLin2009bAsym", 0.5, (394, 466, 378), (-98, -134, -72)),
        ("IXI549Space", 2, (79, 95, 79), (-78, -112, -70)),
    ],
)
def test_canonical_grid__is_that_of_the_template(space, size, shape, origin):
    grid = canonical_grid(space, size)
    assert grid is not None
    assert grid.shape == shape
    assert np.array_equal(grid.affine[:3, :3], np.eye(3) * size)
    assert np.array_equal(grid.affine[:3, 3], origin)


def test_canonical_grid__a_study_space_has_none():
    assert canonical_grid("ACPC", 2) is None


def test_canonical_grid__an_unusual_voxel_size_has_none():
    assert canonical_grid("MNI152NLin6Asym", 1.7) is None


@pytest.mark.parametrize("size", [1, 2])
def test_canonical_grid__spaces_that_people_confuse_lie_differently(size):
    grids = [canonical_grid(s, size) for s in ("MNI152NLin6Asym", "MNI152NLin2009cAsym")]
    assert not grids[0].is_same(grids[1])


def test_grid_names__every_canonical_grid_names_its_space():
    for space in known_spaces():
        for size in (0.5, 1, 2):
            grid = canonical_grid(space, size)
            assert grid is None or space in grid_names(grid)


def test_grid_names__orientation_does_not_matter():
    las = Grid((182, 218, 182), [[-1, 0, 0, 90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    assert grid_names(las) == ("MNI152NLin6Asym",)


def test_grid_names__one_grid_may_serve_several_spaces():
    grid = canonical_grid("MNI152NLin6Asym", 2)
    assert set(grid_names(grid)) >= {"MNI152NLin6Asym", "MNI152Lin"}


def test_grid_names__half_a_voxel_off_is_nobodys():
    grid = canonical_grid("MNI152NLin6Asym", 1)
    shifted = grid.affine.copy()
    shifted[:3, 3] += 0.5
    assert grid_names(Grid(grid.shape, shifted)) == ()


def test_grid_names__header_noise_is_tolerated():
    grid = canonical_grid("MNI152NLin6Asym", 1)
    noisy = grid.affine.copy()
    noisy[:3, 3] += 5e-4
    assert grid_names(Grid(grid.shape, noisy)) == ("MNI152NLin6Asym",)


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("MNI152NLin6ASym", "MNI152NLin6Asym"),
        ("mni152nlin2009casym", "MNI152NLin2009cAsym"),
        ("MNI152NLin2009aSym", "MNI152NLin2009aSym"),
        ("ch2", "MNIColin27"),
        ("SPM12", "IXI549Space"),
        ("MNI152Lin", "MNI152Lin"),
        ("ACPC", "ACPC"),
        ("myStudy2", "myStudy2"),
    ],
)
def test_resolve_space__aliases_and_study_names(name, resolved):
    assert resolve_space(name) == resolved


@pytest.mark.parametrize("name", ["MNI", "MNI152", "icbm152", "MNI152NLin"])
def test_resolve_space__mni_alone_is_refused_with_the_candidates(name):
    with pytest.raises(SpaceError, match=r"not one space: .*MNI152NLin6Asym.*MNI152NLin2009cAsym"):
        resolve_space(name)


def test_resolve_space__a_year_without_its_letter_is_refused():
    with pytest.raises(SpaceError, match=r"2009aAsym.*2009cAsym"):
        resolve_space("MNI152NLin2009Asym")


@pytest.mark.parametrize("name", ["", "my space", "my-space", "../up", "a_b", "größe"])
def test_resolve_space__a_name_is_letters_and_digits(name):
    with pytest.raises(SpaceError, match="letters and digits"):
        resolve_space(name)


@given(st.from_regex(r"[A-Za-z0-9]{1,20}", fullmatch=True))
def test_resolve_space__resolving_twice_changes_nothing(name):
    try:
        once = resolve_space(name)
    except SpaceError:
        return
    assert resolve_space(once) == once


def test_resolve_space__templates_on_one_grid_keep_their_names():
    assert resolve_space("MNI152NLin2009aAsym") != resolve_space("MNI152NLin2009bAsym")
    assert resolve_space("ACPC") != resolve_space("acpc")
