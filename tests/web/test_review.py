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
from qc.db.models import FrameRow, LabelRow, VerdictRow, doubt
from qc.review import idempotency, queue
from qc.review.queue import QueueFilters, QueueOrder, read_some
from tests.support.browser import serving, violations, window
from tests.support.databases import copied
from tests.support.remembered import Past, remember
from tests.support.tiny import light_leak, open_tiny, process, write_frame, write_history

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def made(empty_project, tmp_path_factory):
    """Twenty good biases, and a night with five more of which two leak; not to be written to."""
    folder = tmp_path_factory.mktemp("judged")
    (inbox := folder / "inbox").mkdir()
    changes = [None, light_leak, None, light_leak, None]
    fresh = [write_frame(inbox, 2, n, change=change) for n, change in enumerate(changes)]
    with copied(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            process(project, *fresh)
        yield project_folder


@pytest.fixture
def project_folder(request, empty_project, tmp_path):
    """A project of the test's own: what was made, for those that take `judged`."""
    is_judged = "judged" in request.fixturenames
    source = request.getfixturevalue("made") if is_judged else empty_project
    with copied(source, tmp_path / "project") as one:
        yield one


@pytest.fixture
def judged(project):
    """What was made, in a project of the test's own."""
    return project


def labels(project):
    with project.reads() as session:
        rows = session.scalars(select(LabelRow).order_by(LabelRow.id)).all()
        return [(row.extension_id, str(row.label), row.kind, row.undoes_id) for row in rows]


def new_labels(project):
    """What was said beyond the certified history."""
    return [one for one in labels(project) if one[0] > 20]


def say(pages, *ids, label="good", key=KEY, **more):
    return pages.post(
        "/api/v1/labels", json={"extensions": list(ids), "label": label, "key": key, **more}
    )


def ids_of(pages, question=""):
    found = pages.get(f"/api/v1/extensions?{question}").json()["extensions"]
    return [one["id"] for one in found]


# --- what comes next ------------------------------------------------------------------------------


def test_most_doubtful_is_without_a_verdict_then_nearest_to_the_limit(project):
    remember(
        project,
        Past(score=0.2),
        Past(score=1.1, status=Status.ANOMALOUS),
        Past(score=9.0, status=Status.ANOMALOUS),
        Past(score=0.95),
        Past(score=0.1, status=Status.UNDECIDED),
    )
    with project.reads() as session:
        some = read_some(session, project.instruments, QueueFilters(), 10)
    assert (some.ids, some.after) == ((5, 4, 2, 1, 3), "")


def test_doubt_is_one_on_the_limit_and_falls_to_both_sides():
    assert doubt(Status.NOMINAL, 1.0) == 1.0
    assert doubt(Status.NOMINAL, 0.5) == doubt(Status.ANOMALOUS, 1.5) == pytest.approx(2 / 3)
    assert doubt(Status.UNDECIDED, 0.0) == 2.0


@pytest.mark.parametrize("order", [QueueOrder.DOUBT, QueueOrder.SCORE, QueueOrder.TIME])
def test_pages_of_any_size_hold_all_once_and_in_order(project, order):
    random = np.random.default_rng(3)
    scores = random.choice([0.5, 1.0, 1.5, 2.5], 57)  # many are equal
    remember(project, *(Past(score=float(one)) for one in scores))
    with project.reads() as session:
        filters = QueueFilters(order=order)
        whole = read_some(session, project.instruments, filters, 100).ids
        parts: list[int] = []
        after = ""
        while True:
            some = read_some(session, project.instruments, filters, 10, after)
            parts += some.ids
            after = some.after
            if not after:
                break
    assert len(set(whole)) == 57
    assert tuple(parts) == whole


@pytest.mark.parametrize("order", [QueueOrder.DOUBT, QueueOrder.SCORE, QueueOrder.TIME])
@pytest.mark.parametrize("long_way", [6, 1000])  # then all that fit are found at once; or never
def test_a_stretch_of_an_order_ends_anywhere(project, monkeypatch, order, long_way):
    random = np.random.default_rng(4)
    scores = random.choice([0.5, 1.0, 1.5, 2.5], 40)  # many are equal
    kinds = random.choice(["TB0", "TF0"], 40)
    pasts = [
        Past(score=float(one), image_type=kind) for one, kind in zip(scores, kinds, strict=True)
    ]
    remember(project, *pasts)
    filters = QueueFilters(types="TF0", order=order)
    with project.reads() as session:
        monkeypatch.setattr(queue, "FEW", 0)
        whole = read_some(session, project.instruments, filters, 100).ids
        monkeypatch.setattr(queue, "_FIRST_STRETCH", 3)
        monkeypatch.setattr(queue, "_LONGEST_STRETCH", 5)
        monkeypatch.setattr(queue, "_LONG_WAY", long_way)
        assert read_some(session, project.instruments, filters, 100).ids == whole
    values = [one.score for one in pasts if one.image_type == "TF0"]
    assert len(whole) == len(values) > 10


def test_nights_are_those_named_to_the_last_day_there_is(pages, project):
    remember(project, *[Past()] * 25)  # ten a night
    with project.reads() as session:
        first, middle, _ = session.scalars(select(FrameRow.night).distinct().order_by("night"))
    assert ids_of(pages, f"from={middle}&to={middle}&order=time") == list(range(20, 10, -1))
    assert ids_of(pages, f"from={middle}&to=9999-12-31&order=time") == list(range(25, 10, -1))
    assert sorted(ids_of(pages, f"to={first}")) == list(range(1, 11))


def test_only_the_newest_verdict_counts(project):
    remember(project, Past(score=0.5), Past(score=0.4))
    with project.writes.begin() as session:
        old = session.get(VerdictRow, 1)
        kept = {one.name: getattr(old, one.name) for one in VerdictRow.__table__.columns}
        session.add(VerdictRow(**kept | {"id": None, "score": 0.3}))
    with project.reads() as session:
        found = read_some(session, project.instruments, QueueFilters(order=QueueOrder.SCORE), 10)
    assert found.ids == (2, 1)


def test_each_filter_leaves_what_it_says(pages, project):
    remember(
        project,
        Past(label=LabelName.BAD, kind="light_leak", score=3.0, status=Status.ANOMALOUS),
        Past(score=0.5),
        Past(image_type="TF0", label=LabelName.GOOD, score=0.7),
    )
    wanted = {
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
    assert {asked: set(ids_of(pages, asked)) for asked in wanted} == wanted


def test_a_filter_that_makes_no_sense_is_told(pages):
    answer = pages.get("/api/v1/extensions?type=TBX")
    assert (answer.status_code, "no image type" in answer.json()["error"]) == (422, True)
    assert pages.get("/api/v1/extensions?after=nonsense").status_code == 422
    page = pages.get("/review?least=high")
    assert (page.status_code, "least" in page.text) == (422, True)


@pytest.mark.usefixtures("judged")
def test_the_sample_is_what_the_spot_check_drew(pages):
    sample = set(ids_of(pages, "sample=true"))
    assert sample == set(ids_of(pages, "sample=true&from=2026-01-02"))
    assert sample <= {21, 23, 25}  # nominal, of the newest night


def test_what_teaches_most_is_uncertain_and_unlike_what_came_before(pages, project):
    twin, other = (1.0, 0.0), (0.0, 1.0)
    remember(
        project,
        Past(score=1.0, vector=twin),
        Past(score=1.0, vector=twin),
        Past(score=0.7, vector=other),
        Past(score=1.0, vector=other, label=LabelName.GOOD),
    )
    ranked = ids_of(pages, "order=informative")
    assert ranked[1] == 3  # less doubtful than the twin of the first, but news
    assert set(ranked) == {1, 2, 3}  # what has a label teaches nothing more
    assert ids_of(pages, f"order=informative&after={ranked[0]}") == ranked[1:]


# --- what is said ---------------------------------------------------------------------------------


def test_a_label_is_kept_and_told_with_who_gave_it(pages, judged):
    did = say(pages, 22, label="bad", kind="light-leak").json()
    assert did["changed"] == 1
    assert (did["now"][0]["label"], did["now"][0]["kind"]) == ("bad", "light_leak")
    assert new_labels(judged) == [(22, "bad", "light_leak", None)]


def test_what_is_sent_twice_is_said_once(pages, judged):
    first, second = say(pages, 22).json(), say(pages, 22).json()
    assert (first["is_repeated"], second["is_repeated"]) == (False, True)
    assert second["now"] == first["now"]
    assert len(new_labels(judged)) == 1


def test_an_undo_that_is_sent_twice_undoes_one_label(pages, judged):
    say(pages, 22, key=f"{KEY}-1")
    say(pages, 22, key=f"{KEY}-2", label="bad", kind="other")
    for _ in range(2):
        answer = pages.delete(f"/api/v1/labels?extension=22&key={KEY}-3&of={KEY}-2")
        assert answer.json()["now"][0]["label"] == "good"
    assert len(new_labels(judged)) == 3


def test_an_undo_takes_back_ones_own_words_and_leaves_those_of_others(pages, judged):
    say(pages, 22, key=f"{KEY}-1")
    with judged.writes.begin() as session:
        asked = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.answer_once(session, asked, judged.instruments, ("bad", "light_leak", ""))
    did = pages.delete(f"/api/v1/labels?extension=22&key={KEY}-2&of={KEY}-1").json()
    assert (did["changed"], did["now"][0]["label"], did["now"][0]["who"]) == (1, "bad", "kim")


def test_a_label_on_an_older_state_is_kept_and_told(pages, judged):
    with judged.writes.begin() as session:
        asked = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.answer_once(session, asked, judged.instruments, ("good", "", ""))
    did = say(pages, 22, label="bad", kind="other", seen={"22": 0}).json()
    assert re.fullmatch(r"TINY\S+\[0\]: kim called it good \d+ s before", did["meanwhile"][0])
    assert did["now"][0]["label"] == "bad"
    aware = say(pages, 22, key=f"{KEY}-2", seen={"22": did["now"][0]["id"]}).json()
    assert aware["meanwhile"] == []


def test_more_than_twenty_at_once_need_a_second_thought(pages, judged):
    many = list(range(1, 26))
    refused = say(pages, *many, label="valid-outlier")
    assert (refused.status_code, new_labels(judged)) == (422, [])
    assert "25 extensions are more than 20" in refused.json()["error"]
    assert say(pages, *many, label="valid-outlier", sure=True).json()["changed"] == 25


def test_what_cannot_be_is_refused_and_nothing_is_kept(pages, judged):
    assert say(pages, 22, label="bad", kind="lamp_off").status_code == 422
    assert say(pages, 22, label="splendid").status_code == 422
    assert say(pages, 22, 999).status_code == 404
    assert say(pages, 22, key="short").status_code == 422
    assert new_labels(judged) == []


def test_the_whole_set_is_labelled_together(pages, project):
    in_set = [Past(template="one", template_number=n, template_size=3) for n in range(3)]
    remember(project, *in_set, Past(template="another"))
    assert say(pages, 2, whole_set=True).json()["changed"] == 3
    assert [one[0] for one in labels(project)] == [1, 2, 3]


def test_a_commit_precedes_the_answer(pages, judged):
    with judged.engine.execution_options(writes=True).connect() as other:
        assert say(pages, 22).status_code == 200
        assert other.exec_driver_sql("SELECT count(*) FROM request").scalar() == 1


# --- tables for other tools -----------------------------------------------------------------------


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(("what", "rows"), [("labels", 21), ("verdicts", 25)])
def test_pandas_and_astropy_open_what_is_downloaded(pages, what, rows):
    say(pages, 22, label="bad", kind="light_leak")
    asked = f"/api/v1/{what}?format="
    table = pd.read_csv(io.BytesIO(pages.get(f"{asked}csv").content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        votable = parse_single_table(io.BytesIO(pages.get(f"{asked}votable").content)).to_table()
    assert len(table) == len(votable) == rows
    assert set(table["file"]) == set(votable["file"])
    assert (table["label"] == "bad").sum() == 1


@pytest.mark.usefixtures("judged")
def test_a_page_of_a_table_tells_where_the_next_begins(pages):
    first = pages.get("/api/v1/verdicts?count=20&order=time").json()
    second = pages.get(f"/api/v1/verdicts?count=20&order=time&after={first['after']}").json()
    assert (len(first["rows"]), len(second["rows"]), second["after"]) == (20, 5, "")
    json.dumps(first, allow_nan=False)


@pytest.mark.usefixtures("judged")
def test_labels_of_frames_are_told_in_the_order_asked_for(pages):
    say(pages, 22)
    words = pages.get("/api/v1/labels/of?extension=23&extension=22").json()
    assert [(one["extension"], one["label"]) for one in words] == [(23, ""), (22, "good")]


# --- pages without scripts ------------------------------------------------------------------------


def form_of(text):
    """The hidden fields of the answer's form."""
    form = text[text.index('class="answer"') :]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def test_without_scripts_an_answer_leads_to_the_next_frame_and_can_be_undone(pages, judged):
    page = pages.get("/review?status=anomalous").text
    fields = {k: v.replace("&amp;", "&") for k, v in form_of(page).items()}
    first = int(fields["extension"].split(":")[0])
    next_page = pages.post("/review/answer", data={**fields, "answer": "bad:light_leak"})
    assert next_page.status_code == 200
    assert "1 new label kept" in next_page.text
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
def test_a_form_leads_nowhere_but_to_the_review(pages):
    answer = pages.post(
        "/review/answer",
        data={"answer": "good", "key": KEY, "extension": "22:0", "back": "https://example.org/"},
        follow_redirects=False,
    )
    assert answer.headers["Location"] == f"/review?just={KEY}"


def test_without_scripts_others_words_are_told_before_going_on(pages, judged):
    with judged.writes.begin() as session:
        asked = idempotency.LabelRequest("kim", "kims-key", pages.app.state.now(), [22])
        idempotency.answer_once(session, asked, judged.instruments, ("good", "", ""))
    told = pages.post(
        "/review/answer", data={"answer": "bad:other", "key": KEY, "extension": "22:0"}
    )
    assert "kim called it good" in told.text
    assert new_labels(judged)[-1] == (22, "bad", "other", None)


@pytest.mark.usefixtures("judged")
def test_the_form_of_the_filters_shows_what_is_asked_for(pages):
    page = pages.get("/review?type=TB*&status=ANOMALOUS&labelled=any&order=score&view=wall").text
    assert 'name="type" value="TB*"' in page
    assert '<option value="ANOMALOUS" selected>' in page
    assert '<option value="score" selected>' in page
    assert page.count('name="extension"') == 2


@pytest.mark.usefixtures("judged")
def test_words_of_people_are_shown_as_words(pages):
    say(pages, 22, note="<script>alert(1)</script>")
    page = pages.get("/review?at=22&labelled=any").text
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_nothing_left_is_said(pages):
    assert "Nothing is left" in pages.get("/review").text
    assert "Nothing is left" in pages.get("/review?view=wall").text


@pytest.mark.usefixtures("judged")
def test_pictures_are_drawn_once_and_need_not_be_asked_for_again(pages):
    [address, *_] = re.findall(r"/review/pictures/\S+?/own.png", pages.get("/review").text)
    first = pages.get(address)
    assert first.content.startswith(b"\x89PNG")
    assert "immutable" in first.headers["Cache-Control"]
    assert pages.get(address).content == first.content
    for what in ("nearest", "map", "small"):
        assert pages.get(address.replace("own", what)).status_code in {200, 404}
    stale = address.replace("-", "-9")
    assert pages.get(stale).headers["Cache-Control"] == "no-store"
    assert pages.get(address.replace("own", "other")).status_code == 404


@pytest.mark.usefixtures("judged")
def test_keys_show_an_example_of_what_was_labelled(pages):
    assert "nobody has labelled one yet" in pages.get("/review/keys").text
    say(pages, 22, label="bad", kind="light_leak")
    page = pages.get("/review/keys").text
    assert "/review/pictures/22/" in page
    assert "Stray light falls on the chip." in page


# --- in a browser ---------------------------------------------------------------------------------


def heard(page):
    """Wait until the server has heard all that was said."""
    page.wait_for_selector('body[data-unsent="0"]')


def opened(page, address="/review?labelled=any&order=time&from=2026-01-02"):
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def shown(page):
    return int(page.locator("article").get_attribute("data-extension"))


def turned(page, extension):
    page.wait_for_selector(f'article[data-extension="{extension}"]')


def test_digits_label_and_go_on(page, judged):
    opened(page)
    assert shown(page) == 25
    page.keyboard.press("1")
    turned(page, 24)
    page.keyboard.press("3")
    turned(page, 23)
    heard(page)
    assert new_labels(judged) == [(25, "good", "", None), (24, "valid-outlier", "", None)]


def test_the_second_key_says_what_is_wrong(page, judged):
    opened(page)
    page.keyboard.press("2")
    assert page.locator("details.kinds").get_attribute("open") is not None
    page.keyboard.press("Escape")
    assert page.locator("details.kinds").get_attribute("open") is None
    page.keyboard.press("2")
    page.keyboard.press("1")  # no label now: the first kind
    turned(page, 24)
    heard(page)
    assert new_labels(judged) == [(25, "bad", "light_leak", None)]


def test_keys_move_and_the_address_is_a_link_to_the_frame(page, judged):
    opened(page)
    for key, there in (("j", 24), ("ArrowRight", 23), ("k", 24), ("ArrowLeft", 25)):
        page.keyboard.press(key)
        turned(page, there)
    page.keyboard.press("j")
    turned(page, 24)
    address = page.url
    page.goto(address)
    assert shown(page) == 24
    assert labels(judged)[-1][0] == 20


def test_u_undoes_what_was_said_last_and_shows_it(page, judged):
    opened(page)
    page.keyboard.press("1")
    turned(page, 24)
    page.keyboard.press("3")
    turned(page, 23)
    page.keyboard.press("u")
    turned(page, 24)
    page.keyboard.press("u")
    turned(page, 25)
    heard(page)
    page.wait_for_selector("p.said >> text=no label")
    assert [one[3] is not None for one in new_labels(judged)] == [False, False, True, True]


def test_b_labels_the_whole_set(page, project):
    in_set = [Past(template="one", template_number=n, template_size=3) for n in range(3)]
    remember(project, *in_set)
    opened(page, "/review?order=time")
    page.keyboard.press("b")
    page.keyboard.press("1")
    heard(page)
    assert [one[0] for one in labels(project)] == [1, 2, 3]


def test_a_note_is_written_without_its_letters_being_keys(page, judged):
    opened(page)
    page.keyboard.press("n")
    page.keyboard.type("1 just as before")
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    turned(page, 24)
    heard(page)
    with judged.reads() as session:
        assert session.scalars(select(LabelRow.note).where(LabelRow.extension_id == 25)).all() == [
            "1 just as before"
        ]


@pytest.mark.usefixtures("judged")
def test_a_question_mark_shows_the_keys(page):
    opened(page)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] >> text=Stray light falls on the chip.")
    assert violations(page) == []
    page.keyboard.press("1")  # says nothing while they are shown
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert shown(page) == 25


@pytest.mark.usefixtures("judged")
def test_the_next_frame_is_there_before_it_is_asked_for(page):
    opened(page)
    asked = []
    page.wait_for_load_state("networkidle")
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("j")
    turned(page, 24)
    assert not [one for one in asked if "/frames/24" in one or "/pictures/24" in one]


def test_a_wall_is_labelled_by_click_shift_and_key(page, judged):
    opened(page, "/review?view=wall&labelled=any&order=time&from=2026-01-02")
    ticks = page.locator(".wall input")
    ticks.nth(0).click()
    page.locator(".wall img").nth(2).click(modifiers=["Shift"])
    page.wait_for_selector("#chosen >> text=3 chosen")
    page.keyboard.press("2")
    page.keyboard.press("1")
    page.wait_for_selector("#chosen >> text=None chosen")
    heard(page)
    assert [one[:3] for one in new_labels(judged)] == [
        (one, "bad", "light_leak") for one in (23, 24, 25)
    ]
    page.wait_for_selector('li[data-extension="25"] .said >> text=bad: light leak')
    page.keyboard.press("u")
    heard(page)
    page.wait_for_selector('li[data-extension="25"] .said >> text=no label')


def test_a_wall_is_walked_by_arrows_and_shift_extends(page, judged):
    opened(page, "/review?view=wall&labelled=any&order=time&from=2026-01-02")
    page.locator(".wall input").nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector("#chosen >> text=2 chosen")
    page.keyboard.press("1")
    heard(page)
    assert [one[0] for one in new_labels(judged)] == [23, 24]


def test_more_than_twenty_on_a_wall_are_said_twice(page, judged):
    opened(page, "/review?view=wall&labelled=any&order=time")
    page.keyboard.press("a")
    page.wait_for_selector("#chosen >> text=25 chosen")
    page.keyboard.press("3")
    page.wait_for_selector("#told >> text=25 frames are more than 20")
    heard(page)
    assert new_labels(judged) == []
    page.keyboard.press("3")
    page.wait_for_selector("#chosen >> text=None chosen")
    heard(page)
    assert len(new_labels(judged)) == 5


def test_a_server_that_restarts_mid_review_loses_no_label(chromium, judged):
    with serving(judged) as first:
        port = int(first.url.rpartition(":")[2])
        manager = window(chromium, first)
        page = manager.__enter__()
        opened(page)
        page.wait_for_load_state("networkidle")
        page.keyboard.press("1")
        turned(page, 24)
        heard(page)
    page.keyboard.press("1")  # the server is away
    turned(page, 23)
    page.keyboard.press("3")
    turned(page, 22)
    page.wait_for_selector("#unsent >> text=2 not yet heard")
    assert len(new_labels(judged)) == 1
    with serving(judged, port=port):
        heard(page)
        said = [(25, "good"), (24, "good"), (23, "valid-outlier")]
        assert [one[:2] for one in new_labels(judged)] == said
        manager.__exit__(None, None, None)


def test_labels_that_were_not_heard_outlast_the_page(chromium, judged):
    with serving(judged) as served, window(chromium, served) as page:
        page.route("**/api/v1/labels", lambda route: route.abort())
        opened(page)
        page.wait_for_load_state("networkidle")
        page.keyboard.press("1")
        turned(page, 24)
        page.wait_for_selector("#unsent >> text=1 not yet heard")
        page.unroute("**/api/v1/labels")
        page.reload()
        heard(page)
        page.wait_for_selector("body[data-ready]")
    assert [one[:2] for one in new_labels(judged)] == [(25, "good")]


def test_an_answer_that_was_lost_on_its_way_is_not_said_twice(page, judged):
    lost: list[object] = []

    def lose_the_first(route):
        route.fetch()  # the server has heard it
        if lost:
            route.continue_()
        else:
            lost.append(route)
            route.abort()

    # Before the page is there: to one that is, Chromium tells of it only after a while.
    page.route("**/api/v1/labels", lose_the_first)
    opened(page)
    page.keyboard.press("1")
    turned(page, 24)
    heard(page)
    assert lost
    assert [one[:2] for one in new_labels(judged)] == [(25, "good")]


def test_two_who_look_at_one_frame_see_each_other(chromium, judged):
    with serving(judged) as served, window(chromium, served) as page:
        opened(page)
        with judged.writes.begin() as session:
            asked = idempotency.LabelRequest("kim", "kims-key", datetime.now(UTC), [25])
            idempotency.answer_once(session, asked, judged.instruments, ("bad", "light_leak", ""))
        page.wait_for_selector("#told >> text=Meanwhile: bad, light_leak, says kim")
        assert "says kim" in page.locator(".said").inner_text()


def test_who_answers_on_an_older_state_is_told(page, judged):
    page.route("**/api/v1/labels/of?**", lambda route: route.abort())  # not told beforehand
    opened(page)
    with judged.writes.begin() as session:
        asked = idempotency.LabelRequest("kim", "kims-key", datetime.now(UTC), [25])
        idempotency.answer_once(session, asked, judged.instruments, ("good", "", ""))
    page.keyboard.press("3")
    page.wait_for_selector("#told >> text=kim called it good")
    heard(page)
    assert new_labels(judged)[-1][:2] == (25, "valid-outlier")


def test_without_scripts_a_browser_answers_all_the_same(chromium, judged):
    with serving(judged) as served:
        options = {"java_script_enabled": False}
        with window(chromium, served, **options) as page:
            page.goto("/review?order=time&from=2026-01-02")
            page.locator("button", has_text="good").click()
            page.wait_for_selector("text=1 new label kept")
            page.locator("summary", has_text="bad").click()
            page.locator("button", has_text="light leak").click()
            page.wait_for_selector('article[data-extension="23"]')
            page.locator("summary", has_text="Filters").click()
            page.select_option('[name="view"]', "wall")
            page.locator(".filters button").click()
            assert "view=wall" in page.url
            page.locator(".wall input").nth(0).check()
            page.locator("button", has_text="valid outlier").click()
            page.wait_for_selector("text=1 new label kept")
    said = [(25, "good"), (24, "bad"), (23, "valid-outlier")]
    assert [one[:2] for one in new_labels(judged)] == said


def test_enter_takes_what_the_classifier_thinks_of(page, judged):
    with judged.writes.begin() as session:
        verdict = session.scalars(select(VerdictRow).where(VerdictRow.extension_id == 25)).one()
        verdict.predicted_kind, verdict.kind_probability = "light_leak", 0.9
    opened(page)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    turned(page, 24)
    heard(page)
    assert new_labels(judged) == [(25, "bad", "light_leak", None)]


def test_w_leads_to_the_wall_and_n_to_its_next_page(page, project):
    remember(project, *[Past(score=n / 100) for n in range(70)])
    opened(page, "/review?order=score")
    page.keyboard.press("w")
    page.wait_for_url("**view=wall**")
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".wall li").count() == 60
    page.keyboard.press("n")
    page.wait_for_url("**after=**")
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".wall li").count() == 10


def test_space_chooses_and_arrows_move_by_rows_too(page, judged):
    opened(page, "/review?view=wall&labelled=any&order=time")
    page.locator(".wall input").nth(0).focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#chosen >> text=1 chosen")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    page.wait_for_selector("#chosen >> text=1 chosen")
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.closest('li').dataset.extension")
    page.keyboard.press("3")
    page.wait_for_selector("#chosen >> text=None chosen")
    heard(page)
    assert [one[0] for one in labels(judged) if one[1] == "valid-outlier"] == [int(below)]


@pytest.mark.usefixtures("judged")
def test_a_question_mark_is_for_the_wall_too_and_a_button_closes(page):
    opened(page, "/review?view=wall&labelled=any")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open] >> text=Keys of the review")
    page.get_by_role("button", name="Close").click()
    page.wait_for_selector("dialog", state="hidden")


def test_two_people_who_label_one_frame_see_each_other_by_name(chromium, judged):
    now = datetime.now(UTC)
    with judged.writes.begin() as session:
        for name in ("kim", "ann"):
            db.accounts.add_account(session, name, Role.REVIEW, "echelle-390", now)
    with (
        serving(judged) as served,
        window(chromium, served) as kim,
        window(chromium, served) as ann,
    ):
        for page, name in ((kim, "kim"), (ann, "ann")):
            page.goto("/review?labelled=any&order=time&from=2026-01-02")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill("echelle-390")
            page.get_by_role("button", name="Log in").click()
            page.wait_for_selector("body[data-ready]")
            assert shown(page) == 25
        kim.keyboard.press("1")
        heard(kim)
        ann.wait_for_selector("#told >> text=Meanwhile: good, says kim")
        ann.keyboard.press("3")
        heard(ann)
        kim.keyboard.press("k")
        turned(kim, 25)
        kim.wait_for_selector(".said >> text=says ann")
    assert [one[:2] for one in new_labels(judged)] == [(25, "good"), (25, "valid-outlier")]
