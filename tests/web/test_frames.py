"""Frame pages: through the application and in a real browser."""

import os
import re
import shutil
import time
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from sqlalchemy import select

from embeddings.clustering import average_linkage, find_first_merge
from qc import db
from qc.core.enums import LabelName
from qc.core.frame import Setup
from qc.core.verdict import Evidence
from qc.db.schema.models import FrameRow
from qc.detection import decision
from qc.detection.thresholds import MetricLimit, Threshold
from qc.errors import UnknownFrameError
from qc.io.fits import read_cards
from qc.io.frame_reader import read_frame
from qc.review.explain import estimate_flagging_cost, explain_verdict
from qc.review.extension_links import find_nearest_bad
from qc.review.frame_detail import find_finding
from qc.review.pyramid import (
    TILE,
    IntensityScale,
    PyramidCache,
    Reducer,
    Stretch,
    build,
    grey_png,
    signed_png,
)
from tests.support.browser import NARROW, PATIENCE_MS, window
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    MERGE_HEIGHT,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions, nominal_frames

LEAK, GOOD, OTHER = (f"TINY.2026-01-02T20:0{minute}:00" for minute in range(3))


@pytest.fixture(scope="module")
def shared_folder(empty_project, tmp_path_factory):
    """A folder with a project and its frames; not to be written to.

    Twenty good biases; a night later one with a leak, one without, and a labelled leak.
    """
    folder = tmp_path_factory.mktemp("made")
    inbox = folder / "inbox"
    inbox.mkdir()
    with copied_project(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            process(
                project,
                write_frame(inbox, 2, 0, change=light_leak),
                write_frame(inbox, 2, 1),
                write_frame(inbox, 2, 2, change=light_leak),
            )
            with project.write_session.begin() as session:
                [labelled] = db.findings.findings_named(session, OTHER)
                answer = db.labels.LabelAnswer(
                    LabelName.BAD, "kim", "light_leak", "<b>seen</b> by day"
                )
                db.labels.record_label(session, labelled.extension.id, answer)
        yield folder


@pytest.fixture
def project_folder(shared_folder, tmp_path):
    """The project of `made`, the test's own."""
    with copied_project(shared_folder / "project", tmp_path / "project") as folder:
        yield folder


@pytest.fixture
def empty(empty_project, tmp_path):
    """A project that has seen nothing, open."""
    with copied_project(empty_project, tmp_path / "empty") as folder, open_tiny(folder) as project:
        yield project


@pytest.fixture
def frames_folder(shared_folder, project_folder, inbox):
    """The frames of `made`, in a project and an inbox of the test's own."""
    shutil.copytree(shared_folder / "inbox", inbox, dirs_exist_ok=True)
    with open_tiny(project_folder) as project, project.write_session.begin() as session:
        for frame in session.scalars(select(FrameRow)):
            frame.path = frame.path.replace(str(shared_folder / "inbox"), str(inbox))
    return inbox


def pixels_of(project, inbox, name):
    [extension] = read_frame(inbox / f"{name}.fits", project.instruments).extensions
    return extension.pixels


# --- pyramids -------------------------------------------------------------------------------------


def ramp(ny, nx):
    return np.arange(ny * nx, dtype=np.float32).reshape(ny, nx)


def test_pyramid_halves_down_to_tile_size():
    shapes = [item.shape for item in build(ramp(600, 1030)).levels[Reducer.MEAN]]
    assert shapes == [(600, 1030), (300, 515), (150, 258), (75, 129)]


def test_pyramid_level_is_mean_or_peak_of_four():
    image = ramp(2, 300)
    pyramid = build(image)
    assert pyramid.levels[Reducer.MEAN][1][0, 0] == np.mean([0, 1, 300, 301])
    assert pyramid.levels[Reducer.PEAK][1][0, 0] == 301


def test_pyramid_peak_keeps_hot_pixel():
    image = np.full((2000, 1000), 100, np.uint16)
    image[1234, 567] = 60000
    assert build(image).levels[Reducer.PEAK][-1].max() == 60000


def test_pyramid_tiles_form_image():
    image = ramp(300, 600)
    pyramid = build(image)
    rows = [np.hstack([pyramid.tile(0, row, column) for column in range(3)]) for row in range(2)]
    assert (np.vstack(rows) == image).all()
    assert not pyramid.tile(0, 2, 0).size
    assert not pyramid.tile(9, 0, 0).size


def test_pyramid_cache_round_trip(tmp_path):
    cache = PyramidCache(tmp_path)
    assert cache.find("ab") is None
    cache.store("ab", ramp(300, 600))
    pyramid = PyramidCache(tmp_path).find("ab")
    assert pyramid is not None
    assert (pyramid.image == ramp(300, 600)).all()
    assert pyramid.depth == 3
    assert [item.name for item in tmp_path.iterdir()] == ["ab"]


def test_pyramid_cache_evicts_least_recently_used(tmp_path):
    cache = PyramidCache(tmp_path, most_bytes=3 * 2**20)
    for n, name in enumerate("abc"):
        cache.store(name, ramp(300, 600))  # 1.2 MB each, with its smaller versions
        if (tmp_path / name).exists():
            os.utime(tmp_path / name, (n, n))
    assert cache.find("a") is None
    cache.find("b")  # used again
    cache.store("d", ramp(300, 600))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["b", "d"]


@pytest.mark.parametrize("digest", ["../x", "", "a/b", ".."])
def test_pyramid_cache_rejects_invalid_digest(tmp_path, digest):
    with pytest.raises(ValueError, match="expected a digest"):
        PyramidCache(tmp_path).find(digest)


@pytest.mark.parametrize("stretch", Stretch)
def test_intensity_scale_is_monotonic(stretch):
    greys = IntensityScale(100, 200, stretch).to_grey(
        np.array([0, 100, 120, 150, 200, 300, np.nan])
    )
    assert greys[[0, 1, -1]].tolist() == [0, 0, 0]
    assert greys[[4, 5]].tolist() == [255, 255]
    assert greys[1] < greys[2] < greys[3] < greys[4]


def test_grey_png_has_row_0_at_bottom(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(grey_png(np.array([[0, 0], [9, 9]], np.uint16), IntensityScale(0, 9)))
    assert np.asarray(Image.open(path)).tolist() == [[255, 255], [0, 0]]


def test_signed_png_colours(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(signed_png(np.array([[-5, 0, 5]], np.float32), 5))
    below, none, above = np.asarray(Image.open(path).convert("RGB"))[0].astype(int)
    assert below[2] > below[0]
    assert none.min() > 230
    assert above[0] > above[2]


# --- explanation and header -----------------------------------------------------------------------


def test_find_first_merge_returns_nearest_leaf():
    vectors = np.array([[1, 0], [1, 0.01], [0, 1], [1, 0.02]], np.float32)
    height, members = find_first_merge(average_linkage(vectors), 3)
    assert members.tolist() == [1]
    assert 0 < height < 1e-3
    assert find_first_merge(average_linkage(vectors), 2)[1].tolist() == [0, 1, 3]


def test_find_first_merge_rejects_unknown_leaf():
    with pytest.raises(ValueError, match="expected a leaf from 0 to 1, got 2"):
        find_first_merge(average_linkage(np.eye(2, dtype=np.float32)), 2)


def limits():
    return Threshold.model_validate(
        {
            "from": "2000-01-01",
            "encoder": "x",
            "merge_height": 0.001,
            "residual": 10,
            "false_alarms": 0.001,
            "metrics": {"bias_level": MetricLimit(warn=6, alarm=12)},
            "why": "a test",
            "by": "me",
        }
    )


def test_weigh_orders_evidence_by_ratio():
    evidence = Evidence(0.0005, 100, "", {"bias_level": 118.0}, {"bias_level": -9.0}, residual=1)
    weights = decision.weigh(evidence, limits(), {"bias_level": (80, 120)})
    assert [(item.name, item.against, round(item.ratio, 3)) for item in weights] == [
        ("bias_level", "instrument", 0.9),
        ("bias_level", "references", 0.75),
        ("merge_height", "references", 0.5),
        ("residual", "references", 0.1),
    ]


def test_weigh_with_few_references_uses_instrument_limits():
    evidence = Evidence(0.5, 3, "", {"bias_level": 100.0}, {"bias_level": 99.0}, residual=99)
    [weight] = decision.weigh(evidence, limits(), {"bias_level": (80, 120)})
    assert (weight.against, weight.ratio) == ("instrument", 0)


def test_weigh_puts_copy_first():
    evidence = Evidence(0.0005, 100, "", {}, {}, duplicate_of="another")
    assert decision.weigh(evidence, limits(), {})[0].name == "copy"


def test_read_cards_of_all_headers():
    header = fits.Header([("FIRST", 1, "a number")])
    header["HIERARCH ESO DET CHIPS"] = ("two", "a text")
    units = fits.HDUList([fits.PrimaryHDU(header=header), fits.ImageHDU(np.ones((2, 2)))])
    path_bytes = bytearray()
    for unit in units:
        path_bytes += unit.header.tostring().encode()
        path_bytes += b"" if unit.data is None else bytes(2880)
    cards = list(read_cards(bytes(path_bytes)))
    assert ("ESO DET CHIPS", "two", "a text") in {
        (card.keyword.removeprefix("HIERARCH "), card.value, card.comment) for card in cards
    }
    assert {card.unit for card in cards} == {0, 1}


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("frames_folder")
def test_frame_page_shows_reasons_metrics_and_labels(pages):
    page = pages.get(f"/frames/{LEAK}").text
    assert "joins its 20 references at cosine distance" in page
    assert "gradient y" in page
    assert "No labels yet." in page
    assert "light leak" in pages.get(f"/frames/{OTHER}").text


@pytest.mark.usefixtures("frames_folder")
def test_frame_page_escapes_notes(pages):
    page = pages.get(f"/frames/{OTHER}").text
    assert "&lt;b&gt;seen&lt;/b&gt; by day" in page
    assert "<b>seen" not in page


@pytest.mark.usefixtures("frames_folder")
def test_frame_links_previous_and_next(pages):
    extension = pages.get(f"/api/v1/frames/{GOOD}").json()["extensions"][0]
    assert (extension["before"]["name"], extension["after"]["name"]) == (LEAK, OTHER)
    assert extension["nearest"]["name"].startswith("TINY.2026-01-01")
    assert pages.get(f"/api/v1/frames/{OTHER}").json()["extensions"][0]["after"] is None


def test_unprocessed_frame_is_404(pages, project, frames_folder):
    path = str(next(frames_folder.iterdir()))
    for name in ("nothing", path, f"../{LEAK}", f"{LEAK}.fits", "%2e%2e%2fqc.toml", "a" * 299):
        for page in ("", "/why", "/header", "/picture.png", "/tiles/0/0/0.png?low=0&high=1"):
            assert pages.get(f"/frames/{name}{page}").status_code == 404
    with project.read_session() as session, pytest.raises(UnknownFrameError):
        find_finding(session, LEAK, 7)


@pytest.mark.usefixtures("frames_folder")
def test_missing_extension_is_404(pages):
    answer = pages.get(f"/frames/{LEAK}?extension=7")
    assert answer.status_code == 404
    assert "has extension 0, not 7" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/tiles/99/0/0.png?low=0&high=1",
        "/tiles/0/99999/0.png?low=0&high=1",
        "/tiles/0/-1/0.png?low=0&high=1",
        "/tiles/0/0/0.png?low=9&high=1",
        "/tiles/0/0/0.png?low=nan&high=1",
        "/tiles/0/0/0.png?low=0&high=1&stretch=wild",
        "/values.bin?width=100000",
        "/values.bin?x=100000",
        "/difference/0/0/0.png?reach=0",
        "/history.svg?metric=nothing",
    ],
)
@pytest.mark.usefixtures("frames_folder")
def test_image_request_with_invalid_value_is_422(pages, path):
    assert pages.get(f"/frames/{LEAK}{path}").status_code == 422


@pytest.mark.usefixtures("frames_folder")
def test_tile_outside_image_is_404(pages):
    assert pages.get(f"/frames/{LEAK}/tiles/0/1/0.png?low=0&high=1").status_code == 404


def test_values_are_raw_pixels(pages, project, frames_folder):
    pixels = pixels_of(project, frames_folder, LEAK)
    window = pages.get(f"/api/v1/frames/{LEAK}/values?x=230&y=200&width=20&height=30").json()
    assert window["values"] == pixels[200:230, 230:250].tolist()
    raw = pages.get(f"/frames/{LEAK}/values.bin?x=230&y=200&width=20&height=30")
    assert (raw.headers["X-Width"], raw.headers["X-Height"]) == ("10", "24")
    values = np.frombuffer(raw.content, "<f4").reshape(24, 10)
    assert (values == pixels[200:230, 230:250]).all()


def test_cuts_are_row_and_column_of_pixel(pages, project, frames_folder):
    pixels = pixels_of(project, frames_folder, LEAK)
    cuts = pages.get(f"/api/v1/frames/{LEAK}/cuts?x=11&y=22").json()
    assert cuts["row"] == pixels[22].tolist()
    assert cuts["column"] == pixels[:, 11].tolist()


def test_tile_is_scaled_image(pages, project, frames_folder, tmp_path):
    path = tmp_path / "tile.png"
    answer = pages.get(f"/frames/{LEAK}/tiles/0/0/0.png?low=90&high=217.5")
    path.write_bytes(answer.content)
    expected = np.rint(
        (pixels_of(project, frames_folder, LEAK).astype(float) - 90).clip(0, 127.5) * 2
    )
    got = np.asarray(Image.open(path))[::-1].astype(float)
    assert np.abs(got - expected).max() <= 1
    assert "max-age" in answer.headers["Cache-Control"]


def test_missing_file_is_shown_as_block_means(pages, frames_folder):
    (frames_folder / f"{LEAK}.fits").unlink()
    assert "not there any more" in pages.get(f"/frames/{LEAK}").text
    facts = pages.get(f"/api/v1/frames/{LEAK}/image").json()
    assert "is not there any more" in facts["trouble"]
    assert (facts["ny"], facts["nx"]) == (224, 240)
    assert (facts["height"], facts["width"]) == (224, 224)
    tile = pages.get(f"/frames/{LEAK}/tiles/0/0/0.png?low=90&high=200")
    assert tile.headers["Cache-Control"] == "no-store"
    assert pages.get(f"/frames/{LEAK}/picture.png").status_code == 200
    assert "cannot be read" in pages.get(f"/frames/{LEAK}/header").text


def test_changed_file_is_shown_as_block_means(pages, frames_folder):
    (frames_folder / f"{GOOD}.fits").replace(frames_folder / f"{LEAK}.fits")
    assert "another size or time" in pages.get(f"/frames/{LEAK}").text
    facts = pages.get(f"/api/v1/frames/{LEAK}/image").json()
    assert "its content has changed" in facts["trouble"]
    assert facts["high"] > 150  # of the block means of the leak


def test_cached_pixels_outlast_file(pages, frames_folder):
    whole = pages.get(f"/frames/{LEAK}/picture.png").content
    (frames_folder / f"{LEAK}.fits").unlink()
    assert pages.get(f"/api/v1/frames/{LEAK}/image").json()["trouble"] == ""
    assert pages.get(f"/frames/{LEAK}/picture.png").content == whole


@pytest.mark.usefixtures("frames_folder")
def test_difference_to_nearest_nominal(pages):
    facts = pages.get(f"/api/v1/frames/{LEAK}/image?difference=true").json()
    assert 100 < facts["reach"] < 120
    for path in ("difference.png", "difference/0/0/0.png?reach=110"):
        assert pages.get(f"/frames/{LEAK}/{path}").headers["Content-Type"] == "image/png"
    first = "TINY.2026-01-01T20:00:00"  # it had no references
    assert pages.get(f"/api/v1/frames/{first}/image?difference=true").json()["reach"] is None
    assert pages.get(f"/frames/{first}/difference.png").status_code == 404


@pytest.mark.usefixtures("frames_folder")
def test_nearest_bad_uses_current_label(pages, project):
    bad = pages.get(f"/api/v1/frames/{LEAK}/beside").json()["bad"]
    assert (bad["link"]["name"], bad["kind"]) == (OTHER, "light_leak")
    answer = pages.get(f"/frames/{LEAK}/nearest-bad", follow_redirects=False)
    assert answer.headers["Location"] == f"/frames/{OTHER.replace(':', '%3A')}?extension=0"
    with project.write_session.begin() as session:
        finding = find_finding(session, OTHER, None)
        answer = db.labels.LabelAnswer(LabelName.GOOD, "lee")
        db.labels.record_label(session, finding.extension.id, answer)
        assert find_nearest_bad(session, find_finding(session, LEAK, None)) is None


@pytest.mark.usefixtures("frames_folder")
def test_residual_map_and_place(pages):
    assert pages.get(f"/frames/{LEAK}/where.png").headers["Content-Type"] == "image/png"
    assert "Strongest around" in pages.get(f"/api/v1/frames/{LEAK}/where").json()["words"]
    first = "TINY.2026-01-01T20:00:00"
    assert pages.get(f"/frames/{first}/where.png").status_code == 404


@pytest.mark.usefixtures("frames_folder")
def test_dendrogram_and_history_are_svg(pages):
    for path in ("tree.svg", "history.svg?metric=bias_level"):
        answer = pages.get(f"/frames/{LEAK}/{path}")
        assert answer.headers["Content-Type"] == "image/svg+xml"
        assert answer.text.startswith("<svg")


@pytest.mark.usefixtures("frames_folder")
def test_frame_page_plots_requested_metric(pages):
    page = pages.get(f"/frames/{LEAK}?metric=read_noise").text
    assert "history.svg?extension=0&amp;metric=read_noise" in page
    assert 'metric=bias_level"' in pages.get(f"/frames/{LEAK}?metric=nonsense").text


@pytest.mark.usefixtures("frames_folder")
def test_header_search(pages):
    cards = pages.get(f"/api/v1/frames/{LEAK}/header?q=date-obs").json()["cards"]
    assert [item["value"] for item in cards] == ["2026-01-02T20:00:00"]
    assert len(pages.get(f"/api/v1/frames/{LEAK}/header").json()["cards"]) > 10
    assert "0 cards." in pages.get(f"/frames/{LEAK}/header?q=<script>").text


def test_header_page_escapes_markup(pages, project, inbox):
    path = write_frame(inbox, 2, OBJECT="<img src=x onerror=alert(1)>")
    process(project, path)
    page = pages.get("/frames/TINY.2026-01-02T20:00:00/header?q=onerror").text
    assert "&lt;img src=x" in page
    assert "<img" not in page


# --- labels ---------------------------------------------------------------------------------------


def post_label(pages, name=LEAK, **fields):
    fields = {"extension": "0", "csrf": csrf_token_of(pages)} | fields
    return pages.post(f"/frames/{name}/label", data=fields, follow_redirects=False)


def csrf_token_of(pages):
    """Return the CSRF token of a page."""
    [mark] = re.findall(r'name="csrf" content="(\w+)"', pages.get(f"/frames/{LEAK}").text)
    return mark


def labels_of(pages, name=LEAK):
    entries = pages.get(f"/api/v1/frames/{name}").json()["extensions"][0]["said"]
    return [(item["label"], item["kind"], item["note"], item["counts"]) for item in entries]


@pytest.mark.usefixtures("frames_folder")
def test_label_form_adds_and_undoes(pages):
    answer = post_label(pages, label="bad", kind="light_leak", note="a door")
    assert answer.status_code == 303
    assert labels_of(pages) == [("bad", "light_leak", "a door", True)]
    post_label(pages, label="good")
    assert [item[0] for item in labels_of(pages)] == ["good", "bad"]
    post_label(pages, label="undo")
    assert [(item[0], item[3]) for item in labels_of(pages)] == [("good", False), ("bad", True)]


@pytest.mark.usefixtures("frames_folder")
def test_label_is_committed_before_response(pages):
    fields = {"extension": "0", "label": "good", "csrf": csrf_token_of(pages)}
    page = pages.post(f"/frames/{LEAK}/label", data=fields)
    assert "(current)" in page.text


@pytest.mark.parametrize(
    "fields",
    [
        {"label": "bad"},
        {"label": "bad", "kind": "lamp_off"},
        {"label": "nonsense"},
        {"label": "good", "extension": "x"},
        {"label": "good", "note": "x" * 4001},
        {"label": "undo"},
    ],
)
@pytest.mark.usefixtures("frames_folder")
def test_label_form_rejects_invalid_label(pages, fields):
    assert post_label(pages, **fields).status_code == 422
    assert labels_of(pages) == []


# --- why not --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("frames_folder")
def test_explanation_ratios_of_nominal_frame(project):
    with project.read_session() as session:
        why = explain_verdict(project, session, GOOD, None)
    assert why.status == "NOMINAL"
    ratios = [item.ratio for item in why.evidence]
    assert why.ratio == ratios[0] < 1
    assert all(a >= b for a, b in pairwise(ratios))
    [height] = [item for item in why.evidence if item.name == "merge_height"]
    assert height.limit == pytest.approx(MERGE_HEIGHT * decision.widening(20))
    assert why.cluster is not None
    assert why.cluster.size >= 1
    assert why.cluster.height == pytest.approx(
        height.value, abs=4e-8
    )  # vectors are stored as float32


def test_flagging_cost_counts_past_nominal_frames(empty):
    past = [
        StoredExtension(merge_height=MERGE_HEIGHT * k / 100, label=LabelName.GOOD)
        for k in range(1, 91)
    ]
    bad = StoredExtension(merge_height=5 * MERGE_HEIGHT, label=LabelName.BAD, kind="light_leak")
    frame = StoredExtension(merge_height=MERGE_HEIGHT * 0.805, name="ASKED")
    add_extensions(empty, *past, bad, frame)
    cost = estimate_flagging_cost(empty, "ASKED", None)
    caught = {catche.name: catche for catche in cost.catches}
    assert (caught["merge_height"].nominal, caught["merge_height"].nominal_of) == (10, 90)
    assert caught["merge_height"].limit == pytest.approx(MERGE_HEIGHT * 0.805)
    assert caught["merge_height"].rate.low < 10 / 90 < caught["merge_height"].rate.high
    assert (caught["all"].nominal, caught["all"].bad) == (10, 1)
    assert caught["residual"].nominal == 90  # all have the same
    assert cost.now is not None
    assert (cost.now.nominal, cost.now.bad) == (0, 1)


def test_explanation_threshold_that_flags(empty):
    add_extensions(empty, *nominal_frames(40))
    add_extensions(
        empty, StoredExtension(merge_height=0.6 * MERGE_HEIGHT, references=20, name="ASKED")
    )
    with empty.read_session() as session:
        why = explain_verdict(empty, session, "ASKED", None)
    wide = decision.widening(20)
    assert why.catching["merge_height"] == pytest.approx(0.6 * MERGE_HEIGHT / wide)


@pytest.mark.usefixtures("frames_folder")
def test_flagging_cost_without_references(pages, project):
    first = "TINY.2026-01-01T20:00:00"
    assert "references" in pages.get(f"/frames/{first}/why/cost").text
    assert "cannot be computed" in pages.get(f"/frames/{first}/why/cost").text
    assert pages.get(f"/frames/{first}/why").status_code == 200
    add_extensions(project, StoredExtension(encoder="another", name="FOREIGN"))
    assert "no limits for the encoder another" in pages.get("/frames/FOREIGN/why").text


def test_neighbouring_frame_has_same_setup(pages, project, frames_folder):
    assert set(Setup.__dataclass_fields__) >= {"image_type", "chip", "binning"}
    process(project, write_frame(frames_folder, 2, 30, kind="FLAT"))
    flat = pages.get("/api/v1/frames/TINY.2026-01-02T20:30:00").json()["extensions"][0]
    assert flat["before"] is None


# --- in a browser ---------------------------------------------------------------------------------


def open_viewer(page, address):
    page.goto(address)
    page.wait_for_selector(".viewer[data-ready=yes]")
    return page.locator(".pane[data-kind=own] canvas")


def viewer_value(page, name):
    return float(page.locator(".viewer").get_attribute(f"data-{name}"))


def wait_for(page, expression):
    """Wait until an expression is true; the policy forbids Playwright's own way, which is eval."""
    ends = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"not true in time: {expression}"
        page.wait_for_timeout(50)


def grey_at(page, kind, x, y):
    """Return the colour that a pane shows at a pixel of the detector."""
    return page.evaluate(
        """([kind, x, y]) => {
            const canvas = document.querySelector(`.pane[data-kind=${kind}] canvas`);
            const d = document.querySelector(".viewer").dataset;
            const px = canvas.width / 2 + (x + 0.5 - d.cx) * d.scale * devicePixelRatio;
            const py = canvas.height / 2 - (y + 0.5 - d.cy) * d.scale * devicePixelRatio;
            return [...canvas.getContext("2d").getImageData(px, py, 1, 1).data];
        }""",
        [kind, x, y],
    )


def test_viewer_shows_value_under_cursor(page, project, frames_folder):
    canvas = open_viewer(page, f"/frames/{LEAK}?extension=0&cx=120&cy=112&scale=8")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2 - 28)
    x, y = 120 + 2, 112 + 3
    value = int(pixels_of(project, frames_folder, LEAK)[y, x])
    wait_for(page, f"document.querySelector('.readout output').dataset.value == '{value}'")
    readout = page.locator(".readout output").inner_text()
    assert readout.startswith(f"x {x}, y {y}: {value} ADU, nearest nominal ")


def test_viewer_draws_pixel_values(page, project, frames_folder):
    open_viewer(page, f"/frames/{LEAK}?extension=0&cx=120&cy=112&scale=8&low=90&high=217.5")
    pixels = pixels_of(project, frames_folder, LEAK)
    for x, y in ((120, 112), (100, 130), (139, 99)):
        grey = round((float(pixels[y, x]) - 90) * 2)
        assert grey_at(page, "own", x, y)[:3] == pytest.approx([grey] * 3, abs=1)


def test_viewer_panes_pan_together(page, project, frames_folder):
    open_viewer(page, f"/frames/{LEAK}?extension=0&low=90&high=217.5&cx=60&cy=200&scale=10")
    wait_for(page, "document.querySelectorAll('.pane figcaption a').length >= 2")
    nominal = page.locator(".pane[data-kind=nominal] a").inner_text()
    page.locator(".pane[data-kind=nominal] canvas").press("ArrowDown")
    page.wait_for_selector(".viewer[data-ready=yes]")
    wait_for(page, "Number(document.querySelector('.viewer').dataset.cy) < 200")
    y = round(viewer_value(page, "cy"))
    for kind, name in (("own", LEAK), ("nominal", nominal), ("bad", OTHER)):
        value = float(pixels_of(project, frames_folder, name)[y, 60])
        grey = min(255, max(0, round((value - 90) * 2)))
        assert grey_at(page, kind, 60, y)[0] == pytest.approx(grey, abs=1)


@pytest.mark.usefixtures("frames_folder")
def test_viewer_wheel_and_drag(page):
    canvas = open_viewer(page, f"/frames/{LEAK}")
    before = viewer_value(page, "scale")
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -480)
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.scale) > {3 * before}")
    cx, scale = viewer_value(page, "cx"), viewer_value(page, "scale")
    assert cx == pytest.approx(120, abs=0.5)
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1], steps=4)
    page.mouse.up()
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.cx) < {cx - 1}")
    assert viewer_value(page, "cx") == pytest.approx(cx - 50 / scale, abs=0.6)


@pytest.mark.usefixtures("frames_folder")
def test_viewer_keys(page):
    canvas = open_viewer(page, f"/frames/{LEAK}")
    fitting = viewer_value(page, "scale")
    canvas.press("+")
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.scale) > {1.9 * fitting}")
    canvas.press("-")
    canvas.press("1")
    wait_for(page, "Number(document.querySelector('.viewer').dataset.scale) === 1")
    canvas.press("ArrowRight")
    wait_for(page, "Number(document.querySelector('.viewer').dataset.cx) > 121")
    canvas.press("0")
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.scale) === {fitting}")
    canvas.press("Enter")
    canvas.press("Shift+ArrowUp")
    wait_for(page, "document.querySelector('.readout output').dataset.y == '113'")


@pytest.mark.usefixtures("frames_folder")
def test_viewer_click_draws_cuts(page):
    canvas = open_viewer(page, f"/frames/{LEAK}")
    canvas.click()
    wait_for(page, "document.querySelector('[data-cut=row]').dataset.length == '240'")
    assert page.locator("[data-cut=column]").get_attribute("data-length") == "224"
    assert page.locator(".cuts figcaption").first.inner_text().startswith("Row y 11")


@pytest.mark.usefixtures("frames_folder")
def test_viewer_toggles_residual_map(page):
    canvas = open_viewer(page, f"/frames/{LEAK}?low=90&high=300")
    assert len(set(grey_at(page, "own", 100, 200)[:3])) == 1
    page.get_by_label("Residual map").check()
    page.wait_for_selector(".viewer[data-residuals=shown][data-ready=yes]")
    wait_for(page, "location.search.includes('where=1')")
    red, _, blue, _ = grey_at(page, "own", 100, 200)
    assert red > blue + 50
    canvas.press("m")
    wait_for(page, "!location.search.includes('where=1')")
    assert len(set(grey_at(page, "own", 100, 200)[:3])) == 1


@pytest.mark.usefixtures("frames_folder")
def test_viewer_state_is_in_address(page):
    canvas = open_viewer(page, f"/frames/{LEAK}")
    canvas.press("+")
    canvas.press("Enter")
    page.get_by_label("Stretch").select_option("log")
    wait_for(page, "location.search.includes('stretch=log') && location.search.includes('x=120')")
    told_there = parse_qs(urlsplit(page.url).query)
    scale = viewer_value(page, "scale")
    open_viewer(page, page.url)
    assert viewer_value(page, "scale") == pytest.approx(scale, rel=1e-3)
    assert page.get_by_label("Stretch").input_value() == "log"
    assert told_there["y"] == ["112"]


@pytest.mark.usefixtures("frames_folder")
def test_viewer_pinch_zoom(chromium, served):
    with window(chromium, served, size=NARROW, has_touch=True) as page:
        open_viewer(page, f"/frames/{LEAK}")
        before = viewer_value(page, "scale")
        page.evaluate(
            """() => {
                const canvas = document.querySelector(".pane[data-kind=own] canvas");
                const box = canvas.getBoundingClientRect();
                canvas.setPointerCapture = () => {};  // these fingers are not real
                const send = (type, pointerId, dx) => canvas.dispatchEvent(new PointerEvent(type, {
                    pointerId, pointerType: "touch", bubbles: true,
                    clientX: box.left + box.width / 2 + dx, clientY: box.top + box.height / 2 }));
                send("pointerdown", 1, -20); send("pointerdown", 2, 20);
                send("pointermove", 2, 100); send("pointermove", 1, -100);
                send("pointerup", 1, -100); send("pointerup", 2, 100);
            }"""
        )
        wait_for(page, f"Number(document.querySelector('.viewer').dataset.scale) > {4 * before}")


@pytest.mark.usefixtures("frames_folder")
def test_frame_labelled_by_keyboard(page, pages):
    page.goto(f"/frames/{LEAK}")
    page.locator("input[name=label][value=bad]").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.type("light")
    page.keyboard.press("Tab")
    page.keyboard.type("a door stood open")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=a door stood open")
    assert labels_of(pages) == [("bad", "light_leak", "a door stood open", True)]
    page.get_by_role("button", name="Undo the current label").click()
    page.wait_for_selector("text=undone by")


def test_viewer_reports_missing_file(page, frames_folder):
    (frames_folder / f"{LEAK}.fits").unlink()
    open_viewer(page, f"/frames/{LEAK}")
    assert "is not there any more" in page.locator("[data-status]").inner_text()


@pytest.mark.usefixtures("frames_folder")
def test_frame_page_without_scripts(chromium, served):
    with window(chromium, served, java_script_enabled=False) as page:
        page.goto(f"/frames/{LEAK}")
        image = page.get_by_alt_text("The whole image")
        assert image.evaluate("one => one.clientWidth") > 300
        assert image.evaluate("one => one.naturalWidth") == 240
        page.goto(f"/frames/{GOOD}/why")
        page.get_by_role("link", name="Judge all past").click()
        assert page.locator("#cost").is_visible()


def test_explanation_page_loads_cost(page, project):
    heights = [MERGE_HEIGHT * k / 100 for k in range(1, 51)]
    past = [
        StoredExtension(merge_height=item, label=LabelName.GOOD, image_type="TF0")
        for item in heights
    ]
    frame = StoredExtension(name="ASKED", merge_height=MERGE_HEIGHT * 0.405, image_type="TF0")
    add_extensions(project, *past, frame)
    page.goto("/frames/ASKED/why")
    page.wait_for_selector("#cost table")
    assert "10 of 50" in page.locator("#cost").inner_text()


@pytest.mark.usefixtures("frames_folder")
def test_image_facts_have_tile_size(pages):
    assert pages.get(f"/api/v1/frames/{LEAK}/image").json()["tile"] == TILE
