import io
import subprocess
import sys

import numpy as np
import pytest

from lacuna.geometry.grid import Grid
from lacuna.report.figures import (
    Background,
    Volume,
    draw_disconnection,
    draw_map,
    lesion_centre,
    sample,
)


def cube_grid(n=40, size_mm=2.0, flips=(1, 1, 1)):
    affine = np.diag([size_mm * flip for flip in flips] + [1.0])
    affine[:3, 3] = [-size_mm * n / 2 * flip for flip in flips]
    return Grid((n, n, n), affine)


def a_scene(*, flips=(1, 1, 1)):
    """A lesion on the left, a map around it, density everywhere, on a grid turned as asked."""
    grid = cube_grid(flips=flips)
    centres = grid.to_world(np.argwhere(np.ones(grid.shape))).reshape(*grid.shape, 3)
    distances = np.sqrt(((centres - [-20, 4, 10]) ** 2).sum(axis=-1))
    lesion = Volume(distances < 8, grid)
    disconnection = Volume(np.clip(1 - distances / 30, 0, 1).astype(np.float32), grid)
    coverage = Volume(distances < 28, grid)
    tdi = Volume(np.where(distances < 35, 100, 0).astype(np.int32), grid)
    return disconnection, coverage, lesion, Background(tdi, "streamline density", is_density=True)


def pixels(png):
    from matplotlib.image import imread

    return imread(io.BytesIO(png))


def draw(scene, caption="Lesion 2.1 ml, left"):
    return draw_disconnection(*scene, title="sub-01", caption=caption)


def test_draw_disconnection__is_a_png_of_reasonable_size():
    png = draw(a_scene())
    assert png.startswith(b"\x89PNG\r\n")
    height, width, _ = pixels(png).shape
    assert width == 1100
    assert 700 < height < 1000
    assert len(png) < 500_000


def test_draw_disconnection__same_input_gives_the_same_bytes():
    assert draw(a_scene()) == draw(a_scene())


@pytest.mark.parametrize("flips", [(-1, 1, 1), (-1, -1, -1)])
def test_draw_disconnection__orientation_of_the_arrays_does_not_change_the_picture(flips):
    grid = cube_grid()
    scene = a_scene()

    def turned(volume):
        turn = tuple(slice(None, None, flip) for flip in flips)
        last = [n - 1 if flip < 0 else 0 for n, flip in zip(grid.shape, flips, strict=True)]
        flip_affine = np.diag([*flips, 1.0])
        flip_affine[:3, 3] = last
        return Volume(volume.array[turn], Grid(grid.shape, grid.affine @ flip_affine))

    disconnection, coverage, lesion, background = scene
    other = Background(turned(background.image), background.caption, is_density=True)
    assert draw((turned(disconnection), turned(coverage), turned(lesion), other)) == draw(scene)


def test_draw_disconnection__a_lesion_on_the_left_is_drawn_on_the_left():
    image = pixels(draw(a_scene()))
    cyan = (image[..., 0] < 0.2) & (image[..., 1] > 0.7) & (image[..., 2] > 0.8)
    # The axial plane is the leftmost of the upper three: its left half shows x < 0.
    rows, columns = np.nonzero(cyan[60:420, 20:340])
    assert len(rows) > 50
    assert columns.mean() < 160


def test_draw_disconnection__map_outside_the_coverage_is_not_drawn():
    disconnection, coverage, lesion, background = a_scene()
    nothing = Volume(np.zeros_like(coverage.array), coverage.grid)
    image = pixels(draw((disconnection, nothing, lesion, background)))[60:820, :980]
    warm = (image[..., 0] > 0.5) & (image[..., 2] < 0.3)
    assert not warm.any()


def test_draw_disconnection__works_on_a_template_and_an_oblique_lesion_grid():
    disconnection, coverage, _, background = a_scene()
    angle = 0.3
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = [-20, 4, 10]
    lesion = Volume(np.ones((5, 6, 7), bool), Grid((5, 6, 7), affine))
    template = Background(background.image, "template X", is_density=False)
    assert draw((disconnection, coverage, lesion, template)).startswith(b"\x89PNG")


def test_draw_disconnection__nothing_cut_is_still_a_picture():
    disconnection, coverage, lesion, background = a_scene()
    empty = Volume(np.zeros_like(disconnection.array), disconnection.grid)
    assert draw((empty, coverage, lesion, background)).startswith(b"\x89PNG")


def test_draw_map__scale_ends_at_the_highest_values_drawn():
    values, _, _, background = a_scene()
    png = draw_map(values, background, label="% cut", title="everywhere", caption="2 000 spheres")
    assert png.startswith(b"\x89PNG")


def test_sample__outside_the_grid_is_zero_and_inside_is_the_voxel_that_holds_the_point():
    grid = cube_grid(n=4)
    volume = Volume(np.arange(64).reshape(4, 4, 4), grid)
    points = np.array([grid.affine[:3, 3], grid.affine[:3, 3] + 0.9, [100.0, 0, 0]])
    assert sample(volume, points).tolist() == [0, 0, 0]
    assert sample(volume, points + 2.0).tolist()[:2] == [21, 21]


def test_lesion_centre__a_ring_is_shown_on_the_ring_not_in_its_hole():
    grid = cube_grid(n=21)
    i, j = np.indices((21, 21)) - 10
    ring = np.zeros(grid.shape, bool)
    ring[:, :, 10] = np.abs(np.hypot(i, j) - 7) < 1
    centre = lesion_centre(Volume(ring, grid))
    voxel = np.round(grid.to_voxels(centre[None])[0]).astype(int)
    assert ring[tuple(voxel)]


def test_import__does_not_load_matplotlib():
    code = "import sys, lacuna.report.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_draw_disconnection__draws_without_a_display_and_without_pyplot():
    draw(a_scene())
    assert "matplotlib.pyplot" not in sys.modules
