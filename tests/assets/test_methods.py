"""What is told of a run, for a paper: what it needs to be told is there, and nothing else."""

from lacuna.assets.catalog import load_catalog
from lacuna.assets.methods import describe_methods

VERSIONS = {"lacuna-lnm": "1.2"}
SNM = {
    "Versions": VERSIONS,
    "Rule": "segment",
    "RuleDescription": "A streamline is cut so.",
    "MinTDI": 10,
    "ReportGrid": {
        "Shape": [4, 6, 5],  # stored as x, z, y
        "Affine": [[-2, 0, 0, 9], [0, 0, 2, 9], [0, 3, 0, 9], [0, 0, 0, 1]],
    },
    "Tractogram": {"Name": "t.tck", "Path": "/x/t.tck", "Streamlines": 1234, "Space": "S"},
}
LESION = {
    "Space": "S",
    "SpaceStatedBy": "--space",
    "VolumeMm3": 1500.0,
    "Side": "left",
    "CentreOfMassMm": [-20.2, 3, 4],
}
SUMMARY = {"n_cut": "12", "cut_fraction": "0.0097", "n_covered_voxels": "n/a"}
SUMMARY["disconnected_pct"] = "n/a"


def atlas(kind, name="A"):
    return {"Name": name, "Kind": kind, "Space": "S", "Path": f"/x/{name}.nii"}


def text_of(*arguments):
    return "\n".join(describe_methods(*arguments).paragraphs)


def test_run__is_told_with_its_numbers_and_no_lesion_of_it():
    text = text_of(SNM)
    for said in ("Lacuna 1.2", "t.tck (1,234 streamlines, space S)", "A streamline is cut so."):
        assert said in text
    assert "4 × 5 × 6 voxels of 2 × 2 × 3 mm" in text
    assert "at least 10 streamlines" in text
    assert "unless their sidecars name a transform" in text
    for other in ("MRtrix3", "The lesion (", "ChaCo", "weights", "moved", "None"):
        assert other not in text


def test_lesion__is_told_with_its_own_numbers():
    text = text_of(SNM, LESION, SUMMARY)
    assert "(1.5 ml, left-sided, centre of mass at x = -20, y = 3, z = 4 mm)" in text
    assert "cut 12 streamlines (0.97 %)" in text
    assert "without resampling." in text
    moved = {**LESION, "Transform": {"From": "S", "To": "T", "Path": "/x/t.h5"}}
    assert "given in S, and resampled by a transform into T." in text_of(SNM, moved, SUMMARY)


def test_rule_weights_and_transform__are_told_and_cited():
    methods = describe_methods(
        {**SNM, "Rule": "mrtrix", "Weights": "length", "Transform": {"Path": "/x/t.h5"}}
    )
    text = "\n".join(methods.paragraphs)
    assert "(length)" in text
    assert "points were moved" in text
    assert any("MRtrix3" in reference.text for reference in methods.references)
    assert "t.h5: not in the catalogue" in methods.to_markdown()


def test_atlases__of_parcels_and_of_tracts_are_told_apart():
    parcels = text_of({**SNM, "Atlases": [atlas("parcels")], "MinEdge": 3.0})
    assert "ChaCo" in parcels
    assert "at least 3." in parcels
    tracts = text_of({**SNM, "Atlases": [atlas("tracts")]})
    assert "highest probability" in tracts
    assert "ChaCo" not in tracts
    damage = text_of({"Versions": VERSIONS, "Atlases": [atlas("parcels")]})
    assert "Damage to the parcels of A (S)" in damage
    assert "streamline" not in damage


def test_references__name_each_file_and_none_twice():
    files = [atlas("parcels", "A"), atlas("parcels", "B")]
    methods = describe_methods({**SNM, "Atlases": files})
    assert len(set(methods.references)) == len(methods.references)
    unknown = [r.text for r in methods.references if "not in the catalogue" in r.text]
    assert [text.partition(":")[0] for text in unknown] == ["t.tck", "A.nii", "B.nii"]
    markdown = methods.to_markdown()
    assert all(f"https://doi.org/{r.doi}" in markdown for r in methods.references if r.doi)


def test_references__of_the_catalogue_have_their_citation():
    asset = next(a for a in load_catalog().values() if a.citation)
    tractogram = {"Path": f"/x/{asset.files[0]}", "Name": "d"}
    cited = describe_methods({**SNM, "Tractogram": tractogram}).references
    assert any(asset.citation in r.text and r.doi == asset.doi for r in cited)
