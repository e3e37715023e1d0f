from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from qc import db
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.file import FileInfo
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.schema.models import (
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
from qc.reports.period import build_period_page
from qc.summaries.ageing import WEEKS
from qc.summaries.changes import find_limit_changes
from qc.summaries.night_range import (
    NightRange,
    format_duration,
    month_of,
    read_month,
    week_to,
)
from qc.summaries.period import PeriodSummary, read_period
from tests.reports.pages import Page
from tests.support.tiny_spectrograph import MERGE_HEIGHT, StandIn
from tests.support.verdict_rows import A_NIGHT, FIRST_NIGHT, StoredExtension, add_extensions

JANUARY = month_of(date(2026, 1, 1))
WEEK = week_to(date(2026, 1, 7))
NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>"
FLAGGED: dict[str, Any] = {"status": Status.ANOMALOUS, "score": 3.0}


def period(
    project, span: NightRange = JANUARY, thresholds: Thresholds | None = None
) -> PeriodSummary:
    with project.read_session() as session:
        return read_period(session, span, project.instruments, thresholds or project.thresholds)


def report(project, span: NightRange = JANUARY, **changes: Any) -> str:
    options = {
        "instruments": project.instruments,
        "thresholds": project.thresholds,
        "generated_at": NOW,
    }
    with project.read_session() as session:
        return build_period_page(session, span, **(options | changes))


def bad(**changes: Any) -> StoredExtension:
    return StoredExtension(**{**FLAGGED, "label": LabelName.BAD, "kind": "light_leak", **changes})


# --- which nights ---------------------------------------------------------------------------------


def test_week_has_seven_nights():
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
def test_read_month_by_number_or_last(text, first, last):
    span = read_month(text, today=date(2026, 1, 15))
    assert (span.first, span.last) == (first, last)


@pytest.mark.parametrize(
    "text", ["2026-13", "2026-00", "0000-01", "9999-12", "2026", "١٢٣٤-01", ""]
)
def test_read_month_invalid(text):
    with pytest.raises(InvalidInputError, match="expected one like 2026-11"):
        read_month(text, today=date(2026, 1, 15))


# --- verdicts -------------------------------------------------------------------------------------


def test_tallies_count_verdicts_and_labels_by_type(project):
    add_extensions(
        project,
        StoredExtension(),
        StoredExtension(status=Status.UNDECIDED),
        StoredExtension(**FLAGGED),
        StoredExtension(**FLAGGED, label=LabelName.GOOD),
        StoredExtension(**FLAGGED, label=LabelName.VALID_OUTLIER),
        bad(),
        StoredExtension(label=LabelName.BAD, kind="light_leak"),  # not flagged
        StoredExtension(image_type="TF0"),
    )
    bias, flat = period(project).tallies
    assert (bias.image_type, bias.judged, bias.flagged, bias.undecided) == ("TB0", 7, 4, 1)
    assert (bias.confirmed, bias.false_alarms, bias.outliers, bias.unanswered) == (1, 1, 1, 1)
    assert bias.missed == 1
    assert (flat.image_type, flat.judged, flat.flagged) == ("TF0", 1, 0)


def test_tallies_exclude_other_nights(project):
    add_extensions(project, *[StoredExtension() for _ in range(8 * A_NIGHT)])
    week = period(project, WEEK)
    assert (week.count("judged"), week.nights, week.frames) == (70, 7, 70)
    assert period(project, week_to(date(2025, 12, 31))).tallies == ()


def test_incidents_by_template_set_worst_first(project):
    of_set = [bad(template="T1", template_number=n, template_size=2) for n in (1, 2)]
    add_extensions(project, *of_set, bad(score=9.0))
    alone, together = period(project).confirmed
    assert (alone.worst.score, len(alone.cases)) == (9.0, 1)
    assert (together.worst.score, len(together.cases)) == (3.0, 2)


def test_missed_incidents_are_also_confirmed(project):
    [name] = add_extensions(project, StoredExtension(label=LabelName.BAD, kind="light_leak"))
    summary = period(project)
    assert [incident.worst.name for incident in summary.missed] == [name]
    assert [incident.worst.name for incident in summary.confirmed] == [name]
    assert "1 unflagged extension labelled bad." in summary.summary


def test_undone_label_is_unanswered(project):
    add_extensions(project, StoredExtension(**FLAGGED, label=LabelName.GOOD))
    with project.write_session.begin() as session:
        [row] = db.labels.labels_of(session, [1])[1]
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim"), undoes=row)
    assert len(period(project).unanswered) == 1


def test_incomplete_set_has_missing_numbers(project):
    numbers = (1, 2, 4)
    add_extensions(
        project,
        *[StoredExtension(template="T1", template_number=n, template_size=5) for n in numbers],
    )
    add_extensions(
        project,
        *[StoredExtension(template="T2", template_number=n, template_size=2) for n in (1, 2)],
    )
    [entry_] = period(project).incomplete
    assert (entry_.template, entry_.frames, entry_.size, entry_.missing) == ("T1", 3, 5, (3, 5))
    assert period(project).tallies[0].incomplete == 1


def test_failed_files_of_period(project):
    with project.write_session.begin() as session:
        for name in ("T.2026-01-07T20:00:00.fits", "T.2026-01-08T20:00:00.fits"):
            file = FileInfo(Path("/in") / name, 1, 1)
            db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert [row.name for row in period(project, WEEK).failed] == ["T.2026-01-07T20:00:00.fits"]


def test_missing_calibrations_have_alert_messages(project):
    with project.write_session.begin() as session:
        for night in (date(2026, 1, 3), date(2026, 1, 9)):
            message = f"no bias on {night}"
            key = f"absence {night}"
            db.operations.add_alert(session, Topic.ABSENCE, key, message, night=night)
    assert period(project, WEEK).missing == ("no bias on 2026-01-03",)


def test_completeness_check_not_run_is_marked(project):
    note = "completeness check did not run"
    assert note in Page(report(project)).text
    with project.write_session.begin() as session:
        session.add(JobRunRow(job="absence", started_at=FIRST_NIGHT, ended_at=None, is_well=True))
    assert note not in Page(report(project)).text


# --- changes -------------------------------------------------------------------------------------


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


def test_limit_changes_compare_with_same_encoder():
    old, of_other = entry(date(2025, 1, 1), 0.001), entry(date(2025, 6, 1), 0.5, "another")
    new = entry(date(2026, 1, 20), 0.002)
    entries, shared = (old, of_other, new), (old,)
    thresholds = Thresholds(Path("t.yaml"), "d", {"TB0": entries, "TB1": entries, "TF0": shared})
    [change] = find_limit_changes(thresholds, JANUARY)
    assert change.image_types == ("TB0", "TB1")
    assert change.rows == [("merge height", "0.001", "0.002")]
    assert find_limit_changes(thresholds, month_of(date(2026, 2, 1))) == ()


def test_limit_changes_of_first_entry():
    thresholds = Thresholds(Path("t.yaml"), "d", {"TB0": (entry(date(2026, 1, 1), 0.001),)})
    [change] = find_limit_changes(thresholds, JANUARY)
    assert ("bias level", "none", "4 / 8 sigma") in change.rows


def test_interventions_begun_or_entered_in_period(project):
    with project.write_session.begin() as session:
        for since, why in ((date(2026, 1, 5), "a new lamp"), (date(2025, 1, 1), "long ago")):
            epochs.add(session, "TB0", since, why, who="kim", instruments=project.instruments)
    [entry_] = period(project, WEEK).interventions
    assert entry_.epoch.why == "a new lamp"


def test_trainings_have_outcome(project):
    add_extensions(project, StoredExtension())
    with project.write_session.begin() as session:
        encoder = session.scalars(select(EncoderRow.id)).one()
        figures = {"labelled": 42, "new": {"macro_f1": {"value": 0.9}}}
        for at in (FIRST_NIGHT, FIRST_NIGHT + timedelta(days=40)):
            session.add(
                ClassifierRow(
                    digest="a", encoder_id=encoder, trained_at=at, who="kim", examples_digest="b",
                    figures=figures, accepted=False, why="worse", content=b"",
                )
            )  # fmt: skip
    [training] = period(project).trainings
    assert (training.labelled, training.macro_f1) == (42, 0.9)
    assert (training.accepted, training.reason) == (False, "worse")


# --- how good the watch is ------------------------------------------------------------------------


def try_faults(project, night: date, kind: str, found: int, tried: int) -> None:
    with project.write_session.begin() as session:
        for number in range(tried):
            session.add(
                SelfTestRow(
                    night=night, at=NOW, instrument="TINY", image_type="TB0", kind=kind,
                    strength="moderate", is_found=number < found, score=2.0, frame="f", reason="",
                )
            )  # fmt: skip


def test_recall_by_kind_and_week_lowest_first(project):
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    try_faults(project, date(2026, 1, 8), "light_leak", 10, 10)
    try_faults(project, date(2026, 1, 2), "lamp_off", 1, 2)
    try_faults(project, date(2026, 2, 1), "lamp_off", 0, 100)  # of the next month
    test = period(project).injection_test
    assert [(recall.kind, recall.found, recall.tried) for recall in test.recalls] == [
        ("lamp_off", 1, 2),
        ("light_leak", 19, 20),
    ]
    assert test.recalls[1].weekly == ((9, 10), (10, 10), (0, 0), (0, 0), (0, 0))
    assert test.recalls[1].text == "95.0 % (75 to 100)"
    assert test.overall
    assert (test.overall.found, test.overall.tried) == (20, 22)


def notify(project, extension_ids: Sequence[int], at: datetime, notification: bool = True) -> int:
    """Store alerts of extensions, with a notification by default; return its id."""
    with project.write_session.begin() as session:
        row = NotificationRow(topic=Topic.VERDICT, night=at.date(), made_at=at, subject="s")
        if notification:
            session.add(row)
            session.flush()
        for extension_id in extension_ids:
            [verdict] = session.scalars(
                select(VerdictRow.id).where(VerdictRow.extension_id == extension_id)
            )
            session.add(
                AlertRow(
                    topic=Topic.VERDICT, verdict_id=verdict, night=at.date(), owed_at=at,
                    notification_id=row.id,
                )
            )  # fmt: skip
        return row.id


def add_label(project, extension_id: int, at: datetime) -> None:
    with project.write_session.begin() as session:
        db.labels.record_label(session, extension_id, LabelAnswer(LabelName.GOOD, "kim", at=at))


def test_response_time_to_first_label_or_acknowledgement(project):
    add_extensions(project, *[StoredExtension(**FLAGGED) for _ in range(6)])
    labelled, acknowledged = notify(project, [1, 2], FIRST_NIGHT), notify(project, [3], FIRST_NIGHT)
    notify(project, [4], FIRST_NIGHT)
    notify(project, [5], FIRST_NIGHT, notification=False)
    add_label(project, 2, FIRST_NIGHT + timedelta(hours=3))
    add_label(project, 1, FIRST_NIGHT + timedelta(hours=5))
    add_label(project, 5, FIRST_NIGHT - timedelta(hours=1))  # an older word is no answer
    with project.write_session.begin() as session:
        for hours in (2, 1):
            at = FIRST_NIGHT + timedelta(hours=hours)
            session.add(AcknowledgementRow(notification_id=acknowledged, who="kim", at=at, note=""))
    times = period(project).response_times
    assert labelled != acknowledged
    assert times.waits == (timedelta(hours=1), timedelta(hours=3))
    assert (times.notified, times.unanswered) == (4, 2)
    assert times.quantile(0.5) == timedelta(hours=2)


def test_response_times_exclude_silenced_alerts(project):
    add_extensions(project, StoredExtension(**FLAGGED), StoredExtension(**FLAGGED))
    notice = notify(project, [1], FIRST_NIGHT)
    notify(project, [2], FIRST_NIGHT, notification=False)
    with project.write_session.begin() as session:
        silence = SilenceRow(
            notification_id=notice, topic=Topic.VERDICT, image_types=["TB0"], who="kim",
            since=FIRST_NIGHT, until_nominal=False, note="",
        )  # fmt: skip
        session.add(silence)
        session.flush()
        session.scalars(
            select(AlertRow).where(AlertRow.notification_id.is_(None))
        ).one().silence_id = silence.id
    times = period(project).response_times
    assert (times.notified, times.silenced) == (1, 1)


def test_margins_are_weekly_medians_in_units_of_limit(project):
    drift = [0.2, 0.4]  # of two weeks
    past = [
        StoredExtension(merge_height=(drift[night // 7] + 0.01 * (number % 3 - 1)) * MERGE_HEIGHT)
        for night in range(14)
        for number in range(A_NIGHT - 1)
    ]
    for night in range(14):  # an anomaly each night moves no median
        past.insert(night * A_NIGHT, StoredExtension(merge_height=1.0, **FLAGGED))
    add_extensions(project, *past)
    [bias] = period(project, week_to(date(2026, 1, 14))).margins
    assert bias.ratios.shape == (WEEKS, 2)
    assert bias.ratios[-2:, 0] == pytest.approx(drift, abs=0.011)
    assert bias.ratios[-1, 1] == pytest.approx(10 / 1000)  # of the residual
    assert np.isnan(bias.ratios[:-2]).all()


# --- the page -------------------------------------------------------------------------------------


def test_summary_in_sentences(project):
    add_extensions(project, StoredExtension(), StoredExtension(**FLAGGED), bad())
    notify(project, [3], FIRST_NIGHT - timedelta(hours=1))
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    assert period(project).summary == (
        "3 extensions were judged, of 3 frames in 1 night; 2 flagged: 1 confirmed bad, "
        "1 not answered. The injection test found 90.0 % of 10 known faults. "
        "1 notification, 0 without an answer; median response time 62 min."
    )


def test_page_of_empty_month(project):
    page = Page(report(project))
    assert "0 extensions were judged, of 0 frames in 0 nights; none was flagged." in page.text
    assert "The injection test did not run in this period." in page.text


def test_page_has_pictures_of_worst_incidents(project):
    add_extensions(project, *[bad(score=2.0 + number) for number in range(15)])
    page = Page(report(project))
    assert len(page.all("article", "id")) == 12
    assert "3 further events, without pictures" in page.text
    assert "16 · bias on CCD TB0 · light leak" in page.text


def test_hostile_text_is_escaped(project):
    add_extensions(project, bad(note=HOSTILE, name=HOSTILE, template=HOSTILE, template_size=3))
    with project.write_session.begin() as session:
        db.operations.add_alert(session, Topic.ABSENCE, "k", HOSTILE, night=date(2026, 1, 2))
        epochs.add(
            session, "TB0", date(2026, 1, 5), HOSTILE, who=HOSTILE, instruments=project.instruments
        )
    html = report(project)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_page_is_self_contained_with_valid_links(project):
    add_extensions(
        project, *[bad(score=2.0 + number) for number in range(3)], StoredExtension(**FLAGGED)
    )
    try_faults(project, date(2026, 1, 1), "light_leak", 9, 10)
    try_faults(project, date(2026, 1, 2), "light_leak", 9, 10)
    page = Page(report(project))
    names = page.all("*", "id")
    assert len(names) == len(set(names))
    assert {link.removeprefix("#") for link in page.all("a", "href")} <= set(names)
    assert all(address.startswith("data:") for address in page.all("*", "src"))


def test_format_duration_units():
    assert format_duration(timedelta(minutes=29)) == "29 min"
    assert format_duration(timedelta(hours=3.2)) == "3.2 h"
    assert format_duration(timedelta(days=5)) == "5.0 d"


def test_page_without_stored_pictures(project):
    add_extensions(project, *[StoredExtension(label=LabelName.GOOD) for _ in range(30)], bad())
    page = Page(report(project))
    assert "no picture stored" in page.text
