import json
from pathlib import Path

import numpy as np
import pytest
from tests.workflow.conftest import a_record

from lacuna.analysis.structural import disconnect_voxels
from lacuna.geometry.grid import Grid
from lacuna.workflow.lesion import load_lesion
from lacuna.workflow.record import (
    caption,
    find_reference,
    nifti_code,
    sidecars,
    summarise,
    summary_columns,
    versions,
)

GRID = Grid((20, 20, 1), np.eye(4))


def a_lesion():
    mask = np.zeros(GRID.shape, bool)
    mask[8:10, :5] = True
    return load_lesion((mask, GRID.affine))


def test_parameters__are_what_results_must_share_and_nothing_else():
    one = a_record(Path("/one/t.tck"), GRID, threads=1, command=["a"])
    other = a_record(Path("/elsewhere/t.tck"), GRID, threads=8, command=["b"])
    assert one.parameters() == other.parameters()
    changed = a_record(Path("/one/t.tck"), GRID, weights_fingerprint="0" * 32)
    assert changed.parameters() != one.parameters()


def test_sidecars__hold_everything_that_is_needed_to_repeat_the_run():
    record = a_record(Path("/data/t.tck"), GRID, threads=3)
    for sidecar in sidecars(record, a_lesion(), Path("/data/one.nii.gz"), ["odd"]).values():
        said = json.loads(json.dumps(sidecar))
        assert said["SpatialReference"].startswith("StudySpace")
        assert said["Warnings"] == ["odd"]
        assert said["Lesion"]["Side"] == "right"
        run = said["Lacuna"]
        assert run["Command"] == ["lacuna", "run", "snm"]
        assert run["Rule"] == "segment"
        assert run["ReportGrid"] == {"Shape": [20, 20, 1], "Affine": np.eye(4).tolist()}
        assert run["Tractogram"]["XXH3-128"] == "f" * 32
        assert run["Tractogram"]["Space"] == "StudySpace"
        assert run["CacheKeys"] == {"map": "a" * 64}
        assert {"python", "lacuna-lnm", "numpy", "numba"} <= run["Versions"].keys()


def test_sidecars__there_is_one_for_each_image_the_lesion_and_the_streamlines():
    found = sidecars(a_record(Path("/t.tck"), GRID), a_lesion(), Path("/one.nii.gz"), [])
    images = {desc for desc in found if not desc.endswith("_relmat")}
    assert images == {"disconnection", "tdi", "cuttdi", "coverage", "lesion", "cut"}
    assert all(sidecar["Description"] for sidecar in found.values())
    assert found["disconnection"]["Resolution"] == "1 mm voxels, 20 × 20 × 1"


def test_summarise__fills_every_column_of_the_data_dictionary(tract):
    index, record = tract
    lesion = a_lesion()
    result = disconnect_voxels(index, lesion.mask, lesion.grid, min_tdi=1)
    row = summarise(result, lesion, record, "one.nii.gz")
    assert list(row) == list(summary_columns())
    assert (row["centre_x_mm"], row["centre_y_mm"], row["centre_z_mm"]) == (8.5, 2.0, 0.0)


def test_caption__says_volume_side_cut_rule_tractogram_and_space(tract):
    index, record = tract
    lesion = a_lesion()
    text = caption(disconnect_voxels(index, lesion.mask, GRID, min_tdi=1), lesion, record)
    for part in ("0.01 ml", "right", "5 of 20", "25 %", "segment", "tract.tck", "StudySpace"):
        assert part in text


def test_reference__a_study_space_is_described_by_the_tractograms_sidecar(tmp_path):
    path = tmp_path / "t.tck"
    assert find_reference(path) is None
    (tmp_path / "t.json").write_text('{"SpatialReference": "this one scan"}')
    said = find_reference(path)
    assert a_record(path, GRID, spatial_reference=said).reference == "this one scan"
    template = a_record(path, GRID, spatial_reference=said, tractogram_space="MNI152NLin6Asym")
    assert template.reference == "MNI152NLin6Asym"
    assert a_record(path, GRID).reference == "StudySpace: not a standard template"


@pytest.mark.parametrize(
    ("space", "code"), [("MNI152NLin6Asym", 4), ("MNIColin27", 2), ("IXI549Space", 2), ("AFQ", 2)]
)
def test_nifti_code__only_the_mni152_templates_are_called_so(space, code):
    assert nifti_code(space) == code


def test_versions__know_this_package():
    assert versions()["lacuna-lnm"] != "not installed"
