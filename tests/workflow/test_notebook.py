"""The Python interface: the same lesion in every form, and what is refused."""

import json
from dataclasses import FrozenInstanceError

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

import lacuna
from lacuna.errors import FormatError, LesionError, OptionError, SpaceError
from lacuna.store import Store

SPACE = "MNI152NLin6Asym"


@pytest.fixture(scope="module")
def tract(tmp_path_factory):
    """Return a file of 20 streamlines along x, at y = 0 … 19."""
    path = tmp_path_factory.mktemp("tract") / "tract.tck"
    write_tck(path, parallel_tract(20)[0])
    return path


@pytest.fixture(scope="module")
def opened(tract, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return lacuna.open_index(tract, space=SPACE, grid=parallel_tract(20)[1], store=store)


@pytest.fixture
def lesion(tmp_path):
    """Return a mask of the first seven rows, as array, grid and file."""
    grid = parallel_tract(20)[1]
    mask = np.zeros(grid.shape, np.uint8)
    mask[9, :7] = 1
    write_nifti(tmp_path / "lesion.nii.gz", mask, grid)
    return mask, grid, tmp_path / "lesion.nii.gz"


@pytest.mark.parametrize("kind", ["path", "text", "image", "array", "boolean array"])
def test_disconnect__takes_a_lesion_in_every_form(kind, opened, lesion):
    mask, grid, path = lesion
    source = {
        "path": path,
        "text": str(path),
        "image": nib.load(path),
        "array": (mask, grid.affine),
        "boolean array": (mask.astype(bool), grid.affine),
    }[kind]
    result = lacuna.disconnect(opened, source, space=SPACE, min_tdi=1)
    assert result.cut_ids.tolist() == list(range(7))
    assert result.disconnected_pct == 35
    assert result.disconnection.sum() == 7 * 20
    with pytest.raises(FrozenInstanceError):
        result.min_tdi = 3


def test_disconnect__weights_and_coverage_are_passed_on(opened, lesion):
    mask, grid, _ = lesion
    weights = np.arange(20.0)
    result = lacuna.disconnect(opened, (mask, grid.affine), space="FSL", weights=weights)
    assert (result.weight_cut, result.weight_total) == (21, 190)
    assert result.min_tdi == 10
    assert result.disconnected_pct is None
    with pytest.raises(OptionError, match="3 weights"):
        lacuna.disconnect(opened, (mask, grid.affine), space=SPACE, weights=np.ones(3))


def test_disconnect__the_sidecar_states_the_space(opened, lesion):
    path = lesion[2]
    path.with_name("lesion.json").write_text(json.dumps({"Space": SPACE}))
    assert lacuna.disconnect(opened, path).n_cut == 7


def test_disconnect__an_unstated_space_is_refused(opened, lesion):
    mask, grid, path = lesion
    for source in (path, (mask, grid.affine)):
        with pytest.raises(SpaceError, match=r"not stated.*--space"):
            lacuna.disconnect(opened, source)


def test_disconnect__another_space_is_refused(opened, lesion):
    with pytest.raises(SpaceError, match=r"MNIColin27.*MNI152NLin6Asym") as caught:
        lacuna.disconnect(opened, lesion[2], space="ch2")
    assert "differ" in str(caught.value)


def test_disconnect__a_lesion_wholly_outside_is_refused(opened, lesion):
    mask, grid, _ = lesion
    affine = grid.affine.copy()
    affine[:3, 3] = 500
    with pytest.raises(LesionError, match="wholly outside"):
        lacuna.disconnect(opened, (mask, affine), space=SPACE)


@pytest.mark.parametrize(
    ("value", "match"), [(0, "empty"), (0.5, "threshold"), (np.nan, "NaN|finite")]
)
def test_disconnect__what_is_no_mask_is_refused(value, match, opened, lesion):
    mask, grid, _ = lesion
    image = mask.astype(np.float32) * value
    with pytest.raises(LesionError, match=match):
        lacuna.disconnect(opened, (image, grid.affine), space=SPACE)


def test_open_index__the_cache_directory_keeps_it(tract, tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "cache"))
    first = lacuna.open_index(tract, space="StudySpace")
    assert first.built
    assert (tmp_path / "cache" / "tdi").is_dir()
    assert not lacuna.open_index(str(tract), space="StudySpace").built
    assert first.space.name == "StudySpace"


def test_open_index__grids_by_size_image_and_object_are_the_same(tract, opened, tmp_path):
    store = Store(tmp_path / "store")
    grid = parallel_tract(20)[1]
    write_nifti(tmp_path / "ref.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    by_object = lacuna.open_index(tract, space=SPACE, grid=grid, store=store)
    for reference in (tmp_path / "ref.nii.gz", str(tmp_path / "ref.nii.gz")):
        by_image = lacuna.open_index(tract, space=SPACE, grid=reference, store=store)
        assert not by_image.built
        assert by_image.keys == by_object.keys
    known = lacuna.open_index(tract, space=SPACE, grid=2, store=store)
    assert known.index.map.grid.shape == (91, 109, 91)  # FSL's, as the space is FSL's
    study = lacuna.open_index(tract, space="StudySpace", grid=2.0, store=store)
    assert study.index.map.grid.n_voxels < 1000  # around the tract alone


def test_open_index__an_unstated_or_ambiguous_space_is_refused(tract, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(SpaceError, match=r"not stated.*--tractogram-space"):
        lacuna.open_index(tract, store=store)
    with pytest.raises(SpaceError, match="not one space"):
        lacuna.open_index(tract, space="MNI", store=store)
    assert not (tmp_path / "store").exists()


def test_open_index__a_file_that_states_another_space_is_refused(tract, tmp_path):
    path = tmp_path / "tract_space-MNI152NLin6Asym.tck"
    path.write_bytes(tract.read_bytes())
    store = Store(tmp_path / "store")
    with pytest.raises(SpaceError, match=r"MNIColin27.*MNI152NLin6Asym"):
        lacuna.open_index(path, space="MNIColin27", store=store)
    assert lacuna.open_index(path, grid=2, store=store).space.name == SPACE


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"grid": 0.01}, OptionError, "not sensible"),
        ({"grid": "absent.nii.gz"}, OptionError, "neither a file nor a voxel size"),
        ({"rule": "nearest"}, OptionError, "no mapping rule"),
    ],
)
def test_open_index__options_that_make_no_sense_are_refused(options, error, match, tract, tmp_path):
    with pytest.raises(error, match=match):
        lacuna.open_index(tract, space=SPACE, store=Store(tmp_path / "store"), **options)


def test_open_index__what_is_no_tractogram_is_refused(tmp_path):
    with pytest.raises(FormatError, match="There is no file"):
        lacuna.open_index(tmp_path / "absent.tck", space=SPACE)
    (tmp_path / "a.vtk").touch()
    with pytest.raises(FormatError, match="no tractogram that can be read"):
        lacuna.open_index(tmp_path / "a.vtk", space=SPACE)


def test_open_index__progress_is_told(tract, tmp_path):
    told = []
    lacuna.open_index(
        tract,
        space="StudySpace",
        store=Store(tmp_path / "store"),
        progress=lambda *news: told.append(news),
    )
    assert {news[0] for news in told} == {"streamlines", "hits", "map"}
    assert all(0 < done <= total == 20 for _, done, total in told)


@pytest.fixture
def atlas(tmp_path):
    """Return a file with three parcels: one where all streamlines begin, two where they end."""
    grid = parallel_tract(20)[1]
    labels = np.zeros(grid.shape, np.int16)
    labels[0], labels[19, :10], labels[19, 10:] = 1, 4, 6
    write_nifti(tmp_path / "atlas.nii.gz", labels, grid)
    (tmp_path / "atlas.txt").write_text("1 start\n4 low end\n6 high end\n")
    return tmp_path / "atlas.nii.gz"


def test_open_connectome__says_what_a_result_takes_from_parcels(opened, lesion, atlas, tmp_path):
    result = lacuna.disconnect(opened, lesion[2], space=SPACE, min_tdi=1)
    store = Store(tmp_path / "store")
    connectome = lacuna.open_connectome(opened, atlas, space=SPACE, store=store)
    taken = connectome.disconnect(result)
    table = taken.tables["parcels"]
    assert table["name"] == ("start", "low end", "high end")
    assert table["total"].tolist() == [20, 10, 10]
    assert table["disconnection"].tolist() == [0.35, 0.7, 0]
    assert taken.matrices["spared"].tolist() == [[0, 3, 10], [3, 0, 0], [10, 0, 0]]
    again = lacuna.open_connectome(opened, connectome.parcellation, store=store)
    assert again.key == connectome.key
    weighted = lacuna.open_connectome(
        opened, atlas, space=SPACE, weights=np.arange(20.0), store=store
    )
    assert weighted.disconnect(result).tables["chaco"]["chaco"].tolist() == [21 / 190, 21 / 45, 0]


def test_open_connectome__an_atlas_in_another_space_or_none_is_refused(opened, atlas, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(SpaceError, match="--atlas-space"):
        lacuna.open_connectome(opened, atlas, store=store)
    with pytest.raises(SpaceError, match=r"MNI152NLin2009cAsym .*: all must be in one space"):
        lacuna.open_connectome(opened, atlas, space="MNI152NLin2009cAsym", store=store)
    with pytest.raises(OptionError, match="3 weights do not fit 20"):
        lacuna.open_connectome(opened, atlas, space=SPACE, weights=np.ones(3), store=store)
