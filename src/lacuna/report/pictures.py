"""Pictures of pages: pixels in a PNG, everything sharp above them as SVG.

No matplotlib: its start costs more than all pictures of a lesion.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.geometry.grid import FloatArray
from lacuna.report.figures import (
    LESION_COLOUR,
    SIDES,
    Background,
    Volume,
    bounding_box,
    grey_range,
    sample,
)
from lacuna.report.page import data_url

Pixels = NDArray[np.uint8]

# 17 colours each, between which is interpolated: of matplotlib's inferno, from its first quarter,
# and of its cividis, from light to dark. Both keep their order for any kind of colour vision.
_INFERNO = (
    "57106e6a176e7d1e6d902568a32c61b63458c73e4cd74b3fe45a31"
    "ef6c23f68013fb9606fcac11fac42af5db4cf1f179fcffa4"
)
_CIVIDIS = (
    "fee838f0d846dec958cdbb63bcae6caba0729b94768c88787d7c78"
    "6f707361656f535a6d434e6c32436d1a386f002e6a00224e"
)

BLUE, ORANGE = "#0072b2", "#d55e00"
"""Of the palette of Okabe and Ito, which any kind of colour vision tells apart."""

N_COLUMNS = 8
GAP = 2
FONT = 'font-family="system-ui, DejaVu Sans, sans-serif"'


def _lut(text: str) -> Pixels:
    anchors = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 3)
    at, where = np.linspace(0, 1, len(anchors)), np.linspace(0, 1, 256)
    return np.stack([np.interp(where, at, c) for c in anchors.T], axis=1).round().astype(np.uint8)


ON_DARK = _lut(_INFERNO)
"""Colours of shares upon a grey brain, (256, 3)."""

ON_WHITE = _lut(_CIVIDIS)
"""Colours of shares upon white paper, (256, 3): the darker, the more."""


def encode_png(pixels: Pixels) -> bytes:
    """Return an RGB picture, (height, width, 3), as PNG."""
    height, width, _ = pixels.shape
    # Each row is told as what it adds to the one above: brains are smooth.
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 2
    flat = pixels.reshape(height, -1)
    rows[:, 1:] = np.diff(flat, axis=0, prepend=np.zeros((1, 3 * width), np.uint8))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + chunk(b"IEND", b"")
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """What all slices of a lesion share.

    Parameters
    ----------
    background
        Beneath everything.
    lesion
        Outlined.
    values
        Shares in [0, 1], drawn where positive; none for a lesion alone.
    """

    background: Background
    lesion: Volume
    values: Volume | None = None

    @cached_property
    def _white(self) -> float:
        # 1.35: the brightest colours of a map stay brighter than any background.
        return 1.35 * grey_range(self.background)[1]

    def planes(self, centre_mm: FloatArray, alt: str) -> str:
        """Return the three planes through a point as HTML, side by side."""
        return self._lay_out([(axis, float(centre_mm[axis])) for axis in (2, 1, 0)], 3, alt)

    def mosaic(self, heights_mm: Iterable[float], alt: str) -> str:
        """Return planes across z as HTML, from below, eight in a row."""
        return self._lay_out([(2, float(z_mm)) for z_mm in heights_mm], N_COLUMNS, alt)

    def _lay_out(self, cuts: Sequence[tuple[int, float]], n_columns: int, alt: str) -> str:
        box = bounding_box([self.background.image, self.lesion])
        tiles = [self._cut(axis, at_mm, *box) for axis, at_mm in cuts]
        height = max(pixels.shape[0] for pixels, _ in tiles) + GAP
        lefts = np.cumsum([0, *(tile.shape[1] + GAP for tile, _ in tiles[:n_columns])])
        n_rows = -(-len(tiles) // n_columns)
        canvas, marks = np.full((height * n_rows - GAP, lefts[-1] - GAP, 3), 255, np.uint8), []
        unit = " mm" if n_columns <= 3 else ""
        for number, ((axis, at_mm), (pixels, outline)) in enumerate(zip(cuts, tiles, strict=True)):
            row, column = divmod(number, n_columns)
            h, w, _ = pixels.shape
            x, top = int(lefts[column]), row * height
            canvas[top : top + height - GAP, x : x + w] = 0
            y = top + (height - GAP - h) // 2
            canvas[y : y + h, x : x + w] = pixels
            left, right = SIDES[axis]
            # Adding 0 turns −0 into 0.
            where, middle, low = round(at_mm) + 0, top + height // 2, top + height - GAP - 3
            marks.append(
                f'<path transform="translate({x} {y})" d="{outline}"/>'
                f'<text x="{x + 2}" y="{middle}">{left}</text>'
                f'<text x="{x + w - 2}" y="{middle}" text-anchor="end">{right}</text>'
                f'<text x="{x + 2}" y="{low}">{"xyz"[axis]} = {where}{unit}</text>'
            )
        style = f'{FONT} font-size="{8 if n_columns <= 3 else 11}"'
        drawn = (
            f'<g {style} fill="none" stroke="{LESION_COLOUR}" stroke-linecap="square" '
            f'stroke-width="{1 if n_columns <= 3 else 1.6}">{"".join(marks)}</g>'
        )
        drawn = drawn.replace("<text ", '<text fill="#fff" stroke="none" ')
        height, width, _ = canvas.shape
        return _svg(width, height, alt, _pixels(canvas, 0, 0, width, height) + drawn)

    def _cut(
        self, axis: int, at_mm: float, low: FloatArray, high: FloatArray
    ) -> tuple[Pixels, str]:
        """Return a plane's pixels of 1 mm, rows from above, and the lesion's outline in them."""
        spans = [np.arange(low[i], high[i] + 1) for i in range(3)]
        spans[axis] = np.array([at_mm])
        grey = _sample(self.background.image, spans, axis).astype(np.float64)
        if self.background.is_density:
            grey = np.log1p(grey)
        brightness = np.clip(grey / self._white, 0, 1)
        pixels = np.repeat((255 * brightness).astype(np.uint8)[..., None], 3, axis=2)
        if self.values is not None:
            values = _sample(self.values, spans, axis)
            shown = values > 0
            pixels[shown] = ON_DARK[np.clip(255 * values[shown], 0, 255).astype(int)]
        return pixels, _outline(_sample(self.lesion, spans, axis) > 0)


def heights_of(image: Volume, n: int, *, percentiles: tuple[float, float]) -> FloatArray:
    """Return z of evenly spaced planes, mm, between percentiles of the voxels that are not 0."""
    voxels = np.argwhere(image.array)
    z = image.grid.to_world(voxels)[:, 2] if len(voxels) else np.zeros(1)
    low, high = np.percentile(z, percentiles)
    return np.linspace(low, high, n)


def scale_bar(label: str, *, on_white: bool = False) -> str:
    """Return the colours of shares from 0 to 1, with their meaning, as HTML."""
    lut = ON_WHITE if on_white else ON_DARK
    drawn = _pixels(lut[None], 0, 4, 220, 12)
    drawn += f'<g {FONT} font-size="11" fill="#55626e"><text x="0" y="28">0</text>'
    drawn += '<text x="110" y="28" text-anchor="middle">0.5</text>'
    drawn += '<text x="220" y="28" text-anchor="end">1</text>'
    drawn += f'<text x="232" y="14">{escape(label)}</text></g>'
    return _svg(560, 32, f"Colour scale from 0 to 1: {label}", drawn, shown="560")


def bars(names: Sequence[str], shares: Sequence[float], alt: str, *, labels: Sequence[str]) -> str:
    """Return horizontal bars as HTML.

    Parameters
    ----------
    names
        Of the bars, from above.
    shares
        Their lengths, in [0, 1].
    alt
        What they show, with numbers.
    labels
        What stands at their ends.
    """
    step, left, width = 21, 245, 760
    lines = [f'<line x1="{left}" y1="0" x2="{left}" y2="{step * len(names)}" stroke="#9aa6b0"/>']
    for i, (name, share, label) in enumerate(zip(names, shares, labels, strict=True)):
        length, y = max(0.0, share) * (width - left - 190), i * step
        short = name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"
        lines.append(
            f'<text x="{left - 6}" y="{y + 15}" text-anchor="end">{escape(short)}'
            f"<title>{escape(name)}</title></text>"
            f'<rect x="{left}" y="{y + 4}" width="{length:.1f}" height="14" fill="{BLUE}"/>'
            f'<text x="{left + length + 5:.1f}" y="{y + 15}">{escape(label)}</text>'
        )
    drawn = f'<g {FONT} font-size="11.5" fill="#1d2730">{"".join(lines)}</g>'
    return _svg(width, step * len(names) + 2, alt, drawn, shown=str(width))


def matrix(values: FloatArray, alt: str) -> str:
    """Return a matrix of shares as HTML; white where undefined, grey where 0."""
    known = np.isfinite(values)
    shares = np.clip(np.where(known, values, 0), 0, 1)
    pixels = ON_WHITE[(255 * shares).astype(int)]
    pixels[shares == 0] = 210, 216, 221
    pixels[~known] = 255
    n, size, left = len(values), 420, 34
    marks = []
    for number in _ticks(n):
        at = (number - 0.5) * size / n
        marks.append(
            f'<text x="{left - 5}" y="{max(at + 4, 9):.1f}" text-anchor="end">{number}</text>'
        )
        marks.append(
            f'<text x="{left + at:.1f}" y="{size + 14}" text-anchor="middle">{number}</text>'
        )
    drawn = _pixels(pixels, left, 0, size, size)
    drawn += f'<rect x="{left}" y="0" width="{size}" height="{size}" fill="none" stroke="#9aa6b0"/>'
    drawn += f'<g {FONT} font-size="11" fill="#55626e">{"".join(marks)}</g>'
    return _svg(left + size + 12, size + 20, alt, drawn, shown=str(left + size + 12))


def glass_brain(
    brain: Volume,
    places: FloatArray,
    pairs: Sequence[tuple[int, int, float, str]],
    alt: str,
) -> str:
    """Return three views through a transparent brain as HTML.

    Parameters
    ----------
    brain
        Its silhouette is that of what is not 0.
    places : (n, 3)
        Of parcels, mm RAS+.
    pairs
        Indices of two parcels, the share lost, and what a pointer over the line shows.
    alt
        What it shows, with numbers.
    """
    low, high = bounding_box([brain])
    box = Volume(brain.array != 0, brain.grid)
    x, drawn, tallest = 0.0, [], 0.0
    for axis in (2, 1, 0):
        across, up = (i for i in range(3) if i != axis)
        width, height = high[across] - low[across], high[up] - low[up]
        at = np.column_stack([places[:, across] - low[across], high[up] - places[:, up]])
        lines = []
        for i, j, share, text in sorted(pairs, key=lambda pair: pair[2]):
            (x1, y1), (x2, y2) = at[i], at[j]
            lines.append(
                f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                f'stroke-width="{0.5 + 1.5 * share:.2f}"><title>{escape(text)}</title></line>'
            )
        joined = {k for i, j, *_ in pairs for k in (i, j)}
        dots = [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{1.9 if k in joined else 0.8}" '
            f'fill="{BLUE if k in joined else "#9aa6b0"}"/>'
            for k, (a, b) in enumerate(at)
        ]
        left, right = SIDES[axis]
        drawn.append(
            f'<g transform="translate({x:.0f} 0)"><path d="{_silhouette(box, axis, low, high)}" '
            'fill="#e6eaed"/>'
            f'<g stroke="{ORANGE}" stroke-opacity="0.75">{"".join(lines)}</g>{"".join(dots)}'
            f'<text x="1" y="{height / 2:.0f}">{left}</text>'
            f'<text x="{width - 1:.0f}" y="{height / 2:.0f}" text-anchor="end">{right}</text></g>'
        )
        x, tallest = x + width + 8, max(tallest, height)
    style = f'<g {FONT} font-size="8" fill="#55626e">{"".join(drawn)}</g>'
    return _svg(x - 8, tallest, alt, style)


def _silhouette(brain: Volume, axis: int, low: FloatArray, high: FloatArray) -> str:
    """Return what hides what is behind a brain as rows of an SVG path, in mm from the corner."""
    turned = brain.canonical()
    shadow = _fill(np.asarray(turned.array.any(axis=axis)))
    across, up = (i for i in range(3) if i != axis)
    sizes = np.abs(np.diag(turned.grid.affine))[:3]
    sizes = np.where(sizes > 0, sizes, 1)
    origin = turned.grid.to_world(np.zeros((1, 3)))[0]
    rows = []
    for k in np.flatnonzero(shadow.any(axis=0)):
        edges = np.flatnonzero(np.diff(shadow[:, k].astype(np.int8), prepend=0, append=0))
        y = high[up] - (origin[up] + k * sizes[up]) - sizes[up] / 2
        for first, last in edges.reshape(-1, 2):
            start = origin[across] + (first - 0.5) * sizes[across] - low[across]
            length = (last - first) * sizes[across]
            rows.append(f"M{start:.1f} {y:.1f}h{length:.1f}v{sizes[up]:.1f}h{-length:.1f}z")
    return "".join(rows)


def _fill(shadow: NDArray[Any]) -> NDArray[Any]:
    """Return a mask without what lies between its parts, both along rows and along columns."""
    filled = np.ones(shadow.shape, bool)
    for axis in (0, 1):
        before = np.maximum.accumulate(shadow, axis)
        after = np.flip(np.maximum.accumulate(np.flip(shadow, axis), axis), axis)
        filled &= before & after
    return filled


def _sample(image: Volume, spans: Sequence[FloatArray], axis: int) -> NDArray[Any]:
    """Return values on a plane, rows from above."""
    turned = image.canonical()
    linear = turned.grid.affine[:3, :3]
    if (linear == np.diag(np.diag(linear))).all():
        # Axes along the world's: looked up axis by axis, 20 times as fast as point by point.
        picked, inside = [], []
        for i, span in enumerate(spans):
            at = (span - turned.grid.affine[i, 3]) / linear[i, i]
            voxels = np.ceil(at - 0.5).astype(np.int64)
            inside.append((voxels >= 0) & (voxels < turned.grid.shape[i]))
            picked.append(np.clip(voxels, 0, turned.grid.shape[i] - 1))
        i, j, k = inside
        values = turned.array[np.ix_(*picked)]
        values = values * (i[:, None, None] & j[:, None] & k)
    else:
        values = sample(image, np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1))
    plane: NDArray[Any] = np.squeeze(values, axis=axis).T[::-1]
    return plane


def _outline(mask: NDArray[np.bool_]) -> str:
    """Return the edges between pixels of a mask and others, as an SVG path."""
    padded = np.pad(mask, 1)
    across = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    along = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    return "".join([f"M{x} {y}v1" for y, x in across] + [f"M{x} {y}h1" for y, x in along])


def _ticks(n: int) -> list[int]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if n / s <= 10 or s == n)
    return [1, *range(step if step > 1 else 2, n + 1, step)]


def _pixels(pixels: Pixels, x: float, y: float, width: float, height: float) -> str:
    """Return pixels as a part of an SVG, as sharp as they are."""
    place = f'x="{x}" y="{y}" width="{width}" height="{height}"'
    style = 'preserveAspectRatio="none" style="image-rendering:pixelated"'
    return f'<image {place} {style} href="{data_url(encode_png(pixels), "image/png")}"/>'


def _svg(width: float, height: float, alt: str, drawn: str, *, shown: str = "100%") -> str:
    """Return an SVG with alternative text, as wide as the page unless told."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{shown}" role="img" '
        f'aria-label="{escape(alt)}">{drawn}</svg>'
    )
