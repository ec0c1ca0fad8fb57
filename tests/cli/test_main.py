"""The shell around every command: exit codes, messages, settings, scratch, signals."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lacuna.cli.main import COMMANDS, build_parser, main

SHELL = "import sys; from lacuna.cli.main import main; sys.exit(main(commands=('probe',)))"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Return a function that makes ``lacuna probe`` do what is asked, and the names it has then."""
    place = tmp_path / "commands"
    place.mkdir()
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", str(place))

    def make(body, *, needs="scratch"):
        (place / "probe.py").write_text(
            textwrap.dedent(
                f"""
                from lacuna.cli.options import add_threads, common_options

                def add_parser(subparsers):
                    parser = subparsers.add_parser("probe", parents=[common_options()])
                    add_threads(parser)
                    parser.set_defaults(needs={needs!r})

                def run(args):
                """
            )
            + textwrap.indent(textwrap.dedent(body), "    ")
        )
        sys.modules.pop("probe", None)
        return lambda *argv: main(["probe", *argv], commands=("probe",))

    yield make
    sys.modules.pop("probe", None)


def run_shell(*argv, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", SHELL, "probe", *argv], capture_output=True, text=True, **kwargs
    )


# The commands


@pytest.mark.parametrize("name", COMMANDS)
def test_command__is_in_the_table_and_in_the_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name.rpartition(".")[2], "--help"])
    assert caught.value.code == 0
    assert "usage: lacuna" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["cache", "--help"]])
def test_help__imports_nothing_heavy(argv):
    heavy = "numpy numba nibabel matplotlib yaml msgspec rich xxhash lacuna.store lacuna.config"
    code = (
        "import sys\nfrom lacuna.cli.main import main\n"
        f"try: main({argv!r})\nexcept SystemExit: pass\n"
        f"print(*(set({heavy.split()!r}) & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""
    assert result.stdout


def test_version__is_printed_to_stdout(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"lacuna \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["cache"], ["cache", "list", "--nonsense"]])
def test_main__wrong_command_line_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err


def test_installed_command__runs():
    program = Path(sys.executable).with_name("lacuna")
    result = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("lacuna ")


def test_build_parser__every_command_takes_the_common_options():
    parser = build_parser()
    for argv in (["cache", "list"], ["config", "show"]):
        args = parser.parse_args([*argv, "--config", "F", "--cache-dir", "C", "--tmp-dir", "T"])
        assert (args.config, args.cache_dir, args.tmp_dir) == ("F", "C", "T")


# Exit codes and messages


def test_main__returns_what_the_command_returns(command):
    assert command("return 7")() == 7


def test_main__error_is_one_message_without_traceback(command, capsys):
    run = command("from lacuna.errors import LesionError\nraise LesionError('it is empty')")
    assert run() == 1
    assert capsys.readouterr() == ("", "lacuna: error: it is empty\n")


def test_main__wrong_option_is_exit_code_2(command):
    assert command("from lacuna.errors import OptionError\nraise OptionError('no')")() == 2


def test_main__debug_shows_the_traceback(command, capsys):
    run = command("from lacuna.errors import LesionError\nraise LesionError('it is empty')")
    assert run("--debug") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("lacuna: error: it is empty\n")


def test_main__unexpected_error_is_one_message_that_says_how_to_see_more(command, capsys):
    assert command("return {}['key']")() == 1
    error = capsys.readouterr().err
    assert error == (
        "lacuna: error: unexpected KeyError: 'key'; run it again with --debug to see where\n"
    )


def test_main__error_of_the_system_is_told(command, capsys):
    assert command("open('absent')")() == 1
    assert "No such file or directory: 'absent'" in capsys.readouterr().err


def test_main__interrupt_is_exit_code_130(command, capsys):
    assert command("raise KeyboardInterrupt")() == 130
    assert capsys.readouterr().err == "lacuna: interrupted\n"


def test_main__broken_configuration_is_an_error_with_file_and_line(command, tmp_path, capsys):
    (tmp_path / "lacuna.yaml").write_text("cach_dir: x\n")
    assert command("return 0")() == 1
    assert capsys.readouterr().err == (
        "lacuna: error: lacuna.yaml, line 1: unknown key cach_dir; did you mean cache_dir?\n"
    )


def test_main__reader_that_goes_away_is_no_error(command):
    command("print('data\\n' * 100_000)\nreturn 0", needs="nothing")
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, "probe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    shell.stdout.readline()
    shell.stdout.close()
    assert shell.stderr.read() == b""
    shell.stderr.close()
    assert shell.wait() == 141


LOUD = """
import logging, warnings
logger = logging.getLogger("lacuna.test")
logger.debug("detail"); logger.info("step"); logger.warning("doubt"); logger.error("loss")
warnings.warn("a runtime warning", RuntimeWarning)
print("data")
return 0
"""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"doubt", "loss", "runtime"}),
        (["--quiet"], {"loss"}),
        (["-v"], {"step", "doubt", "loss", "runtime"}),
        (["-vv"], {"detail", "step", "doubt", "loss", "runtime"}),
    ],
)
def test_messages__as_many_as_asked_for_and_only_on_stderr(command, capsys, options, expected):
    assert command(LOUD)(*options) == 0
    out, error = capsys.readouterr()
    assert out == "data\n"
    assert set(re.findall("detail|step|doubt|loss|runtime", error)) == expected
    assert all(line.startswith("lacuna: ") for line in error.splitlines())


def test_messages__carry_no_colour_when_not_asked_for(command):
    command(LOUD)
    assert "\x1b" not in run_shell(env={**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}).stderr


# Settings


def test_main__command_finds_its_settings_applied(command, tmp_path, capsys):
    (tmp_path / "lab.yaml").write_text("cache_dir: kept\ntmp_dir: scratch\nnum_threads: 3\n")
    run = command(
        """
        from lacuna.utils.cache import get_cache_dir, get_temp_base_dir
        print(get_cache_dir(), get_temp_base_dir(), args.settings.num_threads)
        return 0
        """
    )
    run("--config", "lab.yaml")
    assert capsys.readouterr().out == f"{tmp_path}/kept {tmp_path}/scratch 3\n"
    run("--config", "lab.yaml", "--cache-dir", "other", "--tmp-dir", "else", "--threads", "2")
    assert capsys.readouterr().out == f"{tmp_path}/other {tmp_path}/else 2\n"


def test_main__without_configuration_what_a_parent_process_configured_holds(command, tmp_path):
    from lacuna.utils.cache import configure_cache

    command("from lacuna.utils.cache import get_cache_dir\nprint(get_cache_dir())\nreturn 0")
    configure_cache(cache_dir=tmp_path / "of-parent")
    assert run_shell().stdout == f"{tmp_path}/of-parent\n"


def test_main__a_command_that_needs_nothing_runs_with_a_broken_configuration(command, tmp_path):
    (tmp_path / "lacuna.yaml").write_text("broken: true\n")
    assert command("return 0", needs="nothing")() == 0


# Scratch

SCRATCH = """
import os, tempfile
names = ("TMPDIR", "TRX_TMPDIR", "MRTRIX_TMPFILE_DIR", "JOBLIB_TEMP_FOLDER", "MPLCONFIGDIR")
print(tempfile.mkdtemp(), *(os.environ[name] for name in names), sep="\\n")
"""


def test_scratch__of_every_library_goes_into_the_scratch_directory(command, tmp_path, capsys):
    run = command(SCRATCH + "return 0\n")
    assert run("--tmp-dir", "scratch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(Path(line).is_relative_to(tmp_path / "scratch") for line in lines)


@pytest.mark.parametrize("end", ["return 0", "raise ValueError", "raise KeyboardInterrupt"])
def test_scratch__is_gone_when_the_run_ends(command, tmp_path, end):
    command(SCRATCH + end)("--tmp-dir", "scratch")
    assert [path for path in (tmp_path / "scratch").iterdir() if path.name[0] != "."] == []


def test_scratch__the_environment_is_as_before_when_main_returns(command, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/mine")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    command(SCRATCH + "return 0")()
    assert os.environ["TMPDIR"] == "/mine"
    assert "MPLCONFIGDIR" not in os.environ


def test_scratch__is_not_made_for_a_command_that_needs_only_settings(command, tmp_path):
    assert command("return 0", needs="settings")("--tmp-dir", "scratch") == 0
    assert not (tmp_path / "scratch").exists()


# Signals


def start_and_wait_for_scratch(tmp_path):
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, "probe", "--tmp-dir", "scratch"], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 30
    while not list((tmp_path / "scratch").glob("*/ready")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return shell


WAIT = """
import os, time
open(os.path.join(os.environ["TMPDIR"], "ready"), "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal__removes_scratch_and_says_so_in_the_exit_code(command, tmp_path, number, code):
    command(WAIT)
    shell = start_and_wait_for_scratch(tmp_path)
    shell.send_signal(number)
    _, error = shell.communicate(timeout=30)
    assert shell.returncode == code
    assert b"Traceback" not in error
    assert [path for path in (tmp_path / "scratch").iterdir() if path.name[0] != "."] == []


def test_signal__second_sigterm_does_not_interrupt_the_cleaning_up(command, tmp_path):
    command(
        """
        import os, signal
        open(os.path.join(os.environ["TMPDIR"], "ready"), "w").close()
        try:
            signal.pause()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            open("cleaned", "w").close()
        """
    )
    shell = start_and_wait_for_scratch(tmp_path)
    shell.terminate()
    shell.communicate(timeout=30)
    assert shell.returncode == 143
    assert (tmp_path / "cleaned").exists()


def test_signal__handler_is_put_back(command):
    before = signal.getsignal(signal.SIGTERM)
    command("return 0")()
    assert signal.getsignal(signal.SIGTERM) is before
