"""The rules of the house that import contracts cannot see, held by looking at the source."""

import ast
import graphlib
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import lacuna

SOURCE = Path(lacuna.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

FUNCTION_LINES = 50
MODULE_LINES = 400
SOURCE_LINES = 18_000  # docs/design/0005-how-large-the-source-may-be.md

SILENT_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
FILE_CALLS = re.compile(
    r"(^|\.)(open|memmap|open_memmap|fromfile|tofile|load|loadtxt|save|savez|savetxt|genfromtxt)$"
    r"|\.(read|write)_(text|bytes)$|^os\.|^shutil\.|^tempfile\."
)
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
EMPTY_NAMES = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util"}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def lines_of_code(source: str) -> set[int]:
    """Return the numbers of the lines that are neither blank, comment nor docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT_TOKENS:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        # The text under an assignment is its docstring: documentation tools read it so.
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_lines_of_code__counts_neither_docstrings_nor_comments_nor_blanks():
    source = (
        '"""Two\nlines."""\n\n# why\nx = [\n    1,  # one\n]\n"""About x."""\n\n\n'
        'def f():\n    "Doc."\n    return """a\n    b"""\n'
    )
    assert lines_of_code(source) == {5, 6, 7, 11, 13, 14}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_size__functions_and_modules_stay_small(path):
    source = path.read_text(encoding="utf-8")
    lines = lines_of_code(source)
    assert len(lines) <= MODULE_LINES
    sizes = {
        function.name: len(lines.intersection(range(function.lineno, function.end_lineno + 1)))
        for function in functions_of(ast.parse(source))
    }
    assert not {name: size for name, size in sizes.items() if size > FUNCTION_LINES}


def test_size__the_whole_source_can_be_read_in_a_day():
    sizes = {
        name_of(path): len(lines_of_code(path.read_text(encoding="utf-8"))) for path in MODULES
    }
    assert sum(sizes.values()) <= SOURCE_LINES, sizes


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules__say_what_they_are(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules__are_named_after_what_they_hold(path):
    assert not EMPTY_NAMES.intersection(path.with_suffix("").relative_to(SOURCE).parts)


def test_imports__make_no_cycle():
    graph = grimp.build_graph("lacuna", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()


def test_store__all_its_private_modules_are_protected():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    protected = {
        module
        for contract in project["tool"]["importlinter"]["contracts"]
        for module in contract.get("protected_modules", ())
    }
    private = {f"lacuna.store.{path.stem}" for path in (SOURCE / "store").glob("_[a-z]*.py")}
    assert protected == private


def file_access(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and FILE_CALLS.search(ast.unparse(node.func)):
            yield f"line {node.lineno}: {ast.unparse(node.func)}"


def test_file_access__is_recognised():
    source = "np.load(p); open(p); np.memmap(p); p.write_text(''); p.open(); np.round(x); reopen(x)"
    assert len(list(file_access(ast.parse(source)))) == 5


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if package_of(path) in {"geometry", "tractogram", "analysis"}],
    ids=name_of,
)
def test_mathematics__touches_no_files(path):
    # The licence: an index writes and maps its own arrays, in a directory that it is given.
    if name_of(path).startswith("tractogram/index"):
        return
    assert not list(file_access(ast.parse(path.read_text(encoding="utf-8"))))


def reads_of_the_environment(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ENVIRONMENT:
                yield f"line {node.lineno}: os.{name}"
            case ast.Attribute(attr="expandvars"):
                yield f"line {node.lineno}: expandvars"
            case ast.ImportFrom(module="os", names=names):
                for alias in names:
                    if alias.name in ENVIRONMENT:
                        yield f"line {node.lineno}: from os import {alias.name}"


def test_reads_of_the_environment__are_recognised():
    source = "import os\nos.environ['A']\nos.getenv('B')\nfrom os import environ\nos.path.join('a')"
    assert len(list(reads_of_the_environment(ast.parse(source)))) == 3


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if package_of(path) not in {"utils", "config", "cli"}],
    ids=name_of,
)
def test_environment__is_read_by_utils_config_and_cli_alone(path):
    assert not list(reads_of_the_environment(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_code__is_never_loaded_from_data(path):
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill)\b", source, re.M)
    assert not re.search(r"allow_pickle\s*=\s*True|yaml\.(unsafe_|full_)?load\(", source)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if "_kernels" in path.as_posix()], ids=name_of
)
def test_kernels__run_in_the_threads_of_their_caller(path):
    # numba's own threads: after a fork, or from two Python threads, they take the process down.
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not {"prange"} & names
    assert not {"parallel"} & keywords
