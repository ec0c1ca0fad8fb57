"""The BIDS validator accepts what is written, and nothing that is misnamed beside it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.bids.validation import find_validator
from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

pytestmark = pytest.mark.peer

GRID = Grid((20, 20, 1), np.eye(4))
MISNAMED = (
    "sub-{sub}_desc_foo_map.nii.gz",
    "sub-{sub}_space-StudySpace_desc-foo_map.nii.gz",
    "sub-{sub}_space-StudySpace_desc-tdi_mapp.nii.gz",
    "sub-{sub}_space-StudySpace_desc-tdi_map.nii",
    "sub-{sub}_space-StudySpace_blup-1_mask.nii.gz",
)


@pytest.fixture
def dataset(tmp_path, request):
    """Two people's lesions, in two sessions each or in none; tractogram and atlas beside it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    described = {"Name": "raw", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (raw / "dataset_description.json").write_text(json.dumps(described))
    for sub, n in {"01": 5, "02": 8}.items():
        for ses in request.param:
            parts = [f"sub-{sub}", *([f"ses-{ses}"] if ses else [])]
            folder = raw.joinpath(*parts, "anat")
            folder.mkdir(parents=True)
            mask = np.zeros(GRID.shape, np.uint8)
            mask[8:10, :n] = 1
            name = "_".join([*parts, "space-StudySpace_label-lesion_mask.nii.gz"])
            write_nifti(folder / name, mask, GRID)
    labels = np.full(GRID.shape, 2, np.int16)
    labels[:10] = 1
    write_nifti(tmp_path / "tpl-StudySpace_atlas-Halves_dseg.nii.gz", labels, GRID)
    (tmp_path / "tpl-StudySpace_atlas-Halves_dseg.tsv").write_text("index\tname\n1\ta\n2\tb\n")
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    (tmp_path / "tract.json").write_text('{"Space": "StudySpace"}')
    (tmp_path / "tracts.tsv").write_text("tract\tstart\tstop\nlow\t0\t10\nhigh\t10\t20\n")
    write_nifti(tmp_path / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    return raw


def issues(root):
    """Return severity and code of each issue; there is no network to ask for a schema."""
    program = find_validator()
    assert program, "bids-validator-deno is not installed"
    away = "http://127.0.0.1:9"
    done = subprocess.run(
        [program, "--format", "json", str(root)],
        capture_output=True,
        cwd="/",
        env={**os.environ, "HTTPS_PROXY": away, "HTTP_PROXY": away},
        timeout=120,
    )
    found = json.loads(done.stdout)["issues"]["issues"]
    return {(issue["severity"], issue["code"], issue.get("location")) for issue in found}


def check(out, code=0):
    found = issues(out)
    assert {code for _, code, _ in found} <= {"TOO_FEW_AUTHORS"}, found
    files = [path for path in out.rglob("*") if path.is_file()]
    folder = next(path.parent for path in files if path.name.endswith("_mask.nii.gz"))
    image = next(folder.glob("*_mask.nii.gz"))
    for pattern in MISNAMED:
        wrong = folder / pattern.format(sub=folder.relative_to(out).parts[0].removeprefix("sub-"))
        shutil.copy(image, wrong)
        where = "/" + wrong.relative_to(out).as_posix()
        assert any(i[0] == "error" and i[2] == where for i in issues(out)), wrong.name
        wrong.unlink()


def check_group(out):
    """Check that all files about all lesions are valid, and one that is misnamed is not."""
    written = {path.name for path in out.glob("group*")}
    assert {"group.html", "group_desc-summary_stats.tsv"} < written
    assert any(name.endswith("_desc-lesionoverlap_map.nii.gz") for name in written)
    assert {code for _, code, _ in issues(out)} <= {"TOO_FEW_AUTHORS"}
    wrong = out / "group_desc-summary_statistics.tsv"
    shutil.copy(out / "group_desc-summary_stats.tsv", wrong)
    assert any(i[0] == "error" and i[2] == f"/{wrong.name}" for i in issues(out))
    wrong.unlink()


@pytest.mark.parametrize("dataset", [("",), ("a", "b")], indirect=True, ids=["plain", "sessions"])
def test_snm__every_output_is_valid_and_a_misnamed_one_is_not(dataset, monkeypatch):
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/lacuna 1.sif")
    words = ["run", "snm", dataset, "out", "--tractogram", "tract.tck", "--grid", "grid.nii.gz"]
    words += ["--min-tdi", 1, "--atlas", "tpl-StudySpace_atlas-Halves_dseg.nii.gz"]
    words += ["--tracts", "tracts.tsv", "--save-streamlines", "trx"]
    assert main([str(word) for word in words]) == 0
    out = Path("out").absolute()
    check(out)
    assert main([*map(str, words[:4]), "group", "--threshold", "0.005"]) == 0
    check_group(out)
    said = json.loads((out / "dataset_description.json").read_text())
    assert said["GeneratedBy"][0]["Container"]["URI"] == "file:///images/lacuna%201.sif"
    links = said["DatasetLinks"]
    used = [json.loads(path.read_text()).get("Sources", []) for path in out.rglob("sub-*.json")]
    uris = [uri for sources in used for uri in sources if uri.startswith("bids:")]
    assert uris
    for uri in uris:
        _, name, path = uri.split(":")
        assert (Path(links[name].removeprefix("file://")) / path).is_file()


@pytest.mark.parametrize("dataset", [("",), ("a", "b")], indirect=True, ids=["plain", "sessions"])
def test_damage__every_output_is_valid_and_a_misnamed_one_is_not(dataset):
    atlas = "tpl-StudySpace_atlas-Halves_dseg.nii.gz"
    assert main(["run", "damage", str(dataset), "out", "--atlas", atlas]) == 0
    check(Path("out").absolute())
    assert main(["run", "damage", str(dataset), "out", "group"]) == 0
    check_group(Path("out").absolute())
