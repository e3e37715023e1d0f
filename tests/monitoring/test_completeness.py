from datetime import UTC, date, datetime, timedelta
from itertools import count

import numpy as np
import pytest
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from benchmarks import absence
from qc.core.enums import FrameState, Topic
from qc.db.schema.models import AlertRow, ExtensionRow, FrameRow
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument
from qc.monitoring.completeness import find_missing, queue_alerts
from qc.monitoring.missing import MissingCalibration, MissingReason
from tests.support.builders import short_uves

NIGHT = date(2026, 11, 19)
MORNING = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
DUE = datetime(2026, 11, 20, 20, tzinfo=UTC)
RED_BIAS, BLUE_BIAS, BLUE_DARK = ("URB1", "URB2"), ("UBB0",), ("UBD0",)
RED_ARC, RED_FLAT, BLUE_ARC = ("URW1", "URW2"), ("URF1", "URF2"), ("UBW0",)
SERIAL = count(1)


@pytest.fixture(scope="module")
def uves() -> Instrument:
    [uves] = [item for item in read_instruments() if item.name == "UVES"]
    return uves


def bring(
    session: Session,
    types: tuple[str, ...],
    ago: int = 0,
    *,
    number: int = 1,
    size: int = 1,
    minute: int = 0,
    late: timedelta = timedelta(minutes=1),
    nm: float = 580.0,
) -> FrameRow:
    """Store the header of a frame taken some nights ago."""
    serial = next(SERIAL)
    at = MORNING + timedelta(days=-ago, minutes=minute)
    is_lit = types[0][-2] not in "BD"
    frame = FrameRow(
        state=FrameState.PROCESSED,
        path=f"/archive/{serial}.fits",
        file_bytes=1,
        modified_ns=int(at.timestamp() * 1e9),
        processed_at=at + late,
        sha256=f"{serial:064d}",
        name=f"UVES.{at:%Y-%m-%dT%H:%M:%S}.{serial}",
        instrument="UVES",
        observed_at=at,
        night=NIGHT - timedelta(days=ago),
        exposure_s=0.0,
        template=f"{types[0]} {nm:g} {ago}",
        template_number=number,
        template_size=size,
    )
    session.add(frame)
    for hdu, image_type in enumerate(types, start=len(types) - 1):
        setup = {"image_type": image_type, "chip": image_type, "binning": "1x1"}
        light = {"wavelength_nm": nm, "slit_arcsec": 1.0} if is_lit else {}
        extension = ExtensionRow(
            frame=frame, number=hdu, read_mode="225kHz low", optics="", frame_class="", ny=1, nx=1,
            pixels_sha256=f"{serial}", promised_light=0, zero_adu=0, stretch_adu=1, metrics={},
            **setup, **light,
        )  # fmt: skip
        session.add(extension)
    session.flush()
    return frame


def forget(session, *conditions):
    """Delete frames, also from the session, as their ids are used again."""
    session.execute(delete(FrameRow).where(*conditions))
    session.expunge_all()


def weeks(session: Session, *kinds: tuple[str, ...], nights: int = 20, every: int = 1) -> None:
    """Bring one frame of each kind on the nights before tonight."""
    for ago in range(nights, 0, -1):
        for kind in kinds:
            if ago % every == 0:
                bring(session, kind, ago)


def absences(
    session: Session, uves: Instrument, now: datetime = DUE
) -> tuple[MissingCalibration, ...]:
    return find_missing(session, NIGHT, [uves], now)


def scopes(session: Session, uves: Instrument) -> list[tuple[str, ...]]:
    """At the end of the night, when darks are due too."""
    return [finding.scope for finding in absences(session, uves, DUE + timedelta(hours=2))]


def test_nightly_calibration_absent_tonight_is_missing(session, uves):
    weeks(session, BLUE_BIAS, BLUE_DARK)
    bring(session, BLUE_DARK)
    [missed] = absences(session, uves)
    assert missed.lack is MissingReason.NEVER_CAME
    assert (missed.image_types, missed.expected, missed.got) == (("UBB0",), 1, 0)
    assert missed.since == MORNING - timedelta(days=1)
    assert missed.sentence == (
        "No blue bias came (UBB0): it came every night, 19 times; last had 2026-11-19 09:30 UT"
    )


def test_arrival_on_nine_of_ten_nights_is_expected(session, uves):
    for ago in (10, 9, 8, 7, 5, 4, 3, 2, 1):
        bring(session, BLUE_DARK, ago)
        bring(session, BLUE_BIAS, ago)
    bring(session, BLUE_BIAS, 6)
    bring(session, BLUE_BIAS)
    assert scopes(session, uves) == [("blue", "dark")]


def test_setup_used_once_is_not_missing(session, uves):
    weeks(session, BLUE_BIAS)
    bring(session, BLUE_DARK, 1)
    bring(session, BLUE_BIAS)
    assert absences(session, uves) == ()


def test_setup_of_a_single_week_is_not_missing_afterwards(session, uves):
    weeks(session, BLUE_BIAS)
    weeks(session, RED_ARC, RED_FLAT, nights=6)
    bring(session, BLUE_BIAS)
    bring(session, RED_BIAS)
    assert absences(session, uves) == ()


def test_calibration_of_every_third_night_is_missing_on_the_third(session, uves):
    weeks(session, BLUE_BIAS, nights=24)
    weeks(session, BLUE_DARK, nights=24, every=3)
    bring(session, BLUE_BIAS)
    assert scopes(session, uves) == [("blue", "dark")]
    forget(session, FrameRow.template.like("UBD0%"), FrameRow.night > date(2026, 11, 14))
    bring(session, BLUE_DARK, 2)
    assert scopes(session, uves) == []


def test_irregular_calibration_is_overdue_by_its_plan(session, uves):
    weeks(session, RED_BIAS, nights=40)
    bring(session, RED_BIAS)
    for ago in (32, 28, 22, 20, 15, 8):  # one set in seven days is planned
        bring(session, BLUE_BIAS, ago)
    for ago in range(41):
        bring(session, BLUE_DARK, ago)
    [overdue] = absences(session, uves)
    assert overdue.lack is MissingReason.OVERDUE
    assert overdue.missed == NIGHT - timedelta(days=1)
    assert "planned every 7 days" in overdue.sentence


def test_calibration_on_demand_is_not_missing(session, uves):
    weeks(session, BLUE_BIAS, nights=60)
    bring(session, BLUE_BIAS)
    rng = np.random.default_rng(3)
    for ago in range(60, 2, -1):
        if rng.random() < 0.4:
            bring(session, ("UBP0",), ago)
    assert absences(session, uves) == ()


def test_before_the_due_hour_only_earlier_nights_are_missing(session, uves):
    weeks(session, BLUE_BIAS, BLUE_DARK)
    assert absences(session, uves, DUE - timedelta(minutes=1)) == ()
    forget(session, FrameRow.template == "UBB0 580 1")
    [overdue] = absences(session, uves, DUE - timedelta(minutes=1))
    assert (overdue.lack, overdue.missed) == (MissingReason.OVERDUE, NIGHT - timedelta(days=1))


def test_darks_are_due_at_the_end_of_the_night(session, uves):
    weeks(session, BLUE_BIAS, BLUE_DARK)
    bring(session, BLUE_BIAS)
    assert absences(session, uves, DUE) == ()
    assert len(absences(session, uves, DUE + timedelta(hours=2))) == 1


def test_missing_arm_is_one_finding(session, uves):
    weeks(session, BLUE_BIAS, RED_BIAS, RED_ARC, RED_FLAT)
    bring(session, BLUE_BIAS)
    [silent] = absences(session, uves)
    assert silent.image_types == ("URB1", "URB2", "URF1", "URF2", "URW1", "URW2")
    assert silent.sentence.startswith("Nothing came from the red arm of UVES")


def test_night_without_frames_is_one_finding(session, uves):
    weeks(session, BLUE_BIAS, RED_BIAS, RED_ARC)
    [silent] = absences(session, uves)
    assert silent.scope == ()
    assert silent.sentence.startswith("Nothing came from UVES")


def test_night_without_frames_does_not_count_as_waiting(session, uves):
    weeks(session, BLUE_BIAS, nights=30)
    for ago in range(28, 0, -3):  # due last night, without any frame
        bring(session, BLUE_DARK, ago)
    forget(session, FrameRow.night == NIGHT - timedelta(days=1))
    bring(session, BLUE_BIAS)
    assert absences(session, uves) == ()


def test_missing_setting_is_one_finding(session, uves):
    weeks(session, RED_BIAS)
    bring(session, RED_BIAS)
    for kind in (RED_ARC, RED_FLAT):
        for nm in (520.0, 580.0):
            for ago in range(20, 0, -1):
                bring(session, kind, ago, nm=nm)
        bring(session, kind, nm=520.0)
    [gone] = absences(session, uves)
    assert gone.sentence.startswith(
        "Nothing came from the red arm at 1x1, 225kHz low, 580 nm of UVES"
    )
    assert gone.expected == 2


def test_missing_setups_of_one_kind_are_one_finding(session, uves):
    weeks(session, RED_BIAS, RED_FLAT)
    for nm in (520.0, 564.0):
        for ago in range(20, 0, -1):
            bring(session, RED_ARC, ago, nm=nm)
            bring(session, RED_FLAT, ago, nm=nm)
        bring(session, RED_FLAT, nm=nm)
    bring(session, RED_BIAS)
    bring(session, RED_FLAT)
    bring(session, RED_ARC, nm=860.0)
    [both] = absences(session, uves)
    assert both.sentence.startswith("2 setups of red arc did not come (URW1 URW2): 1x1")


def test_calibration_absent_for_a_month_is_not_in_use(session, uves):
    for ago in range(50, 30, -1):
        bring(session, BLUE_DARK, ago)
    weeks(session, BLUE_BIAS, nights=50)
    bring(session, BLUE_BIAS)
    far = NIGHT + timedelta(days=31)
    assert scopes(session, uves) == [("blue", "dark")]
    assert [
        finding.scope for finding in find_missing(session, far, [uves], DUE + timedelta(days=31))
    ] == []


# --- sets and chips -------------------------------------------------------------------------------


def test_incomplete_set_is_one_finding_for_both_chips(session, uves):
    for number in (1, 2, 4):
        bring(session, RED_BIAS, number=number, size=5, minute=number)
    [stopped] = absences(session, uves)
    assert stopped.lack is MissingReason.SET_STOPPED
    assert (stopped.image_types, stopped.got, stopped.expected) == (RED_BIAS, 3, 5)
    assert stopped.sentence == (
        "Set of red bias of 1x1, 225kHz low (URB1 URB2), begun 2026-11-20 09:31:00 UT: "
        "3 of 5 came, No. 3, 5 missing"
    )


def test_set_is_incomplete_after_an_hour_without_frames(session, uves):
    bring(session, BLUE_BIAS, size=5)
    assert absences(session, uves, MORNING + timedelta(minutes=59)) == ()
    assert len(absences(session, uves, MORNING + timedelta(minutes=60))) == 1


def test_set_with_long_exposures_waits_for_the_next_one(session, uves):
    bring(session, BLUE_DARK, size=3).exposure_s = 3600.0
    assert absences(session, uves, MORNING + timedelta(minutes=179)) == ()
    assert len(absences(session, uves, MORNING + timedelta(minutes=180))) == 1


def test_incomplete_set_names_failed_files_of_its_time(session, uves):
    for number in (1, 3):
        bring(session, BLUE_BIAS, number=number, size=3, minute=number)
    lost = FrameRow(
        state=FrameState.FAILED, path="/in/lost.fits", file_bytes=1, modified_ns=1,
        processed_at=MORNING, name="UVES.2026-11-20T09:32:00.000.fits",
    )  # fmt: skip
    session.add(lost)
    [stopped] = absences(session, uves)
    assert stopped.sentence.endswith(
        "2 of 3 came, No. 2 missing; not read, of that time: UVES.2026-11-20T09:32:00.000.fits"
    )


def test_skipped_frame_counts_for_the_set(session, uves):
    bring(session, BLUE_BIAS, number=1, size=2)
    skipped = FrameRow(
        state=FrameState.SKIPPED, path="/in/science.fits", file_bytes=1, modified_ns=1,
        processed_at=MORNING, name="UVES.2026-11-20T09:32:00.000.fits",
    )  # fmt: skip
    session.add(skipped)
    assert absences(session, uves) == ()


def test_template_of_two_arms_with_common_numbers_is_complete(session, uves):
    for number, kind in enumerate((BLUE_BIAS, BLUE_BIAS, RED_BIAS, RED_BIAS), start=1):
        bring(session, kind, number=number, size=4).template = "both"
    assert absences(session, uves) == ()
    for number, kind in enumerate((BLUE_ARC, BLUE_ARC), start=1):
        bring(session, kind, number=number, size=2).template = "each"
    bring(session, RED_ARC, number=1, size=2).template = "each"
    [stopped] = absences(session, uves)
    assert stopped.image_types == RED_ARC


def test_repeated_set_raises_no_alert(session, uves):
    bring(session, BLUE_BIAS, number=1, size=2)
    for number in (1, 2):
        bring(session, BLUE_BIAS, number=number, size=2, minute=10).template = "again"
    [stopped] = absences(session, uves)
    assert stopped.is_mended
    assert stopped.sentence.endswith("1 of 2 came, No. 2 missing; repeated whole by 09:40 UT")
    assert queue_alerts(session, [uves], DUE) == 0


def test_chip_missing_in_several_files_is_one_finding(session, uves):
    for number in range(1, 6):
        bring(session, ("URB1",), number=number, size=5)
    [missing] = absences(session, uves)
    assert missing.lack is MissingReason.CHIP_MISSING
    assert missing.image_types == ("URB2",)
    assert "URB2 not in the file that should hold it: 5 files" in missing.sentence


def test_set_size_without_template_keywords_is_the_planned_one(session):
    plain = short_uves()
    object.__setattr__(plain.keywords, "template", ())
    for minute in range(3):
        bring(session, BLUE_BIAS, minute=minute)
    [stopped] = find_missing(session, NIGHT, [plain], DUE)
    assert (stopped.got, stopped.expected) == (3, 5)


# --- alerts ---------------------------------------------------------------------------------------


def alerts(session: Session) -> list[AlertRow]:
    return list(session.scalars(select(AlertRow).order_by(AlertRow.id)))


def test_missing_calibration_raises_one_alert(session, uves):
    weeks(session, BLUE_BIAS, BLUE_ARC)
    bring(session, BLUE_BIAS)
    assert queue_alerts(session, [uves], DUE) == 1
    for hours in (1, 2, 24, 72):
        assert queue_alerts(session, [uves], DUE + timedelta(hours=hours)) <= (hours >= 24)
    [first, *later] = alerts(session)
    assert (first.topic, first.image_type, first.night) == (Topic.ABSENCE, "UBW0", NIGHT)
    assert first.words.startswith("No blue arc came (UBW0)")
    assert all(alert.words.startswith("Nothing came from UVES") for alert in later)


def test_late_arrival_raises_no_further_alert(session, uves):
    weeks(session, BLUE_BIAS, BLUE_ARC)
    bring(session, BLUE_BIAS)
    queue_alerts(session, [uves], DUE)
    bring(session, BLUE_ARC, minute=600, late=timedelta(minutes=1))
    assert absences(session, uves) == ()
    assert queue_alerts(session, [uves], DUE + timedelta(hours=1)) == 0


def test_kinds_of_a_reported_arm_raise_no_alert(session, uves):
    weeks(session, BLUE_BIAS, RED_BIAS, RED_ARC, RED_FLAT)
    bring(session, BLUE_BIAS)
    assert queue_alerts(session, [uves], DUE) == 1
    bring(session, RED_FLAT, minute=600)
    assert {finding.scope[:1] for finding in absences(session, uves)} == {("red",)}
    assert queue_alerts(session, [uves], DUE + timedelta(minutes=30)) == 0


def test_backlog_delays_alerts(session, uves):
    weeks(session, BLUE_BIAS, BLUE_ARC)
    bring(session, BLUE_BIAS, late=timedelta(hours=10))  # taken in at 19:30
    assert queue_alerts(session, [uves], DUE) == 0
    assert queue_alerts(session, [uves], DUE + timedelta(minutes=31)) == 1


def test_old_missing_calibration_raises_no_alert(session, uves):
    weeks(session, BLUE_BIAS, BLUE_ARC)
    bring(session, BLUE_BIAS)
    later = DUE + timedelta(days=9)
    assert queue_alerts(session, [uves], later) == 0


def test_end_of_a_night_is_checked_the_next_day(session, uves):
    weeks(session, BLUE_BIAS)
    bring(session, BLUE_BIAS, number=1, size=2, minute=12 * 60)  # half an hour before its end
    assert queue_alerts(session, [uves], DUE + timedelta(hours=3)) == 1


# --- normal months --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.sqlite  # the benchmark's own, in memory
def test_simulated_month_has_no_false_finding_and_all_true_ones():
    past = absence.simulate_past(70, seed=11, cloudy=0.1)
    uves = absence.uves()
    with absence.opened() as session:
        absence.store(session, past)
        nights = past.last(10)
        false = list(absence.false_absences(session, nights, uves))
        assert [finding.sentence for night, finding in false if past.nights[night]] == []
        night = next(item for item in nights if past.nights[item])
        rng = np.random.default_rng(1)
        trials = absence.trials(past, [night], rng)
        results = [absence.try_one(session, trial, uves) for trial in trials]
    late = [result.trial.name for result in results if result.nights_later is None]
    assert late == []
    assert max(len(result.findings) for result in results) <= 2
