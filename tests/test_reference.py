"""The generated reference pages say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

import lacuna
from lacuna.config import descriptions

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = ROOT / "docs" / "reference" / "generate.py"
_spec = importlib.util.spec_from_file_location("generate_reference", GENERATOR)
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("name", generate.PAGES)
def test_page__is_up_to_date(name):
    assert generate.PAGES[name]() == (GENERATOR.parent / name).read_text(encoding="utf-8"), (
        "run python docs/reference/generate.py"
    )


def test_environment_page__lists_every_variable_that_the_source_reads():
    source = Path(lacuna.__file__).parent
    code = "".join(path.read_text() for path in source.rglob("*.py"))
    read = set(re.findall(r"\bLACUNA_[A-Z_]+\b", code))
    assert read <= set(descriptions()["environment"])
