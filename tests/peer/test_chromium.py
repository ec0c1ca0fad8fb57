"""The page of a participant in a real browser: with no network, on a laptop, and on paper."""

import base64
import re
import shutil
import zlib

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
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
def browser(tmp_path):
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("peer: chromium, chromedriver not installed")
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


def test_page__viewer_draws_what_it_was_given_and_nothing_complains(page, browser):
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('.viewer').scrollIntoView()")
    state = "return document.querySelector('.viewer').dataset.state"
    WebDriverWait(browser, 120).until(lambda b: b.execute_script(state))
    assert browser.execute_script(state) == "ready"
    names = browser.execute_script(f"{VIEWER} return v.volumes.map((x) => x.name)")
    assert names == ["background.nii.gz", "map.nii.gz", "lesion.nii.gz"]
    n_points = browser.execute_script(f"{VIEWER} return v.meshes.map((m) => m.pts.length / 3)")
    assert n_points == [8 * 20]  # streamlines cut, of so many points each
    colours = count_colours(browser)
    assert len(colours) > 20
    # The streamlines' own orange, somewhere among them.
    assert any(r > 150 and 40 < g < 130 and b < 60 for r, g, b in colours)
    assert browser.get_log("browser") == []


def test_page__fits_a_laptop_and_prints(page, browser):
    browser.get(page.as_uri())
    size = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert size[0] <= size[1] <= 1280
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
