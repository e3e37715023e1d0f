import pytest

from tests.browser import NARROW, WIDE, overflow, violations, window


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_it_is_readable_at_every_width(chromium, served, size):
    with window(chromium, served, size=size) as page:
        page.goto("/")
        assert page.title().startswith("Tonight")
        assert overflow(page) == 0
        assert violations(page) == []
