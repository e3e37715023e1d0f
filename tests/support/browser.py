"""A project served to a real browser: Debian's Chromium, driven by Playwright.

A test takes the fixture `page`, whose relative addresses are those of `served`. `pages` gives
the application to a test that needs no browser. When a test is over, an error in the browser's
console, such as a script that the policy forbids, is the test's failure.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import pytest

from qc._time import utc_now
from qc.project import ProjectContext

if TYPE_CHECKING:  # imported on use: most tests need neither the web application nor a browser
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from playwright.sync_api import Browser, ConsoleMessage, Page
    from starlette.routing import BaseRoute

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (  # nothing but what is asked for, and nothing that a container lacks
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = (1280, 900), (390, 844)
SCHEMES: tuple[tuple[Literal["light", "dark"], str], ...] = (
    ("light", ""),
    ("dark", "color-contrast"),
)
PATIENCE_MS = 30_000


@dataclass(frozen=True)
class Served:
    """A project and where it is served."""

    project: ProjectContext
    url: str


@contextmanager
def serving(
    project: ProjectContext, now: Callable[[], datetime] = utc_now, port: int = 0
) -> Iterator[Served]:
    """Serve a project on this machine, at a free port unless one is given."""
    import uvicorn  # noqa: PLC0415

    from qc.web.app import create_app  # noqa: PLC0415

    with closing(socket.create_server(("127.0.0.1", port))) as listening:
        app = create_app(project, now)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, proxy_headers=False))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(project, f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(timeout=30)


def pages_of(project: ProjectContext, now: Callable[[], datetime] = utc_now) -> "TestClient":
    """Return an HTTP client of the web application, on this machine."""
    from fastapi.testclient import TestClient  # noqa: PLC0415

    from qc.web.app import create_app  # noqa: PLC0415

    app = create_app(project, now)
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))


def routes_of(app: "FastAPI") -> "Iterator[BaseRoute]":
    """Return all routes, those of included routers too."""
    for one in app.routes:
        yield from getattr(getattr(one, "original_router", None), "routes", [one])


@pytest.fixture
def pages(project):
    """What asks for pages of the project without a browser."""
    return pages_of(project)


@pytest.fixture
def served(project):
    """The project, served on this machine."""
    with serving(project) as one:
        yield one


@pytest.fixture(scope="session")
def chromium():
    """Debian's Chromium, started once; each test opens windows of its own."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there; 'apt-get install chromium' brings it")
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@contextmanager
def window(chromium: "Browser", served: Served, **options: Any) -> "Iterator[Page]":
    """Open a window of its own: no cookie of another test, 1280 pixels wide unless told."""
    width, height = options.pop("size", WIDE)
    context = chromium.new_context(
        base_url=served.url, viewport={"width": width, "height": height}, **options
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.extend(_complaint(message)))
    try:
        yield page
    finally:
        context.close()
    assert complaints == []


def _complaint(message: "ConsoleMessage") -> list[str]:
    """Take errors, but for an answer of 4xx: whether that was right is the test's question."""
    is_error = message.type == "error" and "Failed to load resource" not in message.text
    return [message.text] if is_error else []


@pytest.fixture
def page(chromium, served):
    """A window of the browser, 1280 pixels wide."""
    with window(chromium, served) as one:
        yield one


def violations(page: "Page", rule: str = "") -> list[str]:
    """Return what axe finds to be serious or critical, with the elements; by one rule if told."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415

    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rule:
        options["runOnly"] = {"type": "rule", "values": [rule]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in {"serious", "critical"}
    ]


def overflow(page: "Page") -> int:
    """Return by how many pixels the page is wider than its window: 0 where nobody must scroll."""
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(0, int(wide))


def hindrances(page: "Page") -> list[str]:
    """Return what is wrong with a page wide or narrow, light or dark; it is left narrow and dark.

    What depends on colours is asked of both; all else that axe knows is the same in both.
    """
    found = []
    for width, height in (WIDE, NARROW):
        page.set_viewport_size({"width": width, "height": height})
        for scheme, rule in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            wrong = violations(page, rule)
            wrong += [f"{more} pixels too wide" for more in [overflow(page)] if more]
            found += [f"{width} {scheme}: {one}" for one in wrong]
    return found
