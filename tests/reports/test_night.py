import base64
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import hypergeom
from sqlalchemy import delete
from sqlalchemy.orm import Session, sessionmaker

from qc import db
from qc.core.enums import FrameState, LabelName
from qc.core.frame import Frame, Setup
from qc.core.measurement import FileInfo, Measurement
from qc.core.verdict import Evidence, Status, Verdict
from qc.db.models import BlockStatisticsRow, EpochRow, LabelRow, SelfTestRow
from qc.detection.judgement import Judgement
from qc.detection.thresholds import MetricLimit, Threshold, Thresholds
from qc.errors import ConfigurationError, UnknownFrameError
from qc.io.instruments import Instrument, read_instruments
from qc.project import Project
from qc.reports.night import build_frame_page, build_report, write_frame_page, write_report
from qc.settings import Settings, read_settings
from qc.summaries.night import missed_at_most

NIGHT = date(2024, 3, 16)
MORNING = datetime(2024, 3, 17, 9, 30, tzinfo=UTC)  # when the night's calibrations are taken
ENDED = datetime(2024, 3, 17, 22, tzinfo=UTC)
BIAS = Setup("UBB0", "BLUE", "2x2", "50kHz high")
RED_BIAS = (Setup("URB1", "REDU", "2x2", "50kHz high"), Setup("URB2", "REDL", "2x2", "50kHz high"))
DARK = Setup("UBD0", "BLUE", "2x2", "50kHz high")
ARC = Setup("UBW0", "BLUE", "2x2", "50kHz high", 437.0, 0.4, "CD#2")
HOSTILE = "<script>alert(1)</script>"


class Average:
    """An encoder that a test can follow: the means of eight strips, as a direction."""

    name = "resnet50-untrained-physical"
    stretch = "physical"
    fingerprint = "resnet50-untrained-physical-0123456789ab"

    def embed(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        strips = np.stack([part.mean(axis=(1, 2, 3)) for part in np.array_split(inputs, 8, 1)], 1)
        unit: NDArray[np.float32] = strips / np.linalg.norm(strips, axis=1, keepdims=True)
        return unit


ENCODER = Average()
THRESHOLD = Threshold.model_validate(
    {
        "from": date(2010, 1, 1),
        "encoder": ENCODER.fingerprint,
        "merge_height": 0.0005,
        "residual": 10.0,
        "false_alarms": 0.001,
        "metrics": {"bias_level": MetricLimit(warn=5, alarm=10)},
        "why": "a test",
        "by": "a test",
    }
)
THRESHOLDS = Thresholds(Path("thresholds.yaml"), "d" * 64, {"UBB0": (THRESHOLD,)})


class Page(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        found = (attributes.get(attribute) for name, attributes in self.tags if tag in ("*", name))
        return [value for value in found if value]


@pytest.fixture
def session(project_folder: Path) -> Iterator[Session]:
    engine = db.engine.connect(read_settings(project_folder).database_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture(scope="module")
def uves() -> Instrument:
    [uves] = [one for one in read_instruments() if one.name == "UVES"]
    return uves


def statistics(level_adu: float = 0.0, grid: int = 16) -> NDArray[np.float32]:
    """Block statistics of a bias of 178 ADU: (grid, grid, 3), each time other noise."""
    rng = np.random.default_rng(next(SEEDS))
    return (178 + level_adu + rng.normal(0, 0.2, (grid, grid, 3))).astype(np.float32)


SEEDS = iter(range(10**9))


def record(
    session: Session,
    *setups: Setup,
    at: datetime = MORNING,
    score: float = 0.3,
    reasons: tuple[str, ...] = (),
    status: Status | None = None,
    blocks: NDArray[np.float32] | None = None,
    nearest_id: int | None = None,
    **changes: Any,
) -> list[int]:
    """Keep a frame as the pipeline would; return the ids of its extensions."""
    serial = next(SEEDS)
    frame = Frame(
        path=Path(f"/archive/{serial}.fits"),
        name=f"UVES.{at:%Y-%m-%dT%H:%M:%S}.{serial}",
        sha256=f"{serial:064d}",
        instrument="UVES",
        observed_at=at,
        night=(at - timedelta(hours=22)).date(),
        exposure_s=0.0,
        template="",
        template_number=1,
        template_size=1,
        extensions=(),
    )
    frame = replace(frame, **changes)
    status = status or (Status.ANOMALOUS if score > 1 else Status.NOMINAL)
    judged = [
        judge_as(setup, number, Verdict(status, score, reasons), blocks, nearest_id)
        for number, setup in enumerate(setups or (BIAS,))
    ]
    db.recording.record_frame(
        session,
        FileInfo(frame.path, 1, 1),
        frame,
        judged,
        encoder=ENCODER,
        thresholds_digest=THRESHOLDS.digest,
    )
    session.flush()
    row = db.frames.frame_with_digest(session, frame.sha256)
    assert row is not None
    return [extension.id for extension in row.extensions]


def judge_as(
    setup: Setup,
    number: int,
    verdict: Verdict,
    blocks: NDArray[np.float32] | None,
    nearest_id: int | None,
) -> Judgement:
    seen = statistics() if blocks is None else blocks
    level = float(np.median(seen[..., 0]))
    measured = Measurement(
        number=number,
        setup=setup,
        shape=(1500, 1074),
        light=(slice(0, 1500), slice(25, 1049)),
        frame_class="bias",
        zero_adu=178.0,
        gain_e_per_adu=0.5,
        read_noise_adu=4.0,
        stretch_adu=10.0,
        promised_light=0.0,
        limits={},
        statistics=seen,
        metrics={"bias_level": level, "read_noise": 3.9},
        pixels_sha256=f"{next(SEEDS):064d}",
    )
    z = {"bias_level": (level - 178) * 20, "read_noise": 0.0}
    return Judgement(
        measured=measured,
        embedding=ENCODER.embed(seen[np.newaxis])[0],
        evidence=Evidence(0.0001, 30, "", measured.metrics, z),
        verdict=verdict,
        threshold=THRESHOLD,
        nearest_id=nearest_id,
    )


def history(session: Session, *setups: Setup, nights: int = 25, grid: int = 16) -> list[int]:
    """Give a setup a nominal frame on each of the nights before tonight."""
    return [
        number
        for days in range(nights, 0, -1)
        for number in record(
            session, *setups, at=MORNING - timedelta(days=days), blocks=statistics(grid=grid)
        )
    ]


def label(session: Session, extension_id: int, name: LabelName, note: str = "") -> None:
    row = LabelRow(extension_id=extension_id, label=name, kind="", who="kim", at=ENDED, note=note)
    session.add(row)


def report(session: Session, uves: Instrument, night: date = NIGHT, **changes: Any) -> str:
    options: dict[str, Any] = {
        "instruments": [uves],
        "encoder": ENCODER,
        "thresholds": THRESHOLDS,
        "generated_at": ENDED,
    }
    return build_report(session, night, **(options | changes))


def counted(page: Page, what: str) -> int:
    """Read one of the counts below the title."""
    found = re.search(rf"(\d+) {what}", page.text)
    assert found
    return int(found[1])


def drawings(html: str) -> list[str]:
    found = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    return [base64.b64decode(one).decode() for one in found]


def test_the_title_says_how_the_night_went(session, uves):
    history(session, BIAS)
    record(session, BIAS)
    record(session, BIAS, score=3)
    page = Page(report(session, uves))
    assert "UVES, night of 2024-03-16: 2 frames, 2 extensions" in page.text
    assert counted(page, "anomalous") == 1
    assert counted(page, "failed") == 0


def test_an_anomaly_is_shown_beside_its_neighbour_with_reasons_numbers_and_tree(session, uves):
    nearest = history(session, BIAS)[-1]
    why = ("bias_level 182 ADU, +80.0 sigma from its references",)
    record(session, score=8, reasons=why, blocks=statistics(4), nearest_id=nearest)
    html = report(session, uves)
    page = Page(html)
    assert why[0] in page.text
    assert "Level of the overscan" in page.text
    assert re.search(r"bias level 18[12]\.", page.text)
    assert {"This frame, mean", "Nearest nominal", "Difference"} <= set(page.all("img", "alt"))
    assert any("26 frames" in one for one in drawings(html))


def test_the_size_of_a_small_reference_is_said_and_what_it_means(session, uves):
    record(session, score=8, blocks=statistics(4))  # judged as if there were thirty references
    html = report(session, uves)
    page = Page(html)
    assert "n = 30, newest" in page.text  # in the matrix
    assert "n = 30: limits 1.14 times as wide" in page.text
    assert "below 20 a verdict is provisional" in page.text


WHERE = "This frame, coloured where it is odder than good frames get"


def test_an_anomaly_is_coloured_where_it_differs_and_the_place_is_named(session, uves):
    history(session, BIAS)
    blocks = statistics()
    blocks[2:14, 5, 0] += 2  # ten times the noise, in the sixth of 16 columns of blocks
    record(session, score=8, blocks=blocks)
    page = Page(report(session, uves))
    assert WHERE in page.all("img", "alt")
    assert "Strongest around x 369, y" in page.text  # 5.5 of 16 times 1074 pixels
    assert "as odd as good frames get. That part reaches from x" in page.text


def test_a_good_frame_has_a_dark_map(session, uves):
    history(session, BIAS)
    blocks = statistics()
    blocks[...] = 178  # no noise at all: nothing can stand out
    record(session, blocks=blocks, name="UVES.mine")
    page = Page(frame_page(session, uves, "UVES.mine"))
    assert WHERE in page.all("img", "alt")
    assert "Nowhere odder than good frames get" in page.text


def test_with_too_few_references_nobody_says_where(session, uves):
    history(session, BIAS, nights=19)
    record(session, score=8, blocks=statistics(4))
    assert WHERE not in Page(report(session, uves)).all("img", "alt")


def test_hostile_names_reasons_setups_and_notes_stay_text(session, uves):
    history(session, BIAS)
    hostile = replace(BIAS, optics=HOSTILE)
    [number] = record(
        session, hostile, score=9, reasons=(HOSTILE,), path=Path(f"/{HOSTILE}"), name=HOSTILE,
        template=HOSTILE, template_size=3,
    )  # fmt: skip
    label(session, number, LabelName.BAD, HOSTILE)
    file = FileInfo(Path(f"/in/UVES.2024-03-17T10:00:00{HOSTILE}"), 1, 1)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, f"OBJECT is {HOSTILE}")
    html = report(session, uves)
    assert html.count("<script>") == 1  # the page's own
    assert html.count("&lt;script&gt;") >= 5


def test_the_page_needs_nothing_but_itself(session, uves):
    history(session, BIAS)
    record(session, score=3)
    page = Page(report(session, uves))
    addresses = [*page.all("*", "src"), *page.all("*", "href")]
    assert addresses
    assert all(one.startswith(("data:", "#")) for one in addresses)


def test_every_link_leads_somewhere_and_every_name_is_there_once(session, uves):
    history(session, BIAS)
    history(session, *RED_BIAS, nights=3)
    history(session, ARC, nights=10)
    for _ in range(30):  # more events than have pictures
        record(session, replace(BIAS, binning="1x1"), score=3)
    page = Page(report(session, uves))
    names = page.all("*", "id")
    assert len(names) == len(set(names))
    assert {one.removeprefix("#") for one in page.all("a", "href")} <= set(names)


def test_five_biases_with_one_fault_are_one_event(session, uves):
    history(session, BIAS)
    for number in range(1, 6):
        record(
            session,
            score=3 + number,
            template="2024-03-17T09:14:28",
            template_number=number,
            template_size=5,
        )
    page = Page(report(session, uves))
    assert page.all("article", "id") == ["event-1"]
    assert "8.00 · bias on BLUE UBB0 · 5 of 5 frames of the set" in page.text
    assert counted(page, "anomalous") == 5


def test_the_chips_of_one_frame_are_events_of_their_own(session, uves):
    record(session, *RED_BIAS, score=3)
    page = Page(report(session, uves))
    assert len(page.all("article", "id")) == 2


def test_the_worst_event_comes_first(session, uves):
    for score in (2, 7, 4):
        record(session, score=score)
    shown = re.findall(r"([\d.]+) · bias on BLUE", Page(report(session, uves)).text)
    assert shown == ["7.00", "4.00", "2.00"]


def test_what_a_person_called_good_is_not_anomalous_but_stays_in_sight(session, uves):
    [number] = record(session, score=3)
    label(session, number, LabelName.GOOD, "the lamp was new")
    page = Page(report(session, uves))
    assert counted(page, "anomalous") == 0
    assert "answered" in page.text
    assert "the lamp was new" in page.text


def test_references_that_changed_since_the_verdict_are_counted_again(session, uves):
    ids = history(session, BIAS, nights=30)
    record(session, score=8)  # held against 30
    assert "its 30 references" in (page := Page(report(session, uves))).text
    assert "the verdict was reached with" not in page.text
    label(session, ids[0], LabelName.BAD)
    page = Page(report(session, uves))
    assert "its 29 references; the verdict was reached with 30" in page.text


def test_what_a_person_called_bad_is_anomalous_whatever_its_score(session, uves):
    [number] = record(session)
    label(session, number, LabelName.BAD)
    page = Page(report(session, uves))
    assert counted(page, "anomalous") == 1
    assert page.all("article", "id") == ["event-1"]


def test_a_calibration_that_is_overdue_is_absent(session, uves):
    history(session, ARC, nights=15)  # one each day is planned
    for days in (1, 8, 15):  # one in seven days is planned
        record(session, BIAS, at=MORNING - timedelta(days=days))
    record(session, *RED_BIAS)
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "Nothing came from the blue arm of UVES" in page.text


def test_a_kind_that_is_overdue_is_grey_and_one_that_is_not_due_is_not(session, uves):
    history(session, ARC, nights=15)
    history(session, DARK, nights=15)
    record(session, DARK)
    for days in (1, 8, 15):
        record(session, BIAS, at=MORNING - timedelta(days=days))
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "UBW0 ▢ absent newest 36 h old" in page.text
    assert "UBB0 ● not due newest 36 h old" in page.text
    assert "never came UBW0 0 of 1 2024-03-16 No blue arc came" in page.text


def test_nothing_is_absent_before_it_is_due(session, uves):
    history(session, ARC, nights=15)
    history(session, DARK, nights=15)
    record(session, DARK)
    noon = datetime(2024, 3, 17, 12, tzinfo=UTC)
    page = Page(report(session, uves, generated_at=noon))
    assert counted(page, "absent") == 0


def test_a_calibration_not_had_for_a_month_is_not_missed(session, uves):
    record(session, ARC, at=MORNING - timedelta(days=31))
    record(session, BIAS)
    page = Page(report(session, uves))
    assert counted(page, "absent") == 0


def test_a_chip_that_did_not_come_with_its_twin_is_absent(session, uves):
    record(session, *RED_BIAS, at=MORNING - timedelta(days=1))
    record(session, RED_BIAS[0])
    page = Page(report(session, uves))
    assert counted(page, "absent") == 1
    assert "URB2 ▢ absent" in page.text


def test_no_detector_is_hidden(session, uves):
    record(session, BIAS)
    page = Page(report(session, uves))
    assert "UVES BLUE REDU REDL bias" in page.text


def test_an_empty_night_is_said_to_be_empty_and_shows_what_is_absent(session, uves):
    history(session, ARC, nights=3)
    page = Page(report(session, uves))
    assert "night of 2024-03-16: no frames" in page.text
    assert counted(page, "absent") == 1
    assert "there was nothing to judge" in page.text


def test_a_project_without_a_single_frame_has_a_page(session, uves):
    page = Page(report(session, uves))
    assert "No instrument has had a frame in the last 30 days." in page.text


def test_failed_and_skipped_files_of_the_night_are_listed_with_the_reason(session, uves):
    for name, state in [
        ("UVES.2024-03-17T10:00:00.000.fits", FrameState.FAILED),
        ("UVES.2024-03-17T03:00:00.000.fits", FrameState.SKIPPED),
        ("UVES.2024-03-17T23:00:00.000.fits", FrameState.FAILED),  # of the next night
        ("UVES.2024-03-10T10:00:00.000.fits", FrameState.FAILED),
    ]:
        file = FileInfo(Path("/in") / name, 1, 1)
        db.frames.record_unprocessed(session, file, state, f"{file.path}: because of {name}")
    page = Page(report(session, uves))
    assert counted(page, "failed") == 1
    assert "because of UVES.2024-03-17T10:00:00.000.fits" in page.text
    assert "because of UVES.2024-03-17T03:00:00.000.fits" in page.text
    assert "T23:00:00" not in page.text
    assert "2024-03-10" not in page.text
    assert "/in/UVES.2024-03-17T10:00:00.000.fits" in page.all("td", "title")


def test_a_failed_file_without_a_time_in_its_name_belongs_to_the_night_it_changed(session, uves):
    changed_ns = int(MORNING.timestamp()) * 10**9
    file = FileInfo(Path("/in/bias.fits"), 1, changed_ns)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    assert counted(Page(report(session, uves)), "failed") == 1
    assert counted(Page(report(session, uves, NIGHT - timedelta(days=1))), "failed") == 0


def test_a_thousand_failed_files_do_not_make_a_page_of_a_thousand_rows(session, uves):
    for number in range(1000):
        file = FileInfo(Path(f"/in/UVES.2024-03-17T10:00:00.{number}.fits"), 1, 1)
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "cut short")
    page = Page(report(session, uves))
    assert counted(page, "failed") == 1000
    assert page.text.count("cut short") == 200
    assert "and 800 more files" in page.text


def test_a_set_that_ended_early_names_the_missing_frames(session, uves):
    for number in (1, 3, 4):
        record(session, template="2024-03-17T09:14:28", template_number=number, template_size=5)
    page = Page(report(session, uves))
    assert "UBB0 3 of 5 2024-03-16 Set of blue bias of 2x2" in page.text
    assert "3 of 5 came, No. 2, 5 missing" in page.text


def test_an_untrained_network_is_called_one(session, uves):
    trained = Average()
    trained.name = "resnet50-uves-physical"
    words = "untrained network: fixed random weights"
    assert words in report(session, uves)
    assert words not in report(session, uves, encoder=trained)


def test_a_night_that_is_not_over_says_so(session, uves):
    record(session)
    assert "This night goes on until 2024-03-17 22:00:00" in report(
        session, uves, generated_at=MORNING
    )
    assert "This night goes on" not in report(session, uves, generated_at=ENDED)


def test_the_page_knows_when_it_was_made(session, uves):
    page = Page(report(session, uves))
    assert page.all("span", "data-generated") == ["2024-03-17T22:00:00+00:00"]


def test_verdicts_by_other_thresholds_are_pointed_out(session, uves):
    record(session)
    newer = replace(THRESHOLDS, digest="e" * 64)
    assert "by an earlier thresholds file, dddddddddddd" in report(session, uves, thresholds=newer)
    assert "earlier thresholds file" not in report(session, uves)


def test_numbers_without_a_limit_in_force_are_shown_beyond_five_sigma(session, uves):
    history(session, BIAS)
    record(session, score=8, blocks=statistics(4))
    for thresholds in (None, replace(THRESHOLDS, entries={})):
        assert "Level of the overscan" in report(session, uves, thresholds=thresholds)


def test_interventions_stand_in_the_trends(session, uves):
    history(session, BIAS)
    epoch = EpochRow(
        scope="UBB0", since=date(2024, 3, 5), why="new <controller>", who="kim", at=ENDED
    )
    session.add(epoch)
    assert any("new &lt;controller&gt;" in one for one in drawings(report(session, uves)))


@pytest.mark.parametrize(("population", "sampled"), [(10, 1), (30, 20), (60, 40), (250, 40)])
def test_the_bound_is_the_largest_number_that_a_clean_sample_does_not_rule_out(population, sampled):
    bound = missed_at_most(population, sampled)
    assert hypergeom.pmf(0, population, bound, sampled) >= 0.05
    assert hypergeom.pmf(0, population, bound + 1, sampled) < 0.05


def test_the_bound_of_a_large_population_is_the_rule_of_three():
    assert missed_at_most(4000, 60) / 4000 == pytest.approx(1 - 0.05 ** (1 / 60), rel=0.02)
    assert math.isclose(1 - 0.05 ** (1 / 60), 0.049, abs_tol=0.0005)


def test_what_was_sampled_whole_hides_nothing():
    assert missed_at_most(7, 7) == 0
    assert missed_at_most(0, 0) == 0


def test_a_report_is_written_under_the_newest_night_beside_the_project(tmp_path, session, uves):
    record(session)
    session.commit()
    project = project_of(tmp_path, session, uves)
    written = write_report(project, None, ENDED)
    assert written == tmp_path / "reports" / "2024-03-16.html"
    assert written.read_text(encoding="utf-8") == report(session, uves)
    assert [one.name for one in written.parent.iterdir()] == ["2024-03-16.html"]


def test_without_any_frame_there_is_no_newest_night_to_report(tmp_path, session, uves):
    with pytest.raises(ConfigurationError, match="no frame has been processed yet"):
        write_report(project_of(tmp_path, session, uves), None, ENDED)


def project_of(project_folder: Path, session: Session, uves: Instrument) -> Project:
    sessions = sessionmaker(session.get_bind())
    settings = Settings(project=project_folder)
    return Project(settings, (uves,), THRESHOLDS, ENCODER, sessions, sessions)


def frame_page(session: Session, uves: Instrument, name: str) -> str:
    return build_frame_page(
        session, name, instruments=[uves], thresholds=THRESHOLDS, generated_at=ENDED
    )


def test_a_frame_has_a_card_for_each_of_its_extensions_nominal_or_not(session, uves):
    history(session, *RED_BIAS)
    record(session, *RED_BIAS, name="UVES.mine")
    page = Page(frame_page(session, uves, "UVES.mine"))
    assert page.all("article", "id") == ["hdu-0", "hdu-1"]
    assert "0.30 · bias on REDU URB1 · nominal" in page.text
    assert "nothing is beyond its limit" in page.text


def test_the_card_of_a_frame_is_the_one_of_the_report(session, uves):
    nearest = history(session, BIAS)[-1]
    why = ("bias level 182 ADU, +80.0 sigma from its references",)
    blocks = statistics(4)
    record(session, score=8, reasons=why, blocks=blocks, nearest_id=nearest, name="UVES.mine")
    card = Page(frame_page(session, uves, "UVES.mine"))
    in_report = Page(report(session, uves))
    assert why[0] in card.text
    pictures = {"This frame, mean", "Nearest nominal", "Difference"}
    for page in (card, in_report):
        assert pictures <= set(page.all("img", "alt"))
        assert re.search(r"bias level 18[12]\.", page.text)
        assert "All 2 detector numbers" in page.text
    shown = [set(page.all("img", "src")) for page in (card, in_report)]
    assert len(shown[0] & shown[1]) == 5  # the map, the three pictures and the tree


def test_a_frame_is_ringed_in_the_history_of_its_setup(session, uves):
    history(session, BIAS, nights=25)
    record(session, name="UVES.mine")
    record(session, at=MORNING + timedelta(days=2))
    record(session, RED_BIAS[0])
    [drawn] = [one for one in drawings(frame_page(session, uves, "UVES.mine")) if "bias" in one]
    assert "bias level against time, 27 values" in drawn
    assert "this frame" in drawn


def test_a_frame_without_references_pictures_or_night_before_has_a_page(session, uves):
    [number] = record(session, name="UVES.first", status=Status.UNDECIDED)
    session.execute(delete(BlockStatisticsRow).where(BlockStatisticsRow.extension_id == number))
    page = Page(frame_page(session, uves, "UVES.first"))
    assert "no picture kept" in page.text
    assert "bias on BLUE UBB0 · undecided" in page.text


def test_gross_scores_and_sigmas_are_said_without_digits(session, uves):
    history(session, BIAS)
    record(session, score=8081, blocks=statistics(100))  # 2000 sigma up
    record(session, score=1000, blocks=statistics(-100))
    page = Page(report(session, uves))
    assert page.text.count(">1000 ") >= 2  # in the matrix and on the card
    assert "8081" not in page.text
    assert ">+1000 " in page.text
    assert "<-1000 " in page.text


@pytest.mark.parametrize(
    "name", [HOSTILE, "../../escaped", "..", "/etc/passwd", ".hidden", "ö" * 300]
)
def test_a_hostile_name_stays_text_and_its_page_stays_in_the_project(tmp_path, session, uves, name):
    project_folder = tmp_path / "pages"
    project_folder.mkdir()
    history(session, BIAS, nights=3)
    [number] = record(
        session, score=9, name=name, reasons=(HOSTILE,), path=Path(f"/in/{HOSTILE}/a.fits")
    )
    label(session, number, LabelName.BAD, HOSTILE)
    session.commit()
    before = set(tmp_path.rglob("*"))
    written = write_frame_page(project_of(project_folder, session, uves), f"/in/{HOSTILE}/a.fits")
    html = written.read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3
    assert set(tmp_path.rglob("*")) - before == {project_folder / "frames", written}
    assert written.parent == project_folder / "frames"
    assert not written.name.startswith(".")


def test_the_page_of_a_frame_is_called_as_it_is_and_needs_nothing_but_itself(
    tmp_path, session, uves
):
    record(session, name="UVES.2024-03-17T09:30:00.123")
    session.commit()
    project = project_of(tmp_path, session, uves)
    written = write_frame_page(project, "UVES.2024-03-17T09:30:00.123.fits")
    assert written == tmp_path / "frames" / "UVES.2024-03-17T09:30:00.123.html"
    page = Page(written.read_text(encoding="utf-8"))
    assert all(
        one.startswith(("data:", "#")) for one in [*page.all("*", "src"), *page.all("*", "href")]
    )


def test_a_frame_that_was_never_processed_has_no_page(tmp_path, session, uves):
    with pytest.raises(UnknownFrameError, match="no processed frame"):
        write_frame_page(project_of(tmp_path, session, uves), "UVES.nobody")
    assert not (tmp_path / "frames").exists()


def test_a_page_that_cannot_be_written_leaves_nothing_half_written(tmp_path, session, uves):
    record(session)
    session.commit()
    target = tmp_path / "reports" / "2024-03-16.html"
    target.mkdir(parents=True)  # a folder in its place
    with pytest.raises(OSError, match="directory"):
        write_report(project_of(tmp_path, session, uves), None, ENDED)
    assert list(target.parent.iterdir()) == [target]


def test_progress_runs_to_its_end(session, uves):
    history(session, BIAS)
    record(session, score=3)
    told: list[tuple[int, int]] = []
    report(session, uves, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.once
def test_a_bad_night_of_150_frames_stays_below_8_megabytes(session, uves):
    full = 224
    nearest = history(session, BIAS, grid=full)[-1]
    for number in range(150):
        blocks = statistics(grid=full if number >= 120 else 16)  # the worst have pictures
        blocks[40:60, 50:90] += 20  # a fault that leaves the noise to be compressed
        record(
            session,
            score=1 + number,
            at=MORNING + timedelta(seconds=number),
            blocks=blocks,
            nearest_id=nearest,
        )
    html = report(session, uves)
    assert len(html.encode()) < 8e6
    assert Page(html).text.count("further events, without pictures") == 1


def test_the_self_test_is_shown_by_kind_with_its_falls(session, uves):
    record(session)
    for number in range(20):
        row = SelfTestRow(
            night=NIGHT, at=ENDED, instrument="UVES", image_type="UBB0", kind="light_leak",
            strength="gross", is_found=number < 4, score=1, frame="a", reason="",
        )  # fmt: skip
        session.add(row)
    session.flush()
    page = Page(report(session, uves))
    assert "This night 4 of 20 ; in 30 nights 4 of 20 (20 %, 6 % to 44 %)." in page.text
    assert "light_leak 4 of 20 \u2013 20 % 6 % to 44 % UBB0 2024-03-16" in page.text
    assert "Too few are found since 2024-03-16." in page.text


def test_without_a_self_test_nothing_is_said_of_it(session, uves):
    record(session)
    assert "Self-test" not in Page(report(session, uves)).text
