"""A browser, and a server with the page: the stand-in, or the one that OCR_ONNX_PAGE_URL names.

Needs the dependency group `browser` and a Chromium, found by OCR_ONNX_CHROMIUM or on the path.
"""

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.service_page.page_server import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = os.environ.get("OCR_ONNX_CHROMIUM") or shutil.which("chromium")
URL = os.environ.get("OCR_ONNX_PAGE_URL")


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    api: Any = pytest.importorskip("playwright.sync_api", reason="needs the dependency group `browser`")
    if CHROMIUM is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name one in OCR_ONNX_CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def stub() -> Iterator[Server]:
    """The stand-in, for tests that want certain answers or faults."""
    if URL:
        pytest.skip("wants answers that only the stand-in gives")
    with serving() as server:
        yield server


@pytest.fixture
def address() -> Iterator[str]:
    """Whatever serves the page."""
    if URL:
        yield URL
        return
    with serving() as server:
        yield server.url


class Watched:
    """A browser page and what it complained about or asked for."""

    def __init__(self, context: "BrowserContext") -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", lambda message: self.complain(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requested.append(request.url))

    def complain(self, kind: str, text: str) -> None:
        # that a request was refused or broke off is part of some tests; the browser reports it by itself
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)


@pytest.fixture
def watched(browser: "Browser") -> Iterator[Watched]:
    """A fresh page; afterwards there must be no error, no violation of the policy, no other host."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    watched = Watched(context)
    yield watched
    here = watched.page.url
    context.close()
    assert watched.complaints == []
    assert [url for url in watched.requested if not url.startswith((here, "blob:", "data:"))] == []


@pytest.fixture
def page(watched: Watched) -> "Page":
    return watched.page
