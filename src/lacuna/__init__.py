"""What a brain lesion disconnects.

The names below are all there is to know from Python; each is imported when it is first used, so
that ``import lacuna`` costs next to nothing.
"""

# As typing.TYPE_CHECKING, whose import would cost more than this whole package.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from lacuna.config import load_config as load_config
    from lacuna.errors import LacunaError as LacunaError
    from lacuna.formats import open_tractogram as open_tractogram
    from lacuna.geometry.grid import Grid as Grid
    from lacuna.workflow.notebook import disconnect as disconnect
    from lacuna.workflow.notebook import open_connectome as open_connectome
    from lacuna.workflow.notebook import open_index as open_index

    __version__: str

_HOMES = {
    "Grid": "lacuna.geometry.grid",
    "LacunaError": "lacuna.errors",
    "disconnect": "lacuna.workflow.notebook",
    "load_config": "lacuna.config",
    "open_connectome": "lacuna.workflow.notebook",
    "open_index": "lacuna.workflow.notebook",
    "open_tractogram": "lacuna.formats",
}
"""Public name → the module it lives in."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    from importlib import import_module

    value: object
    if name == "__version__":
        value = import_module("importlib.metadata").version("lacuna-lnm")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'lacuna' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted({*globals(), *__all__})
