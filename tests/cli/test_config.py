"""``lacuna config``: show, init, validate."""

import json

import pytest
import yaml

from lacuna.cli.main import main
from lacuna.config import KEYS, user_config_file


def show(capsys, *options):
    assert main(["config", "show", *options]) == 0
    return capsys.readouterr().out


def show_json(capsys, *options):
    return json.loads(show(capsys, "--json", *options))["settings"]


def test_show__prints_every_setting_with_value_and_source(tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text("\ncache_dir: kept\n\nmin_free: 2 GiB\nspace: MNIColin27")
    lines = {line.split()[0]: line for line in show(capsys).splitlines() if line}
    assert set(KEYS) <= set(lines)
    assert lines["cache_dir"].split(maxsplit=2)[1:] == [
        f"{tmp_path}/kept",
        "cache_dir in lacuna.yaml, line 2",
    ]
    assert lines["min_free"].split(maxsplit=2)[1:2] == ["2,147,483,648"]
    assert lines["min_free"].endswith("  min_free in lacuna.yaml, line 4")
    assert lines["offline"].split() == ["offline", "false", "default"]
    assert f"configuration file: {tmp_path}/lacuna.yaml" in lines["configuration"]


def test_show__json_has_every_setting_with_value_and_source(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LACUNA_TMP_DIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("LACUNA_NUM_THREADS", "2")
    shown = show_json(capsys, "--cache-dir", "kept")
    assert set(shown) == set(KEYS)
    assert shown["cache_dir"] == {"value": f"{tmp_path}/kept", "source": "--cache-dir"}
    assert shown["tmp_dir"] == {"value": f"{tmp_path}/scratch", "source": "LACUNA_TMP_DIR"}
    assert shown["num_threads"] == {"value": 2, "source": "LACUNA_NUM_THREADS"}
    assert shown["space"] == {"value": None, "source": "default"}


def test_show__names_files_that_were_not_read(tmp_path, capsys):
    user_config_file().parent.mkdir(parents=True)
    user_config_file().write_text("")
    (tmp_path / "lacuna.yaml").write_text("")
    assert "lacuna.yaml comes before it" in show(capsys)


def test_show__says_why_a_directory_cannot_be_told(tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text("cache_dir: $ABSENT/kept\n")
    shown = show_json(capsys)["cache_dir"]
    assert "ABSENT" in shown["value"]
    assert shown["source"] == "cache_dir in lacuna.yaml, line 1"


def test_show__creates_nothing(tmp_path, capsys):
    show(capsys, "--cache-dir", "kept", "--tmp-dir", "scratch")
    assert list(tmp_path.iterdir()) == []


def test_init__writes_a_commented_file_where_all_runs_find_it(capsys):
    assert main(["config", "init"]) == 0
    assert capsys.readouterr().out == f"{user_config_file()}\n"
    text = user_config_file().read_text()
    assert all(line.startswith("#") for line in text.splitlines() if line)
    assert all(f"# {key}: " in text for key in KEYS)
    assert main(["config", "validate", str(user_config_file())]) == 0


def test_init__every_example_is_valid_without_its_comment_sign(tmp_path):
    main(["config", "init", "lab.yaml"])
    lines = (tmp_path / "lab.yaml").read_text().splitlines()
    examples = [line[2:] for line in lines if line[2:].partition(":")[0] in KEYS]
    (tmp_path / "lab.yaml").write_text("\n".join(examples))
    assert set(yaml.safe_load("\n".join(examples))) == set(KEYS)
    assert main(["config", "validate", "lab.yaml"]) == 0


def test_init__never_overwrites_unless_forced(tmp_path, capsys):
    (tmp_path / "lab.yaml").write_text("offline: true\n")
    assert main(["config", "init", "lab.yaml"]) == 1
    assert "lab.yaml exists already; --force overwrites it" in capsys.readouterr().err
    assert (tmp_path / "lab.yaml").read_text() == "offline: true\n"
    assert main(["config", "init", "lab.yaml", "--force"]) == 0
    assert "offline: true\n" in (tmp_path / "lab.yaml").read_text()


def test_init__works_with_a_broken_configuration(tmp_path):
    (tmp_path / "lacuna.yaml").write_text("broken: true\n")
    assert main(["config", "init", "lab.yaml"]) == 0


def test_validate__says_what_a_valid_file_sets(tmp_path, capsys):
    (tmp_path / "lab.yaml").write_text("offline: true\nspace: MNIColin27\n")
    assert main(["config", "validate", "lab.yaml"]) == 0
    assert capsys.readouterr().out == "lab.yaml: valid, sets offline, space\n"


def test_validate__json(tmp_path, capsys):
    (tmp_path / "lab.yaml").write_text("offline: true\n")
    assert main(["config", "validate", "lab.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": "lab.yaml",
        "valid": True,
        "settings": {"offline": True},
    }


@pytest.mark.parametrize("text", ["offlin: true\n", "offline: 3\n", "offline: [\n"])
def test_validate__invalid_file_is_exit_code_1_with_file_and_line(tmp_path, capsys, text):
    (tmp_path / "lab.yaml").write_text(text)
    assert main(["config", "validate", "lab.yaml"]) == 1
    assert "lab.yaml, line " in capsys.readouterr().err


def test_validate__absent_file_is_exit_code_1(capsys):
    assert main(["config", "validate", "absent.yaml"]) == 1
    assert "absent.yaml cannot be read: No such file" in capsys.readouterr().err
