"""``lacuna run snm|damage … group``: results of all lesions, against numbers counted otherwise."""

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import pack, parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

GRID = Grid((20, 20, 1), np.eye(4))
N_CUT = {"01": 5, "02": 8, "03": 2}
"""Streamlines that the lesion of each participant cuts."""

MAPS = "out/group_space-StudySpace_res-1_desc-"


def lines_along_x(n):
    x = np.arange(20, dtype=np.float32)
    return [np.column_stack([x, np.full_like(x, i), np.zeros_like(x)]) for i in range(n)]


def mask_of(label):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, : N_CUT[label]] = 1
    return mask


@pytest.fixture(autouse=True)
def dataset(tmp_path):
    """Twenty parallel streamlines, an atlas of four parcels, and three participants."""
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    write_nifti(tmp_path / "grid.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    labels = np.zeros(GRID.shape, np.int16)
    labels[0, :10], labels[0, 10:], labels[19, :5], labels[19, 5:] = 1, 2, 5, 9
    write_nifti(tmp_path / "space-StudySpace_atlas-Toy_dseg.nii.gz", labels, GRID)
    names = "index\tname\n1\ta\n2\tb\n5\tc\n9\td\n"
    (tmp_path / "space-StudySpace_atlas-Toy_dseg.tsv").write_text(names)
    root = tmp_path / "bids"
    for label in N_CUT:
        path = root / f"sub-{label}/anat/sub-{label}_space-StudySpace_label-lesion_mask.nii.gz"
        path.parent.mkdir(parents=True)
        write_nifti(path, mask_of(label), GRID)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    table = "side\tparticipant_id\tscore\nL\tsub-01\t0.10000000000000001\nR\tsub-02\t\n"
    (root / "participants.tsv").write_text(table)
    (root / "participants.json").write_text('{"score": {"Description": "A test"}}')
    return root


def participant(*words, analysis="snm", code=0):
    options = ["--atlas", "space-StudySpace_atlas-Toy_dseg.nii.gz"]
    if analysis == "snm":
        options += ["--tractogram", "tract.tck", "--tractogram-space", "StudySpace"]
        options += ["--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures"]
    assert main(["run", analysis, "bids", "out", "participant", *options, *words]) == code


def group(*words, analysis="snm", code=0):
    assert main(["run", analysis, "bids", "out", "group", *map(str, words)]) == code


def rows(path):
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def own(label, name):
    (path,) = Path(f"out/sub-{label}").rglob(f"*_desc-{name}")
    return path


def data(path):
    return np.asarray(nib.load(path).dataobj)


def files():
    return {path.name: path.read_bytes() for path in Path("out").glob("group*")}


@pytest.mark.parametrize(
    ("name", "of_group"),
    [
        ("summary_stats.tsv", "group_desc-summary_stats.tsv"),
        ("parcels_stats.tsv", "group_seg-Toy_desc-parcels_stats.tsv"),
        ("chaco_stats.tsv", "group_seg-Toy_desc-chaco_stats.tsv"),
        ("damage_stats.tsv", "group_seg-Toy_desc-damage_stats.tsv"),
    ],
)
def test_group__tables_hold_the_cells_of_every_lesion_as_they_stand(name, of_group):
    participant()
    group()
    expected = [(f"sub-{label}", row) for label in N_CUT for row in rows(own(label, name))]
    found = rows(f"out/{of_group}")
    assert [row["participant_id"] for row in found] == [label for label, _ in expected]
    for row, (_, single) in zip(found, expected, strict=True):
        assert {column: row[column] for column in single} == single
    dictionary = json.loads(Path(f"out/{of_group}").with_suffix(".json").read_text())
    assert dictionary.keys() == found[0].keys() | {"Lacuna"}
    assert all(dictionary[column]["Description"] for column in found[0])


def test_group__participants_are_merged_as_text_and_under_names_of_their_own():
    participant()
    group()
    found = rows("out/group_desc-summary_stats.tsv")
    assert [row["score"] for row in found] == ["0.10000000000000001", "n/a", "n/a"]
    assert [row["side"] for row in found] == ["right"] * 3
    assert [row["participants_side"] for row in found] == ["L", "R", "n/a"]
    said = json.loads(Path("out/group_desc-summary_stats.json").read_text())
    assert said["score"]["Description"] == "A test"


def test_group__maps_are_those_of_numpy_over_the_lesions_maps():
    participant()
    group("--threshold", "0.5", "--threshold", "0.01", "--threshold", "1")
    maps = np.array([data(own(label, "disconnection_map.nii.gz")) for label in N_CUT])
    covered = data(own("01", "coverage_mask.nii.gz")) > 0
    assert np.ptp(maps) == 1
    mean = data(f"{MAPS}meandisconnection_map.nii.gz")
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, np.where(covered, maps.mean(axis=0), 0), rtol=1e-6)
    for label, threshold in (("thr50", 0.5), ("thr01", 0.01), ("thr100", 1)):
        path = Path(f"{MAPS}frequency{label}_map.nii.gz")
        share = np.where(covered, (maps >= threshold).mean(axis=0), 0)
        np.testing.assert_allclose(data(path), share, rtol=1e-6)
        said = json.loads(Path(str(path).replace(".nii.gz", ".json")).read_text())
        assert said["Threshold"] == threshold
        assert f"cut {threshold} or more" in said["Description"]
    assert np.array_equal(data(f"{MAPS}coverage_map.nii.gz") > 0, covered)


def test_group__maps_are_0_where_too_few_streamlines_pass():
    write_tck(Path("tract.tck"), pack([*lines_along_x(20), *lines_along_x(4)]))
    participant("--min-tdi", "2")
    group()
    covered = data(own("01", "coverage_mask.nii.gz")) > 0
    cut = np.any([data(own(label, "disconnection_map.nii.gz")) for label in N_CUT], axis=0)
    assert (cut & covered).any()
    assert (cut & ~covered).any()
    for desc in ("meandisconnection", "frequencythr50"):
        assert np.array_equal(data(f"{MAPS}{desc}_map.nii.gz") > 0, cut & covered)


def test_group__lesion_overlap_on_one_grid_is_the_sum_of_the_masks():
    participant()
    group()
    overlap = data(f"{MAPS}lesionoverlap_map.nii.gz")
    assert np.array_equal(overlap, sum(mask_of(label).astype(float) for label in N_CUT))
    assert overlap.max() == 3
    said = json.loads(Path(f"{MAPS}lesionoverlap_map.json").read_text())
    assert len(said["Sources"]) == said["Lacuna"]["Lesions"] == 3
    for source in said["Sources"]:
        assert (Path("out") / source.removeprefix("bids::")).is_file()


def test_group__pairs_are_those_cells_of_the_matrices_that_a_lesion_cuts():
    loop = np.array([[0, 1, 0], [8, 1, 0], [8, 2, 0], [0, 2, 0]], np.float32)  # from a to a
    write_tck(Path("tract.tck"), pack([*lines_along_x(20), loop]))
    participant()
    assert rows(own("01", "disconnection_relmat.tsv"))[0]["a"] == "1"
    group()
    found = {
        (row["participant_id"], row["index_a"], row["name_a"], row["index_b"], row["name_b"]): row
        for row in rows("out/group_seg-Toy_desc-pairs_stats.tsv")
    }
    expected = {}
    numbers = {"a": "1", "b": "2", "c": "5", "d": "9"}
    descs = ("count", "spared", "disconnection", "chaco", "deltasspl")
    for label in N_CUT:
        matrices = {}
        for desc in descs:
            table = rows(own(label, f"{desc}_relmat.tsv"))
            matrices[desc] = {row.pop("name"): row for row in table}
        for one, other in [(a, b) for a in "abcd" for b in "abcd" if a < b]:
            cells = {desc: matrices[desc][one][other] for desc in descs}
            if any(cells[desc] not in ("0", "n/a") for desc in ("disconnection", "chaco")):
                key = (f"sub-{label}", numbers[one], one, numbers[other], other)
                expected[key] = cells
    assert found.keys() == expected.keys()
    assert ("sub-01", "1", "a", "5", "c") in found
    for key, cells in expected.items():
        assert {desc: found[key][desc] for desc in descs} == cells


def test_group__mean_matrices_are_those_of_numpy():
    participant()
    group()
    for desc in ("disconnection", "chaco", "deltasspl"):
        tables = [rows(own(label, f"{desc}_relmat.tsv")) for label in N_CUT]
        single = [[[row[name] for name in "abcd"] for row in table] for table in tables]
        mean = np.array([np.char.replace(np.array(t), "n/a", "nan").astype(float) for t in single])
        table = rows(f"out/group_seg-Toy_desc-mean{desc}_relmat.tsv")
        assert [row["name"] for row in table] == list("abcd")
        found = np.array([[row[name] for name in "abcd"] for row in table])
        found = np.char.replace(found, "n/a", "nan").astype(float)
        np.testing.assert_allclose(found, mean.mean(axis=0), rtol=1e-11)


def test_group__what_is_missing_is_named_everywhere_and_in_the_exit_status(capsys):
    participant("--participant-label", "01", "02")
    group(code=1)
    shown = capsys.readouterr().err
    assert re.search(r"warning: sub-03_\S+ is left out: missing", shown)
    assert "1 lesions are in no table" in shown
    assert len(rows("out/group_desc-summary_stats.tsv")) == 2
    for path in Path("out").glob("group_*.json"):
        said = json.loads(path.read_text())["Lacuna"]
        assert said["Lesions"] == 2
        assert [name[:6] for name in said["LeftOut"]] == ["sub-03"]
    assert "sub-03_space-StudySpace_label-lesion_mask.nii.gz: missing" in Path(
        "out/group.html"
    ).read_text("utf-8")


def test_group__with_strict_nothing_is_written_without_all_lesions(capsys):
    participant("--participant-label", "01", "02")
    group("--strict", code=1)
    assert not files()
    assert "with --strict nothing is written" in capsys.readouterr().err


def test_group__a_choice_of_participants_is_complete_without_the_others():
    participant("--participant-label", "01", "02")
    group("--participant-label", "sub-02", "--strict")
    assert [row["participant_id"] for row in rows("out/group_desc-summary_stats.tsv")] == ["sub-02"]


def test_group__a_choice_by_filter_file_or_session_is_complete_without_the_others(dataset, capsys):
    participant()
    Path("filter.json").write_text('{"lesion": {"subject": ["01", "03"]}}')
    group("--bids-filter-file", "filter.json", "--strict")
    found = [row["participant_id"] for row in rows("out/group_desc-summary_stats.tsv")]
    assert found == ["sub-01", "sub-03"]
    group("--session-label", "1", code=1)
    assert "No lesion mask of session 1" in capsys.readouterr().err


def test_group__results_whose_lesion_is_gone_are_left_out(dataset, capsys):
    participant()
    shutil.rmtree(dataset / "sub-02")
    group(code=1)
    found = [row["participant_id"] for row in rows("out/group_desc-summary_stats.tsv")]
    assert found == ["sub-01", "sub-03"]
    assert "its lesion is not in the input" in capsys.readouterr().err


def test_group__a_second_run_replaces_the_first_and_all_that_it_wrote():
    participant()
    group("--threshold", "0.25")
    (Path("out") / "group_notes.json").write_text('{"mine": 1}')
    first = files()
    group("--threshold", "0.25")
    assert files() == first
    group()
    names = files().keys()
    assert any("frequencythr50" in name for name in names)
    assert not any("frequencythr25" in name for name in names)
    assert "group_notes.json" in names


def test_group__a_dry_run_tells_what_would_be_taken_and_writes_nothing(capsys):
    participant()
    group("--dry-run")
    assert "3 of 3 lesions are taken together" in capsys.readouterr().err
    assert not files()


def test_group__another_analysis_or_no_results_are_errors(capsys):
    group(code=1)
    assert "holds no results" in capsys.readouterr().err
    participant()
    group(analysis="damage", code=1)
    assert "holds results of `run snm`" in capsys.readouterr().err


def test_group__damage_has_tables_and_a_lesion_overlap():
    participant(analysis="damage")
    group(analysis="damage")
    assert len(rows("out/group_seg-Toy_desc-damage_stats.tsv")) == 3 * 4
    (path,) = Path("out").glob("*_map.nii.gz")
    volumes = sum(float(row["volume_mm3"]) for row in rows("out/group_desc-summary_stats.tsv"))
    voxel = abs(np.linalg.det(nib.load(path).affine[:3, :3]))
    assert float(data(path).sum()) * voxel == pytest.approx(volumes) == 30


def test_group__a_lesion_on_a_rotated_grid_keeps_its_volume_in_tables_and_overlap(dataset):
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    turned[:2, 3] = 9, 0
    path = dataset / "sub-01/anat/sub-01_space-StudySpace_label-lesion_mask.nii.gz"
    write_nifti(path, np.ones((6, 6, 1), np.uint8), Grid((6, 6, 1), turned))
    labels = np.ones(GRID.shape, np.int16)
    labels[10:] = 2
    write_nifti(Path("space-StudySpace_atlas-Toy_dseg.nii.gz"), labels, GRID)
    Path("space-StudySpace_atlas-Toy_dseg.tsv").write_text("index\tname\n1\ta\n2\tb\n")
    participant(analysis="damage")
    group(analysis="damage")
    regions = rows("out/group_seg-Toy_desc-damage_stats.tsv")
    taken = [float(row["lesioned_mm3"]) for row in regions if row["participant_id"] == "sub-01"]
    # All of it, but for the corner that reaches below the first row of the atlas, y = -½.
    corner = [-0.5 * (0.6 + 0.8), -0.5]
    triangle = (corner[1] - corner[0]) ** 2 / 2 * (0.8 / 0.6 + 0.6 / 0.8)
    assert sum(taken) == pytest.approx(36 - triangle, rel=1e-6)
    assert min(taken) > 0
    (path,) = Path("out").glob("*_map.nii.gz")
    voxel = abs(np.linalg.det(nib.load(path).affine[:3, :3]))
    assert float(data(path).sum()) * voxel == pytest.approx(16 + 4 + 36, rel=1e-6)


class Page(HTMLParser):
    """Collects what a page holds."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(Path(path).read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_group__the_page_shows_every_lesion_and_links_pages_that_exist():
    participant()
    Path("out/sub-02.html").write_text("x")
    Path("out/sub-01.html").unlink(missing_ok=True)
    group()
    page = Page("out/group.html")
    found = {attrs["href"] for attrs in page.all("a") if not attrs["href"].startswith("#")}
    cited = {link for link in found if link.startswith("https://doi.org/")}
    assert cited
    links = found - cited
    assert "sub-02.html" in links
    assert "sub-01.html" not in links
    assert all((Path("out") / link).is_file() for link in links)
    values = [attrs["data-value"] for attrs in page.all("td") if "data-value" in attrs]
    assert all(row["volume_mm3"] in values for row in rows("out/group_desc-summary_stats.tsv"))
    pictures = page.all("img")
    assert len(pictures) == 3
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in pictures)
    assert "Lesion overlap" in pictures[0]["alt"]
    assert "highest value is 3" in pictures[0]["alt"]


@pytest.mark.parametrize("threshold", ["0", "1.5", "nan", "half"])
def test_group__a_threshold_is_a_share(threshold, capsys):
    with pytest.raises(SystemExit, match="2"):
        group("--threshold", threshold)
    assert "--threshold" in capsys.readouterr().err


def test_group__each_desc_of_its_files_is_described():
    participant()
    group()
    told = dict(line.split("\t") for line in Path("out/descriptions.tsv").read_text().splitlines())
    names = {name.partition("_desc-")[2].partition("_")[0] for name in files()}
    assert {"lesionoverlap", "frequencythr50", "pairs", "meanchaco"} <= names
    assert {f"desc-{name}" for name in names if name} <= told.keys()


def test_group__cites_what_the_results_come_from():
    participant()
    group()
    page = Page("out/group.html")
    cited = [attrs["href"] for attrs in page.all("a") if "doi.org" in attrs["href"]]
    assert len(cited) == len(set(cited)) > 0
    methods = Path("out/logs/CITATION.md").read_text()
    assert all(link in methods for link in cited)
