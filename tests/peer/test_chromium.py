"""The pages in a real browser: with no network, on a laptop, and on paper."""

import base64
import re
import zlib

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from tests.phantoms import parallel_tract, write_nifti, write_tck

from lacuna.cli.main import main
from lacuna.geometry.grid import Grid

pytestmark = pytest.mark.peer
GRID = Grid((20, 20, 4), np.eye(4))
VIEWER = "const v = Object.values(window.lacunaViewers ?? {})[0];"


@pytest.fixture
def page(tmp_path):
    write_tck(tmp_path / "tract.tck", parallel_tract(20)[0])
    mask = np.zeros(GRID.shape, np.uint8)
    mask[8:10, :8] = 1
    write_nifti(tmp_path / "grid.nii.gz", mask, GRID)
    write_nifti(tmp_path / "one.nii.gz", mask, GRID)
    labels = np.zeros(GRID.shape, np.int16)
    labels[0], labels[19] = 1, 2
    write_nifti(tmp_path / "toy.nii.gz", labels, GRID)
    words = ["--grid", "grid.nii.gz", "--min-tdi", "1", "--no-figures", "--space", "Study"]
    words += ["--tractogram-space", "Study", "--atlas", "toy.nii.gz", "--atlas-space", "Study"]
    assert main(["run", "snm", "one.nii.gz", "out", "--tractogram", "tract.tck", *words]) == 0
    return tmp_path / "out" / "sub-one.html"


@pytest.fixture
def browser(tmp_path, require_tool):
    programs = [require_tool(name) for name in ("chromium", "chromedriver")]
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    # A name is looked up nowhere: whatever the page would load from elsewhere fails, and is seen.
    for word in (
        *("--headless=new", "--no-sandbox", "--window-size=1280,900", "--disable-dev-shm-usage"),
        *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"),
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


def show_viewer(browser, page):
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('.viewer').scrollIntoView()")
    state = "return document.querySelector('.viewer').dataset.state"
    WebDriverWait(browser, 120).until(lambda b: b.execute_script(state))
    assert browser.execute_script(state) == "ready"


def test_page__viewer_draws_what_it_was_given_and_nothing_complains(page, browser):
    show_viewer(browser, page)
    names = browser.execute_script(f"{VIEWER} return v.volumes.map((x) => x.name)")
    assert names == ["background.nii.gz", "map.nii.gz", "lesion.nii.gz"]
    n_points = browser.execute_script(f"{VIEWER} return v.meshes.map((m) => m.pts.length / 3)")
    assert n_points == [8 * 20]  # streamlines cut, of so many points each
    colours = count_colours(browser)
    assert len(colours) > 20
    # The streamlines' own green, somewhere among them.
    assert any(g > 110 and r < 60 and 60 < b < 140 for r, g, b in colours)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("first", [0, -19])
def test_page__the_brain_is_seen_from_the_lesions_side(tmp_path, browser, first):
    grid = Grid.cubic(1, (20, 20, 4), (first, 0, 0))
    mask = np.zeros(grid.shape, np.uint8)
    mask[5:15, :8] = 1
    write_nifti(tmp_path / "one.nii.gz", mask, grid)
    write_nifti(tmp_path / "toy.nii.gz", np.ones(grid.shape, np.int16), grid)
    spaces = ["--space", "Study", "--atlas-space", "Study"]
    assert main(["run", "damage", "one.nii.gz", "out", "--atlas", "toy.nii.gz", *spaces]) == 0
    show_viewer(browser, tmp_path / "out" / "sub-one.html")
    near_left, near_right = browser.execute_script(
        VIEWER
        + """const { renderAzimuth, renderElevation } = v.scene;
        const [m] = v.calculateMvpMatrix(null, [0, 0, 500, 500], renderAzimuth, renderElevation);
        const depth = (x) => (m[2] * x + m[14]) / (m[3] * x + m[15]);
        return [-depth(-9), -depth(9)];"""
    )
    assert (near_right > near_left) == (first == 0)


def test_page__fits_a_laptop_and_prints(page, browser):
    browser.get(page.as_uri())
    size = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1] <= 1280
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert count_pages(base64.b64decode(printed["data"])) > 1


@pytest.fixture
def group_page(tmp_path):
    """The page about twelve lesions of growing size, in files with long names."""
    write_nifti(tmp_path / "toy.nii.gz", np.ones(GRID.shape, np.int16), GRID)
    root = tmp_path / "bids"
    for n in range(1, 13):
        mask = np.zeros(GRID.shape, np.uint8)
        mask[8, :n] = 1
        name = f"sub-{n:02}_acq-{'long' * 9}_space-Study_label-lesion_mask.nii.gz"
        (root / f"sub-{n:02}/anat").mkdir(parents=True)
        write_nifti(root / f"sub-{n:02}/anat" / name, mask, GRID)
    lines = [f"sub-{n:02}\t{'n/a' if n == 5 else 20 - n}\n" for n in range(1, 13)]
    (root / "participants.tsv").write_text("participant_id\tscore\n" + "".join(lines))
    words = ["run", "damage", "bids", "out"]
    atlas = ["--atlas", "toy.nii.gz", "--atlas-space", "Study", "--no-report"]
    assert main([*words, *atlas, "--skip-bids-validation"]) == 0
    assert main([*words, "group", "--skip-bids-validation"]) == 0
    return tmp_path / "out" / "group.html"


def shown(browser):
    """Return the first column of the rows that are to be seen, in their order."""
    return browser.execute_script(
        "return [...document.querySelectorAll('#lesion-table tbody tr')]"
        ".filter((row) => row.checkVisibility()).map((row) => row.cells[0].innerText)"
    )


def test_group_page__sorts_and_filters_by_keyboard(group_page, browser):
    browser.set_window_size(1366, 768)
    browser.get(group_page.as_uri())
    everyone = [f"sub-{n:02}" for n in range(1, 13)]
    assert shown(browser) == everyone
    heads = browser.find_elements("css selector", "#lesion-table thead button")
    (score,) = [head for head in heads if head.text == "score"]
    score.send_keys(Keys.ENTER)
    assert shown(browser) == [*[s for s in reversed(everyone) if s != "sub-05"], "sub-05"]
    score.send_keys(Keys.SPACE)
    assert shown(browser) == [*[s for s in everyone if s != "sub-05"], "sub-05"]
    sort = browser.execute_script("return arguments[0].closest('th').ariaSort", score)
    assert sort == "descending"
    words = browser.find_element("id", "filter")
    words.send_keys("volume_mm3>=9 SCORE<11")
    assert shown(browser) == ["sub-10", "sub-11", "sub-12"]
    assert browser.find_element("id", "n-shown").text == "3 of 12 lesions"
    words.send_keys(" sub-12_")
    assert shown(browser) == ["sub-12"]
    assert browser.get_log("browser") == []


def test_group_page__fits_a_laptop_and_prints_every_row(group_page, browser):
    browser.set_window_size(1366, 768)
    browser.get(group_page.as_uri())
    size = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1] <= 1366
    widths = browser.execute_script(
        "return [...document.querySelectorAll('#lesion-table td')].map((cell) => cell.offsetWidth)"
    )
    assert max(widths) <= 320
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.set_window_size(700, 900)
    size = browser.execute_script(
        "const t = document.getElementById('lesion-table');"
        "return [t.scrollWidth, t.closest('.body').clientWidth]"
    )
    assert size[0] <= size[1]
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert count_pages(base64.b64decode(printed["data"])) > 1


def count_colours(browser):
    """Return the colours of the canvas, drawn once more so that they can be read."""
    pixels = browser.execute_script(
        f"""{VIEWER} v.drawScene(); const gl = v.gl;
        const [w, h] = [gl.drawingBufferWidth, gl.drawingBufferHeight];
        const all = new Uint8Array(4 * w * h);
        gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, all);
        const seen = new Set();
        for (let i = 0; i < all.length; i += 4) seen.add([all[i], all[i + 1], all[i + 2]].join());
        return [...seen].slice(0, 100000);"""
    )
    return {tuple(map(int, text.split(","))) for text in pixels}


def count_pages(pdf):
    """Return the pages that a PDF's own objects count, also within compressed streams."""
    parts = [pdf]
    for match in re.finditer(rb"stream\r?\n", pdf):
        try:
            parts.append(zlib.decompressobj().decompress(pdf[match.end() :]))
        except zlib.error:
            continue
    return sum(len(re.findall(rb"/Type\s*/Page\b", part)) for part in parts)
