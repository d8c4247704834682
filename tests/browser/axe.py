"""axe-core, which judges how accessible a page is: found, or fetched with npm."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

VERSION = "4.14.1"
_FOLDER = Path(__file__).parents[2] / ".venv" / "axe"
_PACKAGE = _FOLDER / "node_modules" / "axe-core"

_RUN = """async (part) => {
  const found = await axe.run(part ?? document, { resultTypes: ["violations"] });
  return found.violations.map(({ id, impact, help, nodes }) => (
    { id, impact, help, where: nodes.map((node) => node.target.join(" ")),
      why: nodes[0].failureSummary }
  ));
}"""


def find_axe() -> Path:
    """The script of axe-core.

    Raises:
        FileNotFoundError: It was not fetched; the message says how to.
    """
    script = _PACKAGE / "axe.min.js"
    if script.is_file() and f'"version": "{VERSION}"' in (_PACKAGE / "package.json").read_text():
        return script
    raise FileNotFoundError(
        f"No axe-core {VERSION}: `make axe` fetches it with npm, which needs Node.js and the "
        'network. `python -m pytest -m "not browser"` does without.'
    )


def fetch_axe() -> None:
    """Fetch it into the environment's folder, if it is not there; leaves no lock file."""
    npm = shutil.which("npm")
    try:
        find_axe()
    except FileNotFoundError:
        if npm is not None:
            options = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund"]
            command = [npm, "install", "--prefix", str(_FOLDER), *options]
            # Not checked: whether it is there now, the caller sees for itself.
            subprocess.run([*command, f"axe-core@{VERSION}"], check=False)


def violations(page: Page, part: str | None = None) -> list[dict[str, Any]]:
    """What is wrong and serious or critical: rule, places, and why.

    Args:
        page: To judge.
        part: Selector of the part that is judged, in a fraction of the time; None takes the whole.
    """
    if not page.evaluate("typeof axe === 'object'"):
        page.add_script_tag(path=find_axe())
    found = page.evaluate(_RUN, part)
    return [one for one in found if one["impact"] in ("serious", "critical")]


if __name__ == "__main__":
    fetch_axe()
    try:
        print(f"axe-core: {find_axe()}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)  # the test that needs it will fail and say so again
