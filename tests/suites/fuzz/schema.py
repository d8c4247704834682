"""Calls made from the API's own description: `python -m tests.suites.fuzz.schema --json OUT`.

Starts the app with a tiny model and has schemathesis call what its OpenAPI document describes, in
and out of bounds. Ends with 1 on a reply that says 5xx, a traceback in the log, or a dead process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser.app_server import ROOT, Running
from tests.helpers.measured import conclude, stamp
from tests.suites.fuzz.http import API
from tests.suites.fuzz.run import serving, wrong_inside

_COMMAND = ROOT / ".venv" / "schema" / "bin" / "st"  # `make schema` installs it


def run(app: Running, examples: int, seed: int) -> dict[str, Any]:
    """The measurement, as JSON values.

    Args:
        app: Who is called.
        examples: How many calls of each operation, at most, besides those at the bounds.
        seed: Decides which.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [_COMMAND, "run", f"{app.address}{API}/openapi.json", "--url", app.address]
        command += ["--checks", "not_a_server_error", "--max-examples", str(examples)]
        command += ["--seed", str(seed), "--report", "json", "--report-json-path", report]
        subprocess.run(command, check=False, cwd=folder, stdout=sys.stderr)
        told = json.loads(report.read_text("utf-8"))
    alive, inside = app.process.poll() is None, wrong_inside(app.log.read_text("utf-8", "replace"))
    cases, operations = told["test_cases"], told["operations"]
    failed = cases["with_failures"] + cases["errored"]
    return {
        "schemathesis": told["schemathesis_version"],
        "seed": seed,
        "operations": operations["tested"],
        "calls": cases["generated"],
        "failed": failed,
        "inside": dict(inside),
        "reached": {
            "all tested": told["complete"] and operations["tested"] == operations["total"] > 0,
            "no server errors": not failed,
            "nothing wrong inside": not inside,
            "alive": alive,
        },
    }


def main() -> None:
    """Call as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="where to write the report")
    options = parser.parse_args()
    if not _COMMAND.is_file():
        sys.exit(f"{_COMMAND} is not there: `make schema` installs schemathesis and runs this.")
    stamped = stamp()
    with serving() as (app, _):
        found = run(app, options.examples, options.seed)
    conclude({**stamped, **found}, options.json)


if __name__ == "__main__":
    main()
