"""Pictures of lesions and of what they disconnect, as PNG bytes.

Every picture is cut from images in world coordinates, so a grid's orientation does not change
it: left is drawn left, and each plane says so. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lacuna.geometry.grid import FloatArray, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
"""Resolution of the pictures: 1 100 pixels wide."""

MARGIN_MM = 6.0
"""How far a plane reaches beyond what is drawn on it."""

LESION_COLOUR = "#00e5ff"
"""Far from every colour of the map for any kind of colour vision."""

N_MOSAIC_COLUMNS = 8
N_MOSAIC_ROWS = 2
GAP_PIXELS = 3

SIDES = {0: ("P", "A"), 1: ("L", "R"), 2: ("L", "R")}
"""What lies at the left and right edge of a plane across x, y or z."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An array and where its voxels are.

    Parameters
    ----------
    array : grid.shape
        Axes as stored.
    grid
        Its voxels.
    """

    array: np.ndarray[Any, np.dtype[Any]]
    grid: Grid

    def canonical(self) -> Volume:
        """Return the same voxels with axes that point towards +x, +y, +z."""
        return Volume(self.grid.orientation.to_canonical(self.array), self.grid.canonical)


def crop_lesion(lesion: Volume) -> Volume:
    """Return a mask cut down to the box of what is lesioned, and a voxel around it."""
    filled, starts, stops = lesion.array != 0, [], []
    for axis in range(3):
        found = np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis})))
        starts.append(max(int(found[0]) - 1, 0))
        stops.append(min(int(found[-1]) + 2, lesion.grid.shape[axis]))
    part = filled[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
    affine = lesion.grid.affine.copy()
    affine[:3, 3] = lesion.grid.to_world(np.array([starts], np.float64))[0]
    return Volume(part, Grid((part.shape[0], part.shape[1], part.shape[2]), affine))


@dataclass(frozen=True, eq=False)
class Background:
    """What a map is drawn upon.

    Parameters
    ----------
    image
        A template's intensities, or counts of streamlines.
    caption
        What it is and in which space, for the reader.
    is_density
        Whether it holds counts, which are drawn on a logarithmic scale.
    """

    image: Volume
    caption: str
    is_density: bool


def draw_disconnection(
    disconnection: Volume,
    coverage: Volume,
    lesion: Volume,
    background: Background,
    *,
    title: str,
    caption: str,
) -> bytes:
    """Return a PNG of a lesion and its disconnection map.

    Parameters
    ----------
    disconnection
        Shares in [0, 1].
    coverage
        Where the map is drawn; elsewhere too few streamlines pass to say anything.
    lesion
        A mask on its own grid: outlined.
    background
        Beneath both.
    title, caption
        Above and below the picture; the caption's first line should say whose lesion it is.

    Returns
    -------
    bytes
        Planes through the lesion at its centre of mass, and a mosaic of the whole map.
    """
    shown = Volume(np.where(coverage.array, disconnection.array, 0), disconnection.grid)
    return _draw(
        shown,
        background,
        lesion=lesion,
        centre_mm=lesion_centre(lesion),
        limit=1.0,
        label="share of streamlines disconnected",
        title=title,
        caption=caption,
    )


def draw_map(
    values: Volume, background: Background, *, label: str, title: str, caption: str
) -> bytes:
    """Return a PNG of a map without a lesion, through its highest value.

    Parameters
    ----------
    values
        Drawn where positive, from 0 to the 99.5th percentile of what is drawn.
    background
        Beneath it.
    label
        What the colours mean, with the unit.
    title, caption
        Above and below the picture.
    """
    positive = values.array[values.array > 0]
    turned = values.canonical()
    highest = np.argwhere(turned.array == turned.array.max())[:1].astype(np.float64)
    return _draw(
        values,
        background,
        lesion=None,
        centre_mm=turned.grid.to_world(highest)[0],
        limit=float(np.percentile(positive, 99.5)) if positive.size else 1.0,
        label=label,
        title=title,
        caption=caption,
    )


def lesion_centre(lesion: Volume) -> FloatArray:
    """Return the lesioned voxel centre that is nearest to the centre of mass, (3,), mm RAS+.

    The centre of mass itself may lie outside a curved lesion, and a plane through it would then
    show nothing.
    """
    turned = lesion.canonical()
    centres = turned.grid.to_world(np.argwhere(turned.array))
    offsets = centres - centres.mean(axis=0)
    nearest: FloatArray = centres[int((offsets**2).sum(axis=1).argmin())]
    return nearest


def sample(image: Volume, points: FloatArray) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the value of the voxel that holds each point, 0 outside the grid.

    Parameters
    ----------
    image
        Any grid, any orientation.
    points : (..., 3)
        World coordinates, mm RAS+.

    Returns
    -------
    (...)
        Values of the image's own type.
    """
    turned = image.canonical()
    # Points on a face belong to the voxel on its −x, −y, −z side, as in every cut.
    voxels = np.ceil(turned.grid.to_voxels(points.reshape(-1, 3)) - 0.5).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < np.array(turned.grid.shape))).all(axis=1)
    values = np.zeros(len(voxels), image.array.dtype)
    values[inside] = turned.array[tuple(voxels[inside].T)]
    return values.reshape(points.shape[:-1])


def _draw(
    values: Volume,
    background: Background,
    *,
    lesion: Volume | None,
    centre_mm: FloatArray,
    limit: float,
    label: str,
    title: str,
    caption: str,
) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    text = f"{caption}\nBackground: {background.caption.rstrip('.')}."
    lines = "\n".join(textwrap.fill(line, 175) for line in text.splitlines())
    figure = Figure(figsize=(10, 7.4 + 0.16 * lines.count("\n")), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    colours = _colours(LinearSegmentedColormap)
    scale = ScalarMappable(Normalize(0, limit), colours)
    low, high = bounding_box([values, background.image, *([lesion] if lesion else [])])
    planes = _Planes(values, background, lesion, low, high, scale, grey_range(background))

    top = figure.add_gridspec(1, 3, left=0.01, right=0.9, top=0.93, bottom=0.52, wspace=0.02)
    for column, axis in enumerate((2, 1, 0)):
        planes.draw(figure.add_subplot(top[column]), axis, float(centre_mm[axis]))
    # A tip says that the brightest stands for more, too.
    extend = "max" if float(values.array.max(initial=0)) > limit else "neither"
    bar = figure.colorbar(scale, cax=figure.add_axes((0.915, 0.56, 0.015, 0.33)), extend=extend)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _draw_mosaic(figure, planes, values)
    size = 11 if len(title) <= 95 else 8
    figure.text(0.01, 0.965, title, fontsize=size, weight="bold", va="center")
    figure.text(0.01, 0.012, lines, fontsize=7.5)
    png = io.BytesIO()
    # Without this the file would carry matplotlib's version, and differ between machines.
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw_mosaic(figure: Figure, planes: _Planes, values: Volume) -> None:
    # One pair of axes for all tiles: matplotlib needs 10 ms for each further pair.
    axes = figure.add_axes((0.01, 0.11, 0.98, 0.39))
    first, last = planes.extent_z(values)
    heights_mm = np.linspace(first, last, N_MOSAIC_COLUMNS * N_MOSAIC_ROWS)
    tiles = [planes.cut(2, float(z_mm)) for z_mm in heights_mm]
    padded = [tile.padded() for tile in tiles]
    # The first row is the lower one, as planes are drawn from below.
    rows = [padded[i : i + N_MOSAIC_COLUMNS] for i in range(0, len(padded), N_MOSAIC_COLUMNS)][::-1]
    planes.paint(axes, _Plane(*[np.block(part) for part in _parts(rows)]), line_width=0.7)
    height, width = padded[0].grey.shape
    for number, z_mm in enumerate(heights_mm):
        row, column = divmod(number, N_MOSAIC_COLUMNS)
        corner = column * width, (N_MOSAIC_ROWS - 1 - row) * height
        _label(axes, 2, float(z_mm), corner, (width - GAP_PIXELS, height - GAP_PIXELS), size=6)


def _parts(rows: list[list[_Plane]]) -> list[list[list[np.ndarray[Any, np.dtype[Any]]]]]:
    """Return the rows of each of the three arrays of planes."""
    return [
        [[getattr(plane, name) for plane in row] for row in rows]
        for name in ("grey", "values", "lesion")
    ]


def _label(
    axes: Axes,
    axis: int,
    at_mm: float,
    corner: tuple[float, float],
    extent: tuple[float, float],
    *,
    size: float,
) -> None:
    """Write sides and coordinate into a plane that begins at a pixel of the axes."""
    style: dict[str, Any] = {"color": "white", "fontsize": size}
    (x, y), (width, height) = corner, extent
    left, right = SIDES[axis]
    axes.text(x + 0.02 * width, y + 0.5 * height, left, va="center", ha="left", **style)
    axes.text(x + 0.98 * width, y + 0.5 * height, right, va="center", ha="right", **style)
    # Adding 0 turns −0 into 0.
    where = f"{'xyz'[axis]} = {round(at_mm) + 0:d} mm"
    axes.text(x + 0.02 * width, y + 0.02 * height, where, va="bottom", **style)


def _colours(colormap: Any) -> Any:
    import matplotlib

    # From 0.25: the darkest quarter of the map cannot be told from the background's black.
    inferno = matplotlib.colormaps["inferno"](np.linspace(0.25, 1, 256))
    return colormap.from_list("lacuna", inferno)


def bounding_box(images: list[Volume]) -> tuple[FloatArray, FloatArray]:
    """Return the corners of the box around everything that is not 0, mm RAS+."""
    corners = []
    for image in images:
        filled = image.array != 0
        if not filled.any():
            continue
        spans = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {i})))[[0, -1]] for i in range(3)]
        voxels = np.array(np.meshgrid(*spans)).reshape(3, -1).T
        corners.append(image.grid.to_world(voxels))
    everything = np.concatenate(corners) if corners else np.zeros((1, 3))
    return everything.min(axis=0) - MARGIN_MM, everything.max(axis=0) + MARGIN_MM


def grey_range(background: Background) -> tuple[float, float]:
    """Return what is drawn black and white; of counts, on their logarithmic scale."""
    array = background.image.array
    filled = array[array > 0]
    if not filled.size:
        return 0.0, 1.0
    if background.is_density:
        return 0.0, float(np.log1p(np.percentile(filled, 99)))
    return 0.0, float(np.percentile(filled, 99.5))


@dataclass(frozen=True, eq=False)
class _Planes:
    """Everything that each plane of one figure shares."""

    values: Volume
    background: Background
    lesion: Volume | None
    low: FloatArray
    high: FloatArray
    scale: Any
    grey_range: tuple[float, float]

    def points(self, axis: int, at_mm: float) -> FloatArray:
        """World coordinates of a plane's pixels, 1 mm apart, (rows, columns, 3)."""
        across, up = (other for other in range(3) if other != axis)
        columns = np.arange(self.low[across], self.high[across] + 1)
        rows = np.arange(self.low[up], self.high[up] + 1)
        points = np.empty((len(rows), len(columns), 3))
        points[..., axis] = at_mm
        points[..., across] = columns
        points[..., up] = rows[:, None]
        return points

    def extent_z(self, values: Volume) -> tuple[float, float]:
        """Lowest and highest z to show, mm: where 96 % of the map is, else the whole box."""
        voxels = np.argwhere(values.array)
        if not len(voxels):
            return float(self.low[2]) + MARGIN_MM, float(self.high[2]) - MARGIN_MM
        low, high = np.percentile(values.grid.to_world(voxels)[:, 2], [2, 98])
        return float(low), float(high)

    def cut(self, axis: int, at_mm: float) -> _Plane:
        """Return what is drawn at a coordinate of one world axis."""
        points = self.points(axis, at_mm)
        grey = sample(self.background.image, points).astype(np.float64)
        lesion = sample(self.lesion, points) if self.lesion else np.zeros(grey.shape, bool)
        return _Plane(
            np.log1p(grey) if self.background.is_density else grey,
            sample(self.values, points),
            lesion.astype(np.float32),
        )

    def draw(self, axes: Axes, axis: int, at_mm: float) -> None:
        """Draw the plane at a coordinate of one world axis, and say where it is."""
        plane = self.cut(axis, at_mm)
        self.paint(axes, plane, line_width=1.4)
        height, width = plane.grey.shape
        _label(axes, axis, at_mm, (0, 0), (width, height), size=9)

    def paint(self, axes: Axes, plane: _Plane, *, line_width: float) -> None:
        """Draw background, map and outline."""
        style: dict[str, Any] = {"origin": "lower", "interpolation": "nearest"}
        low, high = self.grey_range
        # 1.35: the map's brightest colours stay brighter than any background.
        axes.imshow(plane.grey, cmap="gray", vmin=low, vmax=1.35 * high, **style)
        axes.imshow(
            np.ma.masked_less_equal(plane.values, 0),
            cmap=self.scale.cmap,
            norm=self.scale.norm,
            **style,
        )
        if plane.lesion.any():
            axes.contour(plane.lesion, levels=[0.5], colors=LESION_COLOUR, linewidths=line_width)
        axes.set_axis_off()


@dataclass(frozen=True, eq=False)
class _Plane:
    """Pixels of a plane, rows from below: the background, the map, the lesion."""

    grey: np.ndarray[Any, np.dtype[Any]]
    values: np.ndarray[Any, np.dtype[Any]]
    lesion: np.ndarray[Any, np.dtype[Any]]

    def padded(self) -> _Plane:
        """Return the plane with a gap to its right and above it; not-a-number stays white."""
        gap = ((0, GAP_PIXELS), (0, GAP_PIXELS))
        return _Plane(
            np.pad(self.grey, gap, constant_values=np.nan),
            np.pad(self.values, gap),
            np.pad(self.lesion, gap),
        )
