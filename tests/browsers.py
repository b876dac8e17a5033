"""A real browser, what it is told to look like, and texts that would make a careless page do something."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

HOSTILE = [
    "<script>window.obeyed = 1</script></script><script>window.obeyed = 1</script>",
    "<img src=x onerror='window.obeyed = 1'><svg onload=\"window.obeyed = 1\">",
    '" onmouseover="window.obeyed = 1" x="',
    "<a href=\"javascript:window.obeyed = 1\">go</a><iframe srcdoc='<script>parent.obeyed = 1</script>'>",
    "</div></li></ol></main><style>body { display: none }</style><div><!-- never closed <textarea><title>",
    "<meta http-equiv=refresh content='0;url=https://example.org'><base href=https://example.org/>",
    r"$\href{javascript:window.obeyed = 1}{x}$ \(\url{javascript:window.obeyed = 1}\)",
    r"$\htmlData{x=<img src=x onerror=obeyed>}{y}$ $\includegraphics{https://example.org/x.png}$ $\class{small}{z}$",
    r"\(\def\a{\a\a}\a\) \(\rule{99999em}{99999em}\) \[\begin{matrix}\[",
    "\x00\x1b[2J ‮ reversed ‭ \ud83d\ude00",
    "{{script}} {{data}} ${window.obeyed = 1} [object Object] __proto__ constructor",
]
"""Markup, scripts, TeX that links, loads or never ends, control characters, templates; the first eight are shown as they are."""


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    driver = shutil.which("chromedriver")
    if driver is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have chromium and chromedriver (tools/debian.sh)")
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    switches = "headless no-sandbox disable-gpu disable-background-networking disable-component-update disable-sync no-first-run"
    for switch in [*switches.split(), f"user-data-dir={profile}"]:
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_page_load_timeout(60)
    chrome.set_script_timeout(60)
    try:
        yield chrome
    finally:
        chrome.quit()


def show_on(browser: webdriver.Chrome, *, width: int, height: int, scheme: str) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def until(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 20).until(lambda chrome: chrome.execute_script(script))
