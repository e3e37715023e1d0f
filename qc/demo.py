"""A project to try things on: a simulated history and a night with faults, judged and reported."""

import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from sqlalchemy.orm import Session

from qc import db
from qc._time import utc_now
from qc.core.enums import FrameState, LabelName
from qc.core.verdict import Status
from qc.errors import ConfigurationError
from qc.pipeline.process import process_frames
from qc.project import Project, create_project, open_project
from qc.reports.publish import publish_night
from qc.settings import read_settings
from qc.simulator import simulate

Progress = Callable[[str, int, int], None]  # what is being done, how many are done, of how many

HISTORY_NIGHTS = 13  # arcs are the rarest, two a night: 26 references, 20 needed
FIRST_NIGHT = date(2026, 7, 1)
FAULTS = 0.5  # of the night's frames; far more than on a real night, so that there is a choice


@dataclass(frozen=True)
class FaultCount:
    """How many extensions of the night had a fault of one kind and strength, and were noticed."""

    fault: str
    strength: str
    image_types: tuple[str, ...]
    extensions: int
    noticed: int


@dataclass(frozen=True)
class DemoResult:
    """Where the demonstration lies, and how it went.

    Attributes
    ----------
    found : tuple of Found
        By kind of fault and strength.
    nominal, false_alarms : int
        Extensions of the night without a fault, and how many of them were flagged.
    """

    folder: Path
    report: Path
    night: date
    found: tuple[FaultCount, ...]
    nominal: int
    false_alarms: int


def create_demo(folder: Path, *, seed: int, progress: Progress) -> DemoResult:
    """Simulate, process, judge and report; leave a project in which every command works.

    Raises
    ------
    ConfigurationError
        If the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder}: exists and is not an empty folder; give another")
    create_project(folder)
    night = FIRST_NIGHT + timedelta(days=HISTORY_NIGHTS)
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
        _process(history, project, LabelName.GOOD, "learn the history", progress)
        _process(new, project, None, "judge the night", progress)
        progress("write the report", 0, 1)
        report = publish_night(project, night, utc_now()).html
        progress("write the report", 1, 1)
        with project.reads() as session:
            return _result(session, folder, report, night)


def _process(
    paths: list[Path],
    project: Project,
    label: LabelName | None,
    what: str,
    progress: Progress,
) -> None:
    progress(what, 0, len(paths))
    for done, _ in enumerate(process_frames(paths, project, label), start=1):
        progress(what, done, len(paths))


def _result(session: Session, folder: Path, report: Path, night: date) -> DemoResult:
    truth = _read_truth(folder / "inbox" / "truth.csv")
    anomalous, refused = _anomalous(session, night), _refused(session)
    groups = defaultdict(list)
    for row in truth:
        groups[row["fault"], row["strength"]].append(row)
    nominal = groups.pop(("", ""), [])
    found = tuple(
        FaultCount(
            fault=fault,
            strength=strength,
            image_types=tuple(sorted({row["image_type"] for row in rows})),
            extensions=len(rows),
            noticed=sum(_key(row) in anomalous or row["file"] in refused for row in rows),
        )
        for (fault, strength), rows in sorted(groups.items())
    )
    false_alarms = sum(_key(row) in anomalous for row in nominal)
    return DemoResult(folder, report, night, found, len(nominal), false_alarms)


def _read_truth(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _key(row: dict[str, str]) -> tuple[str, str]:
    return row["file"], row["extension"]


def _anomalous(session: Session, night: date) -> set[tuple[str, str]]:
    """Return file and extension of what was judged anomalous."""
    return {
        (Path(found.frame.path).name, str(found.extension.number))
        for found in db.findings.findings(session, night)
        if found.verdict.status == Status.ANOMALOUS
    }


def _refused(session: Session) -> set[str]:
    """Return the files that were refused as broken."""
    unread = db.statistics.unprocessed(session)
    return {Path(row.path).name for row in unread if row.state == FrameState.FAILED}
