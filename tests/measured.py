"""What every measurement says of itself."""

import os
from typing import Any

from cgclora import provenance


def stamp() -> dict[str, Any]:
    """Code, versions and machine of now; to be taken first, since the code may change meanwhile."""
    return {
        "format": 1,
        **provenance.stamp(None),
        "hardware": {**provenance.hardware(None), "cores": os.cpu_count()},
    }
