"""Headless Chromium without a network, for what is looked at in a browser."""

import contextlib
import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
           "--disable-component-update", "--disable-sync", "--no-first-run",
           "--disable-quic"]  # fmt: skip


def chromium():
    """The browser's path. CI must have one; elsewhere its tests are skipped without it."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        assert "CI" not in os.environ, "CI has no Chromium: .ci/run installs it"
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


@contextlib.contextmanager
def opened(url, *, width=1280, height=900, dark=False):
    """A page, and what went wrong in it or was asked of another host."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=OPTIONS)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
            )
            page, trouble = context.new_page(), []
            page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: trouble.append(str(error)))
            own = ("file:", "data:", "blob:", "/".join(url.split("/")[:3]))
            page.on("request", lambda r: r.url.startswith(own) or trouble.append(r.url))
            page.goto(url)
            yield page, trouble
        finally:
            browser.close()


def overflows(page):
    """Whether the page is wider than its window."""
    return page.evaluate("document.scrollingElement.scrollWidth > innerWidth + 1")
