"""Finds the Chromium or Chrome that browser tests drive, and installs one where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_MAC = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)


def find_browser() -> str | None:
    """Return the browser's path: `NBLOADER_BROWSER`, one on the PATH, a Mac's, or Playwright's own; None without."""
    given = os.environ.get("NBLOADER_BROWSER")
    if given:
        return given
    on_path = next(filter(None, map(shutil.which, _NAMES)), None)
    if on_path:
        return on_path
    on_mac = next((str(path) for path in _MAC if path.exists()), None)
    return on_mac or _of_playwright()


def _of_playwright() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install_browser() -> None:
    """Install Debian's Chromium where this is root on a Debian, Playwright's elsewhere."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "--quiet"], check=True)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "chromium", "fonts-noto-cjk"], check=True)
        return
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


if __name__ == "__main__":
    if find_browser() is None and "--install" in sys.argv:
        install_browser()
    print(find_browser() or sys.exit("no browser found: install Chromium, or set NBLOADER_BROWSER"))
