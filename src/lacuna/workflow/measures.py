"""What a lesion takes from the parcels of atlases, beside the maps: tables and matrices."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lacuna.analysis.connectome import Connectome, ParcelDisconnection, disconnect_parcels
from lacuna.analysis.structural import Disconnection
from lacuna.bids.derivatives import LesionOutputs, write_matrix, write_table
from lacuna.geometry.parcellation import Parcellation
from lacuna.store import Store
from lacuna.workflow.damage import OpenedAtlas, settle_atlases, write_damage
from lacuna.workflow.lesion import Lesion
from lacuna.workflow.products import OpenedIndex, ends_key, open_ends
from lacuna.workflow.record import words
from lacuna.workflow.tracts import Tracts, write_tracts

logger = logging.getLogger(__name__)

MANY_UNASSIGNED = 0.2
"""An atlas that leaves more of the ends without a parcel says little about what runs there."""

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class OpenedConnectome:
    """Which streamlines join which parcels of an atlas.

    Parameters
    ----------
    parcellation
        The atlas.
    connectome
        All streamlines, by pairs of its parcels.
    key
        Digest of the cache entry that says which parcels each streamline joins.
    """

    parcellation: Parcellation
    connectome: Connectome
    key: str

    def disconnect(self, result: Disconnection, *, min_edge: float = 0) -> "AtlasDisconnection":
        """Return what a lesion takes from the parcels and from pairs of them.

        Parameters
        ----------
        result
            What the lesion cuts of the same tractogram.
        min_edge
            Streamlines, or weight, that an edge of the graph for indirect disconnection needs.
        """
        found = disconnect_parcels(self.connectome, result.cut_ids, min_edge=min_edge)
        return AtlasDisconnection(self.parcellation, found)


@dataclass(frozen=True, eq=False)
class AtlasDisconnection:
    """What one lesion takes from the parcels of an atlas, and from pairs of them.

    Parameters
    ----------
    parcellation
        The atlas; its names are those of rows and columns.
    found
        The numbers, in the order of its parcels.
    """

    parcellation: Parcellation
    found: ParcelDisconnection

    @cached_property
    def tables(self) -> dict[str, Columns]:
        """Tables with a row for each parcel, by column: ``parcels`` and ``chaco``."""
        found, n = self.found, self.parcellation.n_parcels
        named = {"index": self.parcellation.numbers, "name": self.parcellation.names}
        delta = found.indirect.delta.sum(axis=1)
        return {
            "parcels": named
            | {
                "total": found.joined,
                "cut": found.cut_joined,
                "disconnection": found.parcels,
                "n_indirect": found.indirect.indirect.sum(axis=1),
                "mean_delta_sspl": delta / (n - 1) if n > 1 else np.full(n, np.nan),
            },
            "chaco": named
            | {"total": found.touching, "cut": found.cut_touching, "chaco": found.chaco},
        }

    @property
    def matrices(self) -> dict[str, NDArray[Any]]:
        """Matrices with a row and a column for each parcel, by what they hold."""
        return {
            "count": self.found.connectome.matrix,
            "spared": self.found.spared,
            "disconnection": self.found.fraction,
            "chaco": self.found.chaco_pairs,
            "deltasspl": self.found.indirect.delta,
        }


@dataclass(frozen=True, eq=False)
class Measures:
    """What is asked of every lesion beyond its maps.

    Parameters
    ----------
    atlases
        Those whose damage is measured.
    connectomes
        Those of them that have parcels, by their streamlines.
    min_edge
        Streamlines, or weight, that an edge of the graph for indirect disconnection needs.
    tracts
        Tracts of the tractogram, if anything names them.
    """

    atlases: tuple[OpenedAtlas, ...] = ()
    connectomes: tuple[OpenedConnectome, ...] = ()
    min_edge: float = 0
    tracts: Tracts | None = None

    @property
    def keys(self) -> dict[str, str]:
        """Digest of each cache entry in use, by what it is."""
        return {f"ends {opened.parcellation.name}": opened.key for opened in self.connectomes}

    def write(
        self,
        result: Disconnection,
        lesion: Lesion,
        outputs: LesionOutputs,
        said: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, tuple[Any, Mapping[str, Any]]]:
        """Write all tables and matrices of a lesion.

        Parameters
        ----------
        said
            Sidecars of the matrices, by ``<desc>_relmat``, as `lacuna.workflow.record.sidecars`.

        Returns
        -------
        dict
            Further columns of the summary: value and description.
        """
        columns: dict[str, tuple[Any, Mapping[str, Any]]] = {}
        for atlas in self.atlases:
            write_damage(outputs, lesion, atlas.content)
        if self.tracts is not None:
            write_tracts(outputs, lesion, result, self.tracts)
        for opened in self.connectomes:
            name = opened.parcellation.name
            taken = opened.disconnect(result, min_edge=self.min_edge)
            _write_tables(taken, outputs, said)
            for column, described in words()["summary_of_atlas"].items():
                text = described["Description"].format(name=name)
                share = getattr(_Shares(taken.found), column)
                columns[f"{column}_{name}"] = share, {**described, "Description": text}
        return columns


class _Shares:
    """The columns that an atlas adds to the summary."""

    def __init__(self, found: ParcelDisconnection) -> None:
        self.unassigned = found.connectome.unassigned_share
        self.unassigned_cut = found.cut_unassigned_share


def open_connectome(
    store: Store,
    opened: OpenedIndex,
    parcellation: Parcellation,
    *,
    weights: NDArray[np.float64] | None = None,
    threads: int = 1,
) -> OpenedConnectome:
    """Open which streamlines join which parcels; warn if that is unknown for many.

    Parameters
    ----------
    store
        Where it is kept.
    opened
        Index of the tractogram.
    parcellation
        An atlas in its space.
    weights : (n_streamlines,), optional
        Summed instead of counting 1 for each streamline.
    threads
        Threads to use the first time.
    """
    ends = open_ends(store, opened, parcellation, threads=threads)
    connectome = Connectome.of(ends, parcellation.n_parcels, weights)
    share, name = connectome.unassigned_share, parcellation.name
    logger.info("atlas %s: %.1f %% of all ends are near no parcel", name, 100 * share)
    if share > MANY_UNASSIGNED:
        logger.warning(
            "Atlas %s leaves %.0f %% of all streamline ends without a parcel within 4 mm: they "
            "count for no pair. An atlas of the cortex alone has nowhere for projection fibres to "
            "end; one with subcortex, brainstem and cerebellum has.",
            name,
            100 * share,
        )
    key = ends_key(opened, parcellation).digest
    return OpenedConnectome(parcellation, connectome, key)


def open_measures(
    store: Store,
    opened: OpenedIndex,
    atlases: Sequence[OpenedAtlas],
    *,
    weights: NDArray[np.float64] | None = None,
    min_edge: float = 0,
    tracts: Tracts | None = None,
    threads: int = 1,
) -> Measures:
    """Make everything ready that is asked of every lesion.

    Parameters
    ----------
    store, opened, weights, threads
        As in `open_connectome`.
    atlases
        In the space of the tractogram.
    min_edge, tracts
        As in `Measures`.
    """
    settle_atlases(atlases)
    connectomes = [
        open_connectome(store, opened, atlas.content, weights=weights, threads=threads)
        for atlas in atlases
        if isinstance(atlas.content, Parcellation)
    ]
    return Measures(tuple(atlases), tuple(connectomes), min_edge, tracts)


def _write_tables(
    taken: AtlasDisconnection, outputs: LesionOutputs, said: Mapping[str, Mapping[str, Any]]
) -> None:
    seg, found = taken.parcellation.name, taken.found
    for desc, columns in taken.tables.items():
        path = outputs.path(desc, "stats", ".tsv", seg=seg)
        write_table(path, columns, words()["tables"][desc])
    about = {
        "Atlas": seg,
        "UnassignedEnds": found.connectome.unassigned_share,
        "UnassignedEndsOfCut": found.cut_unassigned_share,
    }
    graph = {
        "MinEdge": found.min_edge,
        "Density": found.indirect.density,
        "LongestPath": found.indirect.longest,
        "IndirectPairs": found.indirect.n_pairs,
    }
    for desc, matrix in taken.matrices.items():
        path = outputs.path(desc, "relmat", ".tsv", seg=seg)
        sidecar = {**said[f"{desc}_relmat"], **about, **(graph if desc == "deltasspl" else {})}
        write_matrix(path, matrix, taken.parcellation.names, sidecar)
