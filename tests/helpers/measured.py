"""What every measurement says of itself."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from cgclora.storage import provenance
from cgclora.storage.atomic_io import write_json


def stamp() -> dict[str, Any]:
    """Code, versions and machine of now; to be taken first, since the code may change meanwhile."""
    return {
        "format": 1,
        **provenance.stamp(None),
        "hardware": {**provenance.hardware(None), "cores": os.cpu_count()},
    }


def conclude(found: dict[str, Any], path: Path | None) -> NoReturn:
    """Write and print a report; end with 1 if one of its bars was not reached."""
    if path:
        write_json(path, found)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    sys.exit(not all(found["reached"].values()))
