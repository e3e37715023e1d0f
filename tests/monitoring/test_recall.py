from datetime import UTC, date, datetime, timedelta

import pytest
from scipy.stats import binom
from sqlalchemy import select

from qc.core.enums import Topic
from qc.db.schema.models import AlertRow, SelfTestRow
from qc.io.instrument_files import read_instruments
from qc.monitoring.recall import (
    RecallCount,
    active_drops,
    queue_drop_alerts,
    recall_by_kind,
    recall_by_night,
    recall_interval,
)

NIGHT = date(2026, 11, 19)
NOW = datetime(2026, 11, 20, 11, tzinfo=UTC)


@pytest.fixture(scope="module")
def uves():
    return [item for item in read_instruments() if item.name == "UVES"]


def add_trials(
    session, ago, hits, missed=0, kind="hot_column", strength="gross", image_type="UBB0"
):
    night = NIGHT - timedelta(days=ago)
    for number in range(hits + missed):
        row = SelfTestRow(
            night=night, at=NOW, instrument="UVES", image_type=image_type, kind=kind,
            strength=strength, is_found=number < hits, score=1, frame="a", reason="",
        )  # fmt: skip
        session.add(row)
    session.flush()


def test_recall_interval_is_clopper_and_pearsons():
    low, high = recall_interval(8, 10)
    assert binom.sf(7, 10, low) == pytest.approx(0.025)
    assert binom.cdf(8, 10, high) == pytest.approx(0.025)
    assert recall_interval(0, 3)[0] == 0
    assert recall_interval(3, 3)[1] == 1


def test_recall_by_kind_is_sorted_by_recall(session):
    add_trials(session, 0, 4, kind="dust", strength="moderate")
    add_trials(session, 1, 3, 1)
    add_trials(session, 2, 0, 1, strength="moderate", image_type="UBD0")
    worst, best = recall_by_kind(session, NIGHT)
    assert (worst.kind, worst.all) == ("hot_column", RecallCount(3, 5))
    assert worst.strengths == {"gross": RecallCount(3, 4), "moderate": RecallCount(0, 1)}
    assert (worst.missed, worst.last_missed) == (("UBB0", "UBD0"), NIGHT - timedelta(days=1))
    assert (best.kind, best.missed, best.last_missed) == ("dust", (), None)


def test_recall_by_kind_counts_the_given_nights(session):
    add_trials(session, 5, 1)
    add_trials(session, 0, 0, 1)
    [kind] = recall_by_kind(session, NIGHT, nights=5)
    assert kind.all == RecallCount(0, 1)
    assert [row.count.tried for row in recall_by_night(session, NIGHT, nights=6)] == [1, 1]


def test_single_miss_is_no_drop(session, uves):
    add_trials(session, 0, 20, 1)
    add_trials(session, 0, 3, 1, kind="dust")
    assert active_drops(session, uves, NIGHT) == ()


def test_blind_night_is_a_drop_at_once(session, uves):
    for ago in range(1, 8):
        add_trials(session, ago, 40)
    add_trials(session, 0, 28, 12, kind="dust", image_type="UBF0")
    [drop] = active_drops(session, uves, NIGHT)
    assert (drop.kind, drop.since) == ("", NIGHT)
    assert drop.sentence == (
        "UVES: 268 of 280 injected faults were found in the last 7 nights (96 %), at least 90 % "
        "should be; missed most: dust (28 of 40)"
    )


def test_slow_decline_is_a_drop_within_a_week(session, uves):
    for ago in range(30, 9, -1):
        add_trials(session, ago, 39, 1)
    for ago in range(9, -1, -1):
        add_trials(session, ago, 33, 7)  # 82 %
    [drop] = active_drops(session, uves, NIGHT)
    assert NIGHT - timedelta(days=9) < drop.since < NIGHT - timedelta(days=2)


def test_recall_at_its_limit_is_a_drop_in_one_of_200_cases():
    chances = []
    for nights in range(1, 8):
        few = max(n for n in range(40 * nights) if RecallCount(n, 40 * nights).is_surely_below(0.9))
        chances.append(binom.cdf(few, 40 * nights, 0.9))
    assert max(chances) <= 0.005


def test_undetected_kind_is_a_separate_drop(session, uves):
    for ago in range(10):
        add_trials(session, ago, 60)
        add_trials(session, ago, 0, 2, kind="light_leak", image_type="UBB0")
    [drop] = active_drops(session, uves, NIGHT)
    assert drop.kind == "light_leak"
    assert "0 of 20 injected faults of the kind light_leak" in drop.sentence
    assert "missed in: UBB0 (0 of 20)" in drop.sentence


def test_drop_raises_one_alert_until_recall_recovers(session, uves):
    def alerts():
        return list(session.scalars(select(AlertRow)))

    add_trials(session, 20, 20, 20)
    assert queue_drop_alerts(session, uves, NIGHT - timedelta(days=20)) == 1
    add_trials(session, 19, 20, 20)
    assert queue_drop_alerts(session, uves, NIGHT - timedelta(days=19)) == 0
    for ago in range(18, 8, -1):
        add_trials(session, ago, 40)
    assert active_drops(session, uves, NIGHT - timedelta(days=9)) == ()
    add_trials(session, 8, 10, 30)
    assert queue_drop_alerts(session, uves, NIGHT - timedelta(days=8)) == 1
    first, second = alerts()
    assert (first.topic, first.instrument) == (Topic.SELF_TEST, "UVES")
    assert first.night == NIGHT - timedelta(days=20)
    assert second.night == NIGHT - timedelta(days=8)


def test_drops_of_several_kinds_on_one_night_are_one_alert(session, uves):
    for ago in range(10):
        add_trials(session, ago, 80)
        add_trials(session, ago, 0, 1, kind="light_leak")
        add_trials(session, ago, 0, 1, kind="dust")
    assert queue_drop_alerts(session, uves, NIGHT) == 1
    [alert] = session.scalars(select(AlertRow))
    assert "dust" in alert.words
    assert "light_leak" in alert.words


def test_no_trials_are_no_drop(session, uves):
    assert active_drops(session, uves, NIGHT) == ()
    assert recall_by_kind(session, NIGHT) == ()
