"""Errors cross process boundaries whole, and are all in one tree."""

import errno
import importlib
import pickle
import pkgutil

import pytest

import lacuna
from lacuna import errors


def _subclasses(of: type) -> list[type]:
    return [each for child in of.__subclasses__() for each in (child, *_subclasses(child))]


def _defined_here() -> list[type[Exception]]:
    return [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]


@pytest.mark.parametrize("error", _defined_here(), ids=lambda error: error.__name__)
def test_errors__survive_pickling(error):
    if issubclass(error, OSError):
        raised = error(errno.ENOSPC, "the disk is full: set LACUNA_CACHE_DIR", "/scratch/cache")
    else:
        raised = error("the mask is empty: threshold it lower")
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is error
    assert str(copy) == str(raised)
    assert copy.args == raised.args
    if issubclass(error, OSError):
        assert (copy.errno, copy.strerror, copy.filename) == (
            errno.ENOSPC,
            "the disk is full: set LACUNA_CACHE_DIR",
            "/scratch/cache",
        )


@pytest.mark.parametrize("error", _defined_here(), ids=lambda error: error.__name__)
def test_errors__are_drawn_in_the_tree(error):
    assert issubclass(error, errors.LacunaError)
    assert error.__name__ in errors.__doc__


def test_errors__are_all_defined_in_one_module():
    for module in pkgutil.walk_packages(lacuna.__path__, "lacuna."):
        importlib.import_module(module.name)
    strays = set(_subclasses(errors.LacunaError)) - set(_defined_here())
    assert not strays
