"""The browser that end-to-end tests drive: found, or installed where this process may do so."""

import os
import shutil
import subprocess
import sys

_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PACKAGES = ("chromium", "fonts-wqy-zenhei")  # without a Chinese font, screenshots show boxes


def find_browser() -> str:
    """The path of a Chromium: the environment variable CHROMIUM, or the first one on PATH.

    Raises:
        FileNotFoundError: There is none; the message says what to install.
    """
    for command in (os.environ.get("CHROMIUM"), *_COMMANDS):
        if command and (path := shutil.which(command)):
            return path
    raise FileNotFoundError(
        f"No Chromium: install {' and '.join(_PACKAGES)} (Debian's names) or Google Chrome, or set "
        'CHROMIUM to the path of one. `python -m pytest -m "not browser"` does without.'
    )


def _missing() -> list[str]:
    """Names of the packages that this machine lacks."""
    chromium, font = _PACKAGES
    missing = []
    try:
        find_browser()
    except FileNotFoundError:
        missing.append(chromium)
    fonts = shutil.which("fc-list")
    if fonts is None or not subprocess.check_output([fonts, ":lang=zh"]):
        missing.append(font)
    return missing


def install_browser() -> None:
    """Install what is missing with apt-get, as root or through a sudo that asks no password."""
    missing = _missing()
    apt = shutil.which("apt-get")
    if not missing or apt is None:
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    allowed = not root or (
        shutil.which("sudo") is not None
        and subprocess.run([*root, "true"], check=False, capture_output=True).returncode == 0
    )
    if not allowed:
        return
    command = [*root, "env", "DEBIAN_FRONTEND=noninteractive", apt]
    # Not checked: one dead mirror is no reason to give up, and whether a browser is there now,
    # the caller sees for itself.
    subprocess.run([*command, "update"], check=False)
    install = [*command, "install", "-y", "--no-install-recommends", *missing]
    subprocess.run(install, check=False)


if __name__ == "__main__":
    install_browser()
    try:
        print(f"browser: {find_browser()}")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)  # the tests that need it will fail and say so again
