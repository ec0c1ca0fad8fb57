"""The one table of what may be cached: buckets, products and their versions.

A bucket's version is a directory below it: raise it when the *files on disk* change their form,
and old and new program versions can share a root. A product's version is part of its key: raise
it when the same parameters give *another content*, and old entries are simply never asked for.
"""

BUCKETS = {
    "downloads": 1,  # files fetched from elsewhere, as they came
    "tdi": 1,  # track-density images and streamline indexes
    "transforms": 1,  # warps and affines between spaces
    "others": 1,  # what other packages keep here, under names of their own
}
"""Bucket: version of the form in which its entries lie on disk."""

PRODUCTS = {
    "streamlines": ("tdi", 1),  # order, end points, lengths, weights and groups of a tractogram
    "hits": ("tdi", 1),  # cell of the 1 mm lattice → the streamlines that pass through it
    "map": ("tdi", 1),  # streamline → the voxels of a report grid that it visits, and the TDI
    "ends": ("tdi", 2),  # streamline → the parcels of an atlas at its two ends
    "warped": ("transforms", 2),  # a tractogram's points in another space
    "resampled": ("transforms", 2),  # an atlas or a lesion on the voxels of another space
    "download": ("downloads", 1),  # a file, known by its checksum and its name
    "unpacked": ("tdi", 1),  # a compressed tractogram in a form that can be mapped
}
"""Product: its bucket, and the version of what it holds."""

OTHERS = "others"
"""Bucket of products whose name holds a dot, ``package.product``; their versions are given."""
