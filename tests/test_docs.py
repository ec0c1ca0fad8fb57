"""The documentation is true: its code runs and prints what it shows, its links lead somewhere."""

import ast
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lacuna.cli.main import build_parser
from lacuna.config import read_config_file

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- not run:(?P<reason>[^\n]*?)-->\n+)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN = {"python", "console", "bash", "sh"}
SHOWN = {"text", "yaml", "toml", "json", "tsv", "bibtex"}
LINK = re.compile(r"(?<!`)!?\[[^\]\n]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, and why it does not run, if so."""

    language: str
    text: str
    line: int
    not_run: str | None


def blocks_of(page: str) -> list[Block]:
    return [
        Block(
            found["language"].strip(),
            found["text"],
            page.count("\n", 0, found.start("language")) + 1,
            found["reason"],
        )
        for found in FENCE.finditer(page)
    ]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Return the commands of a console block, each with the lines of output shown below it."""
    commands: list[tuple[str, list[str]]] = []
    continues = False
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        elif continues:
            command, output = commands[-1]
            commands[-1] = (f"{command}\n{line}", output)
        else:
            commands[-1][1].append(line)
            continue
        continues = line.endswith("\\")
    return commands


def shape_of(line: str) -> str:
    """Return a line without what differs from run to run: numbers, spacing, the home."""
    line = re.sub(r"\S*/\.?cache/lacuna\S*", "<cache>", line.replace("~", str(Path.home())))
    line = re.sub(r"\d+(?:[.,]\d+)*", "0", line)
    return re.sub(r"\s+", " ", line).strip()


def missing_lines(shown: list[str], printed: str) -> list[str]:
    """Return the shown lines that were not printed, in their order; ``…`` stands for anything."""
    rest = iter([shape_of(line) for line in printed.splitlines()])
    wanted = [line for line in shown if line.strip() not in {"", "…", "..."}]
    return [line for line in wanted if shape_of(line) not in rest]


def run_shell(command: str) -> str:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    return done.stdout


def test_commands_of__keeps_continued_lines_together():
    text = "$ lacuna run \\\n    snm\ndone\n$ ls\n"
    assert commands_of(text) == [("lacuna run \\\n    snm", ["done"]), ("ls", [])]


def test_missing_lines__numbers_may_differ_and_words_may_not():
    assert not missing_lines(["cut 1,234 streamlines", "…", "done"], "cut  99 streamlines\nx\ndone")
    assert missing_lines(["cut 5 tracts"], "cut 5 streamlines") == ["cut 5 tracts"]
    assert missing_lines(["b", "a"], "a\nb") == ["a"]


def test_blocks_of__finds_the_reason_not_to_run():
    page = "```text\nx\n```\n\n<!-- not run: needs a cluster -->\n```bash\nsbatch\n```\n"
    assert [(block.language, block.not_run) for block in blocks_of(page)] == [
        ("text", None),
        ("bash", " needs a cluster "),
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__every_block_runs_or_says_why_not(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        where = f"{name_of(page)}, line {block.line}"
        assert block.language in RUN | SHOWN, f"{where}: which language is this block?"
        assert block.not_run is None or block.not_run.strip(), f"{where}: why is this not run?"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__their_code_runs_and_prints_what_they_show(page):
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language not in RUN or block.not_run:
            continue
        where = f"{name_of(page)}, line {block.line}"
        if block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        elif block.language == "console":
            for command, shown in commands_of(block.text):
                printed = run_shell(command)
                assert not missing_lines(shown, printed), f"{where}\n$ {command}\n{printed}"
        else:
            run_shell(block.text)


def calls_of_lacuna(script: str) -> list[list[str]]:
    """Return the words after each ``lacuna`` that a script calls."""
    lines = script.replace("\\\n", " ").splitlines()
    calls = []
    for line in lines:
        words = shlex.split(line, comments=True)
        starts = [at + 1 for at, word in enumerate(words) if word == "lacuna"]
        for start in starts:
            rest = words[start:]
            ends = [at for at, word in enumerate(rest) if word in {"|", "&&", ";", ">"}]
            # What a shell puts there, and what the words of an array come to, is the reader's.
            call = rest[: min(ends, default=None)]
            calls.append([word for word in call if word not in {"$@", "${@:2}"}])
    return calls


def test_calls_of_lacuna__are_found_in_scripts():
    script = (
        'exec lacuna run "$a b" \\\n  -v "$@"\nlacuna cache dir | cat # lacuna x\ndocker lacuna\n'
    )
    assert calls_of_lacuna(script) == [["run", "$a b", "-v"], ["cache", "dir"], []]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__what_is_not_run_is_sound_shell_and_calls_commands_that_exist(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.not_run is None or block.language not in {"console", "bash", "sh"}:
            continue
        where = f"{name_of(page)}, line {block.line}"
        commands = [block.text]
        if block.language == "console":
            commands = [command for command, _ in commands_of(block.text)]
        for command in commands:
            read = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
            assert read.returncode == 0, f"{where}: {read.stderr}"
            for words in calls_of_lacuna(command):
                if words and words != ["."]:
                    build_parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__configuration_that_they_show_is_valid(page, tmp_path):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "yaml":
            file = tmp_path / f"line-{block.line}.yaml"
            file.write_text(block.text, encoding="utf-8")
            read_config_file(file)


def test_guarantees__every_test_that_is_named_exists():
    page = (ROOT / "docs" / "explanation" / "cache-guarantees.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+\. .*$", page, re.MULTILINE)
    assert len(rows) == 12
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assigned = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
            names = functions | {ast.unparse(target) for (target, *_) in assigned}
            assert name in names, f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages__their_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]
    for target in targets:
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} → {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}
            assert anchor in anchors, f"{name_of(page)} → {target}"


def test_pages__are_all_reached_from_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in LINK.findall(index.read_text(encoding="utf-8"))
    }
    assert not [name_of(page) for page in PAGES[1:] if page not in linked | {index}]


def test_decisions__are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "design").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
