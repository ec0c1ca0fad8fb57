"""The generated reference pages say what the code says."""

import importlib.util
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

import lacuna
from lacuna.cli.main import main
from lacuna.config import descriptions
from lacuna.geometry.grid import Grid

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = ROOT / "docs" / "reference" / "generate.py"
_spec = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_page__is_up_to_date(name):
    assert generate.PAGES[name]() == (GENERATOR.parent / name).read_text(encoding="utf-8"), (
        "run python docs/reference/generate.py"
    )


def test_environment_page__lists_every_variable_that_the_source_reads():
    source = Path(lacuna.__file__).parent
    code = "".join(path.read_text() for path in source.rglob("*.py"))
    read = set(re.findall(r"\bLACUNA_[A-Z_]+\b", code))
    assert read <= set(descriptions()["environment"])


def run_everything():
    """Run both analyses at both levels, on a lesion that is asked all there is."""
    grid = Grid((20, 20, 1), np.eye(4))
    write_tck(Path("tract.tck"), parallel_tract(20)[0])
    mask = np.zeros(grid.shape, np.uint8)
    mask[8:10, :5] = 1
    write_nifti(Path("grid.nii.gz"), mask, grid)
    folder = Path("bids/sub-01/anat")
    folder.mkdir(parents=True)
    write_nifti(folder / "sub-01_space-Study_label-lesion_mask.nii.gz", mask, grid)
    description = '{"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}'
    Path("bids/dataset_description.json").write_text(description)
    labels = 1 + np.arange(20)[:, None, None] // 10 * np.ones(grid.shape, np.uint8)
    write_nifti(Path("atlas-A_space-Study_dseg.nii.gz"), labels.astype(np.uint8), grid)
    Path("atlas-A_space-Study_dseg.tsv").write_text("index\tname\n1\tlow\n2\thigh\n")
    tracts = nib.Nifti1Image(np.ones((*grid.shape, 1), np.float32), grid.affine)
    nib.save(tracts, "atlas-T_space-Study_probseg.nii.gz")
    Path("atlas-T_space-Study_probseg.txt").write_text("1 AF\n")
    Path("tracts.tsv").write_text("tract\tstart\tstop\nall\t0\t20\n")
    atlases = ["--atlas", "atlas-A_space-Study_dseg.nii.gz"]
    atlases += ["--tract-atlas", "atlas-T_space-Study_probseg.nii.gz"]
    options = ["--tractogram", "tract.tck", "--tractogram-space", "Study", "--tracts", "tracts.tsv"]
    options += ["--grid", "grid.nii.gz", "--min-tdi", "1", "--save-streamlines", "tck"]
    for analysis, own in (("snm", [*atlases, *options]), ("damage", atlases)):
        assert main(["run", analysis, "bids", analysis, *own]) == 0
        assert main(["run", analysis, "bids", analysis, "group"]) == 0


def spelled(name):
    """Return what the page must have, in backticks, for a file: the end of its name, or its X."""
    desc, end = re.search(r"(?:desc-(\w+?)|label-lesion)_([a-z]+\.\S+)$", name).groups()
    if end == "relmat.tsv":
        return desc.removeprefix("mean") if name.startswith("group_") else desc
    if name.startswith("group_") and end == "map.nii.gz":
        return desc.replace("thr50", "thrN")
    if name.startswith("group_") and desc != "pairs":
        return f"desc-{desc}_{end}"
    return f"desc-{desc}_{end}".replace(".tck", ".{tck,trx}") if desc else f"label-lesion_{end}"


def test_outputs_page__has_every_file_and_every_column(tmp_path):
    run_everything()
    shown = re.findall(r"`([^`]+)`", generate.outputs())
    ends = {re.search(r"((desc|label)-)?[^-]*$", text)[0] for text in shown}
    columns = {re.sub("_A$", "", text) for text in shown}
    paths = [*Path("snm").rglob("*_*-*"), *Path("damage").rglob("*_*-*")]
    results = [path for path in paths if path.suffix in (".tsv", ".gz", ".tck")]
    assert len(results) > 30
    for path in results:
        assert spelled(path.name) in ends, path.name
        if path.name.startswith("sub-") and path.name.endswith("stats.tsv"):
            header = path.read_text().splitlines()[0].split("\t")
            assert {re.sub("_A$", "", column) for column in header} <= columns, path.name
