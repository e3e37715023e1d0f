"""Night and frame reports of a small database."""

import base64
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from qc import db
from qc.core.enums import LabelName
from qc.core.file import FileInfo
from qc.core.frame import Frame, Setup
from qc.core.measurement import Measurement
from qc.core.verdict import Evidence, Status, Verdict
from qc.db.schema.models import LabelRow
from qc.detection.judgement import Judgement
from qc.detection.thresholds import MetricLimit, Threshold, Thresholds
from qc.io.instruments import Instrument
from qc.project import ProjectContext
from qc.reports.frame import build_frame_page
from qc.reports.night import build_report
from qc.settings import Settings

NIGHT = date(2024, 3, 16)


MORNING = datetime(2024, 3, 17, 9, 30, tzinfo=UTC)  # when the night's calibrations are taken


ENDED = datetime(2024, 3, 17, 22, tzinfo=UTC)


BIAS = Setup("UBB0", "BLUE", "2x2", "50kHz high")


RED_BIAS = (Setup("URB1", "REDU", "2x2", "50kHz high"), Setup("URB2", "REDL", "2x2", "50kHz high"))


DARK = Setup("UBD0", "BLUE", "2x2", "50kHz high")


ARC = Setup("UBW0", "BLUE", "2x2", "50kHz high", 437.0, 0.4, "CD#2")


HOSTILE = "<script>alert(1)</script>"


class Average:
    """Simple encoder: the means of eight strips, normalised."""

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
    """Elements and text of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str, attribute: str) -> list[str]:
        values = (attributes.get(attribute) for name, attributes in self.tags if tag in ("*", name))
        return [value for value in values if value]


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
    """Store a frame like the pipeline; return the ids of its extensions."""
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
    row = db.frames.find_by_digest(session, frame.sha256)
    assert row is not None
    return [extension.id for extension in row.extensions]


def judge_as(
    setup: Setup,
    number: int,
    verdict: Verdict,
    blocks: NDArray[np.float32] | None,
    nearest_id: int | None,
) -> Judgement:
    stored = statistics() if blocks is None else blocks
    level = float(np.median(stored[..., 0]))
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
        statistics=stored,
        metrics={"bias_level": level, "read_noise": 3.9},
        pixels_sha256=f"{next(SEEDS):064d}",
    )
    z = {"bias_level": (level - 178) * 20, "read_noise": 0.0}
    return Judgement(
        measurement=measured,
        embedding=ENCODER.embed(stored[np.newaxis])[0],
        evidence=Evidence(0.0001, 30, "", measured.metrics, z),
        verdict=verdict,
        threshold=THRESHOLD,
        nearest_id=nearest_id,
    )


def history(session: Session, *setups: Setup, nights: int = 25, grid: int = 16) -> list[int]:
    """Store a nominal frame of a setup on each earlier night."""
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


def counted(page: Page, title: str) -> int:
    """Return a count below the title."""
    match = re.search(rf"(\d+) {title}", page.text)
    assert match
    return int(match[1])


def drawings(html: str) -> list[str]:
    encoded = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html)
    return [base64.b64decode(svg).decode() for svg in encoded]


RESIDUAL_MAP = "Residual map: coloured above the range of nominal frames"


def project_of(project_folder: Path, session: Session, uves: Instrument) -> ProjectContext:
    sessions = sessionmaker(session.get_bind())
    settings = Settings(project=project_folder)
    return ProjectContext(settings, sessions, sessions, (uves,), THRESHOLDS, ENCODER)


def frame_page(session: Session, uves: Instrument, name: str) -> str:
    return build_frame_page(
        session, name, instruments=[uves], thresholds=THRESHOLDS, generated_at=ENDED
    )
