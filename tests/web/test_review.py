import io
import json
import re
import warnings
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from astropy.io.votable import parse_single_table
from sqlalchemy import select

from qc import db
from qc.core.enums import LabelName, Role
from qc.core.verdict import Status
from qc.db.schema.models import FrameRow, LabelRow, VerdictRow, doubt
from qc.review import idempotency, queue
from qc.review.queue import read_page
from qc.review.queue_filters import QueueFilters, QueueOrder
from tests.support.browser import serving, violations, window
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def made(empty_project, tmp_path_factory):
    """Twenty good biases, and a night with five more of which two leak; not to be written to."""
    folder = tmp_path_factory.mktemp("judged")
    (inbox := folder / "inbox").mkdir()
    changes = [None, light_leak, None, light_leak, None]
    fresh = [write_frame(inbox, 2, n, change=change) for n, change in enumerate(changes)]
    with copied_project(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            process(project, *fresh)
        yield project_folder


@pytest.fixture
def project_folder(request, empty_project, tmp_path):
    """A project of the test; with the judged frames for tests that use `judged`."""
    is_judged = "judged" in request.fixturenames
    source = request.getfixturevalue("made") if is_judged else empty_project
    with copied_project(source, tmp_path / "project") as folder:
        yield folder


@pytest.fixture
def judged(project):
    """A project of the test with the judged frames."""
    return project


def labels(project):
    with project.read_session() as session:
        rows = session.scalars(select(LabelRow).order_by(LabelRow.id)).all()
        return [(row.extension_id, str(row.label), row.kind, row.undoes_id) for row in rows]


def new_labels(project):
    """Return the labels added after the certified history."""
    return [label for label in labels(project) if label[0] > 20]


def add_label(pages, *ids, label="good", key=KEY, **more):
    return pages.post(
        "/api/v1/labels", json={"extensions": list(ids), "label": label, "key": key, **more}
    )


def ids_of(pages, question=""):
    extensions = pages.get(f"/api/v1/extensions?{question}").json()["extensions"]
    return [item["id"] for item in extensions]


# --- queue ----------------------------------------------------------------------------------------


def test_doubt_order(project):
    add_extensions(
        project,
        StoredExtension(score=0.2),
        StoredExtension(score=1.1, status=Status.ANOMALOUS),
        StoredExtension(score=9.0, status=Status.ANOMALOUS),
        StoredExtension(score=0.95),
        StoredExtension(score=0.1, status=Status.UNDECIDED),
    )
    with project.read_session() as session:
        some = read_page(session, project.instruments, QueueFilters(), 10)
    assert (some.ids, some.after) == ((5, 4, 2, 1, 3), "")


def test_doubt_is_largest_at_limit():
    assert doubt(Status.NOMINAL, 1.0) == 1.0
    assert doubt(Status.NOMINAL, 0.5) == doubt(Status.ANOMALOUS, 1.5) == pytest.approx(2 / 3)
    assert doubt(Status.UNDECIDED, 0.0) == 2.0


@pytest.mark.parametrize("order", [QueueOrder.DOUBT, QueueOrder.SCORE, QueueOrder.TIME])
def test_pages_of_any_size_are_complete(project, order):
    random = np.random.default_rng(3)
    scores = random.choice([0.5, 1.0, 1.5, 2.5], 57)  # many are equal
    add_extensions(project, *(StoredExtension(score=float(item)) for item in scores))
    with project.read_session() as session:
        filters = QueueFilters(order=order)
        whole = read_page(session, project.instruments, filters, 100).ids
        parts: list[int] = []
        after = ""
        while True:
            some = read_page(session, project.instruments, filters, 10, after)
            parts += some.ids
            after = some.after
            if not after:
                break
    assert len(set(whole)) == 57
    assert tuple(parts) == whole


@pytest.mark.parametrize("order", [QueueOrder.DOUBT, QueueOrder.SCORE, QueueOrder.TIME])
@pytest.mark.parametrize("long_way", [6, 1000])  # then all that fit are found at once; or never
def test_page_limit_within_equal_values(project, monkeypatch, order, long_way):
    random = np.random.default_rng(4)
    scores = random.choice([0.5, 1.0, 1.5, 2.5], 40)  # many are equal
    kinds = random.choice(["TB0", "TF0"], 40)
    pasts = [
        StoredExtension(score=float(score), image_type=kind)
        for score, kind in zip(scores, kinds, strict=True)
    ]
    add_extensions(project, *pasts)
    filters = QueueFilters(types="TF0", order=order)
    with project.read_session() as session:
        monkeypatch.setattr(queue, "FEW", 0)
        whole = read_page(session, project.instruments, filters, 100).ids
        monkeypatch.setattr(queue, "_FIRST_CHUNK", 3)
        monkeypatch.setattr(queue, "_LARGEST_CHUNK", 5)
        monkeypatch.setattr(queue, "_MAX_SCANNED", long_way)
        assert read_page(session, project.instruments, filters, 100).ids == whole
    values = [item.score for item in pasts if item.image_type == "TF0"]
    assert len(whole) == len(values) > 10


def test_night_filter_accepts_extreme_dates(pages, project):
    add_extensions(project, *[StoredExtension()] * 25)  # ten a night
    with project.read_session() as session:
        first, middle, _ = session.scalars(select(FrameRow.night).distinct().order_by("night"))
    assert ids_of(pages, f"from={middle}&to={middle}&order=time") == list(range(20, 10, -1))
    assert ids_of(pages, f"from={middle}&to=9999-12-31&order=time") == list(range(25, 10, -1))
    assert sorted(ids_of(pages, f"to={first}")) == list(range(1, 11))


def test_queue_uses_newest_verdict(project):
    add_extensions(project, StoredExtension(score=0.5), StoredExtension(score=0.4))
    with project.write_session.begin() as session:
        old = session.get(VerdictRow, 1)
        columns = {
            column.name: getattr(old, column.name) for column in VerdictRow.__table__.columns
        }
        session.add(VerdictRow(**columns | {"id": None, "score": 0.3}))
    with project.read_session() as session:
        page = read_page(session, project.instruments, QueueFilters(order=QueueOrder.SCORE), 10)
    assert page.ids == (2, 1)


def test_queue_filter(pages, project):
    add_extensions(
        project,
        StoredExtension(label=LabelName.BAD, kind="light_leak", score=3.0, status=Status.ANOMALOUS),
        StoredExtension(score=0.5),
        StoredExtension(image_type="TF0", label=LabelName.GOOD, score=0.7),
    )
    expected = {
        "type=TB*": {1, 2},
        "type=tf0": {3},
        "setup=CCD 1x1": {1, 2, 3},
        "setup=2x2": set(),
        "status=anomalous": {1},
        "kind=light_leak": {1},
        "least=0.6": {1, 3},
        "most=0.6": {2},
        "labelled=no": {2},
        "labelled=yes": {1, 3},
        "by=kim": {1, 3},
        "by=lee": set(),
        "from=2026-01-02": set(),
        "to=2026-01-01": {1, 2, 3},
        "from=&to=&type=&status=&least=": {1, 2, 3},
    }
    assert {query: set(ids_of(pages, query)) for query in expected} == expected


def test_queue_filter_rejects_invalid_value(pages):
    answer = pages.get("/api/v1/extensions?type=TBX")
    assert (answer.status_code, "no image type" in answer.json()["error"]) == (422, True)
    assert pages.get("/api/v1/extensions?after=nonsense").status_code == 422
    page = pages.get("/review?least=high")
    assert (page.status_code, "least" in page.text) == (422, True)


@pytest.mark.usefixtures("judged")
def test_queue_filter_by_spot_check_sample(pages):
    sample = set(ids_of(pages, "sample=true"))
    assert sample == set(ids_of(pages, "sample=true&from=2026-01-02"))
    assert sample <= {21, 23, 25}  # nominal, of the newest night


def test_most_informative_is_uncertain_and_diverse(pages, project):
    first, second = (1.0, 0.0), (0.0, 1.0)
    add_extensions(
        project,
        StoredExtension(score=1.0, vector=first),
        StoredExtension(score=1.0, vector=first),
        StoredExtension(score=0.7, vector=second),
        StoredExtension(score=1.0, vector=second, label=LabelName.GOOD),
    )
    ranked = ids_of(pages, "order=informative")
    assert ranked[1] == 3  # less doubtful than the twin of the first, but news
    assert set(ranked) == {1, 2, 3}  # a labelled one teaches nothing more
    assert ids_of(pages, f"order=informative&after={ranked[0]}") == ranked[1:]


# --- labels ---------------------------------------------------------------------------------------


def test_add_label_stores_author(pages, judged):
    did = add_label(pages, 22, label="bad", kind="light-leak").json()
    assert did["changed"] == 1
    assert (did["now"][0]["label"], did["now"][0]["kind"]) == ("bad", "light_leak")
    assert new_labels(judged) == [(22, "bad", "light_leak", None)]


def test_add_label_is_idempotent(pages, judged):
    first, second = add_label(pages, 22).json(), add_label(pages, 22).json()
    assert (first["is_repeated"], second["is_repeated"]) == (False, True)
    assert second["now"] == first["now"]
    assert len(new_labels(judged)) == 1


def test_undo_is_idempotent(pages, judged):
    add_label(pages, 22, key=f"{KEY}-1")
    add_label(pages, 22, key=f"{KEY}-2", label="bad", kind="other")
    for _ in range(2):
        answer = pages.delete(f"/api/v1/labels?extension=22&key={KEY}-3&of={KEY}-2")
        assert answer.json()["now"][0]["label"] == "good"
    assert len(new_labels(judged)) == 3


def test_undo_leaves_labels_of_others(pages, judged):
    add_label(pages, 22, key=f"{KEY}-1")
    with judged.write_session.begin() as session:
        request = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.add_labels_once(session, request, judged.instruments, ("bad", "light_leak", ""))
    did = pages.delete(f"/api/v1/labels?extension=22&key={KEY}-2&of={KEY}-1").json()
    assert (did["changed"], did["now"][0]["label"], did["now"][0]["who"]) == (1, "bad", "kim")


def test_add_label_reports_concurrent_label(pages, judged):
    with judged.write_session.begin() as session:
        request = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.add_labels_once(session, request, judged.instruments, ("good", "", ""))
    did = add_label(pages, 22, label="bad", kind="other", seen={"22": 0}).json()
    assert re.fullmatch(r"TINY\S+\[0\]: kim called it good \d+ s before", did["meanwhile"][0])
    assert did["now"][0]["label"] == "bad"
    aware = add_label(pages, 22, key=f"{KEY}-2", seen={"22": did["now"][0]["id"]}).json()
    assert aware["meanwhile"] == []


def test_add_label_requires_confirmation_above_twenty(pages, judged):
    many = list(range(1, 26))
    refused = add_label(pages, *many, label="valid-outlier")
    assert (refused.status_code, new_labels(judged)) == (422, [])
    assert "25 extensions are more than 20" in refused.json()["error"]
    assert add_label(pages, *many, label="valid-outlier", sure=True).json()["changed"] == 25


def test_add_label_rejects_invalid_request(pages, judged):
    assert add_label(pages, 22, label="bad", kind="lamp_off").status_code == 422
    assert add_label(pages, 22, label="splendid").status_code == 422
    assert add_label(pages, 22, 999).status_code == 404
    assert add_label(pages, 22, key="short").status_code == 422
    assert new_labels(judged) == []


def test_add_label_to_whole_set(pages, project):
    in_set = [StoredExtension(template="one", template_number=n, template_size=3) for n in range(3)]
    add_extensions(project, *in_set, StoredExtension(template="another"))
    assert add_label(pages, 2, whole_set=True).json()["changed"] == 3
    assert [label[0] for label in labels(project)] == [1, 2, 3]


def test_add_label_commits_before_response(pages, judged):
    with judged.engine.execution_options(writes=True).connect() as connection:
        assert add_label(pages, 22).status_code == 200
        assert connection.exec_driver_sql("SELECT count(*) FROM request").scalar() == 1


# --- exports --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(("table_name", "rows"), [("labels", 21), ("verdicts", 25)])
def test_export_formats_are_readable(pages, table_name, rows):
    add_label(pages, 22, label="bad", kind="light_leak")
    address = f"/api/v1/{table_name}?format="
    table = pd.read_csv(io.BytesIO(pages.get(f"{address}csv").content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        votable = parse_single_table(io.BytesIO(pages.get(f"{address}votable").content)).to_table()
    assert len(table) == len(votable) == rows
    assert set(table["file"]) == set(votable["file"])
    assert (table["label"] == "bad").sum() == 1


@pytest.mark.usefixtures("judged")
def test_table_page_has_cursor(pages):
    first = pages.get("/api/v1/verdicts?count=20&order=time").json()
    second = pages.get(f"/api/v1/verdicts?count=20&order=time&after={first['after']}").json()
    assert (len(first["rows"]), len(second["rows"]), second["after"]) == (20, 5, "")
    json.dumps(first, allow_nan=False)


@pytest.mark.usefixtures("judged")
def test_current_labels_keep_order(pages):
    add_label(pages, 22)
    labels_found = pages.get("/api/v1/labels/of?extension=23&extension=22").json()
    assert [(item["extension"], item["label"]) for item in labels_found] == [(23, ""), (22, "good")]


# --- pages without scripts ------------------------------------------------------------------------


def form_of(text):
    """The hidden fields of the answer's form."""
    form = text[text.index('class="answer"') :]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def test_label_form_redirects_and_undoes(pages, judged):
    page = pages.get("/review?status=anomalous").text
    fields = {k: v.replace("&amp;", "&") for k, v in form_of(page).items()}
    first = int(fields["extension"].split(":")[0])
    next_page = pages.post("/review/answer", data={**fields, "answer": "bad:light_leak"})
    assert next_page.status_code == 200
    assert "1 new label saved" in next_page.text
    assert int(form_of(next_page.text)["extension"].split(":")[0]) != first
    assert new_labels(judged) == [(first, "bad", "light_leak", None)]
    undone = pages.post(
        "/review/answer",
        data={
            "answer": "undo",
            "key": f"undo-{fields['key']}",
            "of": fields["key"],
            "back": "/review?",
        },
    )
    assert "Undone." in undone.text
    assert len(new_labels(judged)) == 2


@pytest.mark.usefixtures("judged")
def test_label_form_never_redirects_elsewhere(pages):
    answer = pages.post(
        "/review/answer",
        data={"answer": "good", "key": KEY, "extension": "22:0", "back": "https://example.org/"},
        follow_redirects=False,
    )
    assert answer.headers["Location"] == f"/review?just={KEY}"


def test_label_form_reports_concurrent_label(pages, judged):
    with judged.write_session.begin() as session:
        request = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.add_labels_once(session, request, judged.instruments, ("good", "", ""))
    response = pages.post(
        "/review/answer", data={"answer": "bad:other", "key": KEY, "extension": "22:0"}
    )
    assert "kim called it good" in response.text
    assert new_labels(judged)[-1] == (22, "bad", "other", None)


@pytest.mark.usefixtures("judged")
def test_filter_form_shows_query(pages):
    page = pages.get("/review?type=TB*&status=ANOMALOUS&labelled=any&order=score&view=grid").text
    assert 'name="type" value="TB*"' in page
    assert '<option value="ANOMALOUS" selected>' in page
    assert '<option value="score" selected>' in page
    assert page.count('name="extension"') == 2


@pytest.mark.usefixtures("judged")
def test_review_page_escapes_notes(pages):
    add_label(pages, 22, note="<script>alert(1)</script>")
    page = pages.get("/review?at=22&labelled=any").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_review_page_of_empty_queue(pages):
    assert "No extension matches" in pages.get("/review").text
    assert "No extension matches" in pages.get("/review?view=grid").text


@pytest.mark.usefixtures("judged")
def test_review_pictures_are_cached(pages):
    [address, *_] = re.findall(r"/review/pictures/\S+?/own.png", pages.get("/review").text)
    first = pages.get(address)
    assert first.content.startswith(b"\x89PNG")
    assert "immutable" in first.headers["Cache-Control"]
    assert pages.get(address).content == first.content
    for kind in ("nearest", "map", "small"):
        assert pages.get(address.replace("own", kind)).status_code in {200, 404}
    stale = address.replace("-", "-9")
    assert pages.get(stale).headers["Cache-Control"] == "no-store"
    assert pages.get(address.replace("own", "other")).status_code == 404


@pytest.mark.usefixtures("judged")
def test_keys_page_shows_labelled_example(pages):
    assert "no labelled example" in pages.get("/review/keys").text
    add_label(pages, 22, label="bad", kind="light_leak")
    page = pages.get("/review/keys").text
    assert "/review/pictures/22/" in page
    assert "Stray light falls on the chip." in page


# --- in a browser ---------------------------------------------------------------------------------


def wait_until_saved(page):
    """Wait until the server has confirmed all labels."""
    page.wait_for_selector('body[data-unsent="0"]')


def open_page(page, address="/review?labelled=any&order=time&from=2026-01-02"):
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def shown(page):
    return int(page.locator("article").get_attribute("data-extension"))


def wait_for_frame(page, extension):
    page.wait_for_selector(f'article[data-extension="{extension}"]')


def test_review_digit_keys_label(page, judged):
    open_page(page)
    assert shown(page) == 25
    page.keyboard.press("1")
    wait_for_frame(page, 24)
    page.keyboard.press("3")
    wait_for_frame(page, 23)
    wait_until_saved(page)
    assert new_labels(judged) == [(25, "good", "", None), (24, "valid-outlier", "", None)]


def test_review_second_key_selects_kind(page, judged):
    open_page(page)
    page.keyboard.press("2")
    assert page.locator("details.kinds").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("details.kinds").get_attribute("open") is None
    page.keyboard.press("2")
    page.keyboard.press("1")  # no label now: the first kind
    wait_for_frame(page, 24)
    wait_until_saved(page)
    assert new_labels(judged) == [(25, "bad", "light_leak", None)]


def test_review_keys_move_and_update_address(page, judged):
    open_page(page)
    for key, there in (("j", 24), ("ArrowRight", 23), ("k", 24), ("ArrowLeft", 25)):
        page.keyboard.press(key)
        wait_for_frame(page, there)
    page.keyboard.press("j")
    wait_for_frame(page, 24)
    address = page.url
    page.goto(address)
    assert shown(page) == 24
    assert labels(judged)[-1][0] == 20


def test_review_u_undoes_last_label(page, judged):
    open_page(page)
    page.keyboard.press("1")
    wait_for_frame(page, 24)
    page.keyboard.press("3")
    wait_for_frame(page, 23)
    page.keyboard.press("u")
    wait_for_frame(page, 24)
    page.keyboard.press("u")
    wait_for_frame(page, 25)
    wait_until_saved(page)
    page.wait_for_selector("p.label >> text=no label")
    assert [label[3] is not None for label in new_labels(judged)] == [False, False, True, True]


def test_review_b_labels_whole_set(page, project):
    in_set = [StoredExtension(template="one", template_number=n, template_size=3) for n in range(3)]
    add_extensions(project, *in_set)
    open_page(page, "/review?order=time")
    page.keyboard.press("b")
    page.keyboard.press("1")
    wait_until_saved(page)
    assert [label[0] for label in labels(project)] == [1, 2, 3]


def test_review_note_input_ignores_shortcuts(page, judged):
    open_page(page)
    page.keyboard.press("n")
    page.keyboard.type("1 just as before")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    wait_for_frame(page, 24)
    wait_until_saved(page)
    with judged.read_session() as session:
        assert session.scalars(select(LabelRow.note).where(LabelRow.extension_id == 25)).all() == [
            "1 just as before"
        ]


@pytest.mark.usefixtures("judged")
def test_review_question_mark_shows_keys(page):
    open_page(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] >> text=Stray light falls on the chip.")
    assert violations(page) == []
    page.keyboard.press("1")  # ignored while they are shown
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert shown(page) == 25


@pytest.mark.usefixtures("judged")
def test_review_prefetches_next_frame(page):
    open_page(page)
    requests: list[str] = []
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: requests.append(request.url))
    page.keyboard.press("j")
    wait_for_frame(page, 24)
    assert not [item for item in requests if "/frames/24" in item or "/pictures/24" in item]


def test_grid_labelled_by_click_and_key(page, judged):
    open_page(page, "/review?view=grid&labelled=any&order=time&from=2026-01-02")
    ticks = page.locator(".thumbnails input")
    ticks.nth(0).click()
    page.locator(".thumbnails img").nth(2).click(modifiers=["Shift"])
    page.wait_for_selector("#selected >> text=3 selected")
    page.keyboard.press("2")
    page.keyboard.press("1")
    page.wait_for_selector("#selected >> text=None selected")
    wait_until_saved(page)
    assert [label[:3] for label in new_labels(judged)] == [
        (item, "bad", "light_leak") for item in (23, 24, 25)
    ]
    page.wait_for_selector('li[data-extension="25"] .label >> text=bad: light leak')
    page.keyboard.press("u")
    wait_until_saved(page)
    page.wait_for_selector('li[data-extension="25"] .label >> text=no label')


def test_grid_arrow_keys_and_shift(page, judged):
    open_page(page, "/review?view=grid&labelled=any&order=time&from=2026-01-02")
    page.locator(".thumbnails input").nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector("#selected >> text=2 selected")
    page.keyboard.press("1")
    wait_until_saved(page)
    assert [label[0] for label in new_labels(judged)] == [23, 24]


def test_grid_requires_confirmation_above_twenty(page, judged):
    open_page(page, "/review?view=grid&labelled=any&order=time")
    page.keyboard.press("a")
    page.wait_for_selector("#selected >> text=25 selected")
    page.keyboard.press("3")
    page.wait_for_selector("#message >> text=25 frames are more than 20")
    wait_until_saved(page)
    assert new_labels(judged) == []
    page.keyboard.press("3")
    page.wait_for_selector("#selected >> text=None selected")
    wait_until_saved(page)
    assert len(new_labels(judged)) == 5


def test_review_survives_server_restart(chromium, judged):
    with serving(judged) as first:
        port = int(first.url.rpartition(":")[2])
        manager = window(chromium, first)
        page = manager.__enter__()
        open_page(page)
        page.wait_for_load_state("networkidle")
        page.keyboard.press("1")
        wait_for_frame(page, 24)
        wait_until_saved(page)
    page.keyboard.press("1")  # the server is away
    wait_for_frame(page, 23)
    page.keyboard.press("3")
    wait_for_frame(page, 22)
    page.wait_for_selector("#unsent >> text=2 not yet saved")
    assert len(new_labels(judged)) == 1
    with serving(judged, port=port):
        wait_until_saved(page)
        expected = [(25, "good"), (24, "good"), (23, "valid-outlier")]
        assert [label[:2] for label in new_labels(judged)] == expected
        manager.__exit__(None, None, None)


def test_unsent_labels_survive_reload(chromium, judged):
    with serving(judged) as served, window(chromium, served) as page:
        page.route("**/api/v1/labels", lambda route: route.abort())
        open_page(page)
        page.wait_for_load_state("networkidle")
        page.keyboard.press("1")
        wait_for_frame(page, 24)
        page.wait_for_selector("#unsent >> text=1 not yet saved")
        page.unroute("**/api/v1/labels")
        page.reload()
        wait_until_saved(page)
        page.wait_for_selector("body[data-ready]")
    assert [label[:2] for label in new_labels(judged)] == [(25, "good")]


def test_lost_response_adds_no_second_label(page, judged):
    lost: list[object] = []

    def lose_the_first(route):
        route.fetch()  # the server has heard it
        if lost:
            route.continue_()
        else:
            lost.append(route)
            route.abort()

    # Before the page is there: a loaded page notices a new route only after a while.
    page.route("**/api/v1/labels", lose_the_first)
    open_page(page)
    page.keyboard.press("1")
    wait_for_frame(page, 24)
    wait_until_saved(page)
    assert lost
    assert [label[:2] for label in new_labels(judged)] == [(25, "good")]


def test_review_shows_concurrent_label(chromium, judged):
    with serving(judged) as served, window(chromium, served) as page:
        open_page(page)
        with judged.write_session.begin() as session:
            request = idempotency.LabelRequest("kim", "kims-key", datetime.now(UTC), [25])
            idempotency.add_labels_once(
                session, request, judged.instruments, ("bad", "light_leak", "")
            )
        page.wait_for_selector("#message >> text=Meanwhile: bad, light_leak, by kim")
        assert "by kim" in page.locator("article .label").inner_text()


def test_review_reports_label_on_older_state(page, judged):
    page.route("**/api/v1/labels/of?**", lambda route: route.abort())  # without earlier notice
    open_page(page)
    with judged.write_session.begin() as session:
        request = idempotency.LabelRequest("kim", "kims-key", datetime.now(UTC), [25])
        idempotency.add_labels_once(session, request, judged.instruments, ("good", "", ""))
    page.keyboard.press("3")
    page.wait_for_selector("#message >> text=kim called it good")
    wait_until_saved(page)
    assert new_labels(judged)[-1][:2] == (25, "valid-outlier")


def test_review_without_scripts(chromium, judged):
    with serving(judged) as served:
        options = {"java_script_enabled": False}
        with window(chromium, served, **options) as page:
            page.goto("/review?order=time&from=2026-01-02")
            page.locator("button", has_text="good").click()
            page.wait_for_selector("text=1 new label saved")
            page.locator("summary", has_text="bad").click()
            page.locator("button", has_text="light leak").click()
            page.wait_for_selector('article[data-extension="23"]')
            page.locator("summary", has_text="Filters").click()
            page.select_option('[name="view"]', "grid")
            page.locator(".filters button").click()
            assert "view=grid" in page.url
            page.locator(".thumbnails input").nth(0).check()
            page.locator("button", has_text="valid outlier").click()
            page.wait_for_selector("text=1 new label saved")
    expected = [(25, "good"), (24, "bad"), (23, "valid-outlier")]
    assert [label[:2] for label in new_labels(judged)] == expected


def test_review_enter_takes_prediction(page, judged):
    with judged.write_session.begin() as session:
        verdict = session.scalars(select(VerdictRow).where(VerdictRow.extension_id == 25)).one()
        verdict.predicted_kind, verdict.kind_probability = "light_leak", 0.9
    open_page(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    wait_for_frame(page, 24)
    wait_until_saved(page)
    assert new_labels(judged) == [(25, "bad", "light_leak", None)]


def test_review_w_opens_grid_and_n_next_page(page, project):
    add_extensions(project, *[StoredExtension(score=n / 100) for n in range(70)])
    open_page(page, "/review?order=score")
    page.keyboard.press("w")
    page.wait_for_url("**view=grid**")
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".thumbnails li").count() == 60
    page.keyboard.press("n")
    page.wait_for_url("**after=**")
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".thumbnails li").count() == 10


def test_grid_space_selects_and_arrows_move(page, judged):
    open_page(page, "/review?view=grid&labelled=any&order=time")
    page.locator(".thumbnails input").nth(0).focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#selected >> text=1 selected")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    page.wait_for_selector("#selected >> text=1 selected")
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.closest('li').dataset.extension")
    page.keyboard.press("3")
    page.wait_for_selector("#selected >> text=None selected")
    wait_until_saved(page)
    assert [label[0] for label in labels(judged) if label[1] == "valid-outlier"] == [int(below)]


@pytest.mark.usefixtures("judged")
def test_grid_question_mark_shows_keys(page):
    open_page(page, "/review?view=grid&labelled=any")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] >> text=Keyboard shortcuts")
    page.get_by_role("button", name="Close").click()
    page.wait_for_selector("dialog", state="hidden")


def test_review_shows_names_of_concurrent_users(chromium, judged):
    now = datetime.now(UTC)
    with judged.write_session.begin() as session:
        for name in ("kim", "ann"):
            db.accounts.add_account(session, name, Role.REVIEW, "echelle-390", now)
    with (
        serving(judged) as served,
        window(chromium, served) as kim,
        window(chromium, served) as ann,
    ):
        for page, name in ((kim, "kim"), (ann, "ann")):
            page.goto("/review?labelled=any&order=time&from=2026-01-02")
            page.get_by_label("User name").fill(name)
            page.get_by_label("Password").fill("echelle-390")
            page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("body[data-ready]")
            assert shown(page) == 25
        kim.keyboard.press("1")
        wait_until_saved(kim)
        ann.wait_for_selector("#message >> text=Meanwhile: good, by kim")
        ann.keyboard.press("3")
        wait_until_saved(ann)
        kim.keyboard.press("k")
        wait_for_frame(kim, 25)
        kim.wait_for_selector(".label >> text=by ann")
    assert [label[:2] for label in new_labels(judged)] == [(25, "good"), (25, "valid-outlier")]
