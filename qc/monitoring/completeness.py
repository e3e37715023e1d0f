"""Calibration completeness: expected calibrations that did not arrive.

A branch of the arrival tree is missing if it keeps neither the interval of the calibration plan
nor the interval of its history. Branches below a missing branch are not reported again. Nights on
which the branch above had no arrivals do not count, as they were cloudy.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import median

from sqlalchemy.orm import Session

from qc import core, db
from qc.io.instruments import Instrument
from qc.monitoring import arrivals, template_sets
from qc.monitoring.missing import MissingCalibration, MissingReason, Path

HISTORY = dt.timedelta(days=100)  # three arrivals of a monthly calibration
FORGOTTEN_DAYS = 30  # a branch without arrivals for longer is not in use
ALERT_DAYS = 7  # a calibration missing for longer is a gap of the archive, without an alert
MANY = 3  # findings of one arm and night that are reported singly
NAMED = 6  # setups named in one sentence
LATE_S = 7200.0  # from exposure to processing; a later frame is from a backlog


def find_missing(
    session: Session,
    night: dt.date,
    instruments: Sequence[Instrument],
    now: dt.datetime,
    past: Iterable[db.statistics.ArrivalCount] | None = None,
) -> tuple[MissingCalibration, ...]:
    """Return the calibrations of a night that should have arrived by now, the newest first.

    Parameters
    ----------
    session : Session
    night : date
    instruments : sequence of Instrument
    now : datetime
        Aware. Before the hour at which a night's calibrations are due, the result has only
        incomplete sets and calibrations missing since earlier nights.
    past : iterable of ArrivalCount, optional
        Arrivals of the nights before; read where absent.

    Returns
    -------
    tuple of MissingCalibration
    """
    first, before = night - HISTORY, night - dt.timedelta(days=1)
    if past is None:
        past = db.statistics.arrivals_between(session, first, before)
    counts = defaultdict[str, list[db.statistics.ArrivalCount]](list)
    for count in (*past, *db.statistics.arrivals_between(session, night, night)):
        counts[count.instrument].append(count)
    extensions = db.recording.find_extensions(session, night)
    missing: list[MissingCalibration] = []
    for instrument in instruments:
        history = arrivals.ArrivalHistory(instrument, night, now, tuple(counts[instrument.name]))
        rows = [row for row in extensions if row.frame.instrument == instrument.name]
        missing += find_missing_branches(history)
        missing += template_sets.find_missing_chips(history, rows)
        missing += template_sets.find_incomplete_sets(session, history, rows)
    return tuple(missing)


def queue_alerts(session: Session, instruments: Sequence[Instrument], now: dt.datetime) -> int:
    """Queue an alert for each new missing calibration of this night and the night before.

    No alert is queued while a backlog is processed: missing frames may be in it.

    Parameters
    ----------
    session : Session
        Writable; the caller commits.
    instruments : sequence of Instrument
    now : datetime
        Aware.

    Returns
    -------
    int
        Number of new alerts.
    """
    alerts = 0
    for instrument in instruments:
        pause = dt.timedelta(minutes=instrument.set_stopped_after_min)
        if db.statistics.is_catching_up(session, now, now - pause, LATE_S):
            continue
        current_night = instrument.night_of(now)
        for night in (current_night - dt.timedelta(days=1), current_night):
            for finding in find_missing(session, night, [instrument], now):
                alerts += queue_alert(session, finding, current_night)
    return alerts


def queue_alert(session: Session, finding: MissingCalibration, current_night: dt.date) -> bool:
    """Queue an alert for a missing calibration unless it is old, repeated or known.

    Parameters
    ----------
    session : Session
    finding : MissingCalibration
    current_night : date

    Returns
    -------
    bool
        True if the alert is new.
    """
    is_old = current_night - finding.missed > dt.timedelta(days=ALERT_DAYS)
    if is_old or finding.is_mended or db.operations.known_alert_keys(session, finding.keys):
        return False
    return db.operations.add_alert(
        session,
        core.Topic.ABSENCE,
        finding.keys[-1],
        finding.sentence,
        instrument=finding.instrument,
        image_type=finding.image_types[0] if finding.scope and finding.image_types else None,
        night=finding.missed,
    )


def find_missing_branches(history: arrivals.ArrivalHistory) -> list[MissingCalibration]:
    """Return the missing branches, without those below another missing one."""
    has_several_arms = len(history.instrument.arms) > 1
    missing: dict[Path, MissingCalibration] = {}
    for path in sorted(history.arrivals, key=lambda path: (len(path), arrivals.is_setting(path))):
        if len(path) == 1 and not has_several_arms:
            continue
        if missing.keys().isdisjoint((*history.parents(path), *history.kinds_of_setting(path))):
            finding = check_branch(history, path)
            if finding is not None:
                missing[path] = finding
    by_kind = fold_findings(missing.values(), history, depth=2, many=1)
    return sorted(
        fold_findings(by_kind, history, depth=1, many=MANY),
        key=lambda finding: (-finding.missed.toordinal(), finding.scope),
    )


def check_branch(history: arrivals.ArrivalHistory, path: Path) -> MissingCalibration | None:
    """Return the finding for a branch; None if it arrived, or was not expected.

    Parameters
    ----------
    history : ArrivalHistory
    path : tuple of str

    Returns
    -------
    MissingCalibration or None
    """
    visits = history.arrivals[path]
    nights = sorted(visits)
    last = nights[-1]
    calibration = history.calibration(path)
    every_days = calibration.expected_every_days if calibration else None
    is_forgotten = (history.night - last).days > max(FORGOTTEN_DAYS, 2 * (every_days or 0))
    if last == history.night or is_forgotten:
        return None
    possible = history.possible_nights(path)
    interval = arrivals.expected_interval(nights, possible, every_days, depth=len(path))
    if interval is None:
        return None
    waited = arrivals.waiting_nights(possible, last, history.last_late_night(path))
    missed = next((night for night, n in waited if n >= interval.nights), None)
    if missed is None:
        return None
    description = arrivals.describe_branch(history.instrument, path)
    if calibration:
        event = f"No {description} came ({' '.join(history.image_types[path])})"
    elif path:
        event = f"Nothing came from the {description} of {history.instrument.name}"
    else:
        event = f"Nothing came from {description}"
    since = visits[last].last
    return MissingCalibration(
        instrument=history.instrument.name,
        image_types=history.image_types[path],
        lack=MissingReason.NEVER_CAME if missed == history.night else MissingReason.OVERDUE,
        scope=path,
        what=description,
        missed=missed,
        expected=round(median(visits[night].frames for night in nights[-arrivals.GAPS :])),
        got=0,
        since=since,
        sentence=f"{event}: {interval.basis}; last had {since:%Y-%m-%d %H:%M} UT",
    )


def fold_findings(
    findings: Iterable[MissingCalibration], history: arrivals.ArrivalHistory, depth: int, many: int
) -> list[MissingCalibration]:
    """Merge findings below one branch that were missed on one night, if there are many.

    Parameters
    ----------
    findings : iterable of MissingCalibration
    history : ArrivalHistory
    depth : int
        Of the branch.
    many : int
        Number above which findings are merged.

    Returns
    -------
    list of MissingCalibration
    """

    def branch(finding: MissingCalibration) -> tuple[dt.date, Path]:
        return finding.missed, finding.scope[:depth]

    folded: list[MissingCalibration] = []
    for (_, path), group in groupby(sorted(findings, key=branch), branch):
        members = list(group)
        is_below = all(len(finding.scope) > depth for finding in members)
        is_merged = is_below and len(members) > many
        folded += [merge_findings(members, path, history)] if is_merged else members
    return folded


def merge_findings(
    members: Sequence[MissingCalibration], path: Path, history: arrivals.ArrivalHistory
) -> MissingCalibration:
    """Return one finding for several below one branch.

    Parameters
    ----------
    members : sequence of MissingCalibration
    path : tuple of str
        Of the branch.
    history : ArrivalHistory

    Returns
    -------
    MissingCalibration
    """
    parts = [" of ".join(part.scope[len(path) :]) or part.what for part in members]
    more = f"; and {len(parts) - NAMED} more" if parts[NAMED:] else ""
    named = "; ".join(parts[:NAMED]) + more
    types = tuple(sorted({name for part in members for name in part.image_types}))
    branch = arrivals.describe_branch(history.instrument, path)
    unit = "kinds" if len(path) == 1 else "setups"
    last = max(part.since for part in members if part.since)
    return replace(
        members[0],
        image_types=types,
        scope=path,
        what=f"{branch}: {len(members)} {unit}",
        expected=sum(part.expected for part in members),
        since=last,
        sentence=f"{len(members)} {unit} of {branch} did not come ({' '.join(types)}): {named}; "
        f"the last of them was had {last:%Y-%m-%d %H:%M} UT",
    )
