"""What ``import lacuna`` offers, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lacuna

SOURCE = Path(lacuna.__file__).parent
FREE = ("lacuna", "lacuna.errors", "lacuna.utils", "lacuna.utils.cache")
COSTLY = {
    "concurrent.futures",
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "json",
    "logging",
    "matplotlib",
    "msgspec",
    "multiprocessing",
    "nibabel",
    "numba",
    "numpy",
    "rich",
    "subprocess",
    "tempfile",
    "typing",
    "urllib.request",
    "yaml",
}


def test_public_names__are_at_most_fifteen():
    assert len(lacuna.__all__) == len(set(lacuna.__all__)) <= 15


@pytest.mark.parametrize("name", lacuna.__all__)
def test_public_names__are_there_and_documented(name):
    value = getattr(lacuna, name)
    assert name in dir(lacuna)
    assert name == "__version__" or value.__doc__


def test_public_names__are_the_ones_that_type_checkers_see():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == lacuna._HOMES


def test_public_names__an_unknown_one_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lesion'"):
        lacuna.lesion  # noqa: B018 - looking it up is the test


@pytest.mark.parametrize("module", FREE)
def test_import__brings_in_nothing_heavy(module):
    program = f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r})\nimport {module}\n"
    # -S: a .pth file in site-packages may import anything before we do.
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program + "print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert module in loaded
    costly = COSTLY.intersection(loaded)
    assert not costly


@pytest.mark.parametrize("module", FREE)
def test_import__creates_nothing(module, tmp_path):
    subprocess.run([sys.executable, "-B", "-c", f"import {module}"], check=True, cwd=tmp_path)
    home = Path.home()
    assert not list(home.iterdir())
    assert not list(tmp_path.iterdir())
