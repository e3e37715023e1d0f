import pytest

from qc.core.enums import LabelName
from tests.support.browser import pages_of
from tests.support.tiny import process, write_frame, write_history


@pytest.fixture
def browser(project):
    """What asks for pages, without a browser."""
    return pages_of(project)


def test_an_empty_project_says_what_to_do(browser):
    page = browser.get("/")
    assert page.status_code == 200
    assert "Nothing has been processed yet" in page.text


def test_tonight_is_the_newest_night(browser, project, inbox):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2))
    assert "Night of 2026-01-02" in browser.get("/").text
    assert "Night of 2026-01-01" in browser.get("/?night=2026-01-01").text


def test_every_answer_forbids_what_no_page_asks_for(browser):
    headers = browser.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_that_is_not_there_is_told_so(browser):
    assert (browser.get("/nothing").status_code, browser.get("/api/nothing").json()) == (
        404,
        {"error": "Not Found"},
    )
