from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from qc import db
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.measurement import FileInfo
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.models import (
    AcknowledgementRow,
    AlertRow,
    ClassifierRow,
    EncoderRow,
    JobRunRow,
    NotificationRow,
    SelfTestRow,
    SilenceRow,
    VerdictRow,
)
from qc.detection.thresholds import Threshold, Thresholds
from qc.errors import InvalidInputError
from qc.labels import epochs
from qc.reports.period import build_survey
from qc.summaries.period import (
    WEEKS,
    NightRange,
    PeriodSummary,
    in_hours,
    limit_changes,
    month_of,
    read_month,
    read_period,
    week_to,
)
from tests.reports.test_night import Page
from tests.support.remembered import A_NIGHT, FIRST_NIGHT, Past, remember
from tests.support.tiny import MERGE_HEIGHT, StandIn

JANUARY = month_of(date(2026, 1, 1))
WEEK = week_to(date(2026, 1, 7))
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"
FLAGGED: dict[str, Any] = {"status": Status.ANOMALOUS, "score": 3.0}


def period(
    project, span: NightRange = JANUARY, thresholds: Thresholds | None = None
) -> PeriodSummary:
    with project.reads() as session:
        return read_period(session, span, project.instruments, thresholds or project.thresholds)


def survey(project, span: NightRange = JANUARY, **changes: Any) -> str:
    options = {
        "instruments": project.instruments,
        "thresholds": project.thresholds,
        "generated_at": NOW,
    }
    with project.reads() as session:
        return build_survey(session, span, **(options | changes))


def bad(**changes: Any) -> Past:
    return Past(**{**FLAGGED, "label": LabelName.BAD, "kind": "light_leak", **changes})


# --- which nights ---------------------------------------------------------------------------------


def test_a_week_is_the_seven_nights_that_end_with_one():
    assert (WEEK.first, WEEK.last) == (date(2026, 1, 1), date(2026, 1, 7))


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026-02", date(2026, 2, 1), date(2026, 2, 28)),
        ("2024-02", date(2024, 2, 1), date(2024, 2, 29)),
        ("2026-12", date(2026, 12, 1), date(2026, 12, 31)),
        ("last", date(2025, 12, 1), date(2025, 12, 31)),
    ],
)
def test_a_month_is_called_by_its_number_and_the_last_full_one_by_that_word(text, first, last):
    span = read_month(text, today=date(2026, 1, 15))
    assert (span.first, span.last) == (first, last)


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "0000-01", "9999-12", "2026", "١٢٣٤-01", ""]
)
def test_what_is_no_month_is_refused(text):
    with pytest.raises(InvalidInputError, match="expected one like 2026-11"):
        read_month(text, today=date(2026, 1, 15))


# --- what was judged ------------------------------------------------------------------------------


def test_each_image_type_is_counted_by_what_became_of_its_extensions(project):
    remember(
        project,
        Past(),
        Past(status=Status.UNDECIDED),
        Past(**FLAGGED),
        Past(**FLAGGED, label=LabelName.GOOD),
        Past(**FLAGGED, label=LabelName.VALID_OUTLIER),
        bad(),
        Past(label=LabelName.BAD, kind="light_leak"),  # not flagged
        Past(image_type="TF0"),
    )
    bias, flat = period(project).tallies
    assert (bias.image_type, bias.judged, bias.flagged, bias.undecided) == ("TB0", 7, 4, 1)
    assert (bias.confirmed, bias.false_alarms, bias.outliers, bias.unanswered) == (1, 1, 1, 1)
    assert bias.missed == 1
    assert (flat.image_type, flat.judged, flat.flagged) == ("TF0", 1, 0)


def test_what_is_of_other_nights_is_not_counted(project):
    remember(project, *[Past() for _ in range(8 * A_NIGHT)])
    found = period(project, WEEK)
    assert (found.count("judged"), found.nights, found.frames) == (70, 7, 70)
    assert period(project, week_to(date(2025, 12, 31))).tallies == ()


def test_frames_of_one_set_with_one_fault_are_one_event_and_the_worst_event_comes_first(project):
    of_set = [bad(template="T1", template_number=n, template_size=2) for n in (1, 2)]
    remember(project, *of_set, bad(score=9.0))
    alone, together = period(project).confirmed
    assert (alone.worst.score, len(alone.cases)) == (9.0, 1)
    assert (together.worst.score, len(together.cases)) == (3.0, 2)


def test_what_was_missed_is_told_apart_and_shown_among_the_bad(project):
    [name] = remember(project, Past(label=LabelName.BAD, kind="light_leak"))
    found = period(project)
    assert [one.worst.name for one in found.missed] == [name]
    assert [one.worst.name for one in found.confirmed] == [name]
    assert "People called 1 more bad that had not been flagged." in found.summary


def test_a_label_that_was_undone_leaves_the_frame_unanswered(project):
    remember(project, Past(**FLAGGED, label=LabelName.GOOD))
    with project.writes.begin() as session:
        [row] = db.labels.labels_of(session, [1])[1]
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim"), undoes=row)
    assert len(period(project).unanswered) == 1


def test_a_set_that_ended_early_is_named_with_what_is_missing(project):
    numbers = (1, 2, 4)
    remember(project, *[Past(template="T1", template_number=n, template_size=5) for n in numbers])
    remember(project, *[Past(template="T2", template_number=n, template_size=2) for n in (1, 2)])
    [one] = period(project).incomplete
    assert (one.template, one.frames, one.size, one.missing) == ("T1", 3, 5, (3, 5))
    assert period(project).tallies[0].incomplete == 1


def test_a_file_that_failed_belongs_to_the_span_it_was_taken_in(project):
    with project.writes.begin() as session:
        for name in ("T.2026-01-07T20:00:00.fits", "T.2026-01-08T20:00:00.fits"):
            file = FileInfo(Path("/in") / name, 1, 1)
            db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert [row.name for row in period(project, WEEK).failed] == ["T.2026-01-07T20:00:00.fits"]


def test_absences_are_told_as_people_were_told_of_them(project):
    with project.writes.begin() as session:
        for night in (date(2026, 1, 3), date(2026, 1, 9)):
            words = f"no bias on {night}"
            db.alerts.owe_alert(session, Topic.ABSENCE, f"absence {night}", words, night=night)
    assert period(project, WEEK).absences == ("no bias on 2026-01-03",)


def test_where_nobody_looked_out_for_absences_that_is_said(project):
    words = "the check for absences did not run"
    assert words in Page(survey(project)).text
    with project.writes.begin() as session:
        session.add(JobRunRow(job="absence", started_at=FIRST_NIGHT, ended_at=None, is_well=True))
    assert words not in Page(survey(project)).text


# --- what people changed --------------------------------------------------------------------------


def entry(since: date, merge_height: float, encoder: str = StandIn.fingerprint) -> Threshold:
    return Threshold.model_validate(
        {
            "from": since,
            "encoder": encoder,
            "merge_height": merge_height,
            "residual": 10,
            "false_alarms": 0.001,
            "metrics": {"bias_level": {"warn": 4, "alarm": 8}},
            "why": "a new lamp",
            "by": "kim",
        }
    )


def test_limits_that_began_to_hold_are_told_with_what_held_before_for_the_same_encoder():
    old, other = entry(date(2025, 1, 1), 0.001), entry(date(2025, 6, 1), 0.5, "another")
    new = entry(date(2026, 1, 20), 0.002)
    own, shared = (old, other, new), (old,)
    thresholds = Thresholds(Path("t.yaml"), "d", {"TB0": own, "TB1": own, "TF0": shared})
    [change] = limit_changes(thresholds, JANUARY)
    assert change.image_types == ("TB0", "TB1")
    assert change.rows == [("merge height", "0.001", "0.002")]
    assert limit_changes(thresholds, month_of(date(2026, 2, 1))) == ()


def test_a_first_entry_has_no_limits_before():
    thresholds = Thresholds(Path("t.yaml"), "d", {"TB0": (entry(date(2026, 1, 1), 0.001),)})
    [change] = limit_changes(thresholds, JANUARY)
    assert ("bias level", "none", "4 / 8 sigma") in change.rows


def test_epochs_of_the_span_and_those_entered_in_it_are_told_undone_or_not(project):
    with project.writes.begin() as session:
        for since, why in ((date(2026, 1, 5), "a new lamp"), (date(2025, 1, 1), "long ago")):
            epochs.enter(session, "TB0", since, why, who="kim", instruments=project.instruments)
    [one] = period(project, WEEK).epochs
    assert one.epoch.why == "a new lamp"


def test_a_classifier_that_was_trained_is_told_with_its_outcome(project):
    remember(project, Past())
    with project.writes.begin() as session:
        encoder = session.scalars(select(EncoderRow.id)).one()
        figures = {"labelled": 42, "new": {"macro_f1": {"value": 0.9}}}
        for at in (FIRST_NIGHT, FIRST_NIGHT + timedelta(days=40)):
            session.add(
                ClassifierRow(
                    digest="a", encoder_id=encoder, trained_at=at, who="kim", examples_digest="b",
                    figures=figures, accepted=False, why="worse", content=b"",
                )
            )  # fmt: skip
    [one] = period(project).schoolings
    assert (one.labelled, one.macro_f1, one.accepted, one.why) == (42, 0.9, False, "worse")


# --- how good the watch is ------------------------------------------------------------------------


def try_faults(project, night: date, kind: str, found: int, tried: int) -> None:
    with project.writes.begin() as session:
        for number in range(tried):
            session.add(
                SelfTestRow(
                    night=night, at=NOW, instrument="TINY", image_type="TB0", kind=kind,
                    strength="moderate", is_found=number < found, score=2.0, frame="f", reason="",
                )
            )  # fmt: skip


def test_recall_is_told_by_kind_and_week_the_worst_first(project):
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    try_faults(project, date(2026, 1, 8), "light_leak", 10, 10)
    try_faults(project, date(2026, 1, 2), "lamp_off", 1, 2)
    try_faults(project, date(2026, 2, 1), "lamp_off", 0, 100)  # of the next month
    test = period(project).self_test
    assert [(one.kind, one.found, one.tried) for one in test.recalls] == [
        ("lamp_off", 1, 2),
        ("light_leak", 19, 20),
    ]
    assert test.recalls[1].weekly == ((9, 10), (10, 10), (0, 0), (0, 0), (0, 0))
    assert test.recalls[1].words == "95.0 % (75 to 100)"
    assert test.overall
    assert (test.overall.found, test.overall.tried) == (20, 22)


def tell(project, extension_ids: Sequence[int], at: datetime, notice: bool = True) -> int:
    """Owe alerts of some extensions, and tell them in one notice if wanted; return its id."""
    with project.writes.begin() as session:
        row = NotificationRow(topic=Topic.VERDICT, night=at.date(), made_at=at, subject="s")
        if notice:
            session.add(row)
            session.flush()
        for one in extension_ids:
            [verdict] = session.scalars(select(VerdictRow.id).where(VerdictRow.extension_id == one))
            session.add(
                AlertRow(
                    topic=Topic.VERDICT, verdict_id=verdict, night=at.date(), owed_at=at,
                    notice_id=row.id,
                )
            )  # fmt: skip
        return row.id


def say(project, extension_id: int, at: datetime) -> None:
    with project.writes.begin() as session:
        db.labels.record_label(session, extension_id, LabelAnswer(LabelName.GOOD, "kim", at=at))


def test_the_wait_is_from_the_notice_to_the_first_label_or_acknowledgement(project):
    remember(project, *[Past(**FLAGGED) for _ in range(6)])
    labelled, seen = tell(project, [1, 2], FIRST_NIGHT), tell(project, [3], FIRST_NIGHT)
    tell(project, [4], FIRST_NIGHT)
    tell(project, [5], FIRST_NIGHT, notice=False)
    say(project, 2, FIRST_NIGHT + timedelta(hours=3))
    say(project, 1, FIRST_NIGHT + timedelta(hours=5))
    say(project, 5, FIRST_NIGHT - timedelta(hours=1))  # an older word is no answer
    with project.writes.begin() as session:
        for hours in (2, 1):
            at = FIRST_NIGHT + timedelta(hours=hours)
            session.add(AcknowledgementRow(notice_id=seen, who="kim", at=at, note=""))
    replies = period(project).replies
    assert labelled != seen
    assert replies.waits == (timedelta(hours=1), timedelta(hours=3))
    assert (replies.told, replies.never) == (4, 2)
    assert replies.within(0.5) == timedelta(hours=2)


def test_what_was_silenced_waits_for_nobody(project):
    remember(project, Past(**FLAGGED), Past(**FLAGGED))
    notice = tell(project, [1], FIRST_NIGHT)
    tell(project, [2], FIRST_NIGHT, notice=False)
    with project.writes.begin() as session:
        silence = SilenceRow(
            notice_id=notice, topic=Topic.VERDICT, image_types=["TB0"], who="kim",
            since=FIRST_NIGHT, until_nominal=False, note="",
        )  # fmt: skip
        session.add(silence)
        session.flush()
        session.scalars(
            select(AlertRow).where(AlertRow.notice_id.is_(None))
        ).one().silence_id = silence.id
    replies = period(project).replies
    assert (replies.told, replies.silenced) == (1, 1)


def test_ageing_is_the_weekly_median_in_units_of_the_limit(project):
    drift = [0.2, 0.4]  # of two weeks
    past = [
        Past(merge_height=(drift[night // 7] + 0.01 * (number % 3 - 1)) * MERGE_HEIGHT)
        for night in range(14)
        for number in range(A_NIGHT - 1)
    ]
    for night in range(14):  # an anomaly each night moves no median
        past.insert(night * A_NIGHT, Past(merge_height=1.0, **FLAGGED))
    remember(project, *past)
    [bias] = period(project, week_to(date(2026, 1, 14))).ageing
    assert bias.ratios.shape == (WEEKS, 2)
    assert bias.ratios[-2:, 0] == pytest.approx(drift, abs=0.011)
    assert bias.ratios[-1, 1] == pytest.approx(10 / 1000)  # of the residual
    assert np.isnan(bias.ratios[:-2]).all()


# --- the page -------------------------------------------------------------------------------------


def test_the_summary_says_it_all_in_a_few_sentences(project):
    remember(project, Past(), Past(**FLAGGED), bad())
    tell(project, [3], FIRST_NIGHT - timedelta(hours=1))
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    assert period(project).summary == (
        "3 extensions were judged, of 3 frames in 1 night; 2 flagged: 1 confirmed bad, "
        "1 not answered. The self-test found 90.0 % of 10 known faults. "
        "Of 1 notice, 0 got no answer; half of the rest in 62 min."
    )


def test_an_empty_month_has_a_page(project):
    page = Page(survey(project))
    assert "0 extensions were judged, of 0 frames in 0 nights; none was flagged." in page.text
    assert "The self-test did not run in this time." in page.text


def test_a_confirmed_anomaly_has_a_picture_and_the_rest_are_listed(project):
    remember(project, *[bad(score=2.0 + number) for number in range(15)])
    page = Page(survey(project))
    assert len(page.all("article", "id")) == 12
    assert "3 further events, without pictures" in page.text
    assert "16 · bias on CCD TB0 · light leak" in page.text


def test_hostile_words_stay_text(project):
    remember(project, bad(note=HOSTILE, name=HOSTILE, template=HOSTILE, template_size=3))
    with project.writes.begin() as session:
        db.alerts.owe_alert(session, Topic.ABSENCE, "k", HOSTILE, night=date(2026, 1, 2))
        epochs.enter(
            session, "TB0", date(2026, 1, 5), HOSTILE, who=HOSTILE, instruments=project.instruments
        )
    html = survey(project)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_the_page_needs_nothing_but_itself_and_every_link_leads_somewhere(project):
    remember(project, *[bad(score=2.0 + number) for number in range(3)], Past(**FLAGGED))
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    try_faults(project, date(2026, 1, 2), "light_leak", 9, 10)
    page = Page(survey(project))
    names = page.all("*", "id")
    assert len(names) == len(set(names))
    assert {one.removeprefix("#") for one in page.all("a", "href")} <= set(names)
    assert all(one.startswith("data:") for one in page.all("*", "src"))


def test_waits_are_said_in_a_unit_that_fits():
    assert in_hours(timedelta(minutes=29)) == "29 min"
    assert in_hours(timedelta(hours=3.2)) == "3.2 h"
    assert in_hours(timedelta(days=5)) == "5.0 d"


def test_a_page_can_be_had_of_extensions_whose_pictures_are_gone(project):
    remember(project, *[Past(label=LabelName.GOOD) for _ in range(30)], bad())
    page = Page(survey(project))
    assert "no picture kept" in page.text
