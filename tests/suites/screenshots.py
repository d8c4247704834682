"""Pictures of every tab: `python -m tests.suites.screenshots OUT`, or `--readme` for the README's.

Starts the app, or looks at the one at `--url`.
"""

import argparse
import io
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.app_server import ROOT, serve
from tests.browser.app_tour import View, browsing, looking, show, tab_names

README = ROOT / "assets" / "screenshots"
README_VIEW = View(1280, "light", "en")
README_BYTES = 2_000_000
"""Most that all pictures of the README may weigh together."""

_README_HEIGHT = 1900  # what lies further down is for those who open the app


def views(widths: list[int]) -> list[View]:
    """Each width in both languages; wide ones in light and dark."""
    return [
        View(width, scheme, language)
        for width in widths
        for scheme in (("light", "dark") if width > 600 else ("light",))
        for language in ("zh", "en")
    ]


def pictures(browser: Browser, address: str, view: View) -> Iterator[tuple[str, Image.Image]]:
    """Every tab's name and picture, in full height."""
    tabs = tab_names(browser, address)
    for tab in tabs:
        with looking(browser, view) as page:  # each alone: none starts where another was left
            show(page, address, view, tab)
            shot = page.screenshot(full_page=True, animations="disabled", caret="hide")
            yield tab, Image.open(io.BytesIO(shot)).convert("RGB")


def save(picture: Image.Image, path: Path) -> int:
    """Write a picture in all its colours, which mean something; returns the size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
    return path.stat().st_size


def for_readme(browser: Browser, address: str, folder: Path = README) -> None:
    """Replace the README's pictures.

    Raises:
        ValueError: They weigh more than they may; they are written all the same.
    """
    total = 0
    for tab, picture in pictures(browser, address, README_VIEW):
        width, height = picture.size
        top = picture.crop((0, 0, width, min(height, _README_HEIGHT)))
        size = save(top, folder / f"{tab}.png")
        print(f"{folder / tab}.png  {size / 1000:.0f} kB")
        total += size
    if total > README_BYTES:
        raise ValueError(f"the pictures weigh {total:,} bytes, at most {README_BYTES:,} may be.")


def main() -> None:
    """Take pictures as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, help="folder for the pictures")
    parser.add_argument("--width", type=int, nargs="+", default=[1280, 390], help="of the window")
    parser.add_argument("--url", help="of a running app; by default one is started")
    parser.add_argument("--readme", action="store_true", help="write assets/screenshots, no others")
    options = parser.parse_args()
    if not (options.readme or options.out):
        parser.error("say where to write pictures, or --readme")
    with nullcontext(options.url) if options.url else serve() as url, browsing() as browser:
        address = url.rstrip("/")
        if options.readme:
            for_readme(browser, address)
            return
        for view in views(options.width):
            for tab, picture in pictures(browser, address, view):
                path = options.out / f"{tab}-{view.name}.png"
                print(f"{path}  {save(picture, path) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
