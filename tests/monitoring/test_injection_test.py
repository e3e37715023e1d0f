import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from qc import db
from qc.core.enums import LabelName
from qc.db.schema.models import (
    AlertRow,
    EmbeddingRow,
    ExtensionRow,
    FrameRow,
    SelfTestRow,
    VerdictRow,
)
from qc.errors import ConfigurationError, FrameError
from qc.io.frame_reader import parse_frame
from qc.io.instrument_files import read_instrument
from qc.monitoring.injection_plan import INJECTED_KINDS, STRENGTHS
from qc.monitoring.injection_test import run_injection_test
from qc.monitoring.recall import recall_by_kind
from qc.simulator import FAULTS, FILE_FAULTS, signal_to_noise, spoil_file
from tests.support.builders import cards, frame_bytes, pixels, short_uves, write
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    INSTRUMENT,
    LIT,
    NX,
    NY,
    cards_of,
    open_tiny,
    process,
    thresholds_text,
    write_frame,
    write_history,
)

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 6, 11, tzinfo=UTC)
NIGHT = date(2026, 1, 5)


@pytest.fixture(scope="module")
def good_night(empty_project, tmp_path_factory):
    """A project with twenty references of either kind, and a night of three good ones."""
    folder = tmp_path_factory.mktemp("good")
    with copied_project(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            history = write_history(folder) + write_history(folder, kind="FLAT", night=2)
            process(project, *history, label=LabelName.GOOD)
            tonight = [write_frame(folder, 5, number) for number in range(3)]
            tonight += [write_frame(folder, 5, 10 + number, kind="FLAT") for number in range(3)]
            process(project, *tonight)
        yield project_folder, tonight


@pytest.fixture
def project(good_night, tmp_path):
    project_folder, _ = good_night
    with copied_project(project_folder, tmp_path / "project") as copy, open_tiny(copy) as opened:
        yield opened


def rows(project, table):
    with project.read_session() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_injection_finds_each_kind_in_each_image_type(project):
    tested = run_injection_test(project, None, NOW)
    assert tested.night == NIGHT
    assert {(trial.kind, trial.image_type) for trial in tested.trials} == {
        ("light_leak", "TB0"),
        ("lamp_off", "TF0"),
    }
    assert {trial.strength for trial in tested.trials} == set(STRENGTHS)
    assert tested.count.found == tested.count.tried >= 3
    assert (tested.untried, tested.lost, tested.falls) == ((), (), ())
    assert "injected faults found, 2 kinds in 2 image types" in tested.summary


def test_injection_stores_results_only(project):
    tables = (FrameRow, ExtensionRow, EmbeddingRow, VerdictRow, AlertRow)
    before = [rows(project, table) for table in tables]
    tested = run_injection_test(project, NIGHT, NOW)
    assert [rows(project, table) for table in tables] == before
    assert rows(project, SelfTestRow) == len(tested.trials)
    with project.read_session() as session:
        [row, *_] = session.scalars(select(SelfTestRow).order_by(SelfTestRow.id))
        assert (row.night, row.at, row.instrument, row.is_found) == (NIGHT, NOW, "TINY", True)
        assert row.frame.startswith("TINY.2026-01-05T20:")
        assert len(recall_by_kind(session, NIGHT)) == 2


def test_injection_of_the_same_night_is_reproducible_and_replaces_results(project):
    first = run_injection_test(project, NIGHT, NOW)
    again = run_injection_test(project, NIGHT, NOW + timedelta(hours=1))
    assert again.trials == first.trials
    assert rows(project, SelfTestRow) == len(first.trials)


def test_injection_stops_at_the_budget_and_lists_untried_kinds(project):
    clock = iter(range(0, 10_000, 60))  # a minute passes at each look
    tested = run_injection_test(project, NIGHT, NOW, budget_s=130, clock=lambda: float(next(clock)))
    assert len({trial.kind for trial in tested.trials}) == 1
    assert len(tested.untried) == 2  # a kind, and its image type


def test_injection_begins_with_kinds_untried_the_night_before(project, tmp_path):
    clock = iter(range(0, 10_000, 60))
    first = run_injection_test(project, NIGHT, NOW, budget_s=130, clock=lambda: float(next(clock)))
    for number in range(3):
        process(project, write_frame(tmp_path, 6, number))
        process(project, write_frame(tmp_path, 6, 10 + number, kind="FLAT"))
    clock = iter(range(0, 10_000, 60))
    second = run_injection_test(project, None, NOW, budget_s=130, clock=lambda: float(next(clock)))
    assert {trial.kind for trial in second.trials} == set(first.untried) - {"TB0", "TF0"}


def test_injection_replaces_a_lost_file(project, good_night, tmp_path):
    """The files are moved away, and later put back."""
    _, tonight = good_night
    first = run_injection_test(project, NIGHT, NOW)
    used = {trial.frame.partition("[")[0] for trial in first.trials}
    moved = [path for path in tonight if path.name.removesuffix(".fits") in used]
    for path in moved:
        shutil.move(path, tmp_path / path.name)
    try:
        tested = run_injection_test(project, NIGHT, NOW)
    finally:
        for path in moved:
            shutil.move(tmp_path / path.name, path)
    assert tested.count.tried == first.count.tried
    assert set(tested.lost) == used
    assert used.isdisjoint(trial.frame.partition("[")[0] for trial in tested.trials)


def test_injection_without_any_file_has_no_trials(project):
    with project.write_session.begin() as session:
        for row in session.scalars(select(FrameRow)):
            row.path = f"/nowhere/{row.id}.fits"
    tested = run_injection_test(project, NIGHT, NOW)
    assert tested.trials == ()
    reason = "no good frame of it is on disk as it was"
    assert tested.summary.endswith(f"nothing could be tried: {reason}")
    assert len(tested.lost) == 6


def test_injection_ignores_changed_files(project, tmp_path):
    replacement = write_frame(tmp_path, 5, 0, EXPTIME=2.0)
    with project.write_session.begin() as session:
        for row in session.scalars(select(FrameRow)):
            row.path = str(replacement)
    assert run_injection_test(project, NIGHT, NOW).trials == ()


def test_injection_ignores_images_labelled_bad(project):
    with project.write_session.begin() as session:
        for finding in list(db.findings.findings(session, NIGHT, NIGHT)):
            answer = db.labels.LabelAnswer(LabelName.BAD, "kim", "other")
            db.labels.record_label(session, finding.extension.id, answer)
    tested = run_injection_test(project, NIGHT, NOW)
    assert tested.summary.endswith("nothing could be tried: it had no good frame")


def test_injection_without_frames_is_an_error(project_folder):
    with (
        open_tiny(project_folder) as empty,
        pytest.raises(ConfigurationError, match="nothing to try"),
    ):
        run_injection_test(empty, None, NOW)


def test_low_recall_raises_one_alert(good_night, tmp_path):
    """Failed trials of the nights before and a test tonight raise one alert."""
    project_folder, _ = good_night
    with copied_project(project_folder, tmp_path / "project") as copy, open_tiny(copy) as project:
        with project.write_session.begin() as session:
            for number in range(30):
                row = SelfTestRow(
                    night=NIGHT - timedelta(days=1 + number % 3), at=NOW, instrument="TINY",
                    image_type="TB0", kind="light_leak", strength="gross", is_found=False,
                    score=0.1, frame="a", reason="",
                )  # fmt: skip
                session.add(row)
        for _ in range(2):
            tested = run_injection_test(project, NIGHT, NOW)
        assert tested.is_below_limit
        assert "light_leak" in tested.falls[0].sentence
        assert rows(project, AlertRow) == 1


# --- injected faults ------------------------------------------------------------------------------


def test_injected_kinds_are_in_the_instrument_file():
    named = {fault.name for fault in short_uves().faults}
    assert set(INJECTED_KINDS) <= named
    assert set(INJECTED_KINDS) <= set(FAULTS)


@pytest.mark.parametrize("kind", FILE_FAULTS)
def test_file_with_a_fault_is_refused(kind):
    content = frame_bytes(cards("red", "BIAS"), pixels(), pixels())
    uves = [short_uves()]
    assert len(parse_frame(content, Path("a.fits"), uves).extensions) == 2
    with pytest.raises(FrameError):
        parse_frame(spoil_file(content, kind, "gross"), Path("a.fits"), uves)


def test_file_fault_without_its_target_is_an_error():
    content = frame_bytes(cards("blue", "BIAS"), pixels())
    with pytest.raises(ValueError, match="several images"):
        spoil_file(content, "chip_missing", "gross")
    with pytest.raises(ValueError, match="not in this header"):
        spoil_file(frame_bytes({"KIND": "BIAS"}, pixels()), "keyword_missing", "gross")
    with pytest.raises(ValueError, match="no fault of a file"):
        spoil_file(content, "dust", "gross")


def test_signal_to_noise_of_one_pixel():
    well = np.full((64, 64), 100)
    ill = well.copy()
    ill[10, 10] += 9
    assert signal_to_noise(ill, well, gain_e_per_adu=1.0, read_noise_adu=3.0) == pytest.approx(3)


# --- donor images --------------------------------------------------------------------------------

TWO_CHIPS = """\
calibrations:
  - {name: flat, frame_class: flat, letter: F, when: {KIND: FLAT}, light: true, stretch_adu: 100}
  - {name: arc, frame_class: arc, letter: W, when: {KIND: ARC}, light: true, stretch_adu: 100}
arms:
  camera: {wavelength_nm: WAVELEN, slit_arcsec: SLIT}
read_modes:
  - {name: fast, when: {INSTRUME: "*"}}
  - {name: slow, when: {INSTRUME: SLOW}}
layouts:
  - name: two chips
    arm: camera
    images: 2
    shape: [224, 240]
    sections:
      - {chip: ONE, image: 1, number: 1, light: &light {columns: [0, 224]}, overscan: &dark
          {columns: [224, 240]}}
      - {chip: TWO, image: 2, number: 2, light: *light, overscan: *dark}
chips:
  ONE: &chip
    read_modes:
      fast: &fast {gain_e_per_adu: 1, read_noise_adu: 3, bias_adu: 100, saturation_adu: 65535}
      slow: {gain_e_per_adu: 0.25, read_noise_adu: 3, bias_adu: 300, saturation_adu: 65535}
  TWO: *chip
faults:
"""
FAULT_CLASSES = {
    "chips_swapped": "flat, arc",
    "chip_duplicated": "flat, arc",
    "chip_missing": "flat, arc",
    "frame_repeated": "flat, arc",
    "mislabelled": "flat, arc",
    "setting_wrong": "flat, arc",
    "wrong_gain": "flat, arc",
    "arc_in_flat": "flat",
    "flat_in_arc": "arc",
    "lamp_spectrum": "flat, arc",
}


def two_chips(folder, night, number, kind, nm):
    """A frame of two images that differ from each other, and by setting and by kind."""
    rng = np.random.default_rng([night, number, int(nm)])
    images = rng.normal(100, 3, (2, NY, NX))
    if kind == "ARC":
        images[0, ::8, :100] += 800
        images[1, ::8, 120:220] += 800
    elif nm == 500:
        images[0, : NY // 2, LIT] += 1000
        images[1, NY // 2 :, LIT] += 1000
    else:
        images[0, :, :100] += 1000
        images[1, :, 120:220] += 1000
    header = cards_of(night, number, kind) | {"WAVELEN": nm}
    counts = images.round().astype(np.uint16)
    return write(folder / f"{header['ARCFILE']}", frame_bytes(header, *counts))


@pytest.fixture
def two_chip_project(project_folder, inbox):
    faults = "".join(
        f"  - {{name: {name}, sentence: A fault., classes: [{classes}]}}\n"
        for name, classes in FAULT_CLASSES.items()
    )
    text = INSTRUMENT[: INSTRUMENT.index("calibrations:")] + TWO_CHIPS + faults
    (project_folder / "instruments" / "tiny.yaml").write_text(text)
    instrument = read_instrument(project_folder / "instruments" / "tiny.yaml")
    (project_folder / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    kinds = [("FLAT", 500.0), ("FLAT", 600.0), ("ARC", 500.0)]
    with open_tiny(project_folder, instrument_text=text) as project:
        for night, frames, label in ((1, 20, LabelName.GOOD), (5, 2, None)):
            numbers = range(frames)
            paths = [
                two_chips(inbox, night, 3 * number + place, *kind)
                for place, kind in enumerate(kinds)
                for number in numbers
            ]
            process(project, *paths, label=label)
        yield project


@pytest.mark.once
def test_injection_finds_faults_from_donor_images(two_chip_project):
    tested = run_injection_test(two_chip_project, NIGHT, NOW)
    missed = [
        f"{trial.kind} in {trial.frame}: {trial.score}"
        for trial in tested.trials
        if not trial.is_found
    ]
    assert missed == []
    assert {trial.kind for trial in tested.trials} == FAULT_CLASSES.keys() - {"lamp_spectrum"}
    assert tested.beyond == ("lamp_spectrum",)
    assert {trial.image_type for trial in tested.trials} == {"TF1", "TF2", "TW1", "TW2"}
