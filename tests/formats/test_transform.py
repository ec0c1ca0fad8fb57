"""Transforms of ITK, ANTs and FSL; the expected numbers are SimpleITK 2.5's."""

import h5py
import nibabel as nib
import numpy as np
import pytest
from tests.phantoms import turned_copies, write_nifti

from lacuna.errors import FormatError, SpaceError
from lacuna.formats.transform import load_transform
from lacuna.geometry.grid import Grid

MATRIX = [1.1, 0.05, 0, -0.1, 0.9, 0.02, 0.03, 0, 1.05, 3, -4, 5]
CENTRE = [1, 2, 3]
VECTORS = (np.arange(72) % 7 - 3).reshape(2, 3, 4, 3) / 2  # k, j, i, LPS
FIELD_GRID = [4, 3, 2, 6, 5, -3, 4, 5, 6, -1, 0, 0, 0, -1, 0, 0, 0, 1]
GRID = Grid((4, 3, 2), np.array([[4.0, 0, 0, -6], [0, 5, 0, -5], [0, 0, 6, -3], [0, 0, 0, 1]]))

POINTS = np.array([[0, 0, 0], [-4.5, 2, 1.5], [3.25, -1.5, -5.5], [-7.9, 7.4, 3], [30, 20, 10.0]])
BY_AFFINE = [
    [-2.8, 3.76, 4.82], [-7.65, 5.98, 6.53], [0.7, 2.195, -1.0525], [-11.12, 11.15, 8.207],
    [31.2, 18.56, 14.42],
]  # fmt: skip
BY_FIELD = [
    [0, -0.5, 0.125], [-4.85625, 2.259375, 1.4125], [3.075, -1.453125, -5.046875], [-8.4, 6.4, 4.5],
    [30, 20, 10],
]  # fmt: skip
BY_BOTH = [
    [-2.825, 3.3075, 4.95125], [-8.028906, 6.250812, 6.448812], [0.509844, 2.245625, -0.571469],
    [-11.72, 10.27, 9.797], [31.2, 18.56, 14.42],
]  # fmt: skip

ANTS_MAT = (
    np.array([0, 12, 1, 0, 27], "<i4").tobytes() + b"AffineTransform_double_3_3\0"
    + np.array(MATRIX, "<f8").tobytes()
    + np.array([0, 3, 1, 0, 6], "<i4").tobytes() + b"fixed\0" + np.array(CENTRE, "<f8").tobytes()
)  # fmt: skip


def text(numbers):
    return " ".join(map(str, np.ravel(numbers)))


AFFINE_TEXT = (
    "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    f"Parameters: {text(MATRIX)}\nFixedParameters: {text(CENTRE)}"
)
MEMBERS = (
    ("CompositeTransform_double_3_3", None, None),
    ("AffineTransform_double_3_3", MATRIX, CENTRE),
    ("DisplacementFieldTransform_double_3_3", VECTORS.ravel(), FIELD_GRID),
)


def write_composite(path, members=MEMBERS, *, spelling="Transform"):
    with h5py.File(path, "w") as file:
        for i, (kind, numbers, fixed) in enumerate(members):
            group = file.create_group(f"TransformGroup/{i}")
            group["TransformType"] = [kind]
            if numbers is not None:
                group[f"{spelling}Parameters"] = np.ravel(numbers).astype(
                    np.float32 if "float" in kind else np.float64
                )
                group[f"{spelling}FixedParameters"] = np.array(fixed, np.float64)


def write_field(path, vectors=VECTORS, intent=1007, grid=GRID):
    image = nib.Nifti1Image(vectors.transpose(2, 1, 0, 3)[..., None, :], grid.affine)
    image.header["intent_code"] = intent
    nib.save(image, path)


def load(path, **more):
    return load_transform(path, "A", "B", **more)


def test_load_transform__points_go_the_other_way_than_images(tmp_path):
    (tmp_path / "a.txt").write_text(AFFINE_TEXT)
    transform = load_transform(tmp_path / "a.txt", "ch2", "MNI152NLin6Asym")
    assert str(transform) == "moves points from MNI152NLin6Asym to MNIColin27"
    with pytest.raises(SpaceError, match="is not one space"):
        load_transform(tmp_path / "a.txt", "MNI", "B")


@pytest.mark.parametrize("spelling", ["Transform", "Tranform"])
def test_composite__applies_its_last_member_first(tmp_path, spelling):
    write_composite(tmp_path / "c.h5", spelling=spelling)
    np.testing.assert_allclose(load(tmp_path / "c.h5").apply(POINTS), BY_BOTH, atol=1e-6)


def test_composite__as_text_is_the_same(tmp_path):
    members = [
        f"Transform: {kind}\n"
        + (
            ""
            if numbers is None
            else f"Parameters: {text(numbers)}\nFixedParameters: {text(fixed)}\n"
        )
        for kind, numbers, fixed in MEMBERS
    ]
    (tmp_path / "c.tfm").write_text("#Insight Transform File V1.0\n" + "".join(members))
    np.testing.assert_allclose(load(tmp_path / "c.tfm").apply(POINTS), BY_BOTH, atol=1e-6)


@pytest.mark.parametrize("name", ["a.txt", "a.mat"])
def test_affine__of_itk_turns_about_its_centre(tmp_path, name):
    content = AFFINE_TEXT.encode() if name == "a.txt" else ANTS_MAT
    (tmp_path / name).write_bytes(content)
    np.testing.assert_allclose(load(tmp_path / name).apply(POINTS), BY_AFFINE, atol=1e-6)


def test_field__of_itk_points_to_left_and_back(tmp_path):
    write_field(tmp_path / "f.nii.gz")
    np.testing.assert_allclose(load(tmp_path / "f.nii.gz").apply(POINTS), BY_FIELD, atol=1e-6)


def test_field__turned_copies_move_points_alike(tmp_path):
    halves = (2 * VECTORS.transpose(2, 1, 0, 3)).astype(np.int16)
    for x, y, z in zip(*(list(turned_copies(halves[..., i], GRID)) for i in range(3)), strict=True):
        image = nib.Nifti1Image(np.stack([x[0], y[0], z[0]], -1)[..., None, :] / 2, x[1].affine)
        image.header["intent_code"] = 1007
        nib.save(image, tmp_path / "f.nii")
        np.testing.assert_allclose(load(tmp_path / "f.nii").apply(POINTS), BY_FIELD, atol=1e-6)


@pytest.fixture
def fsl_images(tmp_path):
    """A reference stored right to left, a moving image stored left to right."""
    moving = Grid.cubic(2, (20, 22, 24), (-15, -20, -25))
    reference = Grid(
        (30, 31, 32), np.array([[-1.0, 0, 0, 14], [0, 1, 0, -16], [0, 0, 1, -15], [0, 0, 0, 1]])
    )
    for name, grid in (("mov.nii", moving), ("ref.nii", reference)):
        write_nifti(tmp_path / name, np.zeros(grid.shape, np.uint8), grid)
    return [tmp_path / "mov.nii", tmp_path / "ref.nii"]


def fsl_expected(points, shift=(0, 0, 0)):
    """Voxel of the reference in mm; that plus `shift` is the moving image's, with x reversed."""
    reference = np.stack([14 - points[:, 0], points[:, 1] + 16, points[:, 2] + 15], axis=1)
    x, y, z = (reference + shift).T
    return np.stack([(38 - x) - 15, y - 20, z - 25], axis=1)


def test_flirt__matrix_takes_moving_to_reference(tmp_path, fsl_images):
    matrix = np.eye(4)
    matrix[:3, 3] = [-1, -2, -3]
    np.savetxt(tmp_path / "x.mat", matrix)
    moved = load(tmp_path / "x.mat", fsl_images=fsl_images).apply(POINTS)
    np.testing.assert_allclose(moved, fsl_expected(POINTS, (1, 2, 3)), atol=1e-9)


@pytest.mark.parametrize("absolute", [False, True])
def test_fnirt__field_holds_displacements_or_places(tmp_path, fsl_images, absolute):
    reference = nib.load(fsl_images[1])
    vectors = np.broadcast_to([1.0, 2, 3], (30, 31, 32, 3)).copy()
    vectors[0, 0, 0] += 0.5
    if absolute:
        vectors += np.moveaxis(np.indices((30, 31, 32)), 0, -1)
    image = nib.Nifti1Image(vectors, reference.affine)
    image.header["intent_code"] = 2006
    nib.save(image, tmp_path / "warp.nii.gz")
    moved = load(tmp_path / "warp.nii.gz", fsl_images=fsl_images).apply(POINTS[:4])
    np.testing.assert_allclose(moved, fsl_expected(POINTS[:4], (1, 2, 3)), atol=1e-6)


def test_fsl__needs_the_images_that_were_aligned(tmp_path, fsl_images):
    np.savetxt(tmp_path / "x.mat", np.eye(4))
    with pytest.raises(FormatError, match="--transform-images MOVING REFERENCE"):
        load(tmp_path / "x.mat")
    write_field(tmp_path / "w.nii", intent=2006)
    with pytest.raises(FormatError, match="made for a reference image of"):
        load(tmp_path / "w.nii", fsl_images=fsl_images)


def test_fnirt__coefficients_are_those_of_cubic_splines_and_an_affine(tmp_path, fsl_images):
    from scipy.interpolate import BSpline

    moving, reference = (nib.load(image) for image in fsl_images)
    coefficients = np.random.default_rng(2).normal(0, 3, (9, 9, 10, 3))
    aligned = np.array([[0.98, 0.01, 0, -2], [0, 1.03, 0.02, 1], [0.01, 0, 0.97, 3], [0, 0, 0, 1]])
    image = nib.Nifti1Image(coefficients, aligned)
    image.header["intent_code"], image.header["pixdim"][1:4] = 2007, 5
    for i, (axis, n) in enumerate(zip("xyz", reference.shape, strict=True)):
        image.header[f"qoffset_{axis}"] = n
        image.header[f"intent_p{i + 1}"] = 1
    image.header["qform_code"] = 0
    nib.save(image, tmp_path / "coef.nii.gz")
    voxels = np.argwhere(np.ones(reference.shape))[::97]
    basis = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    weights = [
        np.nan_to_num(basis(voxels[:, [axis]] / 5 + 1 - np.arange(coefficients.shape[axis])))
        for axis in range(3)
    ]
    # FSL's mm of the reference, which is stored right to left, are its voxels.
    there = nib.affines.apply_affine(np.linalg.inv(aligned), voxels)
    there += np.einsum("ni,nj,nk,ijkc->nc", *weights, coefficients)
    # The moving image is stored left to right, has voxels of 2 mm, and 20 of them along x.
    expected = nib.affines.apply_affine(moving.affine, there / 2 * [-1, 1, 1] + [19, 0, 0])
    world = nib.affines.apply_affine(reference.affine, voxels)
    moved = load(tmp_path / "coef.nii.gz", fsl_images=fsl_images).apply(world)
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    image.header["intent_p1"] = 2
    nib.save(image, tmp_path / "coef.nii.gz")
    with pytest.raises(FormatError, match="made for a reference image of"):
        load(tmp_path / "coef.nii.gz", fsl_images=fsl_images)


def test_fnirt__field_that_turns_and_one_for_an_image_stored_otherwise(tmp_path, fsl_images):
    reference = nib.load(fsl_images[1])
    vectors = np.broadcast_to([1.0, 2, 3], (30, 31, 32, 3)).copy()
    vectors[..., 1] += 0.02 * np.arange(30)[:, None, None]
    image = nib.Nifti1Image(vectors, reference.affine)
    image.header["intent_code"] = 2006
    nib.save(image, tmp_path / "warp.nii")
    points = POINTS[:4]
    shift = np.stack([np.ones(4), 2 + 0.02 * (14 - points[:, 0]), np.full(4, 3)], axis=1)
    moved = load(tmp_path / "warp.nii", fsl_images=fsl_images).apply(points)
    np.testing.assert_allclose(moved, fsl_expected(points, shift), atol=1e-6)
    nib.save(nib.Nifti1Image(np.zeros((30, 31, 32)), np.eye(4)), tmp_path / "ras.nii")
    with pytest.raises(FormatError, match="stored the other way round"):
        load(tmp_path / "warp.nii", fsl_images=[fsl_images[0], tmp_path / "ras.nii"])
    image = nib.Nifti1Image(vectors * np.nan, reference.affine, image.header)
    nib.save(image, tmp_path / "nan.nii")
    with pytest.raises(FormatError, match="NaN"):
        load(tmp_path / "nan.nii", fsl_images=fsl_images)


def test_field__of_places_as_spm_writes_is_refused(tmp_path):
    voxels = np.moveaxis(np.indices(GRID.shape), 0, -1)
    places = GRID.to_world(voxels.reshape(-1, 3)).reshape(voxels.shape) * 1.1 + [3, 20, -30]
    write_field(tmp_path / "y_t1.nii", places.transpose(2, 1, 0, 3))
    with pytest.raises(FormatError, match="holds places, as deformations of SPM do"):
        load(tmp_path / "y_t1.nii")


def test_field__placed_twice_differently_is_refused(tmp_path):
    write_field(tmp_path / "f.nii")
    image = nib.load(tmp_path / "f.nii")
    shifted = GRID.affine.copy()
    shifted[1, 3] += 3
    image.set_qform(shifted, 1)
    nib.save(image, tmp_path / "q.nii")
    with pytest.raises(FormatError, match="sform and qform place it differently"):
        load(tmp_path / "q.nii")


def test_field__in_any_byte_order(tmp_path):
    write_field(tmp_path / "f.nii")
    image = nib.load(tmp_path / "f.nii")
    big = image.header.as_byteswapped(">")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, big), tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == bytes([0, 0, 1, 92])
    np.testing.assert_allclose(load(tmp_path / "b.nii").apply(POINTS), BY_FIELD, atol=1e-6)


def test_load_transform__several_without_a_composite_are_refused(tmp_path):
    def refused(name, match):
        with pytest.raises(FormatError, match=match):
            load(tmp_path / name)

    (tmp_path / "two.txt").write_text(AFFINE_TEXT + "\n" + AFFINE_TEXT.split("\n", 1)[1])
    (tmp_path / "two.mat").write_bytes(ANTS_MAT + ANTS_MAT)
    write_composite(tmp_path / "two.h5", MEMBERS[1:])
    for name in ("two.txt", "two.mat", "two.h5"):
        refused(name, "2 transforms that are no composite")
    write_composite(tmp_path / "none.h5", MEMBERS[:1])
    (tmp_path / "none.mat").write_bytes(
        np.array([0, 0, 1, 0, 30], "<i4").tobytes() + b"CompositeTransform_double_3_3\0"
    )
    for name in ("none.h5", "none.mat"):
        refused(name, "holds no transform")


def test_composite__members_are_taken_by_number_and_in_single_precision(tmp_path):
    identity = [*np.eye(3).ravel(), 0, 0, 0]
    turn = [0, -1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0]
    members = [MEMBERS[0]] + [("AffineTransform_float_3_3", identity, [0] * 3)] * 9
    members += [("MatrixOffsetTransformBase_double_3_3", turn, [0] * 3)]  # is number 10
    members[2] = ("AffineTransform_float_3_3", [*identity[:9], 1, 0, 0], [0] * 3)
    write_composite(tmp_path / "c.h5", members)
    # First the turn, then one to the left: in LPS (1, 0, 0) becomes (0, 1, 0), then (1, 1, 0).
    np.testing.assert_allclose(
        load(tmp_path / "c.h5").apply(np.array([[-1.0, 0, 0]])), [[-1, -1, 0]]
    )
    single = ANTS_MAT.replace(b"_double_", b"_float_").replace(
        np.array(MATRIX, "<f8").tobytes(), np.array(MATRIX, "<f4").tobytes()
    )
    single = np.array([10, 12, 1, 0, 26], "<i4").tobytes() + single[20:]
    (tmp_path / "s.mat").write_bytes(single)
    np.testing.assert_allclose(load(tmp_path / "s.mat").apply(POINTS), BY_AFFINE, atol=1e-5)


def test_field__of_a_composite_lies_oblique(tmp_path):
    c, s = np.cos(0.4), np.sin(0.4)
    direction = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])  # columns: axes of the field, LPS
    grid = [4, 3, 2, 6, 5, -3, 4, 5, 6, *direction.ravel()]
    write_composite(tmp_path / "c.h5", [("DisplacementFieldTransform_float_3_3", VECTORS, grid)])
    voxels = np.argwhere(np.ones((4, 3, 2)))
    lps = voxels * [4, 5, 6] @ direction.T + [6, 5, -3]
    expected = (lps + VECTORS[*voxels.T[::-1]]) * [-1, -1, 1]
    moved = load(tmp_path / "c.h5").apply(lps * [-1, -1, 1])
    np.testing.assert_allclose(moved, expected, atol=1e-3)


def test_load_transform__says_what_is_wrong_with_a_file(tmp_path):
    def refused(name, content, match):
        path = tmp_path / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        with pytest.raises(FormatError, match=match):
            load(path)

    def truncated(path):
        write_composite(path)
        path.write_bytes(path.read_bytes()[:900])

    spline = (("BSplineTransform_double_3_3", [0.0], [0.0]),)
    short = (("DisplacementFieldTransform_double_3_3", VECTORS.ravel()[:70], FIELD_GRID),)
    with pytest.raises(FormatError, match="no file"):
        load(tmp_path / "absent.h5")
    refused("x.lta", b"", "its name should end in")
    refused("x.h5", b"nothing", "ITK composite")
    refused("t.h5", truncated, "truncated")
    refused("s.h5", lambda path: write_composite(path, spline), r"BSpline.*antsApplyTransforms")
    refused("d.h5", lambda path: write_composite(path, short), "70 numbers for a grid of")
    refused("e.h5", lambda path: write_composite(path, []), "cannot be read")
    refused(
        "n.txt", b"#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n", "0 p"
    )
    refused("u.txt", AFFINE_TEXT.replace("1 2 3", "1 2 nan").encode(), "not finite, or has no inv")
    flat = AFFINE_TEXT.replace(text(MATRIX), text(np.zeros(12)))
    refused("0.txt", flat.encode(), "has no inverse")
    refused("w.txt", b"hello\nworld\n", "neither an affine")
    refused("r.mat", b"\x00\x01\x02", "neither text nor")
    refused("m.mat", ANTS_MAT[:60], "neither text nor")
    refused("z.mat", b"0 0 0 0\n" * 4, "invertible")
    refused("i.nii", lambda path: write_field(path, intent=0), "intent 0")
    refused("nan.nii", lambda path: write_field(path, VECTORS * np.nan), "NaN")
    refused(
        "v.nii", lambda path: write_nifti(path, np.zeros((3, 3, 3), "u1"), GRID), "three numbers"
    )


@pytest.mark.parametrize("row", ["0 0 0 2", "5 0 0 1"])
def test_flirt__a_last_row_that_no_affine_has_is_refused(tmp_path, fsl_images, row):
    path = tmp_path / "flirt.mat"
    path.write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n" + row + "\n", encoding="utf-8")
    with pytest.raises(FormatError, match="last row"):
        load_transform(path, "A", "B", fsl_images=fsl_images)


@pytest.mark.parametrize("names", [("0", "2"), ("0", "7"), ("1", "2")])
def test_composite__a_member_that_is_missing_makes_no_shorter_chain(tmp_path, names):
    write_composite(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        groups = file["TransformGroup"]
        kept = {name: groups[str(i)] for i, name in enumerate(names)}
        for name, group in kept.items():
            groups.copy(group, f"new{name}")
        for name in ("0", "1", "2"):
            del groups[name]
        for name in names:
            groups.move(f"new{name}", name)
    with pytest.raises(FormatError, match="cannot be read as an ITK composite"):
        load(tmp_path / "c.h5")


def test_field__of_places_in_the_axes_of_itk_is_refused(tmp_path):
    voxels = np.moveaxis(np.indices(GRID.shape), 0, -1)
    places = GRID.to_world(voxels.reshape(-1, 3)).reshape(voxels.shape) * [-1.1, -1.1, 1.1]
    write_field(tmp_path / "y.nii", places.transpose(2, 1, 0, 3))
    with pytest.raises(FormatError, match="holds places"):
        load(tmp_path / "y.nii")
