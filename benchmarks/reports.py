"""Cost of the reports: a night of 150 frames, a month and half a year of such nights.

The rows are made up: half a year of UVES as the database would remember it, faults, labels,
notices and self-tests included; frames are not needed for that.

Run: ``python -m benchmarks.reports --out FOLDER``, which leaves a project with its reports there.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session

from benchmarks.postgresql import copy_rows
from qc._files import packaged_path
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.frame import Setup
from qc.core.verdict import Status
from qc.db.schema.models import (
    AcknowledgementRow,
    AlertRow,
    BlockStatisticsRow,
    EmbeddingRow,
    EncoderRow,
    EpochRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    NotificationRow,
    SelfTestRow,
    VerdictRow,
    doubt,
)
from qc.detection.metrics import METRICS
from qc.detection.thresholds import Threshold, read_thresholds
from qc.io.instrument_files import read_instruments
from qc.project import ProjectContext, create_project, image_types_of, open_project
from qc.reports.index import write_index
from qc.reports.publish import publish_night, publish_span
from qc.settings import read_settings
from qc.summaries.night_range import month_of, week_to

LAST = date(2026, 10, 31)
NIGHTS = 182  # half a year
FRAMES = 150  # a night
IN_SIGHT = 12  # nights whose pictures are kept; of anomalies all are
COMPARED = 35  # nights whose embeddings are kept
GRID = 224
LENGTH = 2048  # of an embedding
FINGERPRINT = "resnet50-untrained-physical-233c98921cb7"
BLUE = ("50kHz high", "2x2")
RED = ("225kHz low", "1x1")
KINDS = ("bias_jump", "light_leak", "column_defect", "lamp_off", "pick_up", "hot_pixels")


def setups() -> list[tuple[tuple[Setup, ...], str]]:
    """List the exposures: the setups in one file, and the class of frame."""
    result: list[tuple[tuple[Setup, ...], str]] = []
    for letter, frame_class in (("B", "bias"), ("W", "arc"), ("F", "flat")):
        for mode, nm in (("D1", 390.0), ("D2", 437.0)) if letter == "F" else (("", 437.0),):
            light = () if letter == "B" else (nm, 0.4, "CD#2")
            result.append(((_setup(f"U{mode}B{letter}0", "BLUE", BLUE, *light),), frame_class))
            red = (("1", "REDU"), ("2", "REDL"))
            names = [(f"U{mode}R{letter}{number}", chip) for number, chip in red]
            result.append((tuple(_setup(*name, RED, *light) for name in names), frame_class))
    return result


def _setup(name: str, chip: str, how: tuple[str, str], *light: Any) -> Setup:
    read_mode, binning = how
    return Setup(name, chip, binning, read_mode, *light)


@dataclass(frozen=True)
class Usual:
    """Typical values of a setup, for realistic generated rows.

    Attributes
    ----------
    values, scatters : mappings of metric to float
        Well inside the detector's limits.
    embedding : (2048,) float32 array
    """

    threshold: Threshold
    values: dict[str, float]
    scatters: dict[str, float]
    embedding: NDArray[np.float32]


class HistoryWriter:
    """Half a year of rows, or as many nights as wanted, written a night at a time.

    Most frames are good, some bad and labelled so, a few of either on the wrong side of the limits
    that came with the program.

    Parameters
    ----------
    pictured : int
        Newest nights whose faulty frames keep their pictures: most of the size of the database.
    compared : int
        Newest nights whose embeddings are kept.
    """

    def __init__(
        self,
        session: Session,
        seed: int = 1,
        nights: int = NIGHTS,
        pictured: int = NIGHTS,
        compared: int = COMPARED,
    ) -> None:
        self.session, self.random = session, np.random.default_rng(seed)
        self.nights, self.pictured, self.compared = nights, pictured, compared
        self.is_server = session.get_bind().dialect.name == "postgresql"
        self.extension_id = self.frame_id = 0
        self.pools: dict[Setup, list[NDArray[np.float32]]] = {}
        self.newest: dict[Setup, int] = {}
        self.usual = dict(self._usual())

    def _usual(self) -> Iterator[tuple[Setup, Usual]]:
        instruments = read_instruments()
        [uves] = [instrument for instrument in instruments if instrument.name == "UVES"]
        shipped_limits = read_thresholds(
            packaged_path("thresholds.yaml"), image_types_of(instruments)
        )
        for setup in (item for group, _ in setups() for item in group):
            limits = uves.limits_of(setup.image_type, setup.chip, setup.read_mode)
            middle = {name: (low + high) / 2 for name, (low, high) in limits.items()}
            room = {name: (high - low) / 100 for name, (low, high) in limits.items()}
            yield (
                setup,
                Usual(
                    shipped_limits.threshold(setup.image_type, LAST, FINGERPRINT),
                    {name: middle.get(name, 100.0) for name in METRICS},
                    {name: room.get(name, item.floor) for name, item in METRICS.items()},
                    self.random.normal(0, 1 / np.sqrt(LENGTH), LENGTH).astype(np.float32),
                ),
            )

    def remember(self) -> None:
        """Write everything."""
        row = EncoderRow(fingerprint=FINGERPRINT, name="resnet50-untrained", stretch="physical")
        self.session.add(row)
        self.session.flush()
        for back in range(self.nights - 1, -1, -1):
            self._night(LAST - timedelta(days=back), back)
        since = LAST - timedelta(days=12)
        why = "new deuterium lamp"
        self.session.add(EpochRow(scope="UVES", since=since, why=why, who="kim", at=morning(since)))

    def _night(self, night: date, back: int) -> None:
        files = setups()
        rows: dict[type, list[dict[str, Any]]] = {
            table: []
            for table in (FrameRow, ExtensionRow, VerdictRow, EmbeddingRow, BlockStatisticsRow)
        } | {LabelRow: [], AlertRow: [], SelfTestRow: []}
        fault = ""
        for number in range(FRAMES):
            file_setups, frame_class = files[number // 5 % len(files)]
            if number % 5 == 0:
                fault = str(self.random.choice(KINDS)) if self.random.random() < 0.05 else ""
            self.frame_id += 1
            rows[FrameRow].append(self._frame(night, number))
            for setup in file_setups:
                self._extension(rows, setup, frame_class, night, number, back, fault)
        rows[SelfTestRow] = list(self._self_test(night))
        notice = NotificationRow(
            topic=Topic.VERDICT, night=night, made_at=morning(night), subject="anomalies"
        )
        self.session.add(notice)
        self.session.flush()
        for alert in rows[AlertRow]:
            alert["notification_id"] = notice.id
        if self.random.random() < 0.6:
            hours = float(self.random.exponential(5))
            at = morning(night) + timedelta(hours=hours)
            self.session.add(
                AcknowledgementRow(notification_id=notice.id, who="kim", at=at, note="seen")
            )
        for table, own_rows in rows.items():
            if own_rows and self.is_server:
                copy_rows(self.session, table, own_rows)
            elif own_rows:
                self.session.execute(insert(table), own_rows)

    def _frame(self, night: date, number: int) -> dict[str, Any]:
        at = morning(night) + timedelta(seconds=60 * number)
        return {
            "id": self.frame_id,
            "state": FrameState.PROCESSED,
            "path": f"/archive/UVES.{at:%Y-%m-%dT%H:%M:%S}.fits",
            "file_bytes": 1,
            "modified_ns": 1,
            "processed_at": at,
            "sha256": f"{self.frame_id:064x}",
            "name": f"UVES.{at:%Y-%m-%dT%H:%M:%S}.000",
            "instrument": "UVES",
            "observed_at": at,
            "night": night,
            "exposure_s": 1.0,
            "template": f"{night}T{number // 5:03}",
            "template_number": number % 5 + 1,
            "template_size": 5,
        }

    def _extension(
        self,
        rows: dict[type, list[dict[str, Any]]],
        setup: Setup,
        frame_class: str,
        night: date,
        number: int,
        back: int,
        fault: str,
    ) -> None:
        self.extension_id += 1
        key = {"extension_id": self.extension_id}
        is_bad = bool(fault) and self.random.random() < 0.7
        is_flagged = (is_bad and self.random.random() < 0.97) or self.random.random() < 0.004
        usual = self.usual[setup]
        z = dict(zip(METRICS, self.random.normal(0, 1, len(METRICS)).tolist(), strict=True))
        numbers = {name: usual.values[name] + usual.scatters[name] * z[name] for name in METRICS}
        nearest = {"nearest_id": self.newest.get(setup)}
        verdict = self._verdict(night, number, back, is_flagged, usual.threshold)
        chosen = {"observed_at": rows[FrameRow][-1]["observed_at"]}
        rows[ExtensionRow].append(self._row(setup, frame_class, number, numbers) | chosen)
        rows[VerdictRow].append(key | verdict | {"z": z} | nearest)
        self.newest[setup] = self.extension_id
        if back < self.compared:
            noise = self.random.normal(0, 0.03 if is_bad else 0.01, LENGTH).astype(np.float32)
            vector = usual.embedding + noise / np.float32(np.sqrt(LENGTH))
            rows[EmbeddingRow].append(key | {"encoder_id": 1, "vector": vector})
        if back < IN_SIGHT or (is_bad and back < self.pictured):
            rows[BlockStatisticsRow].append(key | {"above_zero_adu": self._seen(setup, is_bad)})
        at = morning(night) + timedelta(hours=float(self.random.exponential(8)))
        is_drawn = int(f"{self.extension_id:064x}"[-1], 16) == 0
        if (is_flagged and self.random.random() < 0.8) or (is_drawn and self.random.random() < 0.5):
            label = LabelName.BAD if is_bad else LabelName.GOOD
            kind = fault if is_bad else ""
            answer = {"label": label, "kind": kind, "who": "kim", "at": at, "note": ""}
            rows[LabelRow].append(key | answer)
        if is_flagged:
            rows[AlertRow].append(
                {
                    "topic": Topic.VERDICT,
                    "verdict_id": self.extension_id,
                    "night": night,
                    "words": "",
                    "owed_at": morning(night) + timedelta(seconds=60 * number),
                }
            )

    def _row(
        self, setup: Setup, frame_class: str, number: int, numbers: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "id": self.extension_id,
            "frame_id": self.frame_id,
            "number": {"1": 1, "2": 2}.get(setup.image_type[-1], 0),
            "frame_class": frame_class,
            "ny": 3000,
            "nx": 2148,
            "gain_e_per_adu": 0.5,
            "read_noise_adu": 4.0,
            "light_bottom": 0,
            "light_top": 3000,
            "light_left": 50,
            "light_right": 2098,
            "pixels_sha256": f"{self.extension_id:064x}",
            "promised_light": 0.0 if frame_class == "bias" else 1.0 + number % 3,
            "zero_adu": 100.0,
            "stretch_adu": 10.0,
            "metrics": numbers,
            "appearance": {},
            **{name: getattr(setup, name) for name in Setup.__dataclass_fields__},
        }

    def _verdict(
        self, night: date, number: int, back: int, is_flagged: bool, limits: Threshold
    ) -> dict[str, Any]:
        drift = 0.25 + 0.1 * (self.nights - back) / self.nights
        part = drift * float(self.random.gamma(16, 1 / 16))
        # Of the flagged ones most are far beyond the limit, and some near it on either side.
        part *= float(self.random.choice([3.5, 8, 20])) if is_flagged else 1
        height, limit = part * limits.merge_height, limits.merge_height
        why = f"merge height {height:.2g}, threshold {limit:.2g}: stands apart from 100 references"
        status = Status.ANOMALOUS if is_flagged else Status.NOMINAL
        score = max(part, 1.01) if is_flagged else part
        return {
            "id": self.extension_id,
            "encoder_id": 1,
            "judged_at": morning(night) + timedelta(seconds=60 * number + 30),
            "status": status,
            "score": score,
            "doubt": doubt(status, score),
            "reasons": [why] if is_flagged else [],
            "merge_height": height,
            "residual": limits.residual * drift * float(self.random.gamma(16, 1 / 16)),
            "threshold": limit,
            "thresholds_digest": "0" * 64,
            "reference_size": 100,
            "widened": "",
        }

    def _seen(self, setup: Setup, is_bad: bool) -> NDArray[np.float32]:
        """Return block statistics: one of twenty of the setup, and with a fault one part bright."""
        if setup not in self.pools:
            noise = self.random.normal(0, 0.3, (20, GRID, GRID, 3)).astype(np.float32)
            self.pools[setup] = list(noise + 100)
        picture = self.pools[setup][self.extension_id % 20]
        if is_bad:
            picture = picture.copy()
            picture[60:90, 100:140] += 15
        return picture

    def _self_test(self, night: date) -> Iterator[dict[str, Any]]:
        for kind in KINDS:
            for trial in range(5):
                yield {
                    "night": night,
                    "at": morning(night),
                    "instrument": "UVES",
                    "image_type": "UBB0",
                    "kind": kind,
                    "strength": "moderate",
                    "is_found": bool(self.random.random() < 0.96),
                    "score": 2.0,
                    "frame": f"UVES.{trial}",
                    "reason": "",
                }


def morning(night: date) -> datetime:
    """Return when the frames of a night begin to be taken: at ten in the morning after it."""
    return datetime(night.year, night.month, night.day, 10, tzinfo=UTC) + timedelta(days=1)


def measure(subject: str, work: Callable[[], Any]) -> None:
    """Print how long something took, and the most memory that the process has had so far."""
    started, worked = time.perf_counter(), time.process_time()
    done = work()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = [getattr(done, name, None) for name in ("html", "pdf")]
    sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in files if file)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - worked
    print(f"{subject}: {wall_s:.1f} s, {cpu_s:.1f} s of CPU, peak {peak_mb:.0f} MB. {sizes}")


def run(project: ProjectContext, names: list[str]) -> None:
    """Write the reports, each measured."""
    now = morning(LAST) + timedelta(hours=12)
    month, week = month_of(LAST), week_to(LAST)
    works: dict[str, Callable[[], Any]] = {
        "night": lambda: publish_night(project, LAST, now),
        "night with PDF": lambda: publish_night(project, LAST, now, pdf=True),
        "week": lambda: publish_span(project, week, now),
        "month": lambda: publish_span(project, month, now),
        "month with PDF": lambda: publish_span(project, month, now, pdf=True),
        "index": lambda: write_index(project, now),
    }
    for name, work in works.items():
        if not names or name in names:
            measure(name, work)


def main() -> None:
    """Make the project if it is not there, and write its reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("only", nargs="*", help="night, week, month, 'month with PDF', index")
    arguments = parser.parse_args()
    is_new = not arguments.out.exists()
    create_project(arguments.out)
    with open_project(read_settings(arguments.out)) as project:
        if is_new:
            with project.write_session.begin() as session:
                HistoryWriter(session).remember()
        run(project, arguments.only)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
