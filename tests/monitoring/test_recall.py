from datetime import UTC, date, datetime, timedelta

import pytest
from scipy.stats import binom
from sqlalchemy import select

from qc.core.enums import Topic
from qc.db.models import AlertRow, SelfTestRow
from qc.io.instruments import read_instruments
from qc.monitoring.recall import (
    RecallCount,
    owe_falls,
    recall_by_kind,
    recall_by_night,
    recall_interval,
    standing_falls,
)

NIGHT = date(2026, 11, 19)
NOW = datetime(2026, 11, 20, 11, tzinfo=UTC)


@pytest.fixture(scope="module")
def uves():
    return [one for one in read_instruments() if one.name == "UVES"]


def tried(session, ago, found, missed=0, kind="hot_column", strength="gross", image_type="UBB0"):
    night = NIGHT - timedelta(days=ago)
    for number in range(found + missed):
        row = SelfTestRow(
            night=night, at=NOW, instrument="UVES", image_type=image_type, kind=kind,
            strength=strength, is_found=number < found, score=1, frame="a", reason="",
        )  # fmt: skip
        session.add(row)
    session.flush()


def test_the_interval_is_clopper_and_pearsons():
    low, high = recall_interval(8, 10)
    assert binom.sf(7, 10, low) == pytest.approx(0.025)
    assert binom.cdf(8, 10, high) == pytest.approx(0.025)
    assert recall_interval(0, 3)[0] == 0
    assert recall_interval(3, 3)[1] == 1


def test_recall_is_told_by_kind_and_strength_the_least_found_first(session):
    tried(session, 0, 4, kind="dust", strength="moderate")
    tried(session, 1, 3, 1)
    tried(session, 2, 0, 1, strength="moderate", image_type="UBD0")
    worst, best = recall_by_kind(session, NIGHT)
    assert (worst.kind, worst.all) == ("hot_column", RecallCount(3, 5))
    assert worst.strengths == {"gross": RecallCount(3, 4), "moderate": RecallCount(0, 1)}
    assert (worst.missed, worst.last_missed) == (("UBB0", "UBD0"), NIGHT - timedelta(days=1))
    assert (best.kind, best.missed, best.last_missed) == ("dust", (), None)


def test_only_the_nights_asked_for_count(session):
    tried(session, 5, 1)
    tried(session, 0, 0, 1)
    [kind] = recall_by_kind(session, NIGHT, nights=5)
    assert kind.all == RecallCount(0, 1)
    assert [one.count.tried for one in recall_by_night(session, NIGHT, nights=6)] == [1, 1]


def test_one_unlucky_miss_is_no_fall(session, uves):
    tried(session, 0, 20, 1)
    tried(session, 0, 3, 1, kind="dust")
    assert standing_falls(session, uves, NIGHT) == ()


def test_a_blind_night_is_a_fall_at_once(session, uves):
    for ago in range(1, 8):
        tried(session, ago, 40)
    tried(session, 0, 28, 12, kind="dust", image_type="UBF0")
    [fall] = standing_falls(session, uves, NIGHT)
    assert (fall.kind, fall.since) == ("", NIGHT)
    assert fall.sentence == (
        "UVES: 268 of 280 injected faults were found in the last 7 nights (96 %), at least 90 % "
        "should be; missed most: dust (28 of 40)"
    )


def test_a_slow_decline_is_a_fall_within_a_week(session, uves):
    for ago in range(30, 9, -1):
        tried(session, ago, 39, 1)
    for ago in range(9, -1, -1):
        tried(session, ago, 33, 7)  # 82 %
    [fall] = standing_falls(session, uves, NIGHT)
    assert NIGHT - timedelta(days=9) < fall.since < NIGHT - timedelta(days=2)


def test_recall_at_its_limit_is_hardly_ever_a_fall():
    chances = []
    for nights in range(1, 8):
        few = max(n for n in range(40 * nights) if RecallCount(n, 40 * nights).is_surely_below(0.9))
        chances.append(binom.cdf(few, 40 * nights, 0.9))
    assert max(chances) <= 0.005


def test_a_kind_that_nobody_finds_any_more_is_a_fall_of_its_own(session, uves):
    for ago in range(10):
        tried(session, ago, 60)
        tried(session, ago, 0, 2, kind="light_leak", image_type="UBB0")
    [fall] = standing_falls(session, uves, NIGHT)
    assert fall.kind == "light_leak"
    assert "0 of 20 injected faults of the kind light_leak" in fall.sentence
    assert "missed in: UBB0 (0 of 20)" in fall.sentence


def test_a_fall_is_owed_once_and_again_only_after_it_has_risen(session, uves):
    def owed():
        return list(session.scalars(select(AlertRow)))

    tried(session, 20, 20, 20)
    assert owe_falls(session, uves, NIGHT - timedelta(days=20)) == 1
    tried(session, 19, 20, 20)
    assert owe_falls(session, uves, NIGHT - timedelta(days=19)) == 0
    for ago in range(18, 8, -1):
        tried(session, ago, 40)
    assert standing_falls(session, uves, NIGHT - timedelta(days=9)) == ()
    tried(session, 8, 10, 30)
    assert owe_falls(session, uves, NIGHT - timedelta(days=8)) == 1
    first, second = owed()
    assert (first.topic, first.instrument) == (Topic.SELF_TEST, "UVES")
    assert first.night == NIGHT - timedelta(days=20)
    assert second.night == NIGHT - timedelta(days=8)


def test_kinds_that_fall_on_one_night_are_one_alert(session, uves):
    for ago in range(10):
        tried(session, ago, 80)
        tried(session, ago, 0, 1, kind="light_leak")
        tried(session, ago, 0, 1, kind="dust")
    assert owe_falls(session, uves, NIGHT) == 1
    [alert] = session.scalars(select(AlertRow))
    assert "dust" in alert.words
    assert "light_leak" in alert.words


def test_what_nobody_tried_has_not_fallen(session, uves):
    assert standing_falls(session, uves, NIGHT) == ()
    assert recall_by_kind(session, NIGHT) == ()
