"""``lacuna status``: which lesions of a dataset are done, and which are not, and why."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacuna.cli.lesions import add_selection, select_lesions
from lacuna.cli.options import common_options, print_json

if TYPE_CHECKING:
    from lacuna.bids.dataset import LesionListing
    from lacuna.workflow.resume import Standing

DESCRIPTION = """\
Compare what is in OUTPUT_DIR with the lesions of BIDS_DIR. Needs none of the options of the run:
they stand in the records of the lesions. What the lesion that came last was asked is what all are
compared with.

done: all files are there, and would be the same now (-v lists these too); failed: with the reason;
stale: the lesion, an option or Lacuna's version has changed since; missing: not begun, or begun and
not ended. Of other files only the tractogram is looked at: --dry-run of the run looks at all.
The last line holds the numbers of the tasks of a job array that are left: for a BIDS dataset a
task is one of BIDS_DIR/sub-*, for a folder of masks one mask, counted from 0 as LC_ALL=C sorts.
"""

EPILOG = "exit status: 0 all lesions are done; 1 some are not; 2 wrong usage"

STATES = ("done", "failed", "stale", "missing")


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna status``."""
    parser = subparsers.add_parser(
        "status",
        help="show which lesions are done, failed, stale or missing, and what is left to submit",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    parser.add_argument(
        "input", type=Path, metavar="BIDS_DIR", help="dataset, folder of masks, or one mask"
    )
    parser.add_argument("output_dir", type=Path, metavar="OUTPUT_DIR", help="where results are")
    add_selection(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(needs="settings")


def run(args: argparse.Namespace) -> int:
    """Print how far each lesion is."""
    from lacuna.bids.dataset import find_lesions
    from lacuna.workflow.resume import look_at, number_tasks
    from lacuna.workflow.stores import open_store

    everything = find_lesions(args.input)
    listing = select_lesions(args)
    standings = look_at(listing, args.output_dir, open_store(args.settings).fingerprint)
    standings |= _without_page(listing, args.output_dir, standings)
    tasks = number_tasks(everything)
    left = [path for path, standing in standings.items() if standing.state != "done"]
    array = compress({tasks[path] for path in left if path in tasks})
    by_state = {
        state: [path for path in standings if standings[path].state == state] for state in STATES
    }
    if args.json:
        lesions = [
            {
                "lesion": str(path),
                "state": standing.state,
                "why": standing.why,
                "task": tasks.get(path),
            }
            for path, standing in standings.items()
        ]
        counts = {state: len(paths) for state, paths in by_state.items()}
        print_json({"counts": counts, "array": array, "lesions": lesions})
        return 1 if left else 0
    for state, paths in by_state.items():
        print(f"{state}: {len(paths)}")
        for path in paths if state != "done" or args.verbose else ():
            why = standings[path].why
            print(f"  {path.relative_to(listing.root)}" + f": {why}" * bool(why))
    if array:
        print(f"--array={array}")
    return 1 if left else 0


def _without_page(
    listing: "LesionListing", output_dir: Path, standings: "Mapping[Path, Standing]"
) -> "dict[Path, Standing]":
    """Return the lesions whose results stand, but not in their participant's page.

    It comes after the record, so that a run may have been killed in between.
    """
    from dataclasses import replace

    from lacuna.bids.derivatives import LesionOutputs
    from lacuna.report.participant import is_current, page_path

    found = {}
    for lesion in listing.found:
        standing = standings[lesion.path]
        entry = standing.entry
        outputs = LesionOutputs(lesion, output_dir.absolute(), entry.space, entry.resolution)
        has_page = not entry.parameters.get("Report") or is_current(outputs)
        if standing.state == "done" and not has_page:
            why = f"{page_path(outputs).name} is gone, or does not show all that is there"
            found[lesion.path] = replace(standing, state="stale", why=why)
    return found


def compress(numbers: Iterable[int]) -> str:
    """Return numbers as ``sbatch --array`` takes them: ``3,7-9``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
