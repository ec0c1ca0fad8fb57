"""``lacuna fetch``: get the data that others publish, once, into the cache."""

import argparse
from pathlib import Path
from typing import Any

from lacuna.cli.options import common_options, print_json, print_table, show_size
from lacuna.cli.tractogram import show_progress
from lacuna.errors import OptionError

EXAMPLE = """\
example:
  lacuna fetch --list
  lacuna fetch dTOR985 --from dTOR_full_tractogram.trk
  lacuna run snm lesions/ results/ --tractogram dTOR985

exit status: 0 the file is there, and its path was printed; 1 it could not be had; 2 wrong usage
"""


def add_parser(subparsers: Any) -> None:
    """Add ``lacuna fetch``."""
    parser = subparsers.add_parser(
        "fetch",
        help="get normative data into the cache, or say how",
        description="Fetch a file, or take in one that is here, and print where it is kept.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common_options()],
    )
    add = parser.add_argument
    add("what", nargs="?", metavar="NAME|URL", help="a name in the catalogue, or an address")
    add("--sha256", metavar="SUM", help="checksum of the file, which a URL needs")
    add("--mirror", action="append", default=[], metavar="URL", help="another address; repeatable")
    add("--from", dest="source", type=Path, metavar="FILE", help="copy FILE, downloaded by hand")
    add("--force", action="store_true", help="take in a FILE of quite another size, too")
    add("--offline", action="store_true", help="never use the network")
    add("--list", action="store_true", help="show the catalogue, and what is here")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(needs="settings")


def run(args: argparse.Namespace) -> int:
    """Fetch a file, or list what there is."""
    from lacuna.assets.catalog import load_catalog
    from lacuna.assets.fetch import fetch
    from lacuna.workflow.stores import open_store
    from lacuna.workflow.warped import identify_transform

    if bool(args.what) == args.list:
        raise OptionError("Give the name or address of a file, or --list.")
    store = open_store(args.settings)
    if args.list:
        return _list(args, store)
    asset = load_catalog().get(args.what)
    if args.source and asset and asset.images_from:  # taken for the other one, it doubles errors
        ends = asset.images_from, asset.space
        identify_transform(args.source, images_from=ends[0], images_to=ends[1], source="--from")
    with show_progress(args, "fetching") as progress:
        entry = fetch(
            store,
            args.what,
            sha256=args.sha256,
            mirrors=args.mirror,
            source=args.source,
            offline=args.offline or None,
            force=args.force,
            progress=progress,
        )
    path = entry.path / min(entry.files)
    if args.json:
        facts = {"path": path, "size_bytes": entry.size_bytes, "label": entry.label}
        print_json({**facts, "sha256": entry.meta["key"]["parameters"]["sha256"]})
    else:
        print(path)
    return 0


def _list(args: argparse.Namespace, store: Any) -> int:
    import msgspec

    from lacuna.assets.catalog import find_fetched, load_catalog

    entries = list(store.entries())
    rows, facts = [("name", "kind", "space", "size", "state")], []
    for asset in load_catalog().values():
        held = find_fetched(entries, asset)
        path = held and str(held.path / min(held.files))
        facts.append(msgspec.to_builtins(asset) | {"path": path})
        state = path or ("can be fetched" if asset.is_fetchable else "to be downloaded by hand")
        size = held.size_bytes if held else asset.size_bytes
        shown = show_size(size) if size else "unknown"
        rows.append((asset.name, asset.kind, asset.space or "", shown, state))
    if args.json:
        print_json(facts)
    else:
        print_table(rows, right=(3,))
    return 0
