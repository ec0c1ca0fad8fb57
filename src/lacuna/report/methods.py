"""The methods section of a paper, with its numbers filled in, and what it should cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lacuna.report.page import format_number

LQT = (
    (
        "Griffis JC, Metcalf NV, Corbetta M, Shulman GL. Lesion Quantification Toolkit: a MATLAB "
        "software tool for estimating grey matter damage and white matter disconnections in "
        "patients with brain lesions. NeuroImage: Clinical 2021;30:102639."
    ),
    "10.1016/j.nicl.2021.102639",
)
NEMO = (
    (
        "Kuceyeski A, Maruta J, Relkin N, Raj A. The Network Modification (NeMo) Tool: elucidating "
        "the effect of white matter integrity changes on cortical and subcortical structural "
        "connectivity. Brain Connectivity 2013;3(5):451-463."
    ),
    "10.1089/brain.2013.0147",
)
MRTRIX = (
    (
        "Tournier J-D, Smith R, Raffelt D, et al. MRtrix3: a fast, flexible and open software "
        "framework for medical image processing and visualisation. NeuroImage 2019;202:116137."
    ),
    "10.1016/j.neuroimage.2019.116137",
)


def methods(
    said: Mapping[str, Any],
    summary: Mapping[str, str],
    atlases: Sequence[str],
    sources: Sequence[tuple[str, str]],
) -> str:
    """Return methods and citations as HTML.

    Parameters
    ----------
    said
        Sidecar of the lesion.
    summary
        Cells of its summary table, by column.
    atlases
        Names of those that were asked.
    sources
        Citation and DOI of the tractogram, or what stands for them.
    """
    how = said["Lacuna"]
    is_cut = "Tractogram" in how
    text = [_of_lesion(said, how)]
    text += [_of_cut(how, summary), _of_map(how, summary)] if is_cut else []
    cited = list(sources)
    if atlases:
        text.append(_of_atlases(how, atlases, is_cut=is_cut))
        cited += [LQT, NEMO, MRTRIX] if is_cut else [LQT]
        cited += [(f"[The publication of atlas {name}.]", "") for name in atlases]
    elif is_cut and how["Rule"] == "mrtrix":
        cited.append(MRTRIX)
    items = "".join(f"<li>{_citation(*source)}</li>" for source in dict.fromkeys(cited))
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in text)
    return f"{paragraphs}<h4>References</h4><ol>{items}</ol>"


def _of_lesion(said: Mapping[str, Any], how: Mapping[str, Any]) -> str:
    lesion = said["Lesion"]
    x, y, z = lesion["CentreOfMassMm"]
    side = {"bilateral": "in both hemispheres"}.get(lesion["Side"], f"{lesion['Side']}-sided")
    given = f"{lesion['Space']} (stated by {lesion['SpaceStatedBy']}) and used on its own grid, "
    given += "without resampling,"
    if moved := lesion.get("Transform"):
        given = f"{moved['From']}, and resampled by a transform into {moved['To']},"
    return (
        f"The lesion ({format_number(lesion['VolumeMm3'] / 1000)} ml, {side}, centre of mass at "
        f"x = {x:.0f}, y = {y:.0f}, z = {z:.0f} mm) was given in {given} in Lacuna "
        f"{how['Versions']['lacuna-lnm']}."
    )


def _of_cut(how: Mapping[str, Any], summary: Mapping[str, str]) -> str:
    tractogram, moved = how["Tractogram"], how.get("Transform")
    warped = " after its points had been moved there by a transform" if moved else ""
    weighted = f" Streamlines were weighted ({how['Weights']})." if how.get("Weights") else ""
    return (
        f"Its structural disconnection was estimated with the tractogram {tractogram['Name']} "
        f"({format_number(tractogram['Streamlines'])} streamlines, in {tractogram['Space']}"
        f"{warped}). {how['RuleDescription']} (Rule “{how['Rule']}”.) The lesion cut "
        f"{format_number(summary['n_cut'])} streamlines "
        f"({format_number(100 * float(summary['cut_fraction']))} %).{weighted}"
    )


def _of_map(how: Mapping[str, Any], summary: Mapping[str, str]) -> str:
    affine = how["ReportGrid"]["Affine"]
    sizes = [sum(affine[i][j] ** 2 for i in range(3)) ** 0.5 for j in range(3)]
    size = " × ".join(f"{size:.3g}" for size in dict.fromkeys(round(s, 4) for s in sizes))
    mean = format_number(summary["disconnected_pct"])
    return (
        f"Disconnection was mapped on a grid of {size} mm as the share of the streamlines through "
        f"each voxel that the lesion cuts, and is reported for the "
        f"{format_number(summary['n_covered_voxels'])} voxels that at least {how['MinTDI']} "
        f"streamlines visit; its mean over these was {mean} %."
    )


def _of_atlases(how: Mapping[str, Any], atlases: Sequence[str], *, is_cut: bool) -> str:
    names = ", ".join(atlases)
    damage = (
        f"Damage to the parcels of {names} is the share of each parcel's volume that is lesioned, "
        "by exact overlap of voxels (as in the Lesion Quantification Toolkit; Griffis et al. 2021)."
    )
    if not is_cut:
        return damage
    edge = f" Edges needed at least {how['MinEdge']:g}." if how.get("MinEdge") else ""
    return (
        f"{damage} Each end of a streamline was assigned to the parcel with the nearest voxel "
        "centre within 4 mm, as MRtrix3 does (Tournier et al. 2019). A parcel's disconnection is "
        "the share of its streamlines to other parcels that is cut; the disconnectome is the same "
        "for pairs of parcels (Griffis et al. 2021); ChaCo is the share of all streamlines that "
        f"end in a parcel, pooled over the tractogram (after Kuceyeski et al. 2013).{edge}"
    )


def _citation(text: str, doi: str) -> str:
    link = f' <a href="https://doi.org/{escape(doi)}">doi:{escape(doi)}</a>' if doi else ""
    return f"{escape(text)}{link}"
