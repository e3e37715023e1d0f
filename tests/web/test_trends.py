import io
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import expect
from pypdf import PdfReader

from qc._cache import LRUCache
from qc.core.verdict import Status
from qc.db.schema.models import EpochRow
from qc.summaries.trends import extremes
from qc.web.api.trends import TrendQuery, read_trend
from tests.support.browser import pages_of
from tests.support.tiny_spectrograph import MERGE_HEIGHT
from tests.support.verdict_rows import StoredExtension, add_extensions

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def browser(project):
    """Client of the application, without a browser."""
    return pages_of(project, lambda: NOW)


@pytest.fixture
def past(project):
    """Forty nights of ten biases, each a tenth of an ADU higher; the hundredth stands apart."""
    levels = [100 + 0.1 * number for number in range(400)]
    levels[100] = 150.0
    odd = {100: Status.ANOMALOUS}
    names = add_extensions(
        project,
        *[
            StoredExtension(bias_level_adu=level, status=odd.get(number, Status.NOMINAL))
            for number, level in enumerate(levels)
        ],
    )
    with project.write_session.begin() as session:
        why = "new <lamp>"
        session.add(EpochRow(scope="TINY", since=date(2026, 1, 20), why=why, who="kim", at=NOW))
    return names


def test_extremes_of_each_span():
    values = np.array([3.0, 1, 2, 5, 4, 9, 9, 9])
    assert extremes(values, 2).tolist() == [1, 3, 4, 5]
    assert extremes(np.zeros(5), 5).tolist() == [0, 1, 2, 3, 4]


def test_thinned_trend_keeps_outlier(project, past):
    with project.read_session() as session:
        trend = read_trend(project, session, LRUCache(), "TB0", TrendQuery(metric="bias_level"))
    assert len(trend.thinned(400)) == 400
    few = trend.thinned(100)
    assert len(few) <= 100
    assert f"{few[[point.value for point in few].index(150.0)].frame}[0]" == past[100]


@pytest.mark.usefixtures("past")
def test_trend_json_fields(browser):
    document = browser.get("/api/v1/trends/TB0?metric=merge_height").json()
    assert document["count"] == len(document["points"]) == 400
    assert document["points"][0]["value"] == pytest.approx(0.3 * MERGE_HEIGHT)
    assert [month["frames"] for month in document["months"]] == [310, 90]
    assert document["limit"] == [{"from": "2000-01-01", "limit": MERGE_HEIGHT}]
    kinds = {(event["kind"], event["night"]) for event in document["events"]}
    assert kinds == {("intervention", "2026-01-20"), ("threshold", "2000-01-01")}


@pytest.mark.usefixtures("past")
@pytest.mark.parametrize(
    ("metric", "first"),
    [
        ("bias_level", 100.0),
        ("score", 0.5),
        ("merge_ratio", 0.3),
        ("residual", 10.0),
        ("residual_ratio", 0.01),
    ],
)
def test_trend_of_each_quantity(browser, metric, first):
    document = browser.get(f"/api/v1/trends/TB0?metric={metric}").json()
    assert document["points"][0]["value"] == pytest.approx(first)


@pytest.mark.usefixtures("past")
def test_trend_of_selected_nights(browser):
    address = "/api/v1/trends/TB0?metric=bias_level&since=2026-01-03&until=2026-01-04"
    document = browser.get(address).json()
    assert document["count"] == 20
    assert document["points"][0]["frame"] == "TINY.20[0]"


def test_trend_csv_has_every_point(browser, past):
    answer = browser.get("/api/v1/trends/TB0/points.csv?metric=bias_level")
    table = pd.read_csv(io.StringIO(answer.text))
    assert (len(table), table["bias_level"].max()) == (400, 150.0)
    assert (table["frame"] + "[" + table["extension"].astype(str) + "]").tolist() == past
    assert "TB0_bias_level.csv" in answer.headers["content-disposition"]


@pytest.mark.usefixtures("past")
def test_trend_table_has_months_and_events(browser):
    page = browser.get("/trends/TB0/table?metric=bias_level").text
    assert "2026-02" in page
    assert "new &lt;lamp&gt; (kim)" in page


@pytest.mark.usefixtures("past")
def test_trend_form_redirects(browser):
    answer = browser.get(
        "/trends/choose?type=TB0&metric=residual&since=&until=2026-02-01", follow_redirects=False
    )
    assert answer.headers["location"] == "/trends/TB0?metric=residual&until=2026-02-01"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("TB0?metric=beauty", 422),
        ("TB0?since=2026-02-30", 422),
        ("TB0?since=2026-02-02&until=2026-02-01", 422),
        ("XB0?metric=score", 404),
        ("TF0?metric=score", 422),
    ],
)
@pytest.mark.usefixtures("past")
def test_invalid_query_is_rejected(browser, query, status):
    answer = browser.get(f"/api/v1/trends/{query}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


@pytest.mark.usefixtures("past")
def test_trend_plot_click_opens_frame(page):
    """There is one point in the middle of the plot: a click there must open its frame."""
    page.goto("/trends/TB0?metric=bias_level&since=2026-01-11&until=2026-01-11")
    expect(page.locator("#plot[data-drawn=yes]")).to_be_visible()
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    place = page.evaluate(
        """() => {
            const view = Bokeh.index.get_by_id
                ? [...Bokeh.index][0] : Object.values(Bokeh.index)[0];
            const dots = view.model.renderers.find((dots) => dots.data_source?.data.name.length);
            const [x, y] = [dots.data_source.data.x[0], dots.data_source.data.y[0]];
            const box = view.el.getBoundingClientRect();
            const frame = view.frame;
            return [box.x + frame.x_scale.compute(x), box.y + frame.y_scale.compute(y)];
        }"""
    )
    with page.expect_request(lambda request: "/frames/TINY.10" in request.url):
        page.mouse.click(*place)
    assert all(item.startswith(page.url.split("/trends")[0].split("/frames")[0]) for item in urls)


def ring_of(page):
    """Where the ring is: across and up, in the numbers of the axes."""
    return page.evaluate(
        """() => {
            const [view] = [...Bokeh.index];
            const { x, y } = view.model.select_one("selected").data_source.data;
            return [Array.from(x), Array.from(y)];
        }"""
    )


def test_trend_points_by_keyboard(page, past):
    page.goto("/trends/TB0?metric=bias_level")
    page.locator("#plot[data-drawn=yes]").wait_for()
    slider = page.get_by_role("slider", name="point by point")
    group = page.get_by_role("combobox", name="points")
    group.focus()
    page.keyboard.press("Tab")
    expect(slider).to_be_focused()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute(
        "aria-valuetext", "TINY.0[0], 2026-01-01 20:00: 100, nominal; 1 of 400"
    )
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("link", name="TINY.1[0]")).to_have_attribute("href", "/frames/TINY.1")
    assert ring_of(page)[1] == [pytest.approx(100.1)]
    page.keyboard.press("Shift+Tab")
    page.keyboard.type("anomalous")
    expect(group).to_have_value("anomalous")
    page.keyboard.press("Tab")
    expect(slider).to_have_attribute(
        "aria-valuetext", "TINY.100[0], 2026-01-11 20:00: 150, anomalous; 1 of 1"
    )
    assert ring_of(page)[1] == [150]
    with page.expect_request(lambda request: request.url.endswith("/frames/TINY.100")):
        page.keyboard.press("Enter")
    assert past[100] == "TINY.100[0]"


@pytest.mark.usefixtures("past")
def test_trend_plot_scrolls_to_selected_point(page):
    page.goto("/trends/TB0?metric=bias_level")
    page.locator("#plot[data-drawn=yes]").wait_for()
    x, y, width, height = page.locator("#plot").bounding_box().values()
    page.mouse.move(x + width / 2, y + height / 2)
    page.mouse.down()
    page.mouse.move(x + 20, y + height / 2, steps=5)
    page.mouse.up()
    is_visible = """() => {
        const { model } = [...Bokeh.index][0], { start, end } = model.x_range;
        const first = Math.min(...model.select_one("nominal").data_source.data.x);
        return start <= first && first <= end;
    }"""
    assert not page.evaluate(is_visible)
    page.get_by_role("slider", name="point by point").press("Home")
    assert page.evaluate(is_visible)


def brightness(picture):
    return np.asarray(picture.convert("L"), float).mean()


@pytest.mark.usefixtures("past")
def test_trend_plot_colour_scheme(page):
    page.emulate_media(color_scheme="dark")
    page.goto("/trends/TB0?metric=bias_level")
    plot = page.locator("#plot[data-drawn=yes]")
    plot.wait_for()
    assert brightness(Image.open(io.BytesIO(plot.screenshot()))) < 80
    drawn = [
        Image.open(io.BytesIO(image.data))
        for sheet in PdfReader(io.BytesIO(page.pdf(format="A4", print_background=True))).pages
        for image in sheet.images
    ]
    assert brightness(max(drawn, key=lambda picture: picture.width * picture.height)) > 200
