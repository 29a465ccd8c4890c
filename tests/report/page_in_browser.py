"""The page in a real headless Chromium, for the tests and for looking at it.

python tests/report/page_in_browser.py report.html shot.png --width 375 --dark
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str:
    """Return which program is not on the path, or nothing."""
    return next((f"{n} is not on PATH" for n in ("chromium", "chromedriver") if not _path(n)), "")


@contextmanager
def browser() -> Iterator[Any]:
    """Give a driver with a profile of its own that records the console and the network."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = _path("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options, Service(_path("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def show(driver: Any, page: Path, *, width: int = 1280, dark: bool = False) -> None:
    """Open a page at a width, in a colour scheme."""
    view(driver, width=width, dark=dark)
    driver.get(page.resolve().as_uri())


def view(driver: Any, *, width: int = 1280, dark: bool = False) -> None:
    """Let the window have a width, and the system a colour scheme, from now on."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wanted]})


def screenshot(driver: Any, to: Path) -> Path:
    """Write a picture of the whole page."""
    size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    whole = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
    found = driver.execute_cdp_cmd("Page.captureScreenshot", whole)
    to.write_bytes(base64.b64decode(found["data"]))
    return to


def _path(name: str) -> str | None:
    return shutil.which(name)


def _main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("page", type=Path)
    asked.add_argument("to", type=Path)
    asked.add_argument("--width", type=int, default=1280)
    asked.add_argument("--dark", action="store_true")
    given = asked.parse_args()
    with browser() as driver:
        show(driver, given.page, width=given.width, dark=given.dark)
        print(screenshot(driver, given.to))


if __name__ == "__main__":
    _main()
