"""The index through the cache: what shares an entry, what does not, and what is built again."""

import gc
import gzip
import logging
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.oracles.segment import segment_voxels
from tests.phantoms import coherent_tractogram, pack, write_tck

from lacuna.errors import CacheFullError, FormatError, OptionError
from lacuna.formats import open_tractogram
from lacuna.formats.trx import save_trx
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.geometry.streamlines import Streamlines
from lacuna.store import Store
from lacuna.tractogram.ends import assign_ends
from lacuna.workflow.products import (
    describe_grid,
    ends_key,
    estimate_bytes,
    find_box,
    make_tdi,
    open_ends,
    open_index,
)
from lacuna.workflow.weights import Weights

RULES = ("segment", "vertex", "mrtrix")


def straight(shape, sizes, origin):
    return Grid(shape, np.array([*np.column_stack([np.diag(sizes), origin]), [0, 0, 0, 1]]))


RAS = straight((20, 20, 20), (2, 2, 2), (-20, -20, -20))
LAS = straight((20, 20, 20), (-2, 2, 2), (18, -20, -20))
FINE = straight((40, 40, 40), (1, 1, 1), (-20, -20, -20))


@pytest.fixture(autouse=True)
def told(caplog):
    caplog.set_level(logging.WARNING, "lacuna")
    return caplog


@pytest.fixture(scope="module")
def streamlines():
    whole = coherent_tractogram(200, step_mm=4)
    return Streamlines(whole.words / 6, whole.firsts, whole.counts)


@pytest.fixture(scope="module")
def tck(streamlines, tmp_path_factory):
    path = tmp_path_factory.mktemp("tractogram") / "some.tck"
    write_tck(path, streamlines, step_size_mm=4 / 6)
    return path


@pytest.fixture(scope="module")
def warm(tck, tmp_path_factory):
    """Return a store that holds the index of the tractogram at 2 mm; not to be damaged."""
    store = Store(tmp_path_factory.mktemp("warm"))
    assert open_index(store, tck, grid=RAS).built
    return store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def path_of(store: Store, digest: str) -> Path:
    return next(entry.path for entry in store.entries() if entry.digest == digest)


def arrays_of(opened):
    parts = {part: vars(getattr(opened.index, part)).items() for part in ("parts", "hits", "map")}
    return {
        f"{part}.{name}": array
        for part, items in parts.items()
        for name, array in items
        if isinstance(array, np.ndarray)
    }


def assert_same_index(one, other):
    expected, found = arrays_of(one), arrays_of(other)
    assert len(expected) == 15
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)


# Which entries


def test_open_index__has_three_entries_and_a_second_call_builds_none(warm, tck, streamlines):
    opened = open_index(warm, tck, grid=RAS)
    assert not opened.built
    assert opened.n_streamlines == len(streamlines) == 200
    assert opened.keys.keys() == {"streamlines", "hits", "map"}
    assert {entry.bucket for entry in warm.entries()} == {"tdi"}


def test_open_index__a_second_process_does_not_build(warm, tck):
    code = f"""
        from pathlib import Path
        import numpy as np
        from lacuna.geometry.grid import Grid
        from lacuna.store import Store
        from lacuna.workflow.products import open_index
        grid = Grid({RAS.shape!r}, np.array({RAS.affine.tolist()!r}))
        opened = open_index(Store({str(warm.root)!r}), Path({str(tck)!r}), grid=grid)
        print(opened.built, opened.index.map.tdi.sum())
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    here = open_index(warm, tck, grid=RAS)
    assert found.stdout.split() == ["False", str(here.index.map.tdi.sum())]


def test_open_index__says_whether_it_waited_for_another_builder(warm, tck, told):
    class Busy(Store):
        def get_or_make(self, *asked, on_wait, **options):
            on_wait("Waiting for it: process 7 is building it.")
            return super().get_or_make(*asked, on_wait=on_wait, **options)

    assert not open_index(warm, tck, grid=RAS).waited
    opened = open_index(Busy(warm.root), tck, grid=RAS)
    assert (opened.waited, opened.built) == (True, False)
    assert "process 7 is building it" in told.text


def test_open_index__arrays_are_mapped_not_read(warm, tck):
    opened = open_index(warm, tck, grid=RAS)
    for array in (opened.index.hits.hits, opened.index.map.visits, opened.index.streamlines.words):
        base = array
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert not array.flags.writeable


def test_open_index__a_shared_read_only_cache_serves_it(warm, tck, tmp_path):
    own = Store(tmp_path / "own", read_only_roots=[warm.root])
    opened = open_index(own, tck, grid=RAS)
    assert not opened.built
    assert not any(entry.root == own.root for entry in own.entries())


def test_open_index__a_changed_tractogram_is_another_entry(store, tck, streamlines, tmp_path):
    path = tmp_path / "mine.tck"
    shutil.copy(tck, path)
    before = open_index(store, path, grid=RAS)
    words = streamlines.words.copy()
    words[0] += 0.25
    write_tck(path, Streamlines(words, streamlines.firsts, streamlines.counts), step_size_mm=4 / 6)
    after = open_index(store, path, grid=RAS)
    assert after.built
    assert after.fingerprint != before.fingerprint
    assert not set(after.keys.values()) & set(before.keys.values())


def test_open_index__a_moved_and_renamed_tractogram_is_the_same_entry(warm, tck, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "other.tck"
    shutil.copy(tck, moved)
    os.utime(moved, (1, 1))
    opened = open_index(warm, moved, grid=RAS)
    assert not opened.built
    assert opened.keys == open_index(warm, tck, grid=RAS).keys
    assert opened.file.path == moved


@pytest.mark.parametrize(
    "change",
    [
        {"grid": FINE},
        {"grid": straight((20, 20, 21), (2, 2, 2), (-20, -20, -20))},
        {"grid": straight((20, 20, 20), (2, 2, 2), (-20, -20, -19))},
        {"rule": "vertex"},
        {"rule": "mrtrix"},
        {"rule": "mrtrix", "upsample": 5},
    ],
    ids=str,
)
def test_open_index__another_report_grid_or_rule_changes_the_map_only(warm, tck, change):
    usual = open_index(warm, tck, grid=RAS).keys
    other = open_index(warm, tck, **{"grid": RAS, **change}).keys
    assert other["map"] != usual["map"]
    assert {**other, "map": ""} == {**usual, "map": ""}


def test_open_index__the_upsampling_that_the_header_asks_for_is_one_entry_with_the_option(
    warm, tck
):
    chosen = open_index(warm, tck, grid=RAS, rule="mrtrix")
    assert chosen.index.map.upsample == 2  # 0.667 mm over a third of 2 mm
    stated = open_index(warm, tck, grid=RAS, rule="mrtrix", upsample=2)
    assert not stated.built
    assert stated.keys == chosen.keys


@pytest.mark.parametrize("rule", RULES)
def test_open_index__orientations_of_a_report_grid_share_a_map_except_under_rule_mrtrix(
    warm, tck, rule
):
    one = open_index(warm, tck, grid=RAS, rule=rule)
    other = open_index(warm, tck, grid=LAS, rule=rule)
    assert (one.keys["map"] == other.keys["map"]) is (rule != "mrtrix")
    assert other.index.map.grid is LAS
    volumes = [opened.index.to_grid(opened.index.map.tdi) for opened in (one, other)]
    np.testing.assert_array_equal(volumes[0], volumes[1][::-1])


def test_open_index__threads_change_neither_key_nor_arrays(store, tmp_path):
    whole = coherent_tractogram(2500, step_mm=8)
    path = tmp_path / "more.tck"
    write_tck(path, Streamlines(whole.words / 6, whole.firsts, whole.counts))
    one = open_index(store, path, grid=RAS, threads=1)
    two = open_index(Store(tmp_path / "other"), path, grid=RAS, threads=2)
    assert one.keys == two.keys
    assert_same_index(one, two)


# Formats


@pytest.mark.parametrize("kind", [".tck.gz", ".trk.gz", ".trx"])
def test_open_index__a_compressed_file_gives_the_index_of_the_plain_one(
    kind, streamlines, tck, store, tmp_path
):
    plain, packed = tmp_path / f"plain{kind.removesuffix('.gz')}", tmp_path / f"packed{kind}"
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    if kind == ".trx":
        save_trx(plain, points, offsets, RAS)
        with (
            zipfile.ZipFile(plain) as source,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for name in source.namelist():
                target.writestr(name, source.read(name))
    else:
        if kind == ".tck.gz":
            shutil.copy(tck, plain)
        else:
            lines = [points[a:b] for a, b in pairwise(offsets)]
            tractogram = nib.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
            header = {"voxel_to_rasmm": RAS.affine, "dimensions": RAS.shape, "voxel_sizes": 2}
            nib.streamlines.save(tractogram, plain, header=header)
        packed.write_bytes(gzip.compress(plain.read_bytes(), 1))
    one, other = (open_index(store, path, grid=RAS) for path in (plain, packed))
    assert "unpacked" not in one.keys
    assert other.keys.keys() == {"unpacked", "streamlines", "hits", "map"}
    assert_same_index(one, other)
    np.testing.assert_array_equal(
        other.file.streamlines.gather(np.arange(200))[0],
        one.file.streamlines.gather(np.arange(200))[0],
    )
    assert not open_index(store, packed, grid=RAS).built


def test_open_index__a_damaged_compressed_file_is_an_error_and_leaves_no_entry(
    tck, store, tmp_path
):
    path = tmp_path / "cut.tck.gz"
    path.write_bytes(gzip.compress(tck.read_bytes())[:-500])
    with pytest.raises(FormatError, match="cannot be decompressed"):
        open_index(store, path, grid=RAS)
    assert list(store.entries()) == []


def test_open_index__what_is_odd_about_a_file_is_told_when_it_is_built(shared_data, store, told):
    path = shared_data / "tractograms" / "ORIGINAL_HCP842_F_L.trk"
    grid = straight((100, 100, 100), (2, 2, 2), (0, -100, 0))
    open_index(store, path, grid=grid)
    assert path.name in told.text
    assert open_tractogram(path).warnings


# Rules


def test_open_index__an_unknown_rule_is_an_error(store, tck):
    with pytest.raises(OptionError, match=r"no mapping rule 'nearest'.*segment, vertex, mrtrix"):
        open_index(store, tck, grid=RAS, rule="nearest")


@pytest.mark.parametrize("rule", ["segment", "vertex"])
def test_open_index__upsampling_under_another_rule_is_an_error(store, tck, rule):
    with pytest.raises(OptionError, match="Upsampling is part of rule mrtrix"):
        open_index(store, tck, grid=RAS, rule=rule, upsample=2)


@pytest.mark.parametrize("name", ["hcp842_small1000.trk", "hcp842_small1000.trx"])
def test_open_index__rule_mrtrix_without_a_step_size_line_needs_upsample(name, shared_data, store):
    path = shared_data / "tractograms" / name
    with pytest.raises(OptionError, match="--upsample N"):
        open_index(store, path, grid=RAS, rule="mrtrix")
    assert open_index(store, path, grid=RAS, rule="mrtrix", upsample=1).built


@pytest.mark.parametrize(
    ("step_size_mm", "warning"),
    [(4 / 6, ""), (0.62, ""), (1.0, "step_size of 1 mm.*0.67 mm apart"), (None, "no step_size")],
)
def test_open_index__a_missing_or_stale_step_size_is_told_under_rule_mrtrix(
    step_size_mm, warning, streamlines, store, tmp_path, told
):
    path = tmp_path / "a.tck"
    write_tck(path, streamlines, step_size_mm=step_size_mm)
    open_index(store, path, grid=RAS)
    assert told.text == ""
    open_index(store, path, grid=RAS, rule="mrtrix")
    assert bool(told.records) is bool(warning)
    assert re.search(warning, told.text)


def test_open_index__with_upsample_stated_the_header_does_not_matter(
    streamlines, store, tmp_path, told
):
    write_tck(tmp_path / "a.tck", streamlines)
    assert open_index(store, tmp_path / "a.tck", grid=RAS, rule="mrtrix", upsample=3).built
    assert told.text == ""


# Damage, and room


@pytest.mark.parametrize("product", ["streamlines", "hits", "map"])
def test_open_index__a_damaged_entry_is_built_again_and_told_once(store, tck, product, told):
    first = open_index(store, tck, grid=RAS)
    expected = {name: array.copy() for name, array in arrays_of(first).items()}
    damaged = max(path_of(store, first.keys[product]).glob("*.npy"), key=lambda p: p.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-4])
    again = open_index(Store(store.root), tck, grid=RAS)
    assert again.built
    assert again.keys == first.keys
    for name, array in arrays_of(again).items():
        np.testing.assert_array_equal(array, expected[name], name)
    assert [record.levelname for record in told.records] == ["WARNING"]
    assert "damaged" in told.text
    assert damaged.name in told.text
    assert not open_index(Store(store.root), tck, grid=RAS).built
    assert len(told.records) == 1


def test_open_index__a_build_that_would_not_fit_is_refused_before_it_begins(tck, tmp_path):
    begun = []
    store = Store(tmp_path / "store", min_free=10**18)
    with pytest.raises(CacheFullError, match=r"No room for some.tck.*--cache-dir"):
        open_index(store, tck, grid=RAS, progress=lambda what, _done, _total: begun.append(what))
    assert set(begun) == {"streamlines"}  # whose lengths say how large the rest will be
    assert {entry.product for entry in store.entries()} == {"streamlines"}


def test_open_index__says_how_large_it_will_be(tck, store, told):
    told.set_level(logging.INFO, "lacuna")
    open_index(store, tck, grid=RAS)
    said = [record.message for record in told.records if "building" in record.message]
    assert [message.split()[1] for message in said] == ["streamlines", "map", "hits"]
    assert all("--cache-dir" in message for message in said)
    assert ["about" in message for message in said] == [False, True, True]


def test_estimate_bytes__is_within_a_factor_of_two(store, tmp_path):
    whole = coherent_tractogram(5000)
    path = tmp_path / "a.tck"
    write_tck(path, Streamlines(whole.words / 2, whole.firsts, whole.counts))
    opened = open_index(store, path, grid=straight((60, 60, 60), (2, 2, 2), (-60, -60, -50)))
    parts = opened.index.parts
    guesses = {
        "map": estimate_bytes(parts, 2.0),
        "hits": estimate_bytes(parts, 1.0) + 16 * parts.lattice.n_voxels,
    }
    for product, guess in guesses.items():
        real = sum(file.stat().st_size for file in path_of(store, opened.keys[product]).iterdir())
        assert real / 2 < guess < real * 2, product


def test_open_index__progress_reaches_the_number_of_streamlines(store, tck):
    seen = {}
    open_index(
        store, tck, grid=RAS, progress=lambda what, done, total: seen.update({what: (done, total)})
    )
    assert seen == dict.fromkeys(("streamlines", "map", "hits"), (200, 200))


# Density


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", [RAS, LAS], ids=["RAS", "LAS"])
def test_make_tdi__is_the_image_of_the_map_entry(warm, tck, rule, grid):
    density = make_tdi(warm, tck, grid=grid, rule=rule)
    assert density.dtype == np.int32
    opened = open_index(warm, tck, grid=grid, rule=rule)
    image = nib.load(path_of(warm, opened.keys["map"]) / "tdi.nii.gz")
    stored = np.asarray(image.dataobj)
    if grid is LAS and rule != "mrtrix":
        stored = stored[::-1]
    np.testing.assert_array_equal(stored, density)
    np.testing.assert_array_equal(Grid(image.shape, image.affine).canonical.affine, RAS.affine)


def test_make_tdi__counts_equal_the_oracle(warm, tck, streamlines):
    expected = np.zeros(RAS.shape, int)
    points, offsets = streamlines.gather(np.arange(len(streamlines)))
    for start, stop in pairwise(offsets):
        for voxel in segment_voxels(points[start:stop], RAS):
            expected[voxel] += 1
    np.testing.assert_array_equal(make_tdi(warm, tck, grid=RAS), expected)


def test_make_tdi__weights_are_summed(store, tmp_path):
    path = tmp_path / "a.tck"
    write_tck(path, pack([[(0, 0, 0), (4, 0, 0)], [(2, 0, 0), (2, 0, 2)], [(30, 0, 0)]]))
    grid = straight((4, 1, 2), (2, 2, 2), (0, 0, 0))
    weighted = make_tdi(store, path, grid=grid, weights=Weights("w.txt", np.array([0.25, 2, 9])))
    assert weighted.dtype == np.float32
    assert weighted[:, 0].tolist() == [[0.25, 0], [2.25, 2], [0.25, 0], [0, 0]]
    with pytest.raises(OptionError, match="2 weights do not fit 3"):
        make_tdi(store, path, grid=grid, weights=Weights("w.txt", np.ones(2)))


def test_find_box__holds_all_points(warm, tck, streamlines):
    low, high = find_box(warm, tck)
    points = streamlines.gather(np.arange(len(streamlines)))[0]
    np.testing.assert_array_equal([low, high], [points.min(axis=0), points.max(axis=0)])


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (RAS, "20 × 20 × 20 voxels of 2 mm"),
        (straight((3, 4, 5), (1, 0.5, 2), (0, 0, 0)), "3 × 4 × 5 voxels of 0.5 × 1 × 2 mm"),
    ],
)
def test_describe_grid__in_words(grid, words):
    assert describe_grid(grid) == words


def leased(store):
    directory = store.root / ".leases"
    return (
        {path.name.partition(".")[0] for path in directory.iterdir()}
        if directory.exists()
        else set()
    )


def test_open_index__nobody_deletes_what_is_mapped_until_it_is_no_longer(tck, store):
    opened = open_index(store, tck, grid=RAS)
    assert leased(store) == set(opened.keys.values())
    store.plan_clear(force=True).execute()
    index = opened.index
    del opened
    assert len(leased(store)) == 3
    assert len(list(store.entries())) == 3
    del index
    gc.collect()
    assert leased(store) == set()
    assert len(store.plan_clear(force=True).execute().removed) == 3


def test_open_index__the_copy_of_a_compressed_tractogram_is_held_too(tck, tmp_path, store):
    packed = tmp_path / "packed.tck.gz"
    packed.write_bytes(gzip.compress(tck.read_bytes(), 1))
    opened = open_index(store, packed, grid=RAS)
    assert leased(store) == set(opened.keys.values())
    assert "unpacked" in opened.keys
    del opened
    gc.collect()
    assert leased(store) == set()


def test_open_index__what_was_evicted_before_it_could_be_leased_is_made_again(tck, store):
    class Evicted(Store):
        """A store from which entries vanish as soon as they are handed out, now and then."""

        n_left = 2

        def get_or_make(self, key, *args, **options):
            entry = super().get_or_make(key, *args, **options)
            if self.n_left and key.product == "hits":
                self.n_left -= 1
                shutil.rmtree(entry.path)
            return entry

    assert open_index(Evicted(store.root), tck, grid=RAS).n_streamlines == 200


def test_find_box__holds_nothing_once_it_is_known(tck, store):
    find_box(store, tck)
    gc.collect()
    assert leased(store) == set()


# The ends, by atlas


def toy_atlas(name="toy", *, shift=0):
    labels = np.arange(RAS.n_voxels).reshape(RAS.shape) // 400 * 3 + shift
    numbers = np.unique(labels[labels > 0]).astype(np.int32)
    return Parcellation(name, labels.astype(np.int32), RAS, numbers, tuple(map(str, numbers)))


def test_open_ends__is_found_once_for_each_atlas_and_mapped(warm, tck):
    opened, atlas = open_index(warm, tck, grid=RAS), toy_atlas()
    ends = open_ends(warm, opened, atlas, threads=2)
    np.testing.assert_array_equal(ends, assign_ends(opened.index.parts.ends, atlas))
    assert ends.dtype == np.int16
    assert isinstance(ends.base, np.memmap)
    written = path_of(warm, ends_key(opened, atlas).digest).stat().st_ctime_ns
    again = open_ends(warm, open_index(warm, tck, grid=FINE), toy_atlas("renamed"))
    np.testing.assert_array_equal(again, ends)
    assert path_of(warm, ends_key(opened, atlas).digest).stat().st_ctime_ns == written
    assert ends_key(opened, toy_atlas(shift=1)).digest != ends_key(opened, atlas).digest


def test_open_ends__nobody_deletes_them_while_they_are_in_use(tck, store):
    opened = open_index(store, tck, grid=RAS)
    ends = open_ends(store, opened, toy_atlas())
    del opened
    gc.collect()
    assert leased(store) == {entry.digest for entry in store.entries() if entry.product == "ends"}
    del ends
    gc.collect()
    assert leased(store) == set()


def test_open_ends__a_damaged_entry_is_made_again(tck, store):
    opened, atlas = open_index(store, tck, grid=RAS), toy_atlas()
    expected = np.array(open_ends(store, opened, atlas))
    gc.collect()
    np.save(path_of(store, ends_key(opened, atlas).digest) / "ends.npy", expected[1:])
    np.testing.assert_array_equal(open_ends(store, opened, atlas), expected)
