import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest

from lacuna.bids.dataset import LesionFile
from lacuna.bids.derivatives import (
    bidsignore,
    check_output,
    format_value,
    open_output,
    plan_outputs,
    write_json,
    write_matrix,
    write_table,
)
from lacuna.errors import DatasetError

PARAMETERS = {"Rule": "segment", "Tractogram": "abc", "Space": "ACPC", "Grid": [2, 2, 2]}


def lesion(**entities: str) -> LesionFile:
    name = "_".join(f"{key}-{value}" for key, value in entities.items())
    return LesionFile(Path(f"{name}_mask.nii.gz"), entities)


def plan(*lesions: LesionFile):
    return plan_outputs(lesions, "/out", space="MNI152Lin", resolution="2")


def test_path__names_as_promised():
    (outputs,) = plan(lesion(sub="X", ses="Y"))
    path = outputs.path("disconnection", "map", ".nii.gz")
    assert path == Path(
        "/out/sub-X/ses-Y/dwi/sub-X_ses-Y_space-MNI152Lin_res-2_desc-disconnection_map.nii.gz"
    )
    table = outputs.path("summary", "stats", ".tsv")
    assert table.name == "sub-X_ses-Y_space-MNI152Lin_res-2_desc-summary_stats.tsv"


def test_path__source_entities_carry_through():
    entities = {"sub": "1", "acq": "hi", "run": "2", "hemi": "L", "label": "L"}
    (outputs,) = plan(lesion(**entities, space="T1w", res="1", desc="manual"))
    assert outputs.path("tdi", "map", ".nii.gz").name == (
        "sub-1_acq-hi_run-2_hemi-L_space-MNI152Lin_res-2_label-L_desc-tdi_map.nii.gz"
    )


@pytest.mark.parametrize(("label", "expected"), [({}, "lesion"), ({"label": "L"}, "L")])
def test_lesion_path__says_that_it_is_a_lesion(label, expected):
    (outputs,) = plan(lesion(sub="1", **label))
    assert outputs.lesion_path().name == f"sub-1_space-MNI152Lin_label-{expected}_mask.nii.gz"


def test_path__a_suffix_that_bidsignore_does_not_list_cannot_be_written():
    (outputs,) = plan(lesion(sub="1"))
    with pytest.raises(ValueError, match="not written as"):
        outputs.path("tdi", "map", ".mgz")


def test_plan_outputs__two_inputs_with_one_output_name_are_an_error():
    with pytest.raises(DatasetError, match=r"sub-1_desc-a_mask.* and .*sub-1_desc-b_mask"):
        plan(lesion(sub="1", desc="a"), lesion(sub="1", desc="b"))


def test_plan_outputs__names_that_differ_by_case_only_are_one_file_on_some_disks():
    with pytest.raises(DatasetError, match="would both write"):
        plan(lesion(sub="a"), lesion(sub="A"))


def test_plan_outputs__a_lesion_without_label_and_one_called_lesion_are_one_mask():
    with pytest.raises(DatasetError, match=r"would both write sub-1.*label-lesion_mask"):
        plan(lesion(sub="1"), lesion(sub="1", label="lesion"))


def test_plan_outputs__runs_of_one_subject_are_two():
    assert len(plan(lesion(sub="1", run="1"), lesion(sub="1", run="2"))) == 2


def test_open_output__writes_the_description_once(tmp_path):
    out = open_output(tmp_path / "out", PARAMETERS, sources=[tmp_path / "in"])
    description = out / "dataset_description.json"
    content = json.loads(description.read_text())
    assert content["DatasetType"] == "derivative"
    assert content["GeneratedBy"][0]["Name"] == "Lacuna"
    assert re.fullmatch(r"\d+\.\d+.*", content["GeneratedBy"][0]["Version"])
    assert content["SourceDatasets"] == [{"URL": (tmp_path / "in").as_uri()}]
    before = description.stat().st_mtime_ns
    open_output(tmp_path / "out", PARAMETERS, sources=[tmp_path / "in"])
    assert description.stat().st_mtime_ns == before
    assert [path.name for path in out.iterdir()] == ["dataset_description.json"]


@pytest.mark.parametrize(
    ("variables", "container"),
    [
        ({}, None),
        ({"LACUNA_CONTAINER_TAG": "lab/lacuna:1"}, {"Type": "docker", "Tag": "lab/lacuna:1"}),
        (
            {"APPTAINER_CONTAINER": "/lab/l 1.sif", "SINGULARITY_CONTAINER": "/lab/l 1.sif"},
            {"Type": "apptainer", "Tag": "l 1.sif", "URI": "file:///lab/l%201.sif"},
        ),
        (
            {"SINGULARITY_CONTAINER": "/lab/l.sif", "LACUNA_CONTAINER_TAG": "lacuna:1"},
            {"Type": "singularity", "Tag": "lacuna:1", "URI": "file:///lab/l.sif"},
        ),
    ],
)
def test_open_output__names_the_container(tmp_path, monkeypatch, variables, container):
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "LACUNA_CONTAINER_TAG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = open_output(tmp_path / "out", PARAMETERS)
    (generated,) = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
    assert generated.get("Container") == container


@pytest.mark.parametrize(
    ("urls", "code"),
    [
        ((), None),
        (("Documentation, https://d.org",), None),
        (("Documentation, https://d.org", "Source, https://c.org/x, y"), "https://c.org/x, y"),
    ],
)
def test_open_output__names_the_address_of_the_code_if_the_package_does(
    tmp_path, monkeypatch, urls, code
):
    folder = tmp_path / "site" / "lacuna_lnm-9.8.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", "Name: lacuna-lnm", "Version: 9.8"]
    lines += [f"Project-URL: {url}" for url in urls]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    out = open_output(tmp_path / "out", PARAMETERS)
    (generated,) = json.loads((out / "dataset_description.json").read_text())["GeneratedBy"]
    assert (generated["Version"], generated.get("CodeURL")) == ("9.8", code)


@pytest.mark.parametrize(
    "other", [{"Rule": "vertex"}, {"Tractogram": "def"}, {"Grid": [1, 1, 1]}, {"New": 1}]
)
def test_open_output__results_of_another_kind_are_refused(tmp_path, other):
    open_output(tmp_path, PARAMETERS)
    with pytest.raises(DatasetError, match=f"another kind.*{next(iter(other))}"):
        open_output(tmp_path, PARAMETERS | other)


def test_open_output__another_dataset_is_refused(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "raw data"}')
    with pytest.raises(DatasetError, match="'raw data', which Lacuna did not make"):
        open_output(tmp_path, PARAMETERS)


def test_open_output__results_without_a_description_are_refused(tmp_path):
    (tmp_path / "sub-1").mkdir()
    with pytest.raises(DatasetError, match="no dataset_description"):
        open_output(tmp_path, PARAMETERS)


def test_open_output__the_input_itself_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="OUTPUT_DIR and INPUT"):
        open_output(tmp_path, PARAMETERS, sources=[tmp_path])


def test_open_output__a_file_is_refused(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DatasetError, match="not a folder"):
        open_output(tmp_path / "out", PARAMETERS)


def test_check_output__writes_nothing(tmp_path):
    check_output(tmp_path / "out", PARAMETERS)
    assert list(tmp_path.iterdir()) == []


def _open_from_process(out: Path, rule: str, results) -> None:
    try:
        open_output(out, PARAMETERS | {"Rule": rule})
        results.put(rule)
    except DatasetError:
        results.put(None)


def test_open_output__processes_that_start_together_never_mix_rules(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    rules = ["segment", "vertex"] * 2
    processes = [
        context.Process(target=_open_from_process, args=(tmp_path / "out", rule, results))
        for rule in rules
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    answers = [results.get() for _ in processes]
    assert len(set(answers) - {None}) == 1
    assert answers.count(None) == 2
    assert not list((tmp_path / "out").glob(".*.part"))


def test_bidsignore__lists_the_names_that_are_ours_and_bids_does_not_know():
    lines = bidsignore({"tdi": ["map"], "coverage": ["mask"]}).splitlines()
    ours = [line for line in lines if line.startswith("sub-")]
    assert ours == [f"sub-*_desc-tdi_map{end}" for end in (".nii.gz", ".json", ".png")]
    assert {"/logs/", "/sub-*.html", "/group_*_stats.tsv", "/sub-*/figures"} < set(lines)


def test_open_output__sources_links_and_descriptions_of_a_later_run_are_added(tmp_path):
    for name, desc in {"a": "one", "b": "two"}.items():
        table = f"desc_id\tdescription\ndesc-{desc}\tx\n"
        texts = {"descriptions.tsv": table, "README": name, "logs/CITATION.md": name}
        links = {f"{name}-1": f"file:///{name}"}
        folder = tmp_path / name
        open_output(tmp_path / "out", PARAMETERS, sources=[folder], links=links, documents=texts)
    content = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert [s["URL"][-2:] for s in content["SourceDatasets"]] == ["/a", "/b"]
    assert content["DatasetLinks"] == {"a-1": "file:///a", "b-1": "file:///b"}
    rows = (tmp_path / "out" / "descriptions.tsv").read_text().splitlines()
    assert rows == ["desc_id\tdescription", "desc-one\tx", "desc-two\tx"]
    assert (tmp_path / "out" / "README").read_text() == "a"
    assert (tmp_path / "out" / "logs" / "CITATION.md").read_text() == "b"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, "n/a"),
        (float("nan"), "n/a"),
        (np.float32("nan"), "n/a"),
        ("", "n/a"),
        (0.1 + 0.2, "0.3"),
        (-0.0, "0"),
        (np.float64(1 / 3), "0.333333333333"),
        (1e-7, "1e-07"),
        (np.int64(12345678901234), "12345678901234"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("a\tb\nc", "a b c"),
    ],
)
def test_format_value__cells(value, cell):
    assert format_value(value) == cell


def test_write_table__with_its_data_dictionary(tmp_path):
    path = tmp_path / "sub-1" / "x_stats.tsv"
    columns = {"side": ["left"], "volume_mm3": [12.5]}
    descriptions = {"side": {"Description": "Side"}, "volume_mm3": {"Units": "mm3"}}
    write_table(path, columns, descriptions)
    assert path.read_text() == "side\tvolume_mm3\nleft\t12.5\n"
    assert json.loads(path.with_suffix(".json").read_text()) == descriptions
    assert sorted(p.name for p in path.parent.iterdir()) == ["x_stats.json", "x_stats.tsv"]


def test_write_table__a_column_without_description_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="without description"):
        write_table(tmp_path / "x.tsv", {"a": [1]}, {})


def test_write_matrix__names_stand_at_its_rows_and_columns(tmp_path):
    matrix = np.array([[0, 0.25], [np.nan, 1 / 3]])
    write_matrix(tmp_path / "a_relmat.tsv", matrix, ["x", "y z"], {"Units": "1"})
    rows = ["name\tx\ty z", "x\t0\t0.25", "y z\tn/a\t0.333333333333"]
    assert (tmp_path / "a_relmat.tsv").read_text().splitlines() == rows
    assert json.loads((tmp_path / "a_relmat.json").read_text()) == {"Units": "1"}
    counts = np.array([[3, 0], [0, 12345678901234]])
    write_matrix(tmp_path / "a_relmat.tsv", counts, ["x", "y"], {})
    assert (tmp_path / "a_relmat.tsv").read_text().splitlines()[2] == "y\t0\t12345678901234"


def test_write_json__numbers_of_numpy_and_what_json_lacks(tmp_path):
    content = {"a": np.float32(0.5), "b": np.arange(2), "c": float("inf"), "d": Path("x"), "e": "é"}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {
        "a": 0.5,
        "b": [0, 1],
        "c": None,
        "d": "x",
        "e": "é",
    }


def test_write_json__what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_path__seg_is_that_of_an_atlas_and_two_raters_are_told_apart():
    (outputs,) = plan(lesion(sub="1", seg="rater1", label="lesion"))
    assert "_seg-" not in outputs.path("summary", "stats", ".tsv").name
    assert "_seg-A_" in outputs.path("damage", "stats", ".tsv", seg="A").name
    with pytest.raises(DatasetError, match="rater2"):
        plan(lesion(sub="1", seg="rater1"), lesion(sub="1", seg="rater2"))


def test_open_output__says_which_version_wrote_last_and_keeps_what_others_say(tmp_path):
    root = open_output(tmp_path / "out", PARAMETERS, sources=[])
    path = root / "dataset_description.json"
    content = json.loads(path.read_text())
    now = content["GeneratedBy"][0]["Version"]
    content["GeneratedBy"][0]["Version"] = "0.0.0"
    content["GeneratedBy"].append({"Name": "Other"})
    path.write_text(json.dumps(content))
    open_output(root, PARAMETERS, sources=[])
    ours, other = json.loads(path.read_text())["GeneratedBy"]
    assert (ours["Version"], ours["Parameters"], other) == (now, PARAMETERS, {"Name": "Other"})
