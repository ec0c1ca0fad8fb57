"""The contract of `lacuna.utils.cache`: who decides where files live, and what is said about it."""

import errno
import inspect
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from lacuna.errors import CacheDirError, CacheError, LacunaError
from lacuna.utils import cache
from lacuna.utils.cache import (
    Choice,
    configure_cache,
    describe,
    get_cache_dir,
    get_tdi_cache_dir,
    get_temp_base_dir,
    get_temp_dir,
    get_transform_cache_dir,
    make_temp_file,
    set_locations,
)
from lacuna.utils.locations import failure

EXPORT = "_LACUNA_LOCATIONS"
GETTERS = [get_cache_dir, get_tdi_cache_dir, get_transform_cache_dir, get_temp_base_dir]


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    return lambda name, value: monkeypatch.setenv(name, str(value))


def unusable(tmp_path: Path, name: str = "file") -> Path:
    """Return a path that nobody can make a directory of, root included."""
    file = tmp_path / name
    file.write_text("")
    return file / "inside"


def described(name: str) -> object:
    return next(place for place in describe() if place.name == name)


def test_signatures__are_those_of_the_contract():
    assert {
        function.__name__: str(inspect.signature(function)).partition(" ->")[0]
        for function in (configure_cache, get_temp_dir, make_temp_file, *GETTERS)
    } == {
        "configure_cache": (
            "(cache_dir: 'PathText | None' = None, tmp_dir: 'PathText | None' = None)"
        ),
        "get_temp_dir": "(prefix: 'str' = '')",
        "make_temp_file": (
            "(suffix: 'str' = '', prefix: 'str' = '', delete: 'bool' = False, mode: 'str' = 'w+b')"
        ),
        "get_cache_dir": "()",
        "get_tdi_cache_dir": "()",
        "get_transform_cache_dir": "()",
        "get_temp_base_dir": "()",
    }


def test_configure_cache__returns_nothing(tmp_path):
    assert configure_cache(tmp_path) is None


@pytest.mark.parametrize("getter", GETTERS)
def test_getters__return_existing_directories_as_paths(getter):
    found = getter()
    assert isinstance(found, Path)
    assert found.is_dir()
    assert found.is_absolute()


def test_parts_of_the_cache__have_fixed_names(tmp_path):
    configure_cache(tmp_path / "c")
    assert get_tdi_cache_dir() == tmp_path / "c" / "tdi"
    assert get_transform_cache_dir() == tmp_path / "c" / "transforms"
    assert get_temp_base_dir() == tmp_path / "c" / "tmp"


def test_made_directories__are_private(tmp_path):
    configure_cache(tmp_path / "c")
    for getter in GETTERS:
        assert stat.S_IMODE(getter().stat().st_mode) == 0o700


def test_getters__make_anew_what_was_removed(tmp_path):
    configure_cache(tmp_path / "c")
    get_cache_dir().rmdir()
    assert get_cache_dir().is_dir()


def test_cache_dir__configured_beats_environment_beats_site_beats_default(tmp_path, set_variable):
    default = Path(os.environ["XDG_CACHE_HOME"]) / "lacuna"
    assert get_cache_dir() == default
    set_locations(site_cache_dir=Choice(tmp_path / "site", "the site's file"))
    assert get_cache_dir() == tmp_path / "site"
    set_variable("LACUNA_CACHE_DIR", tmp_path / "variable")
    assert get_cache_dir() == tmp_path / "variable"
    configure_cache(tmp_path / "configured")
    assert get_cache_dir() == tmp_path / "configured"


def test_temp_base__configured_beats_environment_beats_site_beats_default(tmp_path, set_variable):
    configure_cache(tmp_path / "c")
    assert get_temp_base_dir() == tmp_path / "c" / "tmp"
    set_locations(site_tmp_dir=Choice(tmp_path / "site", "the site's file"))
    assert get_temp_base_dir() == tmp_path / "site"
    set_variable("LACUNA_TMP_DIR", tmp_path / "variable")
    assert get_temp_base_dir() == tmp_path / "variable"
    configure_cache(tmp_path / "c", tmp_path / "configured")
    assert get_temp_base_dir() == tmp_path / "configured"


def test_tmp_dir_none__the_environment_comes_before_the_cache_directory(tmp_path, set_variable):
    set_variable("LACUNA_TMP_DIR", tmp_path / "variable")
    configure_cache(cache_dir=tmp_path / "c", tmp_dir=None)
    assert get_temp_base_dir() == tmp_path / "variable"


def test_lacuna_temp_dir__is_accepted_too(tmp_path, set_variable):
    set_variable("LACUNA_TEMP_DIR", tmp_path / "t")
    assert get_temp_base_dir() == tmp_path / "t"
    assert described("temp").source == "LACUNA_TEMP_DIR"


def test_lacuna_tmp_dir__wins_over_lacuna_temp_dir_with_one_warning(tmp_path, set_variable):
    set_variable("LACUNA_TMP_DIR", tmp_path / "a")
    set_variable("LACUNA_TEMP_DIR", tmp_path / "b")
    with pytest.warns(RuntimeWarning, match="LACUNA_TEMP_DIR") as caught:
        assert get_temp_base_dir() == tmp_path / "a"
        assert get_temp_base_dir() == tmp_path / "a"
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_lacuna_tmp_dir__equal_to_lacuna_temp_dir_is_no_warning(tmp_path, set_variable):
    set_variable("LACUNA_TMP_DIR", tmp_path)
    set_variable("LACUNA_TEMP_DIR", tmp_path)
    assert get_temp_base_dir() == tmp_path


def test_configure_cache__a_second_call_replaces_the_first(tmp_path):
    configure_cache(tmp_path / "a", tmp_path / "t")
    configure_cache(tmp_path / "b")
    assert get_cache_dir() == tmp_path / "b"
    assert get_temp_base_dir() == tmp_path / "b" / "tmp"


def test_configure_cache__without_arguments_resets(tmp_path):
    before = get_cache_dir(), get_temp_base_dir()
    configure_cache(tmp_path / "a", tmp_path / "t")
    configure_cache()
    assert (get_cache_dir(), get_temp_base_dir()) == before


def test_configure_cache__takes_text_and_path_likes(tmp_path):
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / "c")

    for value in (str(tmp_path / "c"), tmp_path / "c", Place()):
        configure_cache(value)
        assert get_cache_dir() == tmp_path / "c"


def test_configure_cache__refuses_what_is_no_path():
    with pytest.raises(TypeError):
        configure_cache(3)


@pytest.mark.parametrize("name", ["LACUNA_CACHE_DIR", "XDG_CACHE_HOME"])
def test_empty_variable__counts_as_unset(name, set_variable, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    set_variable("HOME", tmp_path)
    set_variable(name, "")
    assert get_cache_dir() == tmp_path / ".cache" / "lacuna"


def test_empty_text__counts_as_not_configured(tmp_path, set_variable):
    set_variable("LACUNA_CACHE_DIR", tmp_path / "c")
    set_variable("LACUNA_TMP_DIR", "")
    set_variable("LACUNA_TEMP_DIR", tmp_path / "t")
    configure_cache("", "")
    assert get_cache_dir() == tmp_path / "c"
    assert get_temp_base_dir() == tmp_path / "t"


def test_environment__is_read_at_each_call(tmp_path, set_variable):
    for name in ("a", "b"):
        set_variable("LACUNA_CACHE_DIR", tmp_path / name)
        assert get_cache_dir() == tmp_path / name


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_default__follows_xdg_on_linux_and_macos(platform, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert get_cache_dir() == tmp_path / "xdg" / "lacuna"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_cache_dir() == tmp_path / ".cache" / "lacuna"


@pytest.mark.parametrize("relative", ["relative", "~/cache"])
def test_default__ignores_a_relative_xdg_cache_home(relative, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_cache_dir() == tmp_path / ".cache" / "lacuna"


def test_default__is_in_local_app_data_on_windows(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert get_cache_dir() == tmp_path / "Local" / "lacuna" / "cache"
    assert get_temp_base_dir() == tmp_path / "Local" / "lacuna" / "cache" / "tmp"


def test_default__is_in_the_profile_on_windows_without_local_app_data(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "")
    for name in ("USERPROFILE", "HOME"):  # the second, since os.path is not that of Windows here
        monkeypatch.setenv(name, str(tmp_path))
    assert get_cache_dir() == tmp_path / "AppData" / "Local" / "lacuna" / "cache"


def test_windows__temp_names_and_descriptions_work(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert get_temp_dir("a_").is_dir()
    assert described("cache").exists
    with pytest.raises(ValueError, match="prefix"):
        get_temp_dir("C:evil")


def test_expansion__home_and_variables(tmp_path, set_variable):
    set_variable("HOME", tmp_path / "home")
    set_variable("PLACE", tmp_path / "place")
    for text, expected in {
        "~/x": tmp_path / "home/x",
        "$PLACE/x": tmp_path / "place/x",
        "${PLACE}x": tmp_path / "placex",
        "${PLACE:-/never}/x": tmp_path / "place/x",
        f"${{NOT_SET:-{tmp_path}}}/x": tmp_path / "x",
        "${NOT_SET:-$PLACE}/x": tmp_path / "place/x",
        "${NOT_SET:-${NOR_THIS:-$PLACE/y}}/x": tmp_path / "place/y/x",
        "${NOT_SET:-~/y}/x": tmp_path / "home/y/x",
        f"{tmp_path}/$$PLACE": tmp_path / "$PLACE",
        f"{tmp_path}/5$/x": tmp_path / "5$/x",
    }.items():
        configure_cache(text)
        assert get_cache_dir() == expected, text


def test_expansion__applies_to_environment_variables_too(tmp_path, set_variable):
    set_variable("SCRATCH", tmp_path / "s")
    set_variable("LACUNA_TMP_DIR", "${SLURM_TMPDIR:-$SCRATCH}/lacuna")
    assert get_temp_base_dir() == tmp_path / "s" / "lacuna"


def test_expansion__happens_when_used_not_when_configured(tmp_path, set_variable):
    configure_cache("$LATER/c")
    set_variable("LATER", tmp_path / "a")
    assert get_cache_dir() == tmp_path / "a" / "c"
    set_variable("LATER", tmp_path / "b")
    assert get_cache_dir() == tmp_path / "b" / "c"


def test_expansion__does_not_look_into_what_a_variable_holds(tmp_path, set_variable):
    set_variable("PLACE", f"{tmp_path}/$HOME")
    configure_cache("$PLACE")
    assert get_cache_dir() == tmp_path / "$HOME"


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("text", ["$SLURM_TMPDIR/lacuna", "${SLURM_TMPDIR}/lacuna"])
def test_expansion__a_variable_that_is_not_set_is_an_error_that_names_it(text, value, monkeypatch):
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    if value is not None:
        monkeypatch.setenv("SLURM_TMPDIR", value)
    monkeypatch.setenv("LACUNA_TMP_DIR", text)
    with pytest.raises(CacheDirError, match="SLURM_TMPDIR is not set") as caught:
        get_temp_base_dir()
    assert "LACUNA_TMP_DIR" in str(caught.value)
    assert not Path("/lacuna").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${HOME/x", "not closed"),
        ("${}/x", "not a variable"),
        ("${HOME:=y}/x", "not a variable"),
        ("~nobody-has-this-name/x", "no home directory for '~nobody-has-this-name'"),
    ],
)
def test_expansion__says_what_is_wrong(text, message):
    configure_cache(text)
    with pytest.raises(CacheDirError, match=re.escape(message)):
        get_cache_dir()


def test_relative_path__is_absolute_at_first_use_and_remembered_with_one_warning(
    tmp_path, set_variable, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    set_variable("LACUNA_CACHE_DIR", "here")
    with pytest.warns(RuntimeWarning, match="relative path 'here'") as caught:
        assert get_cache_dir() == tmp_path / "here"
        monkeypatch.chdir("elsewhere")
        assert get_cache_dir() == tmp_path / "here"
    assert len(caught) == 1
    assert os.environ["LACUNA_CACHE_DIR"] == "here"


def test_relative_path__configured_warns_at_first_use(tmp_path, monkeypatch):
    configure_cache("here")
    with pytest.warns(RuntimeWarning, match=re.escape(str(tmp_path / "here"))):
        assert get_cache_dir() == tmp_path / "here"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert get_cache_dir() == tmp_path / "here"


def test_relative_path__configured_again_elsewhere_counts_from_there(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    with pytest.warns(RuntimeWarning, match="relative"):
        configure_cache("here")
        get_cache_dir()
        monkeypatch.chdir("elsewhere")
        configure_cache("here")
        assert get_cache_dir() == tmp_path / "elsewhere" / "here"


def test_relative_path__in_a_file_is_relative_to_that_file(tmp_path):
    set_locations(cache_dir=Choice("c", "cache_dir in lab.yaml", relative_to=tmp_path / "lab"))
    assert get_cache_dir() == tmp_path / "lab" / "c"


def test_relative_path__of_a_variable_is_not_forgotten_when_something_else_is_configured(
    tmp_path, set_variable, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    set_variable("LACUNA_CACHE_DIR", "here")
    with pytest.warns(RuntimeWarning, match="relative"):
        get_cache_dir()
    monkeypatch.chdir("elsewhere")
    configure_cache(tmp_dir=tmp_path / "t")
    assert get_cache_dir() == tmp_path / "here"


def test_relative_path__reaches_children_as_absolute(tmp_path, set_variable, run_script):
    set_variable("LACUNA_CACHE_DIR", "here")
    (tmp_path / "elsewhere").mkdir()
    with pytest.warns(RuntimeWarning, match="relative"):
        get_cache_dir()
    script = """
        import warnings; warnings.simplefilter("error")
        from lacuna.utils.cache import get_cache_dir; print(get_cache_dir())
    """
    assert run_script(script, cwd=tmp_path / "elsewhere") == [str(tmp_path / "here")]


def test_relative_path__without_a_working_directory_is_an_error(
    tmp_path, set_variable, monkeypatch
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir("gone")
    (tmp_path / "gone").rmdir()
    set_variable("LACUNA_CACHE_DIR", "here")
    with pytest.raises(CacheDirError, match="working directory is gone"):
        get_cache_dir()


def test_tmp_dir_list__the_first_usable_one_is_taken(tmp_path):
    places = ["$NOT_SET/x", unusable(tmp_path), tmp_path / "scratch", tmp_path / "last"]
    set_locations(tmp_dir=Choice(places, "tmp_dir in lab.yaml, line 2"))
    assert get_temp_base_dir() == tmp_path / "scratch"
    assert get_temp_dir().parent == tmp_path / "scratch"
    assert not (tmp_path / "last").exists()


def test_tmp_dir_list__an_unwritable_place_is_not_usable(tmp_path, refused_permissions):
    (tmp_path / "locked").mkdir(mode=0o500)
    set_locations(tmp_dir=Choice([tmp_path / "locked", tmp_path / "open"], "lab.yaml"))
    assert get_temp_base_dir() == tmp_path / "open"


def test_tmp_dir_list__none_usable_says_why_for_each(tmp_path):
    set_locations(tmp_dir=Choice(["$NOT_SET/x", unusable(tmp_path)], "tmp_dir in lab.yaml, line 2"))
    with pytest.raises(CacheDirError, match="NOT_SET is not set") as caught:
        get_temp_base_dir()
    first, *candidates = str(caught.value).splitlines()
    assert first.startswith(
        "None of the temp directories (tmp_dir in lab.yaml, line 2) can be used. Change it there ("
    )
    assert candidates == [
        "  $NOT_SET/x: the variable NOT_SET is not set; set it, or write ${NOT_SET:-fallback}",
        f"  {unusable(tmp_path)}: Not a directory",
    ]


@pytest.fixture
def system_temp(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "system-temp"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.delenv("XDG_CACHE_HOME")
    return directory


@pytest.mark.parametrize("home", ["/", "/nonexistent", "/dev/null"])
def test_fallback__no_usable_home_means_a_private_directory_and_one_warning(
    home, system_temp, set_variable
):
    set_variable("HOME", home)
    with pytest.warns(RuntimeWarning, match="LACUNA_CACHE_DIR") as caught:
        found = get_cache_dir()
        assert get_cache_dir() == found
        assert get_temp_base_dir() == found / "tmp"
    assert len(caught) == 1
    assert found == system_temp / f"lacuna-{os.getuid()}"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700


def test_home__that_is_none_is_no_home_for_what_was_chosen_either(set_variable):
    set_variable("HOME", "/")
    configure_cache("~/x")
    with pytest.raises(CacheDirError, match="no home directory for '~'"):
        get_cache_dir()


def test_fallback__a_default_that_cannot_be_made_is_replaced(system_temp, set_variable, tmp_path):
    set_variable("XDG_CACHE_HOME", unusable(tmp_path))
    with pytest.warns(RuntimeWarning, match="cannot be used: Not a directory"):
        assert get_cache_dir().parent == system_temp


def test_fallback__is_remembered_when_the_temp_directory_moves(
    system_temp, set_variable, run_script
):
    set_variable("HOME", "/nonexistent")
    with pytest.warns(RuntimeWarning, match="no home directory"):
        found = get_cache_dir()
    os.environ.update(cache.child_environment())
    try:
        assert get_cache_dir() == found
        script = "from lacuna.utils.cache import get_cache_dir; print(get_cache_dir())"
        assert run_script(script) == [str(found)]
    finally:
        for name in ("TRX_TMPDIR", "MRTRIX_TMPFILE_DIR", "JOBLIB_TEMP_FOLDER", "MPLCONFIGDIR"):
            del os.environ[name]


@pytest.mark.parametrize("tmp_dir", [None, "scratch"])
def test_fallback__never_lies_in_scratch_that_ends_with_a_run(
    tmp_dir, system_temp, set_variable, tmp_path, run_script
):
    set_variable("HOME", "/nonexistent")
    (system_temp / f"lacuna-{os.getuid()}" / "tmp").mkdir(mode=0o700, parents=True)
    (system_temp / f"lacuna-{os.getuid()}").chmod(0o700)
    configure_cache(tmp_dir=tmp_dir and tmp_path / tmp_dir)
    with pytest.warns(RuntimeWarning, match="no home directory"), cache.temp_dir() as scratch:
        script = "from lacuna.utils.cache import get_cache_dir; print(get_cache_dir())"
        before = dict(os.environ)
        os.environ.update(cache.child_environment(scratch))
        found = run_script(script)
        os.environ.clear()
        os.environ.update(before)
    assert found == [str(system_temp / f"lacuna-{os.getuid()}")]


@pytest.mark.parametrize("trap", ["link", "open", "file"])
def test_fallback__a_directory_that_is_not_ours_alone_is_refused(
    trap, system_temp, set_variable, tmp_path
):
    set_variable("HOME", "/nonexistent")
    place = system_temp / f"lacuna-{os.getuid()}"
    if trap == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "theirs")
    elif trap == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        place.write_text("")
    with (
        pytest.warns(RuntimeWarning, match="no home directory"),
        pytest.raises(CacheDirError, match="LACUNA_CACHE_DIR"),
    ):
        get_cache_dir()


@pytest.mark.root
def test_fallback__a_directory_of_another_user_is_refused(system_temp, set_variable):
    set_variable("HOME", "/nonexistent")
    place = system_temp / f"lacuna-{os.getuid()}"
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with (
        pytest.warns(RuntimeWarning, match="no home directory"),
        pytest.raises(CacheDirError, match="user 12345"),
    ):
        get_cache_dir()


def test_fallback__nowhere_to_go_is_an_error(set_variable, monkeypatch, run_script):
    # `access` is asked by another uid than ours in real life; here no candidate is a directory.
    set_variable("HOME", "/nonexistent")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(CacheDirError, match="no temp directory"):
        get_cache_dir()


def test_chosen_location__is_never_replaced(tmp_path, set_variable):
    set_variable("LACUNA_CACHE_DIR", unusable(tmp_path))
    with pytest.raises(CacheDirError):
        get_cache_dir()
    configure_cache(unusable(tmp_path, "other"))
    with pytest.raises(CacheDirError):
        get_cache_dir()


def test_error__is_an_oserror_and_a_lacuna_error_and_keeps_errno(tmp_path):
    configure_cache(unusable(tmp_path))
    with pytest.raises(CacheDirError) as caught:
        get_cache_dir()
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, LacunaError)
    assert isinstance(caught.value, CacheError)
    assert caught.value.errno == errno.ENOTDIR
    assert caught.value.filename == str(tmp_path / "file" / "inside")


@pytest.mark.parametrize("getter", [get_tdi_cache_dir, get_transform_cache_dir, get_temp_base_dir])
def test_error__a_file_in_the_place_of_a_part_is_named(getter, tmp_path):
    configure_cache(tmp_path / "c")
    get_cache_dir()
    for name in ("tdi", "transforms", "tmp"):
        (tmp_path / "c" / name).write_text("")
    with pytest.raises(CacheDirError, match="is not a directory") as caught:
        getter()
    assert caught.value.errno == errno.EEXIST
    assert "configure_cache()" in str(caught.value)


def test_error__a_file_chosen_as_cache_is_named(tmp_path, set_variable):
    (tmp_path / "file").write_text("")
    set_variable("LACUNA_CACHE_DIR", tmp_path / "file")
    with pytest.raises(CacheDirError, match="not a directory"):
        get_cache_dir()


def test_error__says_which_directory_who_chose_it_why_and_what_to_set(tmp_path, set_variable):
    place = unusable(tmp_path)
    set_variable("LACUNA_CACHE_DIR", place)
    with pytest.raises(CacheDirError) as caught:
        get_cache_dir()
    assert str(caught.value) == (
        f"The cache directory {place} (LACUNA_CACHE_DIR) cannot be used: Not a directory. "
        "Set LACUNA_CACHE_DIR to a directory that you can write."
    )


def test_error__of_a_configured_directory_points_to_the_configuration(tmp_path):
    set_locations(cache_dir=Choice(unusable(tmp_path), "cache_dir in lab.yaml, line 3"))
    with pytest.raises(CacheDirError, match=r"cache_dir in lab\.yaml, line 3") as caught:
        get_cache_dir()
    assert "Change it there" in str(caught.value)


def test_error__of_scratch_in_a_read_only_cache_names_lacuna_tmp_dir(tmp_path, refused_permissions):
    (tmp_path / "c").mkdir(mode=0o500)
    configure_cache(tmp_path / "c")
    with pytest.raises(CacheDirError, match=r"[Ss]et LACUNA_TMP_DIR") as caught:
        get_temp_base_dir()
    assert caught.value.errno == errno.EACCES
    with pytest.raises(CacheDirError, match=r"[Ss]et LACUNA_TMP_DIR"):
        get_temp_dir()


def test_error__of_scratch_in_a_read_only_cache_says_where_such_a_cache_belongs(tmp_path):
    error = failure(
        *("tmp_dir", "/proc/self/tmp", "tmp in the cache directory, chosen by --cache-dir"),
        OSError(errno.EROFS, "Read-only file system"),
    )
    start = "The cache /proc/self (--cache-dir) cannot be written: Read-only file system; "
    assert str(error).startswith(start)
    assert "name it under shared_cache_dirs (LACUNA_SHARED_CACHE_DIRS)" in str(error)
    assert "or set LACUNA_TMP_DIR to a directory that you can write." in str(error)


def test_error__of_a_place_where_nothing_can_be_made_names_lacuna_tmp_dir():
    configure_cache("/proc/self")  # exists, and refuses root too
    with pytest.raises(CacheDirError, match=r"[Ss]et LACUNA_TMP_DIR"):
        get_temp_base_dir()
    assert get_cache_dir() == Path("/proc/self")


def test_read_only_directory__is_returned_to_readers(tmp_path, refused_permissions):
    (tmp_path / "c" / "tdi").mkdir(parents=True)
    (tmp_path / "c" / "tmp").mkdir()
    for name in ("c/tdi", "c/tmp", "c"):
        (tmp_path / name).chmod(0o500)
    configure_cache(tmp_path / "c")
    assert get_cache_dir() == tmp_path / "c"
    assert get_tdi_cache_dir() == tmp_path / "c" / "tdi"
    assert get_temp_base_dir() == tmp_path / "c" / "tmp"
    with pytest.raises(CacheDirError):
        get_transform_cache_dir()


@pytest.mark.parametrize("make", [get_temp_dir, make_temp_file])
def test_temp_names__an_unwritable_base_is_an_error(make, tmp_path, refused_permissions):
    (tmp_path / "t").mkdir(mode=0o500)
    configure_cache(tmp_dir=tmp_path / "t")
    with pytest.raises(CacheDirError, match="Permission denied") as caught:
        make()
    assert caught.value.errno == errno.EACCES
    assert list((tmp_path / "t").iterdir()) == []


def test_temp_names__a_base_that_takes_no_files_is_an_error():
    configure_cache(tmp_dir="/proc/self")
    for make in (get_temp_dir, make_temp_file):
        with pytest.raises(CacheDirError, match="temp directory /proc/self"):
            make()


@pytest.mark.parametrize("use", [get_cache_dir, get_temp_dir, make_temp_file])
def test_nul_in_a_path__is_an_error_that_says_so(use):
    configure_cache("/tmp/a\0b", "/tmp/a\0b")
    with pytest.raises(CacheDirError, match=r"null (byte|character)") as caught:
        use()
    assert caught.value.errno == errno.EINVAL


def test_foreign_export__is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.setenv(EXPORT, "/some/path")
    with pytest.raises(CacheDirError, match=EXPORT):
        get_cache_dir()


def test_lacuna_variables__are_never_rewritten(tmp_path, set_variable):
    set_variable("LACUNA_CACHE_DIR", "~/mine")
    set_variable("LACUNA_TMP_DIR", "$HOME/t")
    configure_cache(tmp_path / "c", tmp_path / "t")
    get_temp_dir()
    cache.run_with_locations(cache.capture_locations(), get_temp_dir)
    assert os.environ["LACUNA_CACHE_DIR"] == "~/mine"
    assert os.environ["LACUNA_TMP_DIR"] == "$HOME/t"


def test_configure_cache__without_arguments_removes_our_variable(tmp_path):
    before = dict(os.environ)
    configure_cache(tmp_path)
    assert {name for name in os.environ if name not in before} == {EXPORT}
    configure_cache()
    assert dict(os.environ) == before


def test_configure_cache__makes_nothing(tmp_path):
    configure_cache(tmp_path / "c", tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_set_locations__layers_do_not_touch_each_other(tmp_path):
    configure_cache(tmp_path / "a")
    set_locations(site_tmp_dir=Choice(tmp_path / "t", "/etc/lacuna/config.yaml"))
    assert get_cache_dir() == tmp_path / "a"
    set_locations(cache_dir=Choice(tmp_path / "b", "lab.yaml"))
    assert get_temp_base_dir() == tmp_path / "t"
    set_locations(site_tmp_dir=None)
    assert get_temp_base_dir() == tmp_path / "b" / "tmp"
    set_locations(cache_dir=None)
    assert EXPORT not in os.environ


def test_import__makes_nothing_and_brings_nothing_heavy(run_script, tmp_path):
    home = tmp_path / "untouched"
    lines = run_script(
        """
        import os, pathlib, sys
        before = set(sys.modules)
        import lacuna.utils.cache
        print(*sorted(set(sys.modules) - before))
        heavy = {"typing", "tempfile", "dataclasses", "logging", "importlib.metadata", "threading",
                 "json", "shutil", "random", "subprocess", "contextlib", "inspect", "numpy"}
        print(*sorted(heavy & (set(sys.modules) - before)))
        import lacuna.errors, lacuna.utils
        for name in ("owner", "filesystem"):
            before = set(sys.modules)
            __import__("lacuna.utils." + name)
            assert not (set(sys.modules) - before) & (heavy - {"contextlib"}), name
        """,
        HOME=str(home),
        XDG_CACHE_HOME=str(home / "cache"),
    )
    assert set(lines[0].split()) == {
        "__future__",
        "lacuna",
        "lacuna.errors",
        "lacuna.utils",
        "lacuna.utils.cache",
        "lacuna.utils.locations",
    }
    assert lines[1] == ""
    assert not home.exists()


def test_threads__getters_see_one_configuration_or_the_other(tmp_path):
    pairs = {(tmp_path / f"c{n}", tmp_path / f"c{n}" / "tmp") for n in range(2)}
    seen, stop, failures = set(), threading.Event(), []

    def look() -> None:
        try:
            while not stop.is_set():
                seen.add(get_temp_base_dir())
        except Exception as error:
            failures.append(error)

    configure_cache(tmp_path / "c0")
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(300):
        configure_cache(tmp_path / f"c{n % 2}")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen <= {temp for _, temp in pairs}


def test_threads__one_warning_and_one_anchor_for_a_relative_path(tmp_path, set_variable):
    set_variable("LACUNA_CACHE_DIR", "here")
    start = threading.Barrier(8)
    found = []

    def look() -> None:
        start.wait()
        found.append(get_cache_dir())

    threads = [threading.Thread(target=look) for _ in range(8)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(found) == {tmp_path / "here"}
    assert len(found) == 8
    assert len(caught) == 1


# describe


def test_describe__tells_each_location_and_who_chose_it(tmp_path, set_variable):
    set_variable("LACUNA_TMP_DIR", tmp_path / "t")
    set_locations(cache_dir=Choice(tmp_path / "c", "cache_dir in lab.yaml, line 3"))
    get_cache_dir()
    places = {place.name: place for place in describe()}
    assert list(places) == ["cache", "tdi", "transforms", "temp"]
    assert places["cache"].path == tmp_path / "c"
    assert places["cache"].source == "cache_dir in lab.yaml, line 3"
    assert places["temp"].path == tmp_path / "t"
    assert places["temp"].source == "LACUNA_TMP_DIR"
    assert (places["cache"].exists, places["temp"].exists) == (True, False)
    assert places["temp"].writable
    assert places["cache"].free_bytes > 0
    assert places["cache"].problem is None


def test_describe__makes_nothing_and_raises_nothing(tmp_path):
    set_locations(
        cache_dir=Choice("$NOT_SET/c", "cache_dir in lab.yaml, line 3"),
        tmp_dir=Choice([unusable(tmp_path), tmp_path / "t"], "tmp_dir in lab.yaml, line 4"),
    )
    places = {place.name: place for place in describe()}
    assert places["cache"].path is None
    assert "NOT_SET is not set" in places["cache"].problem
    assert places["cache"].source == "cache_dir in lab.yaml, line 3"
    assert places["temp"].path == tmp_path / "t"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_describe__says_the_default_is_the_default():
    assert described("cache").source == "the default"
    assert described("temp").source == "tmp in the cache directory, chosen by the default"


def test_describe__a_place_that_cannot_be_made_is_not_writable(tmp_path):
    configure_cache(unusable(tmp_path))
    assert not described("cache").exists
    assert not described("cache").writable


def test_module_docstring__draws_the_layout(tmp_path):
    configure_cache(tmp_path)
    for getter in GETTERS:
        getter()
    drawn = set(re.findall(r"(\w+)/", cache.__doc__.partition("::")[2].partition("Who decides")[0]))
    assert {path.name for path in tmp_path.iterdir()} <= drawn
