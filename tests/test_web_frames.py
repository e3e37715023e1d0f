import pytest

from qc.tables import LabelName
from tests.tiny import light_leak, process, write_frame, write_history


@pytest.fixture
def leaking(runtime, inbox):
    """The name of a frame with a light leak, judged against twenty good ones."""
    process(runtime, *write_history(inbox), label=LabelName.GOOD)
    process(runtime, write_frame(inbox, 2, change=light_leak))
    return "TINY.2026-01-02T20:00:00"


def test_a_frame_is_shown_with_its_reasons(pages, leaking):
    page = pages.get(f"/frames/{leaking}")
    assert page.status_code == 200, page.text
    assert "anomalous" in page.text
    for path in ("", "/why", "/why/cost", "/header"):
        for base in ("/frames", "/api/v1/frames"):
            got = pages.get(f"{base}/{leaking}{path}")
            assert got.status_code == 200, (base, path, got.text)
    for path in (
        "/picture.png",
        "/where.png",
        "/tree.svg",
        "/history.svg?metric=bias_level",
        "/tiles/0/0/0.png?low=90&high=110",
        "/difference/0/0/0.png?reach=10",
    ):
        got = pages.get(f"/frames/{leaking}{path}")
        assert got.status_code == 200, (path, got.text)
    for path in ("/image?difference=true", "/values", "/cuts?x=3&y=5", "/where", "/beside"):
        got = pages.get(f"/api/v1/frames/{leaking}{path}")
        assert got.status_code == 200, (path, got.text)
