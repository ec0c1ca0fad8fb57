"""Rule `mrtrix` against MRtrix3 itself: every voxel of tckmap, every hit of tckedit -include."""

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import (
    coherent_tractogram,
    pack,
    points_on_faces,
    spheres,
    write_nifti,
    write_tck,
)

from lacuna.analysis.structural import disconnect_voxels
from lacuna.cli.main import main
from lacuna.formats import open_tractogram
from lacuna.geometry.grid import Grid
from lacuna.geometry.streamlines import Streamlines
from lacuna.store import Store
from lacuna.tractogram._kernels.mrtrix import visit_mrtrix
from lacuna.tractogram.mrtrix import hermite_weights, mrtrix_frame, upsampling_ratio
from lacuna.workflow.products import OpenedIndex, make_tdi, open_index

pytestmark = pytest.mark.peer

TURN = np.linalg.qr([[1.0, 0.35, 0.15], [-0.35, 1, 0.2], [-0.15, -0.2, 1]])[0]
TURN = TURN * np.sign(np.diag(TURN))


def grid(shape, origin, *axes):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.column_stack(axes), origin
    return Grid(shape, affine)


def straight(shape, origin, x_mm, y_mm, z_mm):
    return grid(shape, origin, (x_mm, 0, 0), (0, y_mm, 0), (0, 0, z_mm))


GRIDS = {
    "FSL 1 mm RAS": straight((182, 218, 182), (-91, -126, -72), 1, 1, 1),
    "FSL 2 mm RAS": straight((91, 109, 91), (-90, -126, -72), 2, 2, 2),
    "FSL 2 mm LAS": straight((91, 109, 91), (90, -126, -72), -2, 2, 2),
    "FSL 1 mm LIA": grid((182, 182, 218), (90, -126, 109), (-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "2009c 2 mm": straight((97, 115, 97), (-96.5, -132.5, -78.5), 2, 2, 2),
    "1.5 mm": straight((121, 145, 121), (-90, -126, -72), 1.5, 1.5, 1.5),
    "oblique": grid((151, 117, 69), (-80, -98, -85), *(TURN * [1.3, 1.9, 2.7]).T),
    "oblique LAS": grid((120, 117, 90), (95, -60, -75), *(TURN * [-1.6, 1.45, 2.1]).T),
}
HALF_MM = straight((364, 436, 364), (-90.75, -125.75, -71.75), 0.5, 0.5, 0.5)
REAL = {
    "hcp842": ("hcp842_wholebrain_MNI152NLin6Asym.trk", 2.0),
    "hcp1065": ("hcp1065_wholebrain_MNI152NLin2009aAsym.tck", 1.0),
    "afq": ("afqbrowser_20bundles_MNIfit9dof.trx", 2.5),
}


def run(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=250)


def tckmap(tck: Path, template: Path, upsample: int | None = None) -> np.ndarray:
    image = tck.with_suffix(".nii")
    options = [] if upsample is None else ["-upsample", upsample]
    run("tckmap", tck, image, "-template", template, "-force", "-quiet", *options)
    return np.asarray(nib.load(image).dataobj)


def tckedit(tck: Path, region: Path, n_streamlines: int) -> np.ndarray:
    """Return the numbers of the streamlines kept: they travel as streamline weights."""
    numbers, kept = tck.with_suffix(".in.txt"), tck.with_suffix(".out.txt")
    np.savetxt(numbers, np.arange(n_streamlines), fmt="%d")
    weights = ["-tck_weights_in", numbers, "-tck_weights_out", kept]
    chosen = tck.with_suffix(".kept.tck")
    run("tckedit", tck, chosen, "-include", region, *weights, "-force", "-quiet")
    return np.sort(np.array(kept.read_text().split(), float).astype(int))


def assert_same_density(store: Store, tck: Path, template: Path, upsample: int | None = None):
    asked = Grid(nib.load(template).shape, nib.load(template).affine)
    ours = make_tdi(store, tck, grid=asked, rule="mrtrix", upsample=upsample, threads=2)
    theirs = tckmap(tck, template, upsample)
    assert theirs.any()
    np.testing.assert_array_equal(ours, theirs)


def assert_same_hits(opened: OpenedIndex, mask: np.ndarray, asked: Grid, tck: Path) -> int:
    region = tck.with_name("region.nii")
    stored = write_nifti(region, mask.astype(np.uint8), asked)
    ours = disconnect_voxels(opened.index, mask, stored).cut_ids
    np.testing.assert_array_equal(ours, tckedit(tck, region, opened.n_streamlines))
    return len(ours)


def masks_on(asked: Grid, streamlines: Streamlines, seed: int) -> list[np.ndarray]:
    """Return lesions of one or three spheres of 2 to 15 mm around points of streamlines."""
    random = np.random.default_rng(seed)
    points, _ = streamlines.gather(random.integers(0, len(streamlines), 20))
    drawn = [
        spheres(asked, points[random.integers(0, len(points), n)], radius_mm)
        for radius_mm in (2, 6, 15)
        for n in (1, 3)
    ]
    return [mask for mask in drawn if mask.any()]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def template(tmp_path):
    def write(asked: Grid) -> Path:
        path = tmp_path / "template.nii"
        write_nifti(path, np.zeros(asked.shape, np.uint8), asked)
        return path

    return write


@pytest.fixture(scope="session")
def generated() -> Streamlines:
    return coherent_tractogram(110_000)


@pytest.mark.parametrize("place", GRIDS)
@pytest.mark.parametrize("name", REAL)
def test_tckmap__every_voxel_equal_on_real_tractograms(
    name, place, shared_data, store, template, tmp_path
):
    file, step_size_mm = REAL[name]
    streamlines = open_tractogram(shared_data / "tractograms" / file).streamlines
    image = template(GRIDS[place])
    write_tck(tmp_path / "bare.tck", streamlines)
    write_tck(tmp_path / "step.tck", streamlines, step_size_mm=step_size_mm)
    assert_same_density(store, tmp_path / "bare.tck", image)
    for upsample in (None, 1, 3, 5):
        assert_same_density(store, tmp_path / "step.tck", image, upsample)


@pytest.mark.parametrize("name", REAL)
def test_tckmap__every_voxel_equal_at_half_a_millimetre(
    name, shared_data, store, template, tmp_path
):
    file, step_size_mm = REAL[name]
    streamlines = open_tractogram(shared_data / "tractograms" / file).streamlines
    write_tck(tmp_path / "step.tck", streamlines, step_size_mm=step_size_mm)
    assert_same_density(store, tmp_path / "step.tck", template(HALF_MM))


@pytest.mark.parametrize(
    ("place", "step_size_mm", "upsample"),
    [
        ("FSL 1 mm RAS", 1.0, None),
        ("FSL 2 mm LAS", None, None),
        ("2009c 2 mm", 1.0, 5),
        ("oblique", None, 3),
    ],
)
def test_tckmap__every_voxel_equal_on_a_large_tractogram(
    place, step_size_mm, upsample, generated, store, template, tmp_path
):
    write_tck(tmp_path / "large.tck", generated, step_size_mm=step_size_mm)
    assert_same_density(store, tmp_path / "large.tck", template(GRIDS[place]), upsample)


@pytest.mark.parametrize("datatype", ["Float32LE", "Float32BE", "Float64LE", "Float64BE"])
def test_tckmap__empty_and_single_point_streamlines_and_those_that_leave_the_grid(
    datatype, store, template, tmp_path
):
    small = straight((20, 20, 20), (-10, -10, -10), 1, 1.5, 1)
    random = np.random.default_rng(8)
    walks = [np.cumsum(random.normal(0, 2, (n, 3)), axis=0) for n in (1, 2, 3, 40, 60, 90)]
    outside = np.full((5, 3), 40.0) + np.arange(5)[:, np.newaxis]
    there_and_back = [(0, 0, 0), (4, 0, 0), (0, 0, 0), (0, 0, 0)]
    tck = tmp_path / "odd.tck"
    streamlines = pack([[], *walks, [], outside, there_and_back, [(1.5, 2, 3)], []])
    write_tck(tck, streamlines, step_size_mm=2.0, datatype=datatype)
    for upsample in (None, 1, 3):
        assert_same_density(store, tck, template(small), upsample)
    opened = open_index(store, tck, grid=small, rule="mrtrix", upsample=1)
    mask = random.integers(0, 2, small.shape).astype(bool)
    assert assert_same_hits(opened, mask, small, tck) > 0


@pytest.mark.parametrize("place", GRIDS)
def test_tckmap_and_tckedit__agree_on_points_on_voxel_faces(place, store, template, tmp_path):
    tck = tmp_path / "faces.tck"
    image = template(GRIDS[place])
    stored = Grid(GRIDS[place].shape, nib.load(image).affine)
    write_tck(tck, points_on_faces(stored, 100_000))
    assert_same_density(store, tck, image)
    opened = open_index(store, tck, grid=stored, rule="mrtrix", upsample=1)
    random = np.random.default_rng(3)
    for low, high in ((0.0, 1.0), (0.3, 0.8), (0.55, 0.9)):
        box = tuple(slice(int(low * n), int(high * n)) for n in stored.shape)
        mask = np.zeros(stored.shape, bool)
        mask[box] = random.integers(0, 2, mask[box].shape)
        assert assert_same_hits(opened, mask, GRIDS[place], tck) > 0


@pytest.mark.parametrize("ratio", [2, 3, 5, 14])
def test_tckmap__every_rounding_of_interpolated_points_is_equal(ratio, template, tmp_path):
    # Voxels of 1e-4 mm: a single-precision number at 50 mm is 4 % of one, so that each wrong bit
    # moves points.
    fine = straight((2000, 3, 3), (49.9, -43, 11), 1e-4, 10, 10)
    image = template(fine)
    stored = Grid(fine.shape, nib.load(image).affine)
    random = np.random.default_rng(ratio)
    voxels = random.uniform(0.2, 0.8, (4000 * 5, 3)) * (np.array(fine.shape) - 1)
    points = stored.to_world(voxels).astype(np.float32)
    streamlines = pack(list(points.reshape(4000, 5, 3)))
    write_tck(tmp_path / "fine.tck", streamlines)
    matrix, canonical = mrtrix_frame(stored)
    shape, hermite = np.array(canonical.shape), hermite_weights(ratio)
    ours = np.zeros(canonical.n_voxels, np.int64)
    out = np.empty(5 * ratio, np.int64)
    for start in range(0, len(points), 5):
        n = visit_mrtrix(points, start, start + 5, matrix, shape, hermite, out)
        ours[np.unique(out[:n])] += 1
    theirs = tckmap(tmp_path / "fine.tck", image, ratio)
    np.testing.assert_array_equal(ours.reshape(canonical.shape), theirs)


@pytest.mark.parametrize("voxel_mm", [0.5, 1.0, 1.3, 2.0, 2.5])
def test_tckmap__chooses_the_same_upsampling_around_every_threshold(voxel_mm, template, tmp_path):
    line = straight((2000, 1, 1), (0, 0, 0), voxel_mm, voxel_mm + 1, voxel_mm + 2)
    image = template(line)
    stored = Grid(line.shape, nib.load(image).affine)
    tck = tmp_path / "line.tck"
    for pieces in (1, 2, 5):
        threshold = np.float32(voxel_mm) * np.float32(0.333) * np.float32(pieces)
        for step_size_mm in (
            float(np.nextafter(threshold, np.float32(0))),
            float(threshold),
            float(np.nextafter(threshold, np.float32(9))),
            voxel_mm * 0.333 * pieces,
            voxel_mm * pieces / 3,
        ):
            write_tck(tck, pack([[(0, 0, 0), (1990 * voxel_mm, 0, 0)]]), step_size_mm=step_size_mm)
            theirs = int(tckmap(tck, image).sum()) - 1
            assert upsampling_ratio(step_size_mm, stored) == theirs


@pytest.mark.parametrize("place", GRIDS)
@pytest.mark.parametrize("name", REAL)
def test_tckedit__every_hit_equal_on_real_tractograms(name, place, shared_data, store, tmp_path):
    file, _ = REAL[name]
    streamlines = open_tractogram(shared_data / "tractograms" / file).streamlines
    tck = tmp_path / "real.tck"
    write_tck(tck, streamlines)
    opened = open_index(store, tck, grid=GRIDS["FSL 2 mm RAS"], rule="mrtrix", threads=2)
    masks = masks_on(GRIDS[place], streamlines, seed=len(name))
    assert sum(assert_same_hits(opened, mask, GRIDS[place], tck) for mask in masks) > 0


def test_tckedit__every_hit_equal_on_a_large_tractogram(generated, store, tmp_path):
    tck = tmp_path / "large.tck"
    write_tck(tck, generated)
    opened = open_index(store, tck, grid=GRIDS["FSL 2 mm RAS"], rule="mrtrix", threads=2)
    n_hits = 0
    for place in ("FSL 1 mm RAS", "2009c 2 mm", "oblique LAS"):
        for mask in masks_on(GRIDS[place], generated, seed=4)[1::2]:
            n_hits += assert_same_hits(opened, mask, GRIDS[place], tck)
    assert n_hits > 10_000


@pytest.mark.parametrize("place", ["FSL 2 mm LAS", "oblique"])
def test_lacuna_tdi__writes_what_tckmap_writes(place, shared_data, template, tmp_path):
    file, _ = REAL["hcp1065"]
    tck, image = tmp_path / "step.tck", template(GRIDS[place])
    write_tck(
        tck, open_tractogram(shared_data / "tractograms" / file).streamlines, step_size_mm=1.0
    )
    ours = tmp_path / "ours.nii.gz"
    assert main(["tdi", str(tck), str(ours), "--grid", str(image), "--rule", "mrtrix"]) == 0
    found = nib.load(ours)
    np.testing.assert_array_equal(np.asarray(found.dataobj), tckmap(tck, image))
    np.testing.assert_array_equal(found.affine, nib.load(image).affine)
