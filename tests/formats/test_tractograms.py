import contextlib
import gzip
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from lacuna.errors import FormatError
from lacuna.formats import needs_unpacking, open_tractogram, save_tck, save_trx, unpack
from lacuna.formats.tractogram_file import find_impossible
from lacuna.geometry.grid import Grid


def test_open_tractogram__four_encodings_give_the_same_streamlines(shared_data):
    folder = shared_data / "tractograms"
    everything = np.arange(1000)
    names = ["small1000.tck", "small1000.trx", "small1000.trk", "small1000_float16.trx"]
    tck, trx, trk, half = (
        open_tractogram(folder / f"hcp842_{name}").streamlines.gather(everything) for name in names
    )
    for other in (trx, trk, half):
        assert np.array_equal(tck[1], other[1])
    assert tck[0].tobytes() == trx[0].tobytes()
    assert np.abs(tck[0] - trk[0]).max() <= 1e-4
    assert np.array_equal(half[0], tck[0].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", ["a.tt.gz", "a.vtk", "a.trx.gz", "tck", "a.nii.gz"])
def test_open_tractogram__unknown_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FormatError, match="no tractogram that can be read"):
        open_tractogram(tmp_path / name)


def test_open_tractogram__missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(FormatError, match="There is no file"):
        open_tractogram(tmp_path / "a.tck")
    (tmp_path / "b.tck").mkdir()
    with pytest.raises(FormatError, match="is a folder"):
        open_tractogram(tmp_path / "b.tck")


def test_open_tractogram__suffixes_in_capitals_and_plain_strings(write_tck, polylines):
    assert len(open_tractogram(str(write_tck(polylines, name="A.TCK"))).streamlines) == 50


@pytest.mark.parametrize("make", ["write_tck", "write_trk"])
def test_unpack__a_gz_file_becomes_one_that_can_be_mapped(request, tmp_path, polylines, make):
    path = request.getfixturevalue(make)(polylines)
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert needs_unpacking(packed)
    assert not needs_unpacking(path)
    (tmp_path / "out").mkdir()
    plain = unpack(packed, tmp_path / "out")
    assert plain == tmp_path / "out" / path.name
    assert plain.read_bytes() == path.read_bytes()


def test_unpack__a_compressed_trx_becomes_one_that_can_be_mapped(shared_data, tmp_path):
    path = shared_data / "tractograms" / "hcp842_small1000.trx"
    assert needs_unpacking(path)
    plain = unpack(path, tmp_path)
    assert not needs_unpacking(plain)
    ours, theirs = open_tractogram(plain), open_tractogram(path)
    assert np.array_equal(ours.streamlines.words, theirs.streamlines.words)
    assert list(ours.groups) == list(theirs.groups)


def test_unpack__a_truncated_file_leaves_nothing(tmp_path, write_tck, polylines):
    path = write_tck(polylines)
    packed = tmp_path / "b.tck.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-200])
    (tmp_path / "out").mkdir()
    for read in (open_tractogram, lambda path: unpack(path, tmp_path / "out")):
        with pytest.raises(FormatError, match="cannot be decompressed"):
            read(packed)
    assert not list((tmp_path / "out").iterdir())


def test_unpack__a_damaged_trx_leaves_nothing(tmp_path):
    path = tmp_path / "a.trx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("positions.3.float32", np.random.default_rng(0).bytes(12_000))
    content = bytearray(path.read_bytes())
    content[500:600] = bytes(100)
    path.write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(FormatError, match="is damaged"):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("words_at_once", [1, 3, 7, 100])
def test_find_impossible__edges_of_the_scan_hide_nothing(words_at_once):
    words = np.zeros(30, ">f4")
    words[[0, 2, 3, 6, 7, 29]] = np.nan
    assert find_impossible(words, words_at_once).tolist() == [0, 2, 3, 6, 7, 29]


def test_import__brings_in_neither_nibabel_nor_numba():
    code = "import sys, lacuna.formats; print({'nibabel', 'numba', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def deflate(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["a.tck", "a.trk", "a.trx", "deflated.trx"])
def test_open_tractogram__damage_anywhere_is_a_format_error_or_harmless(
    tmp_path, polylines, write_trk, name
):
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in polylines])])
    points, path = np.concatenate(polylines), tmp_path / name
    if name == "a.trk":
        write_trk(polylines, properties=np.ones((50, 2), np.float32))
    elif name == "a.tck":
        save_tck(path, points, offsets, 1)
    else:
        grid = Grid((9, 9, 9), np.eye(4))
        groups = {"a": np.arange(3)}
        save_trx(path, points, offsets, grid, groups=groups)
        if name == "deflated.trx":
            deflate(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            # Half of the damage at either end, where headers and directories are.
            at = rng.integers(len(content)) if rng.random() < 0.5 else rng.integers(-600, 600)
            content[at % len(content)] = rng.choice([0, 127, 128, 255])
        damaged = tmp_path / f"{number}{path.suffix}"
        damaged.write_bytes(content[: rng.integers(len(content))] if number % 5 == 0 else content)
        with contextlib.suppress(FormatError):
            opened = open_tractogram(damaged)
            assert np.isfinite(opened.streamlines.gather(np.arange(2))[0]).all()
