"""Text as a sparse vector: hashed characters and pairs of characters, in numpy, without a model."""

import re
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

BUCKETS = 1 << 13
"""Hash buckets of the features."""

_HEAD, _TAIL = 1200, 400  # characters of a long text that are looked at: instructions stand there
_EVIDENCE = 20.0  # keeps a text of a few characters near zero

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]


def features(text: str) -> tuple[IntArray, FloatArray]:
    """The hash buckets that a text falls into, each once, and how much: a unit vector at most.

    Characters and pairs of characters, also those at the ends, and the text's size. Widths are
    folded, letters lowered, and all digits alike.
    """
    text = text.strip()
    codes = code_points(f"\n{normalised(text)}\n")
    single = _mix(codes + np.uint32(1))
    double = _mix(single[:-1] ^ codes[1:])
    sizes = (len(text), text.count("\n"), text.count("\n\n"))
    shape = np.array(
        [0x1000000 * (kind + 1) + int(2 * np.log2(1 + size)) for kind, size in enumerate(sizes)],
        dtype=np.uint32,
    )
    hashes = np.concatenate([_mix(single[1:-1] + np.uint32(7)), double, _mix(_mix(shape))])
    buckets, counts = np.unique(hashes % np.uint32(BUCKETS), return_counts=True)
    values = 1 + np.log(counts)
    return buckets.astype(np.int64), values / np.sqrt((values * values).sum() + _EVIDENCE)


def normalised(text: str) -> str:
    """What is looked at of a text: both ends of a long one, widths folded, letters lowered."""
    shown = text if len(text) <= _HEAD + _TAIL else text[:_HEAD] + text[-_TAIL:]
    return re.sub(r"\d", "0", unicodedata.normalize("NFKC", shown).lower())


def code_points(text: str) -> Codes:
    """The characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4").astype(np.uint32)


def is_han(codes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which code points are Chinese characters of the basic block."""
    han: npt.NDArray[np.bool_] = (codes >= 0x4E00) & (codes <= 0x9FFF)
    return han


def _mix(hashes: Codes) -> Codes:
    hashes = hashes * np.uint32(2654435761)  # wraps, as it shall
    return hashes ^ (hashes >> np.uint32(15))
