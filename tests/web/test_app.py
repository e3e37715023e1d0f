"""The application as a whole."""

import pytest
from fastapi.routing import APIRoute

from qc.core.enums import LabelName
from qc.web.app import create_app
from tests.support.browser import pages_of, routes_of
from tests.support.tiny_spectrograph import process, write_frame, write_history
from tools.golden import FORMER_ADDRESSES


@pytest.fixture
def browser(project):
    """Client of the application, without a browser."""
    return pages_of(project)


def test_dashboard_of_empty_project(browser):
    page = browser.get("/")
    assert page.status_code == 200
    assert "No frame has been processed yet" in page.text


def test_dashboard_shows_newest_night_by_default(browser, project, inbox):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2))
    assert "Night of 2026-01-02" in browser.get("/").text
    assert "Night of 2026-01-01" in browser.get("/?night=2026-01-01").text


def test_response_has_security_headers(browser):
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_unknown_page_is_404(browser):
    assert (browser.get("/nothing").status_code, browser.get("/api/nothing").json()) == (
        404,
        {"error": "Not Found"},
    )


OLD_ADDRESSES = {
    **FORMER_ADDRESSES,
    "/frames/{name}/where.png": "/frames/{name}/residual-map.png",
    "/frames/{name}/tree.svg": "/frames/{name}/dendrogram.svg",
    "/frames/{name}/why": "/frames/{name}/explanation",
    "/frames/{name}/why/cost": "/frames/{name}/explanation/cost",
    "/map": "/projection",
    "/map/plot.json": "/projection/plot.json",
    "/notices/{number}/acknowledge": "/notifications/{number}/acknowledge",
}


def test_old_addresses_are_aliases(project):
    endpoints = {
        route.path: route.endpoint
        for route in routes_of(create_app(project))
        if isinstance(route, APIRoute)
    }
    for old, new in OLD_ADDRESSES.items():
        assert endpoints[old] is endpoints[new], old


def test_old_review_view_is_alias(browser):
    assert "Review queue: grid" in browser.get("/review?view=wall").text
    assert "Review queue: grid" not in browser.get("/review?view=one").text
