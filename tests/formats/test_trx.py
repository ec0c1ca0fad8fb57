import json
import zipfile

import numpy as np
import pytest

from lacuna.errors import FormatError
from lacuna.formats import open_tractogram, save_trx
from lacuna.geometry.grid import Grid

GRID = Grid(
    (182, 218, 182), np.diag([1.0, 1, 1, 1]) + np.array([[0, 0, 0, t] for t in (-91, -126, -72, 0)])
)


def split(opened):
    points, offsets = opened.streamlines.gather(np.arange(len(opened.streamlines)))
    return np.split(points, offsets[1:-1])


def same(opened, polylines):
    found = split(opened)
    return len(found) == len(polylines) and all(
        np.array_equal(a, b) for a, b in zip(found, polylines, strict=True)
    )


@pytest.fixture
def write_trx(tmp_path, polylines):
    """Write members one by one, so that they can be wrong on purpose."""

    def write(
        name="a.trx",
        dtype="float32",
        offset_dtype="uint64",
        sentinel=True,
        compression=zipfile.ZIP_STORED,
        folder=False,
        header=None,
        replace=None,
    ):
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])])
        counts = {"NB_VERTICES": int(offsets[-1]), "NB_STREAMLINES": len(polylines)}
        place = {"DIMENSIONS": list(GRID.shape), "VOXEL_TO_RASMM": GRID.affine.tolist()}
        members = {
            "header.json": json.dumps({**place, **counts, **(header or {})}).encode(),
            f"positions.3.{dtype}": np.concatenate(polylines).astype(dtype).tobytes(),
            f"offsets.{offset_dtype}": offsets[: None if sentinel else -1]
            .astype(offset_dtype)
            .tobytes(),
            "groups/left.uint32": np.arange(0, 20, 2, dtype=np.uint32).tobytes(),
            "dps/weight.float32": np.arange(50, dtype=np.float32).tobytes(),
            "dps/ends.2.float64": np.arange(100, dtype=np.float64).tobytes(),
            "dpv/fa.float32": np.zeros(int(offsets[-1]), np.float32).tobytes(),
            **(replace or {}),
        }
        path = tmp_path / name
        if folder:
            for member, content in members.items():
                (path / member).parent.mkdir(parents=True, exist_ok=True)
                (path / member).write_bytes(content)
            return path
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, content in members.items():
                if content is not None:
                    archive.writestr(member, content)
        return path

    return write


@pytest.mark.parametrize("offset_dtype", ["uint64", "uint32"])
@pytest.mark.parametrize("sentinel", [True, False])
@pytest.mark.parametrize(
    "how",
    [{}, {"compression": zipfile.ZIP_DEFLATED}, {"folder": True}],
    ids=["stored", "deflated", "folder"],
)
def test_open_trx__every_packing_gives_the_same_streamlines(
    write_trx, polylines, how, sentinel, offset_dtype
):
    opened = open_tractogram(write_trx(sentinel=sentinel, offset_dtype=offset_dtype, **how))
    assert same(opened, polylines)
    assert opened.groups["left"].tolist() == list(range(0, 20, 2))
    assert opened.per_streamline["weight"].tolist() == list(range(50))
    assert opened.per_streamline["ends"].shape == (50, 2)
    assert opened.warnings == ()


@pytest.mark.parametrize("how", [{}, {"folder": True}], ids=["stored", "folder"])
def test_open_trx__what_is_not_compressed_is_mapped(write_trx, how):
    array = open_tractogram(write_trx(**how)).streamlines.words
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert isinstance(array, np.memmap)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_open_trx__other_float_types_to_their_precision(write_trx, polylines, dtype):
    found = split(open_tractogram(write_trx(dtype=dtype)))
    for a, b in zip(found, polylines, strict=True):
        assert np.array_equal(a, b.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replace": {"header.json": None}}, "has no header.json"),
        ({"replace": {"header.json": b"{"}}, "header.json is damaged"),
        ({"replace": {"header.json": b"[]"}}, "header.json is damaged"),
        ({"replace": {"positions.3.float32": None}}, "no positions array"),
        ({"replace": {"positions.3.float32": b"1234567"}}, "no whole rows of 3 float32"),
        ({"replace": {"positions.3.float32": bytes(12)}}, "positions holds 1"),
        ({"replace": {"offsets.uint64": None}}, "no offsets array"),
        ({"replace": {"offsets.uint64": bytes(80)}}, "counts 50 streamlines and there are 10"),
        ({"header": {"NB_STREAMLINES": 70}}, "counts 70 streamlines and there are 51"),
        ({"header": {"NB_STREAMLINES": "50"}}, "counts 50 streamlines and there are 51"),
        ({"header": {"NB_VERTICES": 7}}, "counts 7 points"),
        ({"replace": {"groups/left.uint32": b"\xff\0\0\0"}}, "group left names streamlines beyond"),
        ({"replace": {"dps/weight.float32": bytes(8)}}, "weight has 2 rows for 50"),
    ],
)
def test_open_trx__broken_files_are_refused_with_the_reason(write_trx, change, message):
    with pytest.raises(FormatError, match=message):
        open_tractogram(write_trx(**change))


@pytest.mark.parametrize(("i", "value"), [(3, 10**9), (50, 10**9), (0, 4), (7, 2**63)])
def test_open_trx__offset_beyond_the_end_is_located(write_trx, polylines, i, value):
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])]).astype("<u8")
    offsets[i] = value
    with pytest.raises(FormatError, match=r"offset \d+ is -?\d+, with \d+ points"):
        open_tractogram(write_trx(replace={"offsets.uint64": offsets.tobytes()}))


def test_open_trx__a_coordinate_that_is_not_finite_is_located(write_trx, polylines):
    i = next(i for i, p in enumerate(polylines) if len(p) > 3)
    polylines[i][2, 1] = np.inf
    with pytest.raises(FormatError, match=f"point 2 of streamline {i} has"):
        open_tractogram(write_trx())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_open_trx__truncated_archive_is_refused(write_trx, compression):
    path = write_trx(compression=compression)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match="no readable zip archive"):
        open_tractogram(path)


def test_open_trx__damage_in_a_compressed_array_is_found(write_trx):
    path = write_trx(compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[3000:3010] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"positions.3.float32 is damaged"):
        open_tractogram(path)


def test_save_trx__round_trip_and_same_bytes_each_time(tmp_path, polylines):
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])])
    for name in "ab":
        path = tmp_path / f"{name}.trx"
        groups = {"left": np.arange(7)}
        save_trx(path, np.concatenate(polylines), offsets, GRID, groups=groups)
        opened = open_tractogram(path)
        assert same(opened, polylines)
        assert opened.groups["left"].tolist() == list(range(7))
    assert (tmp_path / "a.trx").read_bytes() == (tmp_path / "b.trx").read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_save_trx__trx_python_reads_it(tmp_path, monkeypatch, polylines, dtype):
    from trx.trx_file_memmap import load

    monkeypatch.setenv("TRX_TMPDIR", str(tmp_path))
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])])
    path = tmp_path / "a.trx"
    groups = {"left": np.arange(7)}
    save_trx(path, np.concatenate(polylines).astype(dtype), offsets, GRID, groups=groups)
    trx = load(str(path))
    assert len(trx.streamlines) == 50
    assert np.array_equal(trx.streamlines.get_data(), np.concatenate(polylines).astype(dtype))
    assert trx.groups["left"].tolist() == list(range(7))
    trx.close()


@pytest.mark.parametrize("name", ["hcp842_small1000", "hcp842_small1000_float16"])
def test_open_trx__agrees_with_trx_python(shared_data, tmp_path, monkeypatch, name):
    from trx.trx_file_memmap import load

    monkeypatch.setenv("TRX_TMPDIR", str(tmp_path))
    path = shared_data / "tractograms" / f"{name}.trx"
    opened = open_tractogram(path)
    trx = load(str(path))
    points, offsets = opened.streamlines.gather(np.arange(1000))
    assert np.array_equal(points, trx.streamlines.get_data().astype(np.float32))
    assert np.array_equal(np.diff(offsets), trx.streamlines._lengths)
    assert {name: ids.tolist() for name, ids in opened.groups.items()} == {
        name: ids.tolist() for name, ids in trx.groups.items()
    }
    trx.close()
