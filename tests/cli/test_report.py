"""The page of a participant, made by a run on a phantom, against the tables of the same run."""

import base64
import csv
import gzip
import json
import os
import pickle
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.phantoms import parallel_tract, write_nifti, write_tck
from tests.report.test_page import Elements

from lacuna.bids.dataset import LesionFile
from lacuna.bids.derivatives import LesionOutputs
from lacuna.cli.main import main
from lacuna.cli.pages import Pages
from lacuna.geometry.grid import Grid
from lacuna.report.page import format_number
from lacuna.report.participant import MARK, update_page
from lacuna.report.section import decode_section, encode_section

GRID = Grid((20, 20, 1), np.eye(4))
ODD = "<i>R&D</i>"


@pytest.fixture(autouse=True)
def inputs(tmp_path):
    """A tractogram of 20 parallel streamlines, an atlas with an odd name, and two sessions."""
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :8] = 1
    (tmp_path / "data").mkdir()
    for session in "12":
        name = f"sub-a_ses-{session}_label-lesion_mask.nii.gz"
        write_nifti(tmp_path / "data" / name, mask, GRID)
    write_nifti(tmp_path / "grid.nii.gz", mask, GRID)
    labels = np.zeros(GRID.shape, np.int16)
    labels[0, :10], labels[0, 10:] = 1, 2
    labels[19, :5], labels[19, 5:10], labels[19, 10:15] = 5, 9, 12
    write_nifti(tmp_path / "toy.nii.gz", labels, GRID)
    (tmp_path / "toy.tsv").write_text(f"index\tname\n1\t{ODD}\n2\tb\n5\tc\n9\td\n12\te\n")


def snm(*words, output="out", code=0):
    options = ["--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures", "--space", "Study"]
    options += ["--tractogram-space", "Study", "--atlas", "toy.nii.gz", "--atlas-space", "Study"]
    words = ["run", "snm", "data", output, "--tractogram", "tract.tck", *options, *words]
    assert main(words) == code
    return Path(output)


def damage(*words, code=0):
    options = ["--space", "Study", "--atlas", "toy.nii.gz", "--atlas-space", "Study"]
    assert main(["run", "damage", "data", "out", *options, *words]) == code
    return Path("out")


def a_lesion(output, label):
    return LesionOutputs(LesionFile(Path("m.nii"), {"sub": label}), output.absolute(), "S", "2")


def read_page(output):
    return Elements((output / "sub-a.html").read_text("utf-8"))


def rows(output, name):
    path = next(iter(sorted(output.rglob(f"*ses-1*_desc-{name}.tsv"))))
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def alternatives(page):
    return [a["aria-label"] for a in page.all("svg")]


def embedded(page_text, kind):
    found = re.findall(rf'data-kind="{kind}">([^<]*)<', page_text)
    return [gzip.decompress(base64.b64decode(text)) for text in found]


def test_report__page_has_a_section_for_each_session_and_names_no_id_twice():
    page = read_page(snm())
    lesions = [s for s in page.all("section") if s.get("class") == "lesion"]
    assert len(lesions) == 2
    names = [a["id"] for _, a in page.found if "id" in a]
    assert len(names) == len(set(names))
    targets = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    assert targets <= set(names)


def test_report__numbers_are_those_of_the_tables():
    output = snm()
    page = read_page(output)
    (summary,) = rows(output, "summary_stats")
    for column in ("n_cut", "disconnected_pct", "volume_mm3", "n_covered_voxels"):
        assert format_number(summary[column]) in page.text, column
    assert summary["n_cut"] == "8"
    assert "(8 of 10)" in page.text  # of parcel 1's streamlines, by hand
    parcels = rows(output, "parcels_stats")
    bars = next(text for text in alternatives(page) if "connections lost" in text)
    lost = [row for row in parcels if row["disconnection"] not in ("0", "n/a")]
    assert {row["name"] for row in lost} == {ODD, "c", "d"}
    for row in lost:
        share = format_number(100 * float(row["disconnection"]))
        assert f"{row['name']} {share} % ({row['cut']} of {row['total']})" in bars
    # 20 streamlines: two pairs of parcel 1 are hit, 5 of 5 and 3 of 5.
    glass = next(text for text in alternatives(page) if text.startswith("Glass brain"))
    assert f"2 pairs of parcels that lost most streamlines; the first is {ODD} – c, 5 of 5" in glass


def test_report__names_are_text_wherever_they_stand():
    page = read_page(snm())
    assert not page.all("i")
    assert ODD in page.text


def test_report__every_figure_says_what_it_shows():
    page = read_page(snm())
    figures = len(page.all("figure"))
    assert figures == 2 * 6  # lesion, disconnection, viewer, bars, matrix, glass brain
    assert all(len(text) > 20 for text in alternatives(page))
    assert all(re.search(r"\d", text) for text in alternatives(page))
    assert all(attributes.get("aria-label") for attributes in page.all("canvas"))


def test_report__loads_nothing_from_elsewhere():
    page = read_page(snm())
    sources = [
        a[key] for tag, a in page.found for key in ("src", "href") if key in a and tag != "a"
    ]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    links = [a["href"] for a in page.all("a")]
    assert all(h.startswith(("#", "sub-a/", "https://doi.org/")) for h in links)


def test_report__links_lead_to_the_files():
    output = snm()
    links = {a["href"] for a in read_page(output).all("a") if a["href"].startswith("sub-a/")}
    assert len(links) >= 8
    assert all((output / link).is_file() for link in links)


def test_report__viewer_holds_the_lesion_the_map_and_the_streamlines():
    output = snm()
    text = (output / "sub-a.html").read_text("utf-8")
    lesion = nibabel.Nifti1Image.from_bytes(embedded(text, "lesion")[0])
    where = np.argwhere(lesion.get_fdata() > 0)
    places = nibabel.affines.apply_affine(lesion.affine, where)
    assert sorted(map(tuple, places)) == [(x, y, 0) for x in (8, 9) for y in range(8)]
    shares = nibabel.Nifti1Image.from_bytes(embedded(text, "map")[0])
    (path,) = output.rglob("*ses-1*_desc-disconnection_map.nii.gz")
    written = nibabel.load(path)
    assert np.allclose(shares.affine, written.affine)
    assert np.abs(shares.get_fdata() - written.get_fdata()).max() <= 1 / 250
    Path("cut.tck").write_bytes(embedded(text, "streamlines")[0])
    cut = nibabel.streamlines.load("cut.tck").streamlines
    assert [line[0, 1] for line in cut] == list(range(8))
    assert all(line[0, 0] == 0 and line[-1, 0] == 19 for line in cut)


def test_report__nothing_cut_is_still_a_page():
    between = np.diag([0.25, 0.25, 1, 1])
    between[:2, 3] = 3, 3.5
    for path in Path("data").rglob("*.nii.gz"):
        write_nifti(path, np.eye(2, dtype=np.uint8)[..., None], Grid((2, 2, 1), between))
    page = read_page(snm())
    assert "touches no streamline" in page.text
    assert "None of 5 has lost anything" in page.text


def test_report__damage_has_the_same_page_without_what_needs_a_tractogram():
    output = damage()
    page = read_page(output)
    assert "Outside all parcels of toy" in page.text
    assert "treamlines cut" not in page.text
    assert len([s for s in page.all("section") if s.get("class") == "lesion"]) == 2


@pytest.mark.parametrize("analysis", [snm, damage])
def test_report__is_not_made_if_it_is_not_wanted(analysis):
    output = analysis("--no-report")
    assert not list(output.rglob("*.html"))


def test_report__second_run_has_nothing_to_do(capsys):
    snm()
    (first,) = {p.stat().st_mtime_ns for p in Path("out").glob("*.html")}
    snm()
    assert {p.stat().st_mtime_ns for p in Path("out").glob("*.html")} == {first}


def test_report__page_that_is_gone_is_made_again_and_leftovers_of_it_are_cleared():
    page = snm() / "sub-a.html"
    content = page.read_bytes()
    page.unlink()
    leftover = page.with_name(".sub-a.html.0123456789ab_p12345678.part")
    other = page.with_name(".sub-b.html.0123456789ab_p12345678.part")
    leftover.touch()
    other.touch()
    snm("--dry-run")
    assert not page.exists()
    snm()
    assert page.read_bytes() == content
    assert not leftover.exists()
    assert other.exists()  # of a participant that this run is not about


@pytest.mark.parametrize("run", [snm, damage])
def test_report__lesion_that_fails_later_shows_no_more(run):
    run()
    masks = sorted(Path("data").iterdir())
    masks[0].write_bytes(b"")
    run(code=1)
    (lesion,) = [s for s in read_page(Path("out")).all("section") if s.get("class") == "lesion"]
    assert "ses-2" in lesion["id"]
    masks[1].write_bytes(b"")
    run(code=1)
    assert not list(Path("out").glob("*.html"))


def test_report__page_goes_with_its_sections_when_it_is_not_wanted_any_more():
    snm()
    assert not list(snm("--no-report").rglob("*.html"))


def test_report__damaged_section_is_left_out_and_said(caplog):
    output = snm()
    section = next(output.rglob("*ses-1*_report.html"))
    section.unlink()
    section.write_text("<!-- half")
    update_page(a_lesion(output, "a"))
    assert f"{section.name} is damaged" in caplog.text
    lesions = [s for s in read_page(output).all("section") if s.get("class") == "lesion"]
    assert len(lesions) == 1


def test_report__is_the_same_from_any_number_of_processes():
    def read(output):
        text = (output / "sub-a.html").read_text("utf-8")
        text = re.sub(r'<td class="number">[\d.]+ s</td>', "", text)
        text = text.rpartition(MARK)[0]
        return re.sub(r"<pre><code>[^<]*</code></pre>", "", text)

    one, two = snm("--nprocs", "1", output="one"), snm("--nprocs", "2", output="two")
    assert read(one) == read(two)


def test_report__another_session_comes_into_the_page_that_is_there():
    snm("--participant-label", "a")
    section = next(Path("out").rglob("*ses-2*_report.html"))
    written = decode_section(section.read_text("utf-8"))
    assert encode_section(written) == section.read_text("utf-8")
    assert "--" not in section.read_text("utf-8").partition("\n")[0][4:-3]
    assert written.html in (Path("out") / "sub-a.html").read_text("utf-8")
    assert section.parent == Path("out/sub-a/figures")


def test_pages__can_be_handed_to_another_process():
    pages = Pages((), None)
    assert pickle.loads(pickle.dumps(pages)).atlases == ()


def test_report__says_how_it_was_made():
    output = snm()
    page = read_page(output)
    (sidecar,) = output.rglob("*ses-1*_label-lesion_mask.json")
    how = json.loads(sidecar.read_text("utf-8"))["Lacuna"]
    assert how["CacheKeys"]
    for text in [*how["CacheKeys"].values(), *how["Versions"].values(), how["Rule"]]:
        assert text in page.text
    assert " ".join(how["Command"]) in page.text
    assert "within 4 mm" in page.text


def test_report__section_of_the_same_tick_of_the_clock_comes_into_the_page():
    output = snm("--session-label", "1")
    page = output / "sub-a.html"
    former, then = page.read_bytes(), page.stat().st_mtime_ns
    snm("--session-label", "2")
    page.write_bytes(former)  # as if session 2 had ended right after, within one tick
    for path in (page, output / "sub-a/figures"):
        os.utime(path, ns=(then, then))
    update_page(a_lesion(output, "a"))
    assert len([s for s in read_page(output).all("section") if s.get("class") == "lesion"]) == 2


def test_report__warnings_about_tractogram_and_atlas_are_on_the_page_and_in_the_record():
    content = Path("tract.tck").read_bytes()
    wrong = content.replace(b"\ncount: 20", b"\ncount: 21")
    assert wrong != content
    Path("tract.tck").write_bytes(wrong)
    with Path("toy.tsv").open("a") as table:
        table.write("77\tnowhere\n")
    output = snm()
    text = read_page(output).text
    (sidecar,) = output.rglob("*ses-1*_label-lesion_mask.json")
    how = json.loads(sidecar.read_text())["Lacuna"]
    for said in (how["Tractogram"], how["Atlases"][0]):
        (warning,) = said["Warnings"]
        assert warning in text
    assert "counts 21 streamlines" in how["Tractogram"]["Warnings"][0]
    assert "no voxels of: 77" in how["Atlases"][0]["Warnings"][0]


def test_report__sums_of_weights_are_not_called_streamlines():
    output = snm("--weights", "length")
    page = read_page(output)
    row = max(rows(output, "parcels_stats"), key=lambda row: float(row["cut"]))
    part, whole = format_number(row["cut"]), format_number(row["total"])
    assert any(f"({part} of {whole} mm)" in text for text in alternatives(page))
    assert "weight to other parcels" in page.text
    assert "weight to other parcels" not in read_page(snm(output="other")).text


def test_report__says_which_share_of_a_lesion_lies_outside_the_template():
    template = np.ones(GRID.shape, np.uint8)
    template[9] = 0  # of 8 and 9, which the lesion has
    write_nifti(Path("tpl-Study_T1w.nii.gz"), template, GRID)
    text = read_page(snm("--template", "tpl-Study_T1w.nii.gz")).text
    assert re.search(r"Outside the template\s*50\.0 %", text)
    assert "Outside the template" not in read_page(snm(output="other")).text
