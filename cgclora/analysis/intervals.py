"""How sure a share is."""

import math


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927), which stays in [0, 1] for few records.

    Raises:
        ValueError: `total` is not positive, or `right` is not among 0 ... `total`.
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is not a proportion")
    share = right / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return (centre - half) / scale, (centre + half) / scale
