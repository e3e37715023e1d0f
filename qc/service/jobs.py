"""The jobs of the daemon, and its start."""

import datetime as dt
import logging
import signal
from collections import Counter
from pathlib import Path

from qc import _project_lock, _text, _time, core, db, errors
from qc.alerts import dispatch, gather, report_mail
from qc.monitoring import completeness, injection_test
from qc.pipeline import batch
from qc.project import ProjectContext
from qc.reports import index, publish, threshold_proposals
from qc.search import nearest
from qc.service import health_server, inboxes, job, maintenance
from qc.service.daemon import SCAN, Daemon, Now
from qc.service.systemd import ServiceManager
from qc.summaries import night_range

logger = logging.getLogger(__name__)

SEND_INTERVAL = dt.timedelta(seconds=5)
RETRY_INTERVAL = dt.timedelta(seconds=30)
INDEX_INTERVAL = dt.timedelta(hours=1)  # the report index shows a warning after two hours
LASTING = dt.timedelta(minutes=15)  # an issue of this age becomes an alert
FRAMES, PAGES, MAIL = "frames", "pages", "post"  # lanes


def run_daemon(
    project: ProjectContext, service_manager: ServiceManager, now: Now = _time.utc_now
) -> None:
    """Run the daemon of a project until the process receives SIGTERM or SIGINT.

    Parameters
    ----------
    project : ProjectContext
        Open project.
    service_manager : ServiceManager
        Receives the state of the daemon.
    now : callable
        Returns the time.

    Raises
    ------
    ConfigurationError
        If another daemon holds the lock, on this or any host, or a crontab line is invalid.
    """
    job.check_schedule(project.settings)
    project.load_files()
    with (
        _project_lock.daemon_lock(project.settings.project, now()) as previous,
        db.schema.engine.try_daemon_lock(project.engine) as has_lock,
    ):
        if not has_lock:
            raise errors.ConfigurationError(
                f"{db.schema.engine.format_url(project.engine.url)}: a daemon on another host, or"
                " of another project folder, uses this database; run one daemon for each database;"
                " 'qc frames process' and 'qc web serve' may run on any host"
            )
        daemon = Daemon(project, JOBS, now, service_manager)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: daemon.stop())
        if previous is not None:
            # The alert is sent later: the disk that stopped the daemon may still be full.
            logger.warning("daemon had died", extra={"who": str(previous)})
            message = f"the daemon had stopped unexpectedly ({previous}); it runs again"
            daemon.pending_alerts[f"daemon died {previous.since.isoformat()}"] = message
        with health_server.serve_health(project, now, lambda: len(daemon.queue)) as port:
            facts = {"project": str(project.settings.project), "health_port": port}
            logger.info("daemon begins", extra=facts)
            daemon.run()
            logger.info("daemon ends")


# --- the jobs -------------------------------------------------------------------------------------


def scan(daemon: Daemon, now: dt.datetime) -> str:
    """Scan the inboxes and process new files.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Numbers of files by outcome.
    """
    daemon.reload_project()
    result = daemon.inboxes.scan(now)
    daemon.issues.replace("inbox ", {problem: problem for problem in result.problems}, now)
    daemon.enqueue(result.arrived, now)
    counts = daemon.process_queue()
    if daemon.queue:
        daemon.request_scan(0)
    elif result.pending:
        daemon.request_scan(daemon.settings.watch.quiet_s)
    return format_counts(counts)


def rescan(daemon: Daemon, now: dt.datetime) -> str:
    """Clear the history of the inboxes: the next scan queries every file.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Result in words.
    """
    del now
    daemon.inboxes.reset()
    daemon.request_scan(0)
    return "the next scan queries every file"


def retry(daemon: Daemon, now: dt.datetime) -> str:
    """Process failed files again whose retry is due.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Numbers of files by outcome.
    """
    with daemon.project.write_session.begin() as session:
        paths = [Path(row.path) for row in db.frames.files_to_retry(session, now)]
        missing = [path for path in paths if not path.exists()]
        for path in missing:
            db.frames.postpone_retry(session, path, daemon.settings.watch.retry_policy, now)
    existing = [path for path in paths if path not in missing][: daemon.settings.batch_frames]
    outcomes = batch.process_frames(existing, daemon.project)
    return format_counts(Counter(outcome.state for outcome in outcomes))


def send_notifications(daemon: Daemon, now: dt.datetime) -> str:
    """Group pending alerts into notifications and send the due deliveries.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Numbers of notifications and deliveries.
    """
    alerts = daemon.pending_alerts | {
        f"daemon {issue.key} {issue.since.isoformat()}": f"{issue.key}: {issue.message}"
        for issue in daemon.issues
        if issue.has_lasted(LASTING, now)
    }
    with daemon.project.write_session.begin() as session:
        for key, message in alerts.items():
            db.operations.add_alert(session, core.Topic.DAEMON, key, message)
        notifications = gather.gather_alerts(
            session,
            daemon.settings,
            now,
            daemon.project.instruments,
            lambda after: job.next_report(daemon.settings, after),
        )
    daemon.pending_alerts.clear()
    result = dispatch.send_unsent(daemon.project, now)
    if result.sent or result.deferred or result.gave_up:  # otherwise no delivery was tried
        daemon.issues.replace("mail ", {problem: problem for problem in result.problems}, now)
    counts = {
        "notifications made": notifications,
        "sent": result.sent,
        "deferred": result.deferred,
        "given up": result.gave_up,
    }
    return format_counts(Counter(counts))


def publish_report(daemon: Daemon, now: dt.datetime) -> str:
    """Write the report of the last night and queue its mails.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        File and number of recipients.
    """
    night = daemon.last_night(now)
    report = publish.publish_night(daemon.project, night, now, pdf=daemon.settings.schedule.pdf)
    recipients = report_mail.mail_night(daemon.project, night, report, now)
    return f"{report.html.name}, mail queued for {recipients}"


def find_missing(daemon: Daemon, now: dt.datetime) -> str:
    """Find expected calibrations that did not arrive and queue alerts.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Number of new alerts.
    """
    with daemon.project.write_session.begin() as session:
        count = completeness.queue_alerts(session, daemon.project.instruments, now)
    return f"{count} missed" if count else ""


def run_injection_test(daemon: Daemon, now: dt.datetime) -> str:
    """Inject faults into nominal images of the night and measure the recall.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Result in words.
    """
    return injection_test.run_injection_test(daemon.project, daemon.last_night(now), now).summary


def propose_thresholds(daemon: Daemon, now: dt.datetime) -> str:
    """Write a page with thresholds tuned to verdicts and labels; a person decides.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Result in words.
    """
    return threshold_proposals.write_proposal_page(daemon.project, now)


def publish_monthly_report(daemon: Daemon, now: dt.datetime) -> str:
    """Write the report of the last full month and queue its mails.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        File and number of recipients.
    """
    last_day = daemon.last_night(now).replace(day=1) - dt.timedelta(days=1)
    span = night_range.month_of(last_day)
    report = publish.publish_span(daemon.project, span, now, pdf=daemon.settings.schedule.pdf)
    recipients = report_mail.mail_span(daemon.project, span, report, now)
    return f"{report.html.name}, mail queued for {recipients}"


def update_report_index(daemon: Daemon, now: dt.datetime) -> str:
    """Write the list of reports again, with the labels added since.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Empty.
    """
    index.write_index(daemon.project, now)
    return ""


def update_search_index(daemon: Daemon, now: dt.datetime) -> str:
    """Add new embeddings to the nearest-neighbour index of a large archive.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Result in words.
    """
    del now
    return nearest.refresh_index(daemon.project, lambda *_: None, few=nearest.FEW_NEWER // 10)


def prune(daemon: Daemon, now: dt.datetime) -> str:
    """Remove old local copies of remote files and old job runs.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Numbers of removed files and runs.
    """
    copies = inboxes.prune_fetched(daemon.settings, now)
    oldest = now - dt.timedelta(days=daemon.settings.keep.runs_days)
    with daemon.project.write_session.begin() as session:
        runs = db.operations.prune_runs(session, oldest)
    return f"{_text.pluralise(copies, 'fetched file')}, {_text.pluralise(runs, 'run')}"


def back_up(daemon: Daemon, now: dt.datetime) -> str:
    """Copy the database while it is in use.

    Parameters
    ----------
    daemon : Daemon
        The running daemon.
    now : datetime
        Time, UTC.

    Returns
    -------
    str
        Result in words.
    """
    return maintenance.back_up(daemon.settings, now)


def format_counts(counts: Counter[str]) -> str:
    """Return counts above zero in words, e.g. ``1 failed, 2 processed``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)


JOBS = (
    job.Job(SCAN, "scan the inboxes", scan, lambda s: dt.timedelta(seconds=s.watch.scan_s), FRAMES),
    job.Job(
        "rescan",
        "clear the inbox history",
        rescan,
        lambda s: dt.timedelta(hours=s.watch.rescan_h),
        FRAMES,
    ),
    job.Job("retry", "process failed files again", retry, lambda _: RETRY_INTERVAL, FRAMES),
    job.Job(
        "self-test", "injection test", run_injection_test, lambda s: s.schedule.self_test, FRAMES
    ),
    job.Job("tell", "send notifications", send_notifications, lambda _: SEND_INTERVAL, MAIL),
    job.Job("report", "morning report", publish_report, lambda s: s.schedule.report, PAGES),
    job.Job(
        "absence", "find missing calibrations", find_missing, lambda s: s.schedule.absence, PAGES
    ),
    job.Job(
        "proposal", "propose thresholds", propose_thresholds, lambda s: s.schedule.proposal, PAGES
    ),
    job.Job(
        "monthly", "monthly report", publish_monthly_report, lambda s: s.schedule.monthly, PAGES
    ),
    job.Job("index", "report index", update_report_index, lambda _: INDEX_INTERVAL, PAGES),
    job.Job(
        "search", "index of similar frames", update_search_index, lambda _: INDEX_INTERVAL, PAGES
    ),
    job.Job("prune", "remove old files and runs", prune, lambda s: s.schedule.prune, PAGES),
    job.Job("backup", "copy the database", back_up, lambda s: s.schedule.backup, PAGES),
)
