"""Spectrograph with one small chip, its frames, and a stand-in for the encoder."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import sessionmaker

from qc import db
from qc.core.enums import LabelName
from qc.core.frame import Value
from qc.db.labels import LabelAnswer
from qc.db.schema.engine import connect, for_writing
from qc.detection.thresholds import read_thresholds
from qc.io.instrument_files import read_instrument
from qc.io.instruments import Instrument
from qc.pipeline.batch import process_frames
from qc.pipeline.outcomes import ProcessingOutcome
from qc.project import ProjectContext
from qc.settings import read_settings
from tests.support.builders import frame_bytes, write

Floats = NDArray[np.float32]
Change = Callable[[NDArray[np.float64]], None]

NY, NX = 224, 240  # as small as the network's grid allows
LIT = slice(0, 224)  # columns; those to the right are overscan
ZERO_ADU, NOISE_ADU = 100, 3
MERGE_HEIGHT = 0.001
INSTRUMENT = """\
name: TINY
prefix: T
match: {INSTRUME: TINY}
time_zone: UTC
night_starts_utc_hour: 12
keywords:
  observed_at: DATE-OBS
  exposure_s: EXPTIME
  archive_name: ARCFILE
  binning: [BINX, BINY]
skip:
  - {why: science, when: {KIND: SCIENCE}}
calibrations:
  - name: bias
    frame_class: bias
    letter: B
    when: {KIND: BIAS}
    light: false
    stretch_adu: 10
    limits: {saturated_fraction: [0, 0.01]}
  - {name: flat, frame_class: flat, letter: F, when: {KIND: FLAT}, light: true, stretch_adu: 100}
arms:
  camera: {wavelength_nm: WAVELEN, slit_arcsec: SLIT}
read_modes:
  - {name: only, when: {INSTRUME: "*"}}
layouts:
  - name: whole chip
    arm: camera
    images: 1
    shape: [224, 240]
    sections:
      - chip: CCD
        image: 1
        number: 0
        light: {columns: [0, 224]}
        overscan: {columns: [224, 240]}
chips:
  CCD:
    read_modes:
      only:
        gain_e_per_adu: 1
        read_noise_adu: 3
        bias_adu: 100
        saturation_adu: 65535
        limits: {bias_level: [80, 120]}
faults:
  - {name: light_leak, sentence: Stray light falls on the chip., classes: [bias]}
  - {name: lamp_off, sentence: The lamp did not shine., classes: [flat]}
"""


class StandIn:
    """Encoder with 13 values: a constant, and the mean of each quarter and channel.

    Embeddings of equal frames are parallel to 1e-5; light on one third turns them far more.
    """

    name = "stand-in"
    stretch = "physical"
    fingerprint = "stand-in-1"

    def embed(self, inputs: Floats) -> Floats:
        n = len(inputs)
        quarters = inputs.reshape(n, 2, 112, 2, 112, 3).mean(axis=(2, 4)).reshape(n, 12)
        vectors = np.hstack([np.full((n, 1), 50.0), quarters])
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)


class RoundedStandIn(StandIn):
    """Stand-in whose embeddings are rounded to float16, as those of the real encoder."""

    def embed(self, inputs: Floats) -> Floats:
        return super().embed(inputs).astype(np.float16).astype(np.float32)


def thresholds_text(image_types: Sequence[str], encoder: str = StandIn.fingerprint) -> str:
    """Return a complete thresholds file with the same limits for every image type."""
    entry = (
        f"{{from: 2000-01-01, encoder: {encoder}, merge_height: {MERGE_HEIGHT}, residual: 1000, "
        "false_alarms: 0.001, metrics: {bias_level: {warn: 6, alarm: 12}}, why: a test, by: me}"
    )
    return "".join(f"{name}: [{entry}]\n" for name in image_types)


def write_instrument(folder: Path, text: str = INSTRUMENT) -> Instrument:
    """Write the instrument file and read it."""
    folder.mkdir(exist_ok=True)
    path = folder / "tiny.yaml"
    if not path.exists() or path.read_text() != text:  # another process may be reading it
        path.write_text(text)
    return read_instrument(path)


@contextmanager
def open_tiny(
    project_folder: Path, encoder: StandIn | None = None, instrument_text: str = INSTRUMENT
) -> Iterator[ProjectContext]:
    """Open a project folder of the tests, with a stand-in for the encoder."""
    settings = read_settings(project_folder)
    instrument = write_instrument(project_folder / "instruments", instrument_text)
    engine = connect(settings.database_url)
    yield ProjectContext(
        settings=settings,
        instruments=(instrument,),
        thresholds=read_thresholds(project_folder / "thresholds.yaml", instrument.image_types()),
        encoder=encoder or StandIn(),
        read_session=sessionmaker(engine),
        write_session=sessionmaker(for_writing(engine)),
    )
    engine.dispose()


def write_frame(
    folder: Path,
    night: int = 1,
    number: int = 0,
    *,
    kind: str = "BIAS",
    change: Change | None = None,
    suffix: str = ".fits",
    **cards: Value,
) -> Path:
    """Write a frame with its own noise, taken `number` minutes into a night.

    Nights are counted from the evening of 2026-01-01.
    """
    header_cards = cards_of(night, number, kind) | cards
    image = _image(kind, seed=[100 + night, number])
    if change:
        change(image)
    pixels = image.round().clip(0, 65535).astype(np.uint16)
    name = f"TINY.{_observed(night, number)}{suffix}"
    return write(folder / name, frame_bytes(header_cards, pixels))


def cards_of(night: int = 1, number: int = 0, kind: str = "BIAS") -> dict[str, Value]:
    """Return the header cards of a frame."""
    observed = _observed(night, number)
    return {
        "INSTRUME": "TINY",
        "KIND": kind,
        "DATE-OBS": observed,
        "EXPTIME": 1.0,
        "ARCFILE": f"TINY.{observed}.fits",
        "BINX": 1,
        "BINY": 1,
        "WAVELEN": 500.0,
        "SLIT": 1.0,
    }


def _observed(night: int, number: int) -> str:
    observed = datetime(2026, 1, 1, 20, tzinfo=UTC) + timedelta(days=night - 1, minutes=number)
    return f"{observed:%Y-%m-%dT%H:%M:%S}"


def _image(kind: str, seed: list[int]) -> NDArray[np.float64]:
    image = np.random.default_rng(seed).normal(ZERO_ADU, NOISE_ADU, (NY, NX))
    if kind == "FLAT":
        image[:, LIT] += 1000
    return image


def light_leak(image: NDArray[np.float64]) -> None:
    """Add stray light of 100 ADU to the upper third."""
    image[2 * NY // 3 :, LIT] += 100


def bias_jump(image: NDArray[np.float64]) -> None:
    """Raise the image by 50 ADU, beyond the limits of the instrument file."""
    image += 50


def write_history(
    folder: Path, frames: int = 20, night: int = 1, kind: str = "BIAS", **cards: Any
) -> list[Path]:
    """Write nominal frames of one night."""
    return [write_frame(folder, night, number, kind=kind, **cards) for number in range(frames)]


def process(
    project: ProjectContext, *paths: Path, label: LabelName | None = None
) -> list[ProcessingOutcome]:
    return list(process_frames(paths, project, label))


def touch(path: Path, seconds: int = 1) -> None:
    """Change the modification time of a file."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


LEAK, BIAS, FLAT = 3, 2, 1  # numbers of the frames of each of these nights
NIGHTS = range(3, 45, 3)
_FIRST, _LAST = date(2026, 1, 3), date(2026, 2, 11)  # as dates


def add_training_frames(project: ProjectContext, folder: Path) -> None:
    """Process six weeks of good biases and flats, and fourteen biases labelled light_leak."""
    history = write_history(folder) + write_history(folder, kind="FLAT", night=2)
    flats = [write_frame(folder, night, FLAT, kind="FLAT") for night in NIGHTS]
    biases = [write_frame(folder, night, BIAS) for night in NIGHTS]
    process(project, *history, *flats, *biases, label=LabelName.GOOD)
    process(project, *(write_frame(folder, night, LEAK, change=light_leak) for night in NIGHTS))
    label_biases(project, LabelName.BAD, "light_leak", leaking=True)


def label_biases(
    project: ProjectContext,
    label: LabelName,
    kind: str = "",
    *,
    leaking: bool,
    since: date = _FIRST,
    until: date = _LAST,
) -> None:
    """Label those biases of these nights that have a leak, or those that have none."""
    number = LEAK if leaking else BIAS
    with project.write_session.begin() as session:
        for finding in list(db.findings.findings(session, since, until)):
            if str(finding.frame.name).endswith(f":{number:02}:00"):
                db.labels.record_label(
                    session, finding.extension.id, LabelAnswer(label, "kim", kind)
                )


def spoil_labels(project: ProjectContext) -> None:
    """Exchange the labels of leaks and good biases, except for the newest nights.

    The newest fifth is the test set of an evaluation.
    """
    past, newest = date(2026, 1, 24), date(2026, 1, 25)
    for leaking in (True, False):
        leak, good = (LabelName.BAD, "light_leak"), (LabelName.GOOD, "")
        label_biases(project, *(good if leaking else leak), leaking=leaking, until=past)
        label_biases(project, *(leak if leaking else good), leaking=leaking, since=newest)
    with project.write_session.begin() as session:
        for finding in list(db.findings.findings(session, newest)):
            if finding.extension.image_type == "TF0":
                answer = LabelAnswer(LabelName.GOOD, "kim")
                db.labels.record_label(session, finding.extension.id, answer)
