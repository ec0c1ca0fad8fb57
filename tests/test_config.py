"""The configuration file and the settings: every rule of precedence, every message."""

import logging
import os
import pickle
import sys
from pathlib import Path

import pytest

from lacuna import config
from lacuna.config import (
    KEYS,
    apply_settings,
    find_config_file,
    load_config,
    load_settings,
    read_config_file,
)
from lacuna.errors import ConfigError
from lacuna.utils import cache


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a configuration file into tmp_path."""

    def write(text, name="lab.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def user_file():
    return Path(os.environ["XDG_CONFIG_HOME"]) / "lacuna" / "config.yaml"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def said_in(path):
    """Return the values in a configuration file, by key."""
    return {key: stated.value for key, stated in read_config_file(path).items()}


def test_descriptions__every_key_has_one_and_nothing_else_does():
    assert list(config.descriptions()["keys"]) == list(KEYS)


# Discovery


def test_find_config_file__none_exists_and_that_is_fine():
    assert find_config_file() == (None, ())


def test_find_config_file__option_beats_variable(write, monkeypatch):
    monkeypatch.setenv("LACUNA_CONFIG", str(write("", "variable.yaml")))
    assert find_config_file(write("", "option.yaml"))[0].name == "option.yaml"


def test_find_config_file__variable_beats_working_directory(write, monkeypatch):
    write("", "lacuna.yaml")
    monkeypatch.setenv("LACUNA_CONFIG", str(write("", "variable.yaml")))
    assert find_config_file()[0].name == "variable.yaml"


def test_find_config_file__working_directory_beats_the_users_own(write):
    put(user_file(), "")
    path = write("", "lacuna.yaml")
    assert find_config_file()[0] == path


def test_find_config_file__the_users_own_is_the_last():
    assert find_config_file()[0] is None
    put(user_file(), "")
    assert find_config_file()[0] == user_file()


def test_find_config_file__empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("LACUNA_CONFIG", "")
    assert find_config_file()[0] is None


def test_find_config_file__variable_is_expanded(write, monkeypatch):
    path = write("")
    monkeypatch.setenv("LAB", str(path.parent))
    monkeypatch.setenv("LACUNA_CONFIG", "$LAB/lab.yaml")
    assert find_config_file()[0] == path


@pytest.mark.parametrize("chosen_by", ["--config", "LACUNA_CONFIG"])
def test_find_config_file__named_file_that_does_not_exist_is_an_error(monkeypatch, chosen_by):
    option = "absent.yaml" if chosen_by == "--config" else None
    monkeypatch.setenv("LACUNA_CONFIG", "absent.yaml")
    with pytest.raises(ConfigError, match=rf"absent\.yaml, chosen by {chosen_by}, does not exist"):
        find_config_file(option)


def test_find_config_file__directory_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="is a directory"):
        find_config_file(tmp_path)


def test_find_config_file__files_found_but_not_read_are_told(write):
    put(user_file(), "")
    write("", "lacuna.yaml")
    unread = find_config_file()[1]
    assert len(unread) == 1
    assert "lacuna/config.yaml: lacuna.yaml comes before it" in unread[0]


@pytest.fixture
def owned_by(monkeypatch):
    """Return a function that makes all files look as if they belonged to a user."""
    real_stat = Path.stat

    def pretend(uid):
        def stat(self, **kwargs):
            facts = list(real_stat(self, **kwargs))
            facts[4] = uid
            return os.stat_result(facts)

        monkeypatch.setattr(Path, "stat", stat)
        monkeypatch.setattr(os, "getuid", lambda: 4711)

    return pretend


def test_find_config_file__file_of_a_foreign_owner_in_the_working_directory_is_ignored(
    write, owned_by, caplog
):
    write("", "lacuna.yaml")
    put(user_file(), "")
    owned_by(4712)
    with caplog.at_level(logging.WARNING):
        found, unread = find_config_file()
    assert found == user_file()
    assert "lacuna.yaml: it belongs to another user" in unread[0]
    assert "lacuna.yaml: it belongs to another user" in caplog.text


@pytest.mark.parametrize("uid", [0, 4711])
def test_find_config_file__file_of_root_or_oneself_in_the_working_directory_is_read(
    write, owned_by, uid
):
    path = write("", "lacuna.yaml")
    owned_by(uid)
    assert find_config_file()[0] == path


def test_find_config_file__foreign_file_may_be_named(write, owned_by):
    path = write("", "lacuna.yaml")
    owned_by(4712)
    assert find_config_file("lacuna.yaml") == (path, ())


def test_user_config_file__relative_xdg_config_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config.user_config_file() == tmp_path / ".config" / "lacuna" / "config.yaml"


def test_user_config_file__windows_uses_appdata(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path))
    assert config.user_config_file() == tmp_path / "lacuna" / "config.yaml"


def test_user_config_file__unreadable_directory_counts_as_none(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert find_config_file()[0] is None


# The site's file


def test_site_candidates__xdg_config_dirs_come_before_etc(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_DIRS", "/opt/a:relative:/opt/b")
    assert [str(path) for path in config.site_candidates()] == [
        "/opt/a/lacuna/config.yaml",
        "/opt/b/lacuna/config.yaml",
        "/etc/lacuna/config.yaml",
    ]


def test_site_candidates__default_is_etc_xdg_and_etc(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_DIRS", raising=False)
    assert [str(path) for path in config.site_candidates()] == [
        "/etc/xdg/lacuna/config.yaml",
        "/etc/lacuna/config.yaml",
    ]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a function that writes the site's file."""
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "site"))
    return lambda text: put(tmp_path / "site" / "lacuna" / "config.yaml", text)


def test_site_file__beats_the_platform_default(site, tmp_path):
    site(f"cache_dir: {tmp_path}/of-site\nnum_threads: 3\n")
    settings = load_config()
    assert cache.get_cache_dir() == tmp_path / "of-site"
    assert settings.num_threads == 3
    assert "site/lacuna/config.yaml, line 2" in settings.sources["num_threads"]


def test_site_file__environment_beats_it(site, tmp_path, monkeypatch):
    site(f"cache_dir: {tmp_path}/of-site\ntmp_dir: {tmp_path}/tmp-of-site\nnum_threads: 3\n")
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "of-user"))
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "tmp-of-user"))
    monkeypatch.setenv("LACUNA_NUM_THREADS", "2")
    settings = load_config()
    assert cache.get_cache_dir() == tmp_path / "of-user"
    assert cache.get_temp_base_dir() == tmp_path / "tmp-of-user"
    assert settings.num_threads == 2
    assert settings.sources["num_threads"] == "LACUNA_NUM_THREADS"


def test_site_file__is_merged_below_the_configuration_file(site, write, tmp_path):
    site(f"cache_dir: {tmp_path}/of-site\ntmp_dir: {tmp_path}/tmp-of-site\nspace: IXI549Space\n")
    load_config(write(f"cache_dir: {tmp_path}/of-user\n"))
    assert cache.get_cache_dir() == tmp_path / "of-user"
    assert cache.get_temp_base_dir() == tmp_path / "tmp-of-site"
    assert load_settings().space == "IXI549Space"


def test_site_file__variable_that_is_set_later_beats_it(site, tmp_path, monkeypatch):
    site(f"cache_dir: {tmp_path}/of-site\n")
    load_config()
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "of-user"))
    assert cache.get_cache_dir() == tmp_path / "of-user"


def test_load_settings__works_where_the_working_directory_is_gone(site, tmp_path, monkeypatch):
    site("space: IXI549Space\n")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    settings = load_settings()
    assert settings.sources["space"] == f"space in {tmp_path}/site/lacuna/config.yaml, line 1"


# Precedence of what the file says


def test_load_config__file_beats_environment(write, tmp_path, monkeypatch):
    monkeypatch.setenv("LACUNA_CACHE_DIR", str(tmp_path / "environment"))
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "environment-tmp"))
    monkeypatch.setenv("LACUNA_NUM_THREADS", "7")
    path = write(f"cache_dir: {tmp_path}/file\ntmp_dir: {tmp_path}/file-tmp\nnum_threads: 3\n")
    assert load_config(path).num_threads == 3
    assert cache.get_cache_dir() == tmp_path / "file"
    assert cache.get_temp_base_dir() == tmp_path / "file-tmp"


def test_load_settings__options_beat_the_file(write, tmp_path):
    path = write("cache_dir: /file\ntmp_dir: /file-tmp\nnum_threads: 3\n")
    settings = load_settings(path, cache_dir="/option", tmp_dir="/option-tmp", num_threads=2)
    assert (settings.cache_dir, settings.tmp_dir) == ("/option", "/option-tmp")
    assert settings.num_threads == 2
    assert [settings.sources[key] for key in ("cache_dir", "tmp_dir", "num_threads")] == [
        "--cache-dir",
        "--tmp-dir",
        "--threads",
    ]


def test_load_settings__only_the_first_file_found_is_read(write):
    put(user_file(), "space: IXI549Space\n")
    assert load_settings(write("offline: true\n")).space is None


def test_load_settings__has_no_effect(write, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    path = write(f"cache_dir: {tmp_path}/absent\n")
    load_settings(path)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])
    assert cache.get_cache_dir() != tmp_path / "absent"


def test_load_config__neither_key_leaves_what_was_configured(write, tmp_path):
    cache.configure_cache(cache_dir=tmp_path / "inherited")
    load_config(write("offline: true\n"))
    assert cache.get_cache_dir() == tmp_path / "inherited"


def test_load_config__one_key_leaves_the_other_as_it_was(write, tmp_path):
    cache.configure_cache(cache_dir=tmp_path / "inherited")
    load_config(write(f"tmp_dir: {tmp_path}/scratch\n"))
    assert cache.get_cache_dir() == tmp_path / "inherited"
    assert cache.get_temp_base_dir() == tmp_path / "scratch"


def test_load_config__tmp_dir_may_be_a_list_and_the_first_usable_is_taken(write, tmp_path):
    (tmp_path / "file").write_text("")
    load_config(write(f"tmp_dir: [{tmp_path}/file/below, {tmp_path}/second]\n"))
    assert cache.get_temp_base_dir() == tmp_path / "second"


def test_load_config__keep_tmp_of_the_file_is_obeyed(write):
    load_config(write("keep_tmp: true\n"))
    with cache.temp_dir() as directory:
        pass
    assert directory.exists()


def test_load_config__keep_tmp_of_the_file_beats_the_variable(write, monkeypatch):
    monkeypatch.setenv("LACUNA_KEEP_TMP", "1")
    load_config(write("keep_tmp: false\n"))
    with cache.temp_dir() as directory:
        pass
    assert not directory.exists()


# Paths


def test_paths__relative_ones_are_relative_to_the_file(write, tmp_path, monkeypatch):
    monkeypatch.setenv("PART", "below")
    path = write("shared_cache_dirs: [c, /d, $PART/e]\ntractogram: t.trk\n", "deep/lab.yaml")
    settings = load_settings(path)
    deep = tmp_path / "deep"
    assert settings.paths("shared_cache_dirs") == (deep / "c", Path("/d"), deep / "below" / "e")
    assert settings.paths("tractogram") == (deep / "t.trk",)


def test_load_config__relative_tmp_dir_is_relative_to_the_file(write, tmp_path):
    load_config(write("tmp_dir: [$ABSENT/no, scratch]\n", "deep/lab.yaml"))
    assert cache.get_temp_base_dir() == tmp_path / "deep" / "scratch"


def test_load_config__relative_cache_dir_is_used_beside_the_file(write, tmp_path):
    load_config(write("cache_dir: cache\n", "a $5 lab/lab.yaml"))
    assert cache.get_cache_dir() == tmp_path / "a $5 lab" / "cache"


@pytest.mark.parametrize("text", ["~/lacuna", "$SCRATCH/lacuna", "${SCRATCH:-/s}/lacuna"])
def test_read_config_file__paths_are_expanded_when_used_not_when_read(write, text):
    assert said_in(write(f"cache_dir: {text}\n"))["cache_dir"] == text


def test_read_config_file__doubled_dollar_is_a_name_not_a_variable(write, tmp_path):
    load_config(write("cache_dir: $$name\n"))
    assert cache.get_cache_dir() == tmp_path / "$name"


def test_load_settings__relative_option_is_relative_to_the_working_directory(tmp_path):
    apply_settings(load_settings(cache_dir="here"))
    assert cache.get_cache_dir() == tmp_path / "here"


def test_paths__unset_variable_names_itself_and_the_source(write):
    settings = load_settings(write("\ntractogram: $ABSENT/t.trk\n"))
    with pytest.raises(Exception, match=r"ABSENT") as caught:
        settings.paths("tractogram")
    assert "tractogram in lab.yaml, line 2" in str(caught.value)


def test_paths__are_expanded(monkeypatch):
    monkeypatch.setenv("LAB", "/lab")
    monkeypatch.setenv("LACUNA_SHARED_CACHE_DIRS", "$LAB/a::${ABSENT:-/b}:/c")
    assert load_settings().paths("shared_cache_dirs") == (Path("/lab/a"), Path("/b"), Path("/c"))


# Sources


def test_load_settings__each_value_knows_its_source(write, monkeypatch):
    monkeypatch.setenv("LACUNA_OFFLINE", "1")
    settings = load_settings(write("# a comment\n\ncache_dir: /c\nspace: MNIColin27\n"))
    assert settings.sources["cache_dir"] == "cache_dir in lab.yaml, line 3"
    assert settings.sources["space"] == "space in lab.yaml, line 4"
    assert settings.sources["offline"] == "LACUNA_OFFLINE"
    assert settings.sources["keep_tmp"] == "default"
    assert set(KEYS) <= set(settings.sources)


def test_sources__error_of_the_cache_directory_names_file_and_line(write, tmp_path):
    (tmp_path / "file").write_text("")
    load_config(write(f"cache_dir: {tmp_path}/file/below\n"))
    with pytest.raises(OSError, match=r"cache_dir in lab\.yaml, line 1"):
        cache.get_cache_dir()


def test_budgets__are_in_bytes_and_seconds(write):
    settings = load_settings(write("max_size: 5 GiB\nmax_age: 90d\nmin_free: 1 MB\n"))
    assert (settings.max_size, settings.max_age, settings.min_free) == (5 << 30, 90 * 86_400, 10**6)
    assert load_settings(write("max_age: 60\n")).max_age == 60


def test_budgets__only_free_space_has_one_unless_stated():
    settings = load_settings()
    assert (settings.max_size, settings.max_age, settings.min_free) == (None, None, 5 << 30)
    assert settings.sources["min_free"] == "default"


def test_settings__survive_pickling(write):
    settings = load_settings(write("cache_dir: /c\ntmp_dir: [a, b]\nmin_free: 1 MB\n"))
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_settings__are_frozen():
    with pytest.raises(AttributeError):
        load_settings().offline = True


# Messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ncach_dir: /c\n", r"lab\.yaml, line 2: unknown key cach_dir; did you mean cache_dir\?"),
        ("Tmp-Dir: /c\n", r"line 1: unknown key Tmp-Dir; did you mean tmp_dir\?"),
        ("zzz: 1\n", r"unknown key zzz; known are cache_dir, tmp_dir, .*tractogram_space"),
        ("3: 1\n", r"line 1: unknown key 3; known are"),
        ("cache_dir: 3\n", r"line 1: cache_dir must be a path, not 3; for example `cache_dir: "),
        ("cache_dir: [a]\n", r"line 1: cache_dir must be a path, not \['a'\]"),
        (
            "tmp_dir:\n- a\n- b: c\n",
            r"line 1: tmp_dir must be a path or a list of paths, not \['a'",
        ),
        ("tmp_dir: ['']\n", r"line 1: tmp_dir must be a path or a list of paths, not \[''\]"),
        ("shared_cache_dirs: /a\n", r"shared_cache_dirs must be a list of paths, not '/a'"),
        ("offline: sometimes\n", r"offline must be true or false, not 'sometimes'"),
        ("num_threads: 0\n", r"num_threads must be a whole number, 1 or more, not 0"),
        ("num_threads: 1.5\n", r"num_threads must be a whole number, 1 or more, not 1\.5"),
        ("num_threads: true\n", r"num_threads must be a whole number, 1 or more, not True"),
        ("min_free: some\n", r"min_free must be a size, such as 5 GiB, or a number of bytes"),
        ("min_free: -1\n", r"min_free must be a size"),
        ("max_size: 5 elephants\n", r"max_size must be a size, such as 5 GiB"),
        ("max_age: 3 years\n", r"max_age must be a duration, such as 90d or 12h.*`max_age: 90d`"),
        ("max_age: -1\n", r"max_age must be a duration"),
        ("space: 2009-01-01\n", r"space must be the name of a space"),
        ("a: b: c\n", r"lab\.yaml, line 1: this is not YAML: mapping values are not allowed"),
        ("offline: true\nspace: [\n", r"lab\.yaml, line 3: this is not YAML"),
        ("- cache_dir\n", r"lab\.yaml, line 1: expected lines of the form `key: value`"),
        ("just words\n", r"expected lines of the form"),
        ("offline: true\n\noffline: false\n", r"line 3: offline stands already in line 1"),
        ("cache_dir: !!python/object:os.system x\n", r"line 1: this is not YAML: could not determ"),
        ("cache_dir: \x00\n", r"this is not YAML"),
    ],
)
def test_read_config_file__what_is_wrong_is_told_with_file_and_line(write, text, message):
    with pytest.raises(ConfigError, match=message):
        read_config_file(write(text))


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "cache_dir:\ntmp_dir: ''\n"])
def test_read_config_file__empty_values_say_nothing(write, text):
    assert said_in(write(text)) == {}


def test_read_config_file__not_utf8_is_an_error(tmp_path):
    (tmp_path / "lab.yaml").write_bytes(b"space: \xff\n")
    with pytest.raises(ConfigError, match=r"lab\.yaml: this is not YAML: invalid start byte"):
        read_config_file(tmp_path / "lab.yaml")


def test_read_config_file__byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "lab.yaml").write_bytes(b"\xef\xbb\xbfoffline: true\n")
    assert said_in(tmp_path / "lab.yaml") == {"offline": True}


def test_read_config_file__unreadable_file_is_an_error(write, monkeypatch):
    path = write("")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"lab\.yaml cannot be read: Permission denied"):
        read_config_file(path)


# Environment and defaults


@pytest.mark.parametrize("name", ["LACUNA_OFFLINE", "LACUNA_NUM_THREADS", "LACUNA_KEEP_TMP"])
def test_environment__nonsense_is_an_error_that_names_the_variable(monkeypatch, name):
    monkeypatch.setenv(name, "perhaps")
    with pytest.raises(ConfigError, match=rf"{name} is 'perhaps', but must be"):
        load_settings()


@pytest.mark.parametrize("name", ["LACUNA_OFFLINE", "LACUNA_NUM_THREADS", "LACUNA_KEEP_TMP"])
def test_environment__empty_counts_as_unset(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert load_settings().sources[name.removeprefix("LACUNA_").lower()] != name


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("0", False)])
def test_environment__flags(monkeypatch, text, value):
    monkeypatch.setenv("LACUNA_OFFLINE", text)
    assert load_settings().offline is value


def test_num_threads__scheduler_ranks_below_all_that_was_said(site, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert load_settings().num_threads == 5
    assert load_settings().sources["num_threads"] == "SLURM_CPUS_PER_TASK"
    site("num_threads: 3\n")
    assert load_settings().num_threads == 3
    monkeypatch.setenv("LACUNA_NUM_THREADS", "2")
    assert load_settings().num_threads == 2


def test_available_cpus__is_at_most_the_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0}, raising=False)
    assert config.available_cpus() == 1


def test_cgroup_quotas__every_level_counts_rounded_up(tmp_path):
    (tmp_path / "own").write_text("0::/slurm/job\n")
    put(tmp_path / "cgroup" / "slurm" / "job" / "cpu.max", "max 100000\n")
    put(tmp_path / "cgroup" / "slurm" / "cpu.max", "150000 100000\n")
    quotas = config._cgroup_quotas(tmp_path / "cgroup", tmp_path / "own")
    assert quotas == [2]


def test_cgroup_quotas__none_without_control_groups(tmp_path):
    assert config._cgroup_quotas(tmp_path, tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("5 GiB", 5 << 30), ("1.5k", 1536), ("10MB", 10**7), ("1 g", 1 << 30), (7, 7)],
)
def test_parse_size__units_are_powers_of_1024_except_decimal_ones(text, n_bytes):
    assert config.parse_size(text) == n_bytes


def test_parse_size__nonsense_is_an_error():
    with pytest.raises(ValueError, match="'five' is not a size"):
        config.parse_size("five")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90min", 5400), ("12 h", 43_200), ("1.5d", 129_600), (7, 7)]
)
def test_parse_duration__needs_a_unit_unless_it_is_a_number(text, seconds):
    assert config.parse_duration(text) == seconds


def test_parse_duration__nonsense_is_an_error():
    with pytest.raises(ValueError, match="'5' is not a duration"):
        config.parse_duration("5")
