"""What colours look like: linear light and contrast."""

from typing import Any

import numpy as np


def linear(colour: str) -> Any:
    """Linear light of the channels of a colour `#rrggbb`, in [0, 1]."""
    parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colours by WCAG 2.2, 1.4.3."""
    light, dark = sorted(
        (float(linear(one) @ [0.2126, 0.7152, 0.0722]) for one in (first, second)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)
