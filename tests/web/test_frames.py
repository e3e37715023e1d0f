"""The pages of one frame: through the application, and in a real browser."""

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

from embeddings.clustering import average_linkage, joined
from qc import db
from qc.core.enums import LabelName
from qc.core.frame import Setup
from qc.core.verdict import Evidence
from qc.db.models import FrameRow
from qc.detection import decision
from qc.detection.thresholds import MetricLimit, Threshold
from qc.errors import UnknownFrameError
from qc.io.fits import read_cards
from qc.io.read_frame import read_frame
from qc.review.explain import read_cost, read_why
from qc.review.frame_detail import finding_of, nearest_bad
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
from tests.support.databases import copied
from tests.support.remembered import Past, nominal_frames, remember
from tests.support.tiny import (
    MERGE_HEIGHT,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)

LEAK, GOOD, OTHER = (f"TINY.2026-01-02T20:0{minute}:00" for minute in range(3))


@pytest.fixture(scope="module")
def made(empty_project, tmp_path_factory):
    """A folder with a project and its frames; not to be written to.

    Twenty good biases; a night later one with a leak, one without, and a labelled leak.
    """
    folder = tmp_path_factory.mktemp("made")
    inbox = folder / "inbox"
    inbox.mkdir()
    with copied(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            process(
                project,
                write_frame(inbox, 2, 0, change=light_leak),
                write_frame(inbox, 2, 1),
                write_frame(inbox, 2, 2, change=light_leak),
            )
            with project.writes.begin() as session:
                [other] = db.findings.findings_named(session, OTHER)
                answer = db.labels.LabelAnswer(
                    LabelName.BAD, "kim", "light_leak", "<b>seen</b> by day"
                )
                db.labels.record_label(session, other.extension.id, answer)
        yield folder


@pytest.fixture
def project_folder(made, tmp_path):
    """The project of `made`, the test's own."""
    with copied(made / "project", tmp_path / "project") as one:
        yield one


@pytest.fixture
def empty(empty_project, tmp_path):
    """A project that has seen nothing, open."""
    with copied(empty_project, tmp_path / "empty") as one, open_tiny(one) as project:
        yield project


@pytest.fixture
def seen(made, project_folder, inbox):
    """The frames of `made`, in a project and an inbox of the test's own."""
    shutil.copytree(made / "inbox", inbox, dirs_exist_ok=True)
    with open_tiny(project_folder) as project, project.writes.begin() as session:
        for frame in session.scalars(select(FrameRow)):
            frame.path = frame.path.replace(str(made / "inbox"), str(inbox))
    return inbox


def pixels_of(project, inbox, name):
    [extension] = read_frame(inbox / f"{name}.fits", project.instruments).extensions
    return extension.pixels


# --- pyramids -------------------------------------------------------------------------------------


def ramp(ny, nx):
    return np.arange(ny * nx, dtype=np.float32).reshape(ny, nx)


def test_a_pyramid_halves_until_it_fits_into_a_tile():
    shapes = [one.shape for one in build(ramp(600, 1030)).levels[Reducer.MEAN]]
    assert shapes == [(600, 1030), (300, 515), (150, 258), (75, 129)]


def test_each_level_is_the_mean_of_four_and_their_peak():
    image = ramp(2, 300)
    pyramid = build(image)
    assert pyramid.levels[Reducer.MEAN][1][0, 0] == np.mean([0, 1, 300, 301])
    assert pyramid.levels[Reducer.PEAK][1][0, 0] == 301


def test_a_hot_pixel_survives_in_the_peaks():
    image = np.full((2000, 1000), 100, np.uint16)
    image[1234, 567] = 60000
    assert build(image).levels[Reducer.PEAK][-1].max() == 60000


def test_tiles_put_together_are_the_image():
    image = ramp(300, 600)
    pyramid = build(image)
    rows = [np.hstack([pyramid.tile(0, row, column) for column in range(3)]) for row in range(2)]
    assert (np.vstack(rows) == image).all()
    assert not pyramid.tile(0, 2, 0).size
    assert not pyramid.tile(9, 0, 0).size


def test_what_was_kept_is_found_again(tmp_path):
    kept = PyramidCache(tmp_path)
    assert kept.find("ab") is None
    kept.keep("ab", ramp(300, 600))
    found = PyramidCache(tmp_path).find("ab")
    assert found is not None
    assert (found.image == ramp(300, 600)).all()
    assert found.depth == 3
    assert [one.name for one in tmp_path.iterdir()] == ["ab"]


def test_the_longest_unused_goes_when_there_is_no_room(tmp_path):
    kept = PyramidCache(tmp_path, most_bytes=3 * 2**20)
    for n, name in enumerate("abc"):
        kept.keep(name, ramp(300, 600))  # 1.2 MB each, with its smaller versions
        if (tmp_path / name).exists():
            os.utime(tmp_path / name, (n, n))
    assert kept.find("a") is None
    kept.find("b")  # used again
    kept.keep("d", ramp(300, 600))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "d"]


@pytest.mark.parametrize("digest", ["../x", "", "a/b", ".."])
def test_nothing_but_a_digest_names_a_place(tmp_path, digest):
    with pytest.raises(ValueError, match="expected a digest"):
        PyramidCache(tmp_path).find(digest)


@pytest.mark.parametrize("stretch", Stretch)
def test_greys_rise_from_black_to_white(stretch):
    greys = IntensityScale(100, 200, stretch).of(np.array([0, 100, 120, 150, 200, 300, np.nan]))
    assert greys[[0, 1, -1]].tolist() == [0, 0, 0]
    assert greys[[4, 5]].tolist() == [255, 255]
    assert greys[1] < greys[2] < greys[3] < greys[4]


def test_row_0_is_at_the_bottom_of_a_picture(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(grey_png(np.array([[0, 0], [9, 9]], np.uint16), IntensityScale(0, 9)))
    assert np.asarray(Image.open(path)).tolist() == [[255, 255], [0, 0]]


def test_no_difference_is_pale_and_more_is_orange(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(signed_png(np.array([[-5, 0, 5]], np.float32), 5))
    below, none, above = np.asarray(Image.open(path).convert("RGB"))[0].astype(int)
    assert below[2] > below[0]
    assert none.min() > 230
    assert above[0] > above[2]


# --- what is asked of it --------------------------------------------------------------------------


def test_a_leaf_joins_what_is_nearest():
    vectors = np.array([[1, 0], [1, 0.01], [0, 1], [1, 0.02]], np.float32)
    height, members = joined(average_linkage(vectors), 3)
    assert members.tolist() == [1]
    assert 0 < height < 1e-3
    assert joined(average_linkage(vectors), 2)[1].tolist() == [0, 1, 3]


def test_a_leaf_that_is_none_is_refused():
    with pytest.raises(ValueError, match="expected a leaf from 0 to 1, got 2"):
        joined(average_linkage(np.eye(2, dtype=np.float32)), 2)


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


def test_evidence_is_weighed_in_units_of_its_limits_the_strongest_first():
    evidence = Evidence(0.0005, 100, "", {"bias_level": 118.0}, {"bias_level": -9.0}, residual=1)
    found = decision.weigh(evidence, limits(), {"bias_level": (80, 120)})
    assert [(one.name, one.against, round(one.ratio, 3)) for one in found] == [
        ("bias_level", "instrument", 0.9),
        ("bias_level", "references", 0.75),
        ("merge_height", "references", 0.5),
        ("residual", "references", 0.1),
    ]


def test_without_enough_references_only_the_instrument_weighs():
    evidence = Evidence(0.5, 3, "", {"bias_level": 100.0}, {"bias_level": 99.0}, residual=99)
    [one] = decision.weigh(evidence, limits(), {"bias_level": (80, 120)})
    assert (one.against, one.ratio) == ("instrument", 0)


def test_a_copy_weighs_most():
    evidence = Evidence(0.0005, 100, "", {}, {}, duplicate_of="another")
    assert decision.weigh(evidence, limits(), {})[0].name == "copy"


def test_every_card_of_every_header_is_read_as_it_stands():
    header = fits.Header([("FIRST", 1, "a number")])
    header["HIERARCH ESO DET CHIPS"] = ("two", "a text")
    units = fits.HDUList([fits.PrimaryHDU(header=header), fits.ImageHDU(np.ones((2, 2)))])
    path_bytes = bytearray()
    for unit in units:
        path_bytes += unit.header.tostring().encode()
        path_bytes += b"" if unit.data is None else bytes(2880)
    cards = list(read_cards(bytes(path_bytes)))
    assert ("ESO DET CHIPS", "two", "a text") in {
        (one.keyword.removeprefix("HIERARCH "), one.value, one.comment) for one in cards
    }
    assert {one.unit for one in cards} == {0, 1}


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("seen")
def test_a_frame_shows_its_reasons_numbers_and_labels(pages):
    page = pages.get(f"/frames/{LEAK}").text
    assert "joins its 20 references at cosine distance" in page
    assert "gradient y" in page
    assert "Nobody has said anything of it." in page
    assert "light leak" in pages.get(f"/frames/{OTHER}").text


@pytest.mark.usefixtures("seen")
def test_what_people_wrote_is_shown_and_not_obeyed(pages):
    page = pages.get(f"/frames/{OTHER}").text
    assert "&lt;b&gt;seen&lt;/b&gt; by day" in page
    assert "<b>seen" not in page


@pytest.mark.usefixtures("seen")
def test_a_frame_leads_to_those_before_and_after_it(pages):
    extension = pages.get(f"/api/v1/frames/{GOOD}").json()["extensions"][0]
    assert (extension["before"]["name"], extension["after"]["name"]) == (LEAK, OTHER)
    assert extension["nearest"]["name"].startswith("TINY.2026-01-01")
    assert pages.get(f"/api/v1/frames/{OTHER}").json()["extensions"][0]["after"] is None


def test_a_frame_that_nobody_processed_is_not_found(pages, project, seen):
    path = str(next(seen.iterdir()))
    for name in ("nothing", path, f"../{LEAK}", f"{LEAK}.fits", "%2e%2e%2fqc.toml", "a" * 299):
        for page in ("", "/why", "/header", "/picture.png", "/tiles/0/0/0.png?low=0&high=1"):
            assert pages.get(f"/frames/{name}{page}").status_code == 404
    with project.reads() as session, pytest.raises(UnknownFrameError):
        finding_of(session, LEAK, 7)


@pytest.mark.usefixtures("seen")
def test_an_extension_that_a_frame_lacks_is_told(pages):
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
@pytest.mark.usefixtures("seen")
def test_what_makes_no_sense_is_refused(pages, path):
    assert pages.get(f"/frames/{LEAK}{path}").status_code == 422


@pytest.mark.usefixtures("seen")
def test_a_tile_that_is_not_there_is_not_found(pages):
    assert pages.get(f"/frames/{LEAK}/tiles/0/1/0.png?low=0&high=1").status_code == 404


def test_values_are_those_of_the_file_overscan_included(pages, project, seen):
    pixels = pixels_of(project, seen, LEAK)
    window = pages.get(f"/api/v1/frames/{LEAK}/values?x=230&y=200&width=20&height=30").json()
    assert window["values"] == pixels[200:230, 230:250].tolist()
    raw = pages.get(f"/frames/{LEAK}/values.bin?x=230&y=200&width=20&height=30")
    assert (raw.headers["X-Width"], raw.headers["X-Height"]) == ("10", "24")
    found = np.frombuffer(raw.content, "<f4").reshape(24, 10)
    assert (found == pixels[200:230, 230:250]).all()


def test_cuts_are_the_row_and_the_column_through_a_pixel(pages, project, seen):
    pixels = pixels_of(project, seen, LEAK)
    cuts = pages.get(f"/api/v1/frames/{LEAK}/cuts?x=11&y=22").json()
    assert cuts["row"] == pixels[22].tolist()
    assert cuts["column"] == pixels[:, 11].tolist()


def test_a_tile_is_the_image_in_greys(pages, project, seen, tmp_path):
    path = tmp_path / "tile.png"
    answer = pages.get(f"/frames/{LEAK}/tiles/0/0/0.png?low=90&high=217.5")
    path.write_bytes(answer.content)
    expected = np.rint((pixels_of(project, seen, LEAK).astype(float) - 90).clip(0, 127.5) * 2)
    got = np.asarray(Image.open(path))[::-1].astype(float)
    assert np.abs(got - expected).max() <= 1
    assert "max-age" in answer.headers["Cache-Control"]


def test_a_file_that_is_gone_is_shown_as_it_was_kept(pages, seen):
    (seen / f"{LEAK}.fits").unlink()
    assert "not there any more" in pages.get(f"/frames/{LEAK}").text
    facts = pages.get(f"/api/v1/frames/{LEAK}/image").json()
    assert "is not there any more" in facts["trouble"]
    assert (facts["ny"], facts["nx"]) == (224, 240)
    assert (facts["height"], facts["width"]) == (224, 224)
    tile = pages.get(f"/frames/{LEAK}/tiles/0/0/0.png?low=90&high=200")
    assert tile.headers["Cache-Control"] == "no-store"
    assert pages.get(f"/frames/{LEAK}/picture.png").status_code == 200
    assert "cannot be read" in pages.get(f"/frames/{LEAK}/header").text


def test_a_file_that_has_changed_is_not_shown_as_if_it_were_the_one_judged(pages, seen):
    (seen / f"{GOOD}.fits").replace(seen / f"{LEAK}.fits")
    assert "another size or time" in pages.get(f"/frames/{LEAK}").text
    facts = pages.get(f"/api/v1/frames/{LEAK}/image").json()
    assert "its content has changed" in facts["trouble"]
    assert facts["high"] > 150  # of the leak, as it was kept


def test_what_was_seen_once_is_seen_when_its_file_is_gone(pages, seen):
    whole = pages.get(f"/frames/{LEAK}/picture.png").content
    (seen / f"{LEAK}.fits").unlink()
    assert pages.get(f"/api/v1/frames/{LEAK}/image").json()["trouble"] == ""
    assert pages.get(f"/frames/{LEAK}/picture.png").content == whole


@pytest.mark.usefixtures("seen")
def test_the_difference_is_of_this_and_the_nearest_nominal(pages):
    facts = pages.get(f"/api/v1/frames/{LEAK}/image?difference=true").json()
    assert 100 < facts["reach"] < 120
    for path in ("difference.png", "difference/0/0/0.png?reach=110"):
        assert pages.get(f"/frames/{LEAK}/{path}").headers["Content-Type"] == "image/png"
    first = "TINY.2026-01-01T20:00:00"  # it had no references
    assert pages.get(f"/api/v1/frames/{first}/image?difference=true").json()["reach"] is None
    assert pages.get(f"/frames/{first}/difference.png").status_code == 404


@pytest.mark.usefixtures("seen")
def test_the_nearest_bad_is_one_that_is_still_called_so(pages, project):
    bad = pages.get(f"/api/v1/frames/{LEAK}/beside").json()["bad"]
    assert (bad["link"]["name"], bad["kind"]) == (OTHER, "light_leak")
    answer = pages.get(f"/frames/{LEAK}/nearest-bad", follow_redirects=False)
    assert answer.headers["Location"] == f"/frames/{OTHER.replace(':', '%3A')}?extension=0"
    with project.writes.begin() as session:
        finding = finding_of(session, OTHER, None)
        answer = db.labels.LabelAnswer(LabelName.GOOD, "lee")
        db.labels.record_label(session, finding.extension.id, answer)
        assert nearest_bad(session, finding_of(session, LEAK, None)) is None


@pytest.mark.usefixtures("seen")
def test_where_it_differs_is_drawn_and_told(pages):
    assert pages.get(f"/frames/{LEAK}/where.png").headers["Content-Type"] == "image/png"
    assert "Strongest around" in pages.get(f"/api/v1/frames/{LEAK}/where").json()["words"]
    first = "TINY.2026-01-01T20:00:00"
    assert pages.get(f"/frames/{first}/where.png").status_code == 404


@pytest.mark.usefixtures("seen")
def test_the_tree_and_the_history_are_drawn(pages):
    for path in ("tree.svg", "history.svg?metric=bias_level"):
        answer = pages.get(f"/frames/{LEAK}/{path}")
        assert answer.headers["Content-Type"] == "image/svg+xml"
        assert answer.text.startswith("<svg")


@pytest.mark.usefixtures("seen")
def test_a_detector_number_asked_for_is_the_one_drawn(pages):
    page = pages.get(f"/frames/{LEAK}?metric=read_noise").text
    assert "history.svg?extension=0&amp;metric=read_noise" in page
    assert 'metric=bias_level"' in pages.get(f"/frames/{LEAK}?metric=nonsense").text


@pytest.mark.usefixtures("seen")
def test_the_header_is_searched_for_words(pages):
    found = pages.get(f"/api/v1/frames/{LEAK}/header?q=date-obs").json()["cards"]
    assert [one["value"] for one in found] == ["2026-01-02T20:00:00"]
    assert len(pages.get(f"/api/v1/frames/{LEAK}/header").json()["cards"]) > 10
    assert "0 cards." in pages.get(f"/frames/{LEAK}/header?q=<script>").text


def test_a_header_is_shown_and_not_obeyed(pages, project, inbox):
    path = write_frame(inbox, 2, OBJECT="<img src=x onerror=alert(1)>")
    process(project, path)
    page = pages.get("/frames/TINY.2026-01-02T20:00:00/header?q=onerror").text
    assert "&lt;img src=x" in page
    assert "<img" not in page


# --- labels ---------------------------------------------------------------------------------------


def say(pages, name=LEAK, **words):
    words = {"extension": "0", "csrf": mark_of(pages)} | words
    return pages.post(f"/frames/{name}/label", data=words, follow_redirects=False)


def mark_of(pages):
    """Return what a form of ours must give with what it changes."""
    [mark] = re.findall(r'name="csrf" content="(\w+)"', pages.get(f"/frames/{LEAK}").text)
    return mark


def labels_of(pages, name=LEAK):
    said = pages.get(f"/api/v1/frames/{name}").json()["extensions"][0]["said"]
    return [(one["label"], one["kind"], one["note"], one["counts"]) for one in said]


@pytest.mark.usefixtures("seen")
def test_a_label_is_kept_and_undone(pages):
    answer = say(pages, label="bad", kind="light_leak", note="a door")
    assert answer.status_code == 303
    assert labels_of(pages) == [("bad", "light_leak", "a door", True)]
    say(pages, label="good")
    assert [one[0] for one in labels_of(pages)] == ["good", "bad"]
    say(pages, label="undo")
    assert [(one[0], one[3]) for one in labels_of(pages)] == [("good", False), ("bad", True)]


@pytest.mark.usefixtures("seen")
def test_a_label_is_there_when_the_answer_comes(pages):
    words = {"extension": "0", "label": "good", "csrf": mark_of(pages)}
    page = pages.post(f"/frames/{LEAK}/label", data=words)
    assert "(counts)" in page.text


@pytest.mark.parametrize(
    "words",
    [
        {"label": "bad"},
        {"label": "bad", "kind": "lamp_off"},
        {"label": "nonsense"},
        {"label": "good", "extension": "x"},
        {"label": "good", "note": "x" * 4001},
        {"label": "undo"},
    ],
)
@pytest.mark.usefixtures("seen")
def test_what_cannot_be_said_is_refused_and_not_kept(pages, words):
    assert say(pages, **words).status_code == 422
    assert labels_of(pages) == []


# --- why not --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("seen")
def test_why_not_tells_how_near_it_came(project):
    with project.reads() as session:
        why = read_why(project, session, GOOD, None)
    assert why.status == "NOMINAL"
    ratios = [one.ratio for one in why.evidence]
    assert why.ratio == ratios[0] < 1
    assert all(a >= b for a, b in pairwise(ratios))
    [height] = [one for one in why.evidence if one.name == "merge_height"]
    assert height.limit == pytest.approx(MERGE_HEIGHT * decision.widening(20))
    assert why.cluster is not None
    assert why.cluster.size >= 1
    assert why.cluster.height == pytest.approx(height.value, abs=4e-8)  # as vectors are kept


def test_the_cost_is_counted_among_the_nominal_frames_of_the_past(empty):
    past = [Past(merge_height=MERGE_HEIGHT * k / 100, label=LabelName.GOOD) for k in range(1, 91)]
    bad = Past(merge_height=5 * MERGE_HEIGHT, label=LabelName.BAD, kind="light_leak")
    asked = Past(merge_height=MERGE_HEIGHT * 0.805, name="ASKED")
    remember(empty, *past, bad, asked)
    cost = read_cost(empty, "ASKED", None)
    caught = {one.name: one for one in cost.catches}
    assert (caught["merge_height"].nominal, caught["merge_height"].nominal_of) == (10, 90)
    assert caught["merge_height"].limit == pytest.approx(MERGE_HEIGHT * 0.805)
    assert caught["merge_height"].rate.low < 10 / 90 < caught["merge_height"].rate.high
    assert (caught["all"].nominal, caught["all"].bad) == (10, 1)
    assert caught["residual"].nominal == 90  # all have the same
    assert cost.now is not None
    assert (cost.now.nominal, cost.now.bad) == (0, 1)


def test_what_would_have_caught_it_lies_where_it_says(empty):
    remember(empty, *nominal_frames(40))
    remember(empty, Past(merge_height=0.6 * MERGE_HEIGHT, references=20, name="ASKED"))
    with empty.reads() as session:
        why = read_why(empty, session, "ASKED", None)
    wide = decision.widening(20)
    assert why.catching["merge_height"] == pytest.approx(0.6 * MERGE_HEIGHT / wide)


@pytest.mark.usefixtures("seen")
def test_where_nothing_can_be_counted_it_is_said(pages, project):
    first = "TINY.2026-01-01T20:00:00"
    assert "references" in pages.get(f"/frames/{first}/why/cost").text
    assert "cannot be said" in pages.get(f"/frames/{first}/why/cost").text
    assert pages.get(f"/frames/{first}/why").status_code == 200
    remember(project, Past(encoder="another", name="FOREIGN"))
    assert "no limits for the encoder another" in pages.get("/frames/FOREIGN/why").text


def test_setups_are_told_apart_by_all_that_makes_them(pages, project, seen):
    assert set(Setup.__dataclass_fields__) >= {"image_type", "chip", "binning"}
    process(project, write_frame(seen, 2, 30, kind="FLAT"))
    flat = pages.get("/api/v1/frames/TINY.2026-01-02T20:30:00").json()["extensions"][0]
    assert flat["before"] is None


# --- in a browser ---------------------------------------------------------------------------------


def opened(page, address):
    page.goto(address)
    page.wait_for_selector(".viewer[data-ready=yes]")
    return page.locator(".pane[data-kind=own] canvas")


def told(page, name):
    return float(page.locator(".viewer").get_attribute(f"data-{name}"))


def wait_for(page, words):
    """Wait until an expression is true; the policy forbids Playwright's own way, which is eval."""
    ends = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(words):
        assert time.monotonic() < ends, f"not true in time: {words}"
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


def test_the_value_under_the_cursor_is_the_array_s(page, project, seen):
    canvas = opened(page, f"/frames/{LEAK}?extension=0&cx=120&cy=112&scale=8")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 20, box["y"] + box["height"] / 2 - 28)
    x, y = 120 + 2, 112 + 3
    value = int(pixels_of(project, seen, LEAK)[y, x])
    wait_for(page, f"document.querySelector('.readout output').dataset.value == '{value}'")
    words = page.locator(".readout output").inner_text()
    assert words.startswith(f"x {x}, y {y}: {value} ADU, nearest nominal ")


def test_what_is_drawn_at_a_pixel_is_its_value(page, project, seen):
    opened(page, f"/frames/{LEAK}?extension=0&cx=120&cy=112&scale=8&low=90&high=217.5")
    pixels = pixels_of(project, seen, LEAK)
    for x, y in ((120, 112), (100, 130), (139, 99)):
        grey = round((float(pixels[y, x]) - 90) * 2)
        assert grey_at(page, "own", x, y)[:3] == pytest.approx([grey] * 3, abs=1)


def test_all_images_move_together(page, project, seen):
    opened(page, f"/frames/{LEAK}?extension=0&low=90&high=217.5&cx=60&cy=200&scale=10")
    wait_for(page, "document.querySelectorAll('.pane figcaption a').length >= 2")
    nominal = page.locator(".pane[data-kind=nominal] a").inner_text()
    page.locator(".pane[data-kind=nominal] canvas").press("ArrowDown")
    page.wait_for_selector(".viewer[data-ready=yes]")
    wait_for(page, "Number(document.querySelector('.viewer').dataset.cy) < 200")
    y = round(told(page, "cy"))
    for kind, name in (("own", LEAK), ("nominal", nominal), ("bad", OTHER)):
        value = float(pixels_of(project, seen, name)[y, 60])
        grey = min(255, max(0, round((value - 90) * 2)))
        assert grey_at(page, kind, 60, y)[0] == pytest.approx(grey, abs=1)


@pytest.mark.usefixtures("seen")
def test_wheel_zooms_about_the_pointer_and_drag_pans(page):
    canvas = opened(page, f"/frames/{LEAK}")
    before = told(page, "scale")
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -480)
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.scale) > {3 * before}")
    cx, scale = told(page, "cx"), told(page, "scale")
    assert cx == pytest.approx(120, abs=0.5)
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1], steps=4)
    page.mouse.up()
    wait_for(page, f"Number(document.querySelector('.viewer').dataset.cx) < {cx - 1}")
    assert told(page, "cx") == pytest.approx(cx - 50 / scale, abs=0.6)


@pytest.mark.usefixtures("seen")
def test_keys_zoom_pan_fit_and_set_the_cursor(page):
    canvas = opened(page, f"/frames/{LEAK}")
    fitting = told(page, "scale")
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


@pytest.mark.usefixtures("seen")
def test_a_click_draws_both_cuts_through_the_pixel(page):
    canvas = opened(page, f"/frames/{LEAK}")
    canvas.click()
    wait_for(page, "document.querySelector('[data-cut=row]').dataset.length == '240'")
    assert page.locator("[data-cut=column]").get_attribute("data-length") == "224"
    assert page.locator(".cuts figcaption").first.inner_text().startswith("Row y 11")


@pytest.mark.usefixtures("seen")
def test_where_it_differs_goes_on_and_off(page):
    canvas = opened(page, f"/frames/{LEAK}?low=90&high=300")
    assert len(set(grey_at(page, "own", 100, 200)[:3])) == 1
    page.get_by_label("Where it differs").check()
    page.wait_for_selector(".viewer[data-where=shown][data-ready=yes]")
    wait_for(page, "location.search.includes('where=1')")
    red, _, blue, _ = grey_at(page, "own", 100, 200)
    assert red > blue + 50
    canvas.press("m")
    wait_for(page, "!location.search.includes('where=1')")
    assert len(set(grey_at(page, "own", 100, 200)[:3])) == 1


@pytest.mark.usefixtures("seen")
def test_what_is_seen_stands_in_the_address(page):
    canvas = opened(page, f"/frames/{LEAK}")
    canvas.press("+")
    canvas.press("Enter")
    page.get_by_label("Stretch").select_option("log")
    wait_for(page, "location.search.includes('stretch=log') && location.search.includes('x=120')")
    told_there = parse_qs(urlsplit(page.url).query)
    scale = told(page, "scale")
    opened(page, page.url)
    assert told(page, "scale") == pytest.approx(scale, rel=1e-3)
    assert page.get_by_label("Stretch").input_value() == "log"
    assert told_there["y"] == ["112"]


@pytest.mark.usefixtures("seen")
def test_two_fingers_zoom(chromium, served):
    with window(chromium, served, size=NARROW, has_touch=True) as page:
        opened(page, f"/frames/{LEAK}")
        before = told(page, "scale")
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


@pytest.mark.usefixtures("seen")
def test_a_frame_is_labelled_by_keyboard_alone(page, pages):
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
    page.get_by_role("button", name="Undo the label").click()
    page.wait_for_selector("text=undone by")


def test_a_file_that_is_gone_is_said_beside_its_picture(page, seen):
    (seen / f"{LEAK}.fits").unlink()
    opened(page, f"/frames/{LEAK}")
    assert "is not there any more" in page.locator("[data-status]").inner_text()


@pytest.mark.usefixtures("seen")
def test_without_scripts_the_whole_image_still_shows(chromium, served):
    with window(chromium, served, java_script_enabled=False) as page:
        page.goto(f"/frames/{LEAK}")
        image = page.get_by_alt_text("The whole image")
        assert image.evaluate("one => one.clientWidth") > 300
        assert image.evaluate("one => one.naturalWidth") == 240
        page.goto(f"/frames/{GOOD}/why")
        page.get_by_role("link", name="Judge the past").click()
        assert page.locator("#cost").is_visible()


def test_the_cost_comes_when_the_page_is_there(page, project):
    heights = [MERGE_HEIGHT * k / 100 for k in range(1, 51)]
    past = [Past(merge_height=one, label=LabelName.GOOD, image_type="TF0") for one in heights]
    asked = Past(name="ASKED", merge_height=MERGE_HEIGHT * 0.405, image_type="TF0")
    remember(project, *past, asked)
    page.goto("/frames/ASKED/why")
    page.wait_for_selector("#cost table")
    assert "10 of 50" in page.locator("#cost").inner_text()


@pytest.mark.usefixtures("seen")
def test_a_tile_is_as_large_as_the_viewer_is_told(pages):
    assert pages.get(f"/api/v1/frames/{LEAK}/image").json()["tile"] == TILE
