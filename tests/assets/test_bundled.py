import json

import numpy as np
import pytest

from lacuna.assets.bundled import DEMO, copy_demo
from lacuna.bids.dataset import find_lesions, read_sidecar, space_in_sidecar
from lacuna.bids.names import file_stem
from lacuna.formats import needs_unpacking, open_tractogram
from lacuna.formats.nifti import load_mask


@pytest.fixture
def demo(tmp_path):
    return copy_demo(tmp_path / "demo")


def test_demo__is_small():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 3_000_000


def test_copy_demo__can_be_repeated_and_keeps_other_files(tmp_path, demo):
    (tmp_path / "demo" / "mine.txt").touch()
    assert copy_demo(tmp_path / "demo") == demo
    names = {path.relative_to(tmp_path / "demo") for path in (tmp_path / "demo").rglob("*")}
    shipped = {path.relative_to(DEMO) for path in DEMO.rglob("*")}
    assert {str(name) for name in names - shipped} == {"mine.txt"}
    assert shipped <= names


def test_demo__tractogram_opens_mapped_and_without_warning(demo):
    opened = open_tractogram(demo.tractogram)
    assert not needs_unpacking(demo.tractogram)
    assert opened.warnings == ()
    assert len(opened.streamlines) == 4992
    assert len(opened.groups) == 20
    assert sorted(np.concatenate(list(opened.groups.values()))) == list(range(4992))


def test_demo__tractogram_is_what_the_shared_data_hold(shared_data, demo):
    ours = open_tractogram(demo.tractogram)
    theirs = open_tractogram(shared_data / "tractograms" / "afqbrowser_20bundles_acpc.trx")
    assert set(ours.groups) == set(theirs.groups)
    for name, ids in theirs.groups.items():
        a, a_offsets = ours.streamlines.gather(ours.groups[name])
        b, b_offsets = theirs.streamlines.gather(ids)
        for at_a, at_b in (
            (a_offsets[:-1], b_offsets[:-1]),
            (a_offsets[1:] - 1, b_offsets[1:] - 1),
        ):
            assert np.abs(a[at_a] - b[at_b]).max() <= 1 / 256 + 1e-5


def test_demo__its_study_space_is_stated_and_no_template(demo):
    sidecar = json.loads(demo.tractogram.with_suffix(".json").read_text(encoding="utf-8"))
    assert space_in_sidecar(sidecar, "").name == "AFQacpc"
    assert "none of them" in sidecar["SpatialReference"]
    assert "Not a normative connectome" in sidecar["Description"]
    for lesion in find_lesions(demo.lesions).found:
        assert lesion.space.name == "AFQacpc"


def test_demo__lesions_are_labelled_synthetic_and_lie_on_their_tracts(demo):
    opened = open_tractogram(demo.tractogram)
    found = find_lesions(demo.lesions).found
    tracts = {"SyntheticArcuate": "Left_Arcuate", "SyntheticCorticospinal": "Right_Corticospinal"}
    assert {lesion.entities["sub"] for lesion in found} == set(tracts)
    for lesion in found:
        sidecar = lesion.path.with_name(file_stem(lesion.path) + ".json")
        assert lesion.entities["desc"] == "synthetic"
        assert "SYNTHETIC" in read_sidecar(sidecar)["Description"]
        mask = load_mask(lesion.path)
        tract = tracts[lesion.entities["sub"]]
        points, _ = opened.streamlines.gather(opened.groups[tract])
        voxels = np.rint(mask.grid.to_voxels(points)).astype(int)
        assert mask.array[tuple(voxels.T)].any()
        x = mask.grid.to_world(np.argwhere(mask.array)).mean(axis=0)[0]
        assert (x < 0) == (lesion.lesion_side == "left") == tract.startswith("Left")


def test_demo__notice_holds_the_licence():
    notice = (DEMO / "NOTICE.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2016, The University of Washington" in notice
    assert "Redistributions in binary form must reproduce" in notice
