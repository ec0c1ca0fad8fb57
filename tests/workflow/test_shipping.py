"""Kernels that were compiled by whoever installed Lacuna serve everybody, and nobody else's do."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lacuna
from lacuna.workflow.kernels import BASELINE, is_trusted

COMPILE = """
    import sys
    from pathlib import Path
    import numpy as np
    from lacuna.tractogram._kernels import query
    from lacuna.workflow.kernels import keep_in, private_directory
    from lacuna.workflow.shipping import ship
    work = Path(sys.argv[1])
    keep_in(private_directory(work))
    query.count_bits(np.array([5, 1], np.uint64))
    ship(work)
"""
USE = """
    import numpy as np
    from lacuna.tractogram._kernels import query
    from lacuna.workflow.kernels import keep_kernels
    keep_kernels()
    assert query.count_bits(np.array([5, 1], np.uint64)) == 3
    print("compiled" if query.count_bits.stats.cache_misses else "loaded")
"""
RUN_ALL = """
    import sys
    from pathlib import Path
    import nibabel, numba, numpy as np
    from lacuna.assets.bundled import DEMO, TRACTOGRAM
    from lacuna.cli.main import main
    from lacuna.formats import open_tractogram, save_trx
    from lacuna.geometry.grid import Grid
    from lacuna.workflow.kernels import MODULES

    work, (lesion, *_) = Path(sys.argv[1]), sorted(DEMO.rglob("*_mask.nii.gz"))
    demo = open_tractogram(DEMO / TRACTOGRAM).streamlines
    points, offsets = demo.gather(np.arange(0, len(demo), 20))
    streamlines = [points[a:b] for a, b in zip(offsets[:-1], offsets[1:])]
    tracts = nibabel.streamlines.Tractogram(streamlines, affine_to_rasmm=np.eye(4))
    for suffix in ("tck", "trk"):
        nibabel.streamlines.save(tracts, str(work / f"few.{suffix}"))
    box = np.array([[-60.0] * 3, [60.0] * 3])
    save_trx(work / "few.trx", points, offsets, Grid.over_box(*box, 2.0))
    (work / "weights.txt").write_text("1.5\\n" * len(streamlines))
    for path in sorted(work.glob("few.*")):
        for rule in ("segment", "vertex", "mrtrix"):
            words = ["--rule", rule, *["--upsample", "2"][: 2 * (rule == "mrtrix")]]
            snm = ["run", "snm", str(lesion), str(work / rule / path.suffix), "--min-tdi", "1"]
            snm += ["--tractogram", str(path), "--tractogram-space", "AFQacpc", "--quiet"]
            snm += ["--overwrite"]
            tdi = ["tdi", str(path), str(work / f"{rule}{path.suffix}.nii.gz"), "--quiet"]
            weights = ["--weights", str(work / "weights.txt")]
            for command in (snm, tdi, tdi + weights):
                assert main(command + words) == 0, command
    kernels = [
        kernel for module in MODULES for kernel in vars(module).values()
        if isinstance(kernel, numba.core.dispatcher.Dispatcher)
    ]
    assert sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels) > 4
    for kernel in kernels:
        for signature in kernel.stats.cache_misses:
            print("compiled:", kernel.__name__, signature)
"""
WARM = ("cache", "warm", "--kernels")
SOURCE = Path(lacuna.__file__).parent


class Installed:
    """An installed package of its own, and processes that use it."""

    def __init__(self, directory):
        self.site, self.cache = directory / "site", directory / "cache"
        self.cache.mkdir(mode=0o700)
        self.package = self.site / "lacuna"
        shutil.copytree(SOURCE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.kernels = self.package / "tractogram" / "_kernels"
        self.compiled = self.kernels / "compiled"

    def run(self, words, *, prefix=(), **environment):
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
        inherited |= {"PYTHONPATH": self.site, "PYTHONDONTWRITEBYTECODE": "1"}
        inherited["LACUNA_CACHE_DIR"] = self.cache
        done = subprocess.run(
            [*prefix, sys.executable, *words],
            env={name: str(value) for name, value in (inherited | environment).items()},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def ship_one(self, work, **environment):
        work.mkdir(mode=0o700)
        self.run(["-c", textwrap.dedent(COMPILE), work], **environment)
        assert len(list(self.compiled.glob("*.nbi"))) == 1

    def use(self):
        return self.run(["-c", textwrap.dedent(USE)]).strip()


@pytest.fixture
def installed(tmp_path):
    return Installed(tmp_path)


def test_ship__others_load_what_the_installer_compiled_and_write_nothing(installed, tmp_path):
    installed.ship_one(tmp_path / "work", **BASELINE)
    before = {path: path.stat().st_mtime_ns for path in installed.site.rglob("*")}
    installed.cache.chmod(0o500)
    assert installed.use() == "loaded"
    assert {path: path.stat().st_mtime_ns for path in installed.site.rglob("*")} == before
    assert not list(installed.cache.rglob("*.nb[ic]"))


def test_ship__is_readable_for_all_and_writable_for_its_owner_whatever_the_umask(
    installed, tmp_path
):
    before = os.umask(0o077)
    try:
        installed.ship_one(tmp_path / "work", **BASELINE)
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in installed.compiled.iterdir()}
    assert (oct(installed.compiled.stat().st_mode & 0o777), modes) == ("0o755", {"0o644"})


def test_ship__replaces_what_was_shipped_before(installed, tmp_path):
    installed.ship_one(tmp_path / "work", **BASELINE)
    (installed.compiled / "old.nbi").touch()
    installed.ship_one(tmp_path / "again", **BASELINE)


def test_keep_kernels__code_that_others_could_have_shipped_is_not_loaded(installed, tmp_path):
    installed.ship_one(tmp_path / "work", **BASELINE)
    installed.compiled.chmod(0o775)
    assert installed.use() == "compiled"
    assert installed.use() == "loaded"  # from the private cache


def test_keep_kernels__code_of_other_sources_is_not_loaded(installed, tmp_path):
    installed.ship_one(tmp_path / "work", **BASELINE)
    with (installed.kernels / "segment.py").open("a") as source:
        source.write("# changed\n")
    assert installed.use() == "compiled"


def test_keep_kernels__code_for_one_kind_of_processor_is_not_loaded(installed, tmp_path):
    installed.ship_one(tmp_path / "work")
    assert installed.use() == "compiled"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_is_trusted__no_directory_that_others_can_write(tmp_path, mode):
    (tmp_path / "compiled").mkdir()
    assert is_trusted(tmp_path / "compiled")
    (tmp_path / "compiled").chmod(mode)
    assert not is_trusted(tmp_path / "compiled")


def test_is_trusted__no_link_and_nothing_absent(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "compiled").symlink_to("theirs")
    assert not is_trusted(tmp_path / "compiled")
    assert not is_trusted(tmp_path / "absent")


@pytest.mark.root
def test_is_trusted__no_directory_of_another_owner_than_the_sources(tmp_path):
    (tmp_path / "compiled").mkdir()
    os.chown(tmp_path / "compiled", 12345, 12345)
    assert not is_trusted(tmp_path / "compiled")


def test_warm_kernels__who_may_not_write_the_package_is_told(installed, refused_permissions):
    installed.kernels.chmod(0o555)
    with pytest.raises(AssertionError, match="Only whoever installed Lacuna can ship them"):
        installed.ship_one(installed.site.parent / "work")


@pytest.mark.root
def test_warm_kernels__every_format_and_rule_runs_for_another_user_without_compiling(
    installed, tmp_path
):
    said = installed.run(["-c", "import sys, lacuna.cli.main as cli; sys.exit(cli.main())", *WARM])
    assert str(installed.compiled) in said
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    other = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    # May look everywhere, as the interpreter may lie in root's home; may write only its own.
    other += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    cache = theirs / "cache"
    places = {"LACUNA_CACHE_DIR": cache, "LACUNA_TMP_DIR": theirs / "tmp", "HOME": "/nonexistent"}
    run = ["-c", textwrap.dedent(RUN_ALL), theirs]
    assert "compiled" not in installed.run(run, prefix=other, **places)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, 0, 0)  # from now on a warm cache that this user cannot write
    held = sorted(cache.rglob("*"))
    assert "compiled" not in installed.run(run, prefix=other, **places)
    assert sorted(cache.rglob("*")) == held
    assert not list(theirs.rglob("*.nb[ic]"))
