"""Checksums of the sections of a certificate and of the arrays beside it.

A checksum finds an accident (a flipped digit, a truncated copy), never a forger, who recomputes it: the other
checks of this package are there for him.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def canonical_text(value: Any) -> str:
    """Stable JSON: sorted keys, no spaces, ASCII only, no NaN or Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def file_text(document: Mapping[str, Any]) -> str:
    """The one spelling of ``certificate.json``: indented, in the order of the schema, one final newline."""
    return json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def digest(value: Any) -> str:
    """sha256 (hex) of :func:`canonical_text`."""
    return hashlib.sha256(canonical_text(value).encode("ascii")).hexdigest()


def array_digest(array: np.ndarray) -> str:
    """sha256 (hex) of dtype, shape and little-endian C-order content."""
    plain = np.ascontiguousarray(array)
    little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    head = f"{little.dtype.str}{list(plain.shape)}".encode("ascii")
    return hashlib.sha256(head + little.tobytes()).hexdigest()


def document_digests(document: Mapping[str, Any]) -> dict[str, Any]:
    """The ``digests`` section of a document: one for each other section, and one of all of these."""
    sections = {name: digest(value) for name, value in document.items() if name != "digests"}
    return {"sections": sections, "certificate": digest(sections)}
