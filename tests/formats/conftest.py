"""Writers of .tck and .trk, byte by byte, so that files can be wrong on purpose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lacuna.formats.trk import HEADER

Polylines = list[NDArray[np.float32]]


@pytest.fixture
def polylines() -> Polylines:
    """Fifty streamlines within a brain, one of a single point and one of none."""
    rng = np.random.default_rng(5)
    lengths = [*rng.integers(2, 40, 48), 1, 0]
    rng.shuffle(lengths)
    return [
        (rng.uniform(-60, 60, 3) + rng.normal(size=(n, 3)).cumsum(axis=0)).astype(np.float32)
        for n in lengths
    ]


@pytest.fixture
def write_tck(tmp_path: Path) -> Callable[..., Path]:
    def write(
        polylines: Polylines,
        name: str = "a.tck",
        dtype: str = "<f4",
        datatype: str | None = "Float32LE",
        lines: tuple[str, ...] = (),
        file: str | None = ". {start}",
        magic: str = "mrtrix tracks",
        padding: int = 0,
        end: bool = True,
        tail: bytes = b"",
    ) -> Path:
        head = [magic, *lines]
        if datatype:
            head.append(f"datatype: {datatype}")
        if file:
            head.append("file: " + file)
        text = "\n".join(head) + "\nEND\n"
        start = len(text.replace("{start}", "")) + 3 + padding
        header = text.replace("{start}", f"{start:03d}").encode()
        if file:
            header = header.ljust(start, b"\0")
        nan = np.full((1, 3), np.nan)
        parts = [part for polyline in polylines for part in (polyline, nan)]
        if end:
            parts.append(np.full((1, 3), np.inf))
        path = tmp_path / name
        path.write_bytes(header + np.concatenate([*parts]).astype(dtype).tobytes() + tail)
        return path

    return write


@pytest.fixture
def write_trk(tmp_path: Path) -> Callable[..., Path]:
    def write(
        stored: Polylines,
        name: str = "a.trk",
        scalars: list[NDArray[np.float32]] | None = None,
        properties: NDArray[np.float32] | None = None,
        tail: bytes = b"",
        **fields: object,
    ) -> Path:
        header = np.zeros(1, HEADER)
        affine = np.diag([-1.0, 1, 1, 1])
        affine[:3, 3] = 90, -126, -72
        defaults = {
            "magic": b"TRACK",
            "dimensions": (182, 218, 182),
            "voxel_sizes": 1,
            "n_scalars": scalars[0].shape[1] if scalars else 0,
            "n_properties": properties.shape[1] if properties is not None else 0,
            "vox_to_ras": affine,
            "voxel_order": b"LAS",
            "n_count": len(stored),
            "version": 2,
            "hdr_size": 1000,
        }
        for field, value in {**defaults, **fields}.items():
            header[field] = value
        content = header.tobytes()
        for i, points in enumerate(stored):
            values = np.hstack([points, scalars[i]]) if scalars else points
            content += np.array(len(points), "<i4").tobytes()
            content += values.astype("<f4").tobytes()
            if properties is not None:
                content += properties[i].astype("<f4").tobytes()
        path = tmp_path / name
        path.write_bytes(content + tail)
        return path

    return write
