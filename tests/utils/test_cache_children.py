"""What was configured reaches other processes, and what they are told with a task counts there."""

import os
import pickle
import textwrap
from pathlib import Path

import pytest

from lacuna.utils import cache
from lacuna.utils.cache import (
    Choice,
    capture_locations,
    child_environment,
    configure_cache,
    describe,
    get_cache_dir,
    get_temp_base_dir,
    library_environment,
    run_with_locations,
    set_locations,
)

CONFIGURE = """
    import sys
    from lacuna.utils.cache import *
    from lacuna.utils import cache
    def look():
        from lacuna.utils.cache import describe, get_cache_dir, get_temp_base_dir
        return (str(get_cache_dir()), str(get_temp_base_dir()), describe()[0].source)
    def configure():
        cache.set_locations(
            cache_dir=cache.Choice(sys.argv[1], "cache_dir in lab.yaml, line 3"),
            tmp_dir=cache.Choice(sys.argv[2], "tmp_dir in lab.yaml, line 4"),
        )
"""
STARTED_AFTER = {
    "fork": """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(*pool.apply(look), sep="\\n")
    """,
    "spawn": """
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(*pool.apply(look), sep="\\n")
    """,
    "forkserver": """
        import multiprocessing
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            print(*pool.apply(look), sep="\\n")
    """,
    "loky": """
        from joblib import Parallel, delayed
        print(*Parallel(n_jobs=2, backend="loky")([delayed(look)()] * 2)[0], sep="\\n")
    """,
    "subprocess": """
        import subprocess
        code = (
            "from lacuna.utils.cache import *; from lacuna.utils.cache import describe;"
            "print(get_cache_dir(), get_temp_base_dir(), describe()[0].source, sep=chr(10))"
        )
        print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    """,
    "dask nanny": """
        from distributed import Client, LocalCluster
        with LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
        ) as cluster, Client(cluster) as client:
            print(*client.submit(look).result(), sep="\\n")
    """,
    "dask processes": """
        import dask
        print(*dask.delayed(look)().compute(scheduler="processes", num_workers=1), sep="\\n")
    """,
}
STARTED_BEFORE = {
    "fork": """
        from concurrent.futures import ProcessPoolExecutor; import multiprocessing
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    """,
    "spawn": """
        from concurrent.futures import ProcessPoolExecutor; import multiprocessing
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    """,
    "forkserver": """
        from concurrent.futures import ProcessPoolExecutor; import multiprocessing
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver"))
    """,
    "loky": """
        from joblib.externals.loky import get_reusable_executor
        pool = get_reusable_executor(1)
    """,
}


def script(*parts: str) -> str:
    """Return a script of parts; what follows the definitions runs in the main process only."""
    main = "\n".join(textwrap.dedent(part) for part in parts)
    head = textwrap.dedent(CONFIGURE) + "if __name__ == '__main__':\n"
    return head + textwrap.indent(main, "    ")


@pytest.mark.parametrize("kind", STARTED_AFTER)
def test_child__started_after_configure_cache_uses_the_same_places(kind, tmp_path, run_script):
    lines = run_script(script("configure()", STARTED_AFTER[kind]), tmp_path / "c", tmp_path / "t")
    assert lines[:3] == [
        str(tmp_path / "c"),
        str(tmp_path / "t"),
        "cache_dir in lab.yaml, line 3",
    ]


@pytest.mark.parametrize("kind", STARTED_BEFORE)
def test_pool__started_before_configure_cache_learns_it_with_the_task(kind, tmp_path, run_script):
    ask = """
        old = pool.submit(look).result()
        configure()
        print(*old, *pool.submit(look).result(), sep="\\n")
        new = pool.submit(cache.run_with_locations, cache.capture_locations(), look).result()
        print(*new, sep="\\n")
        pool.shutdown()
    """
    lines = run_script(script(STARTED_BEFORE[kind], ask), tmp_path / "c", tmp_path / "t")
    default = str(Path(os.environ["XDG_CACHE_HOME"], "lacuna"))
    assert lines[0] == lines[3] == default  # out of reach without the task's word
    assert lines[6:] == [str(tmp_path / "c"), str(tmp_path / "t"), "cache_dir in lab.yaml, line 3"]


def test_child__that_resets_returns_to_its_own_environment(tmp_path, run_script):
    configure_cache(tmp_path / "c")
    code = "from lacuna.utils.cache import *; configure_cache(); print(get_cache_dir())"
    assert run_script(code, LACUNA_CACHE_DIR=str(tmp_path / "own")) == [str(tmp_path / "own")]


def test_child__keeps_what_it_inherits_over_its_own_variables(tmp_path, run_script):
    configure_cache(tmp_path / "c")
    code = "from lacuna.utils.cache import *; print(get_cache_dir())"
    assert run_script(code, LACUNA_CACHE_DIR=str(tmp_path / "own")) == [str(tmp_path / "c")]


def test_site_layer__reaches_children_below_their_environment(tmp_path, run_script):
    set_locations(site_cache_dir=Choice(tmp_path / "site", "/etc/lacuna/config.yaml"))
    code = "from lacuna.utils.cache import *; print(get_cache_dir())"
    assert run_script(code) == [str(tmp_path / "site")]
    assert run_script(code, LACUNA_CACHE_DIR=str(tmp_path / "own")) == [str(tmp_path / "own")]


def test_capture__is_plain_text_that_pickles(tmp_path):
    configure_cache(tmp_path / "c")
    captured = capture_locations()
    assert pickle.loads(pickle.dumps(captured)) == captured
    assert isinstance(captured, str)


def test_captured__the_environment_of_the_worker_no_longer_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "now"))
    captured = capture_locations()
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "stale"))
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "stale-tmp"))
    run_with_locations(captured, str)
    assert get_cache_dir() == tmp_path / "now"
    assert get_temp_base_dir() == tmp_path / "now" / "tmp"
    assert describe()[0].source == "LACUNA_CACHE_DIR"


def test_captured__defaults_stay_what_they_were_where_they_were_captured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "$now"))
    captured = capture_locations()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    configure_cache(tmp_path / "earlier")
    run_with_locations(captured, str)
    assert get_cache_dir() == tmp_path / "$now" / "lacuna"
    assert describe()[0].source == "the default"


def test_captured__relative_paths_and_lists_arrive_whole(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    configure_cache("here")
    places = Choice([tmp_path / "a", tmp_path / "b"], "a test")
    set_locations(cache_dir=Choice("here", "a test"), tmp_dir=places)
    with pytest.warns(RuntimeWarning, match="relative"):
        captured = capture_locations()
    monkeypatch.chdir("elsewhere")
    configure_cache()
    run_with_locations(captured, str)
    assert get_cache_dir() == tmp_path / "here"
    assert get_temp_base_dir() == tmp_path / "a"


def test_capture__of_a_place_that_cannot_be_used_fails_where_it_is_used(tmp_path):
    (tmp_path / "file").write_text("")
    configure_cache(tmp_path / "file")
    captured = capture_locations()
    configure_cache()
    with pytest.raises(cache.CacheDirError, match="file"):
        run_with_locations(captured, get_cache_dir)


def test_capture__carries_whether_scratch_is_kept(monkeypatch):
    monkeypatch.setenv("LACUNA_KEEP_TMP", "1")
    captured = capture_locations()
    monkeypatch.delenv("LACUNA_KEEP_TMP")
    run_with_locations(captured, str)
    with cache.temp_dir() as kept:
        pass
    assert kept.exists()


def test_child_environment__points_every_known_variable_into_the_temp_base(tmp_path):
    configure_cache(tmp_dir=tmp_path / "t")
    variables = child_environment()
    exported = variables.pop("_LACUNA_LOCATIONS")
    assert exported == os.environ["_LACUNA_LOCATIONS"]
    assert variables == {
        "TMPDIR": str(tmp_path / "t"),
        "TRX_TMPDIR": str(tmp_path / "t"),
        "MRTRIX_TMPFILE_DIR": str(tmp_path / "t"),
        "JOBLIB_TEMP_FOLDER": str(tmp_path / "t"),
        "MPLCONFIGDIR": str(tmp_path / "t" / "matplotlib"),
    }
    assert (tmp_path / "t").is_dir()


def test_child_environment__of_a_run_points_into_its_own_directory(tmp_path):
    assert child_environment(tmp_path)["TMPDIR"] == str(tmp_path)


def test_library_environment__points_below_the_cache_what_the_user_has_not_set(
    tmp_path, monkeypatch
):
    configure_cache(cache_dir=tmp_path / "c")
    monkeypatch.setenv("NILEARN_DATA", "/mine")
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    variables = library_environment()
    assert variables["TEMPLATEFLOW_HOME"] == str(tmp_path / "c" / ".libraries" / "templateflow")
    assert "NILEARN_DATA" not in variables
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("place", ["$UNSET_HERE/cache", "/dev/null/cache"])
def test_library_environment__is_empty_where_the_cache_cannot_be_written(place):
    configure_cache(cache_dir=place)
    assert library_environment() == {}


def test_child_environment__keeps_locations_where_the_rest_is_dropped(tmp_path, run_script):
    configure_cache(tmp_path / "c", tmp_path / "t")
    lines = run_script(
        """
        import os, subprocess, sys
        from lacuna.utils.cache import child_environment
        code = (
            "import tempfile; from lacuna.utils.cache import get_cache_dir;"
            "print(get_cache_dir()); print(tempfile.gettempdir())"
        )
        only_ours = child_environment()
        print(subprocess.check_output([sys.executable, "-c", code], env=only_ours, text=True))
        """
    )
    assert lines[:2] == [str(tmp_path / "c"), str(tmp_path / "t")]


def test_child__forked_while_another_thread_configures_does_not_hang(run_script):
    assert run_script(
        """
        import os, threading
        from lacuna.utils import locations
        from lacuna.utils.cache import configure_cache
        held, done = threading.Event(), threading.Event()
        def hold():
            with locations._lock():
                held.set(); done.wait(30)
        thread = threading.Thread(target=hold); thread.start(); held.wait()
        if os.fork() == 0:
            configure_cache("/child"); os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1])); done.set(); thread.join()
        """
    ) == ["0"]


def test_child__learns_a_path_that_is_no_text(tmp_path, run_script):
    place = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        Path(os.fsdecode(place)).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    configure_cache(os.fsdecode(place))
    code = "import os; from lacuna.utils.cache import *; print(os.fsencode(get_cache_dir()))"
    assert run_script(code) == [repr(place)]
