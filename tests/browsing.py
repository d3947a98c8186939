"""A browser for the tests of pages: one for each module, and pages that note what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.viewer_tools import missing, program


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; skips, or fails where it is required."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the package playwright")
    path = program("chromium")
    with sync_playwright() as playwright:
        # Tests run as whoever they run as; a container's root has no sandbox.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def until(page: Any, expression: str, seconds: float = 10) -> None:
    """Wait until an expression holds in a page.

    Playwright's own way makes the page evaluate text, which a strict policy forbids.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


class Watched:
    """A page, and what it asked for and complained of."""

    def __init__(self, opened: Any, **options: Any) -> None:
        self.context = opened.new_context(**options)
        self.page = self.context.new_page()
        self.address = ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def outside(self, *inside: str) -> list[str]:
        """The requests that went anywhere but to addresses that begin so."""
        own = (*inside, "data:", "blob:")
        return [address for address in self.requests if not address.startswith(own)]

    def close(self) -> None:
        self.context.close()
