"""Keys: what a cached thing is, in canonical JSON, and the digest that names it.

Equal values give equal text: a float is written as the shortest decimal that reads back as the
same float64, and as an integer where it is one (so −0.0, 0.0 and 0 agree); mappings are sorted;
tuples are lists; numbers that are not finite are refused. No path, host or time gets in.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lacuna.errors import OptionError
from lacuna.store.buckets import BUCKETS, OTHERS, PRODUCTS

_EXACT_INTEGERS = 2.0**53
_NAME_OF_OTHERS = re.compile(r"[a-z]\w*(\.[a-z]\w*)+", re.ASCII)
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, eq=False)
class Key:
    """What a cached thing is: the same digest, the same content.

    Parameters
    ----------
    product
        A name in `lacuna.store.buckets.PRODUCTS`, or of another package: ``package.product``.
    parameters
        Everything that changes the content, and nothing else. Values are JSON; numpy scalars are
        converted by whoever builds the key.
    inputs
        Role of each input file: the fingerprint of its content (see `Store.fingerprint`).
    label
        For people only, such as ``"tdi map hcp842 2 mm"``; no part of the key.
    version
        Of another package's product, 1 by default: raise it when the same parameters give another
        content. Those of the table have theirs there.

    Raises
    ------
    OptionError
        The product is unknown, or a parameter has no canonical form.
    """

    product: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    version: int | None = None

    def __post_init__(self) -> None:
        """Check at once, where the caller can still be seen in the traceback."""
        if self.product in PRODUCTS and self.version is not None:
            raise OptionError(f"The version of {self.product!r} is not for you to choose.")
        if self.product not in PRODUCTS and not _NAME_OF_OTHERS.fullmatch(self.product):
            known = ", ".join(sorted(PRODUCTS))
            raise OptionError(
                f"There is no cached product {self.product!r}; known are {known}. Name one of your "
                "own after its package: 'package.product'."
            )
        _ = self.digest

    @cached_property
    def bucket(self) -> str:
        """The bucket in which the entry lies."""
        return PRODUCTS[self.product][0] if self.product in PRODUCTS else OTHERS

    @cached_property
    def location(self) -> str:
        """Where the entry lies below a root."""
        version = BUCKETS[self.bucket]
        return f"{self.bucket}/v{version}/{self.digest[:2]}/{self.digest}"

    @cached_property
    def identity(self) -> Any:
        """Everything that the digest covers, in canonical form."""
        version = self.version or 1
        return canonical(
            {
                "product": self.product,
                "version": PRODUCTS[self.product][1] if self.product in PRODUCTS else version,
                "parameters": self.parameters,
                "inputs": self.inputs,
            }
        )

    @cached_property
    def digest(self) -> str:
        """BLAKE2b-256 of the canonical JSON of the identity, in 64 hexadecimal digits."""
        return digest_of(self.identity)


def canonical(value: object) -> Any:
    """Return a value in the one form in which equal values look alike.

    Raises
    ------
    OptionError
        A number is not finite, a name is no text, or a value is not JSON at all.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise OptionError(
                f"A cache key cannot hold {value}: it would never equal itself. Leave the "
                "parameter out, or give it a finite value."
            )
        whole = value.is_integer() and abs(value) < _EXACT_INTEGERS
        return int(value) if whole else float(value)
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise OptionError(f"Names in a cache key must be text, not {list(value)!r}.")
        return {str(name): canonical(value[name]) for name in sorted(value)}
    raise OptionError(
        f"A cache key cannot hold {value!r}, a {type(value).__name__}: give plain numbers, text, "
        "lists and mappings (for a numpy value, its .item() or .tolist())."
    )


def digest_of(identity: object) -> str:
    """Return the BLAKE2b-256 of canonical JSON, in hexadecimal digits."""
    return hashlib.blake2b(_encode(identity).encode("ascii"), digest_size=32).hexdigest()
