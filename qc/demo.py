"""Demonstration project: a simulated history and a night with faults, judged and reported."""

import csv
import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from qc import db
from qc._time import utc_now
from qc.core import enums
from qc.core.verdict import Status
from qc.errors import ConfigurationError
from qc.pipeline.batch import process_frames
from qc.project import ProjectContext, create_project, open_project
from qc.reports.publish import publish_night
from qc.settings import read_settings
from qc.simulator import simulate

Progress = Callable[[str, int, int], None]  # description, finished steps, all steps

HISTORY_NIGHTS = 13  # two arcs a night make 26 references; 20 are needed
FIRST_NIGHT = dt.date(2026, 7, 1)
FAULTS = 0.5  # share of the night's frames; far more than in a real night


@dataclass(frozen=True)
class FaultCount:
    """Number of extensions with a fault of one kind and strength, and of detected ones."""

    fault: str
    strength: str
    image_types: tuple[str, ...]
    extensions: int
    noticed: int


@dataclass(frozen=True)
class DemoResult:
    """Result of a demonstration.

    Attributes
    ----------
    found : tuple of FaultCount
        By kind of fault and strength.
    nominal, false_alarms : int
        Number of extensions without a fault, and of anomalous ones among them.
    """

    folder: Path
    report: Path
    night: dt.date
    found: tuple[FaultCount, ...]
    nominal: int
    false_alarms: int


def create_demo(folder: Path, *, seed: int, progress: Progress) -> DemoResult:
    """Simulate, process, judge and report, in a new project.

    Parameters
    ----------
    folder : Path
        New or empty folder.
    seed : int
        Of the simulation.
    progress : callable
        Receives a description, the number of finished steps and of all steps.

    Returns
    -------
    DemoResult

    Raises
    ------
    ConfigurationError
        If the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder}: exists and is not an empty folder; give another")
    create_project(folder)
    night = FIRST_NIGHT + dt.timedelta(days=HISTORY_NIGHTS)
    archive, inbox = folder / "archive", folder / "inbox"
    history = simulate(
        archive,
        nights=HISTORY_NIGHTS,
        start=FIRST_NIGHT,
        faults=0,
        seed=seed,
        progress=lambda done, total: progress("simulate the history", done, total),
    )
    new = simulate(
        inbox,
        nights=1,
        start=night,
        faults=FAULTS,
        seed=seed,
        progress=lambda done, total: progress("simulate the night", done, total),
    )
    with open_project(read_settings(folder)) as project:
        _process(history, project, enums.LabelName.GOOD, "learn the history", progress)
        _process(new, project, None, "judge the night", progress)
        progress("write the report", 0, 1)
        report = publish_night(project, night, utc_now()).html
        progress("write the report", 1, 1)
        with project.read_session() as session:
            return _result(session, folder, report, night)


def _process(
    paths: list[Path],
    project: ProjectContext,
    label: enums.LabelName | None,
    task: str,
    progress: Progress,
) -> None:
    progress(task, 0, len(paths))
    for done, _ in enumerate(process_frames(paths, project, label), start=1):
        progress(task, done, len(paths))


def _result(session: Session, folder: Path, report: Path, night: dt.date) -> DemoResult:
    """Compare the verdicts of the night with the ground truth."""
    with (folder / "inbox" / "truth.csv").open(newline="") as stream:
        truth = list(csv.DictReader(stream))
    anomalous = {
        (Path(finding.frame.path).name, str(finding.extension.number))
        for finding in db.findings.findings(session, night)
        if finding.verdict.status == Status.ANOMALOUS
    }
    unprocessed = db.statistics.unprocessed_files(session)
    failed = {Path(row.path).name for row in unprocessed if row.state == enums.FrameState.FAILED}
    groups = defaultdict(list)
    for row in truth:
        groups[row["fault"], row["strength"]].append(row)
    nominal = groups.pop(("", ""), [])
    counts = tuple(
        FaultCount(
            fault=fault,
            strength=strength,
            image_types=tuple(sorted({row["image_type"] for row in rows})),
            extensions=len(rows),
            noticed=sum(_key(row) in anomalous or row["file"] in failed for row in rows),
        )
        for (fault, strength), rows in sorted(groups.items())
    )
    false_alarms = sum(_key(row) in anomalous for row in nominal)
    return DemoResult(folder, report, night, counts, len(nominal), false_alarms)


def _key(row: dict[str, str]) -> tuple[str, str]:
    return row["file"], row["extension"]
