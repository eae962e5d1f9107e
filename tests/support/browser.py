"""A real Chromium, in which tests open the pages that cuchar writes; `browser_page` in tests/conftest.py is the way in."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "chromium"  # Debian's package of that name, which .ci/run installs
INSIDE = ("data:", "blob:")  # addresses of what a page holds itself


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium, as Playwright's Browser. As long as it runs, asyncio.run() cannot be used."""
    from playwright.sync_api import sync_playwright

    found = shutil.which(CHROMIUM)
    assert found, "expected Debian's chromium, found none: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visitor(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a file and returns Playwright's Page.

    At the end, no page may have had an error on its console, or have asked for anything but itself.
    """
    complaints: list[str] = []
    contexts = []

    def visit(file: Path, width: int = 1280, height: int = 800, **options: Any) -> Any:
        """Open `file` in a window of its own; `options` are those of Playwright's new_context, as color_scheme."""
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page, address = context.new_page(), file.resolve().as_uri()

        def refuse(dialog: Any) -> None:
            complaints.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        def expect_itself(request: Any) -> None:
            if request.url.split("#")[0] != address and not request.url.startswith(INSIDE):
                complaints.append(f"asked for {request.url}")

        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", refuse)
        page.on("request", expect_itself)
        page.goto(address)
        return page

    try:
        yield visit
    finally:
        for context in contexts:
            context.close()
    assert not complaints, complaints
