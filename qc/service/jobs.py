"""What runs by itself: the jobs, one line each; how each is done stands in its own module."""

import logging
import signal
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from qc import db
from qc._project_lock import LockHolder, only_daemon
from qc._text import counted
from qc._time import utc_now
from qc.alerts import dispatch
from qc.alerts.report_mail import mail_night, mail_span
from qc.core.enums import Topic
from qc.errors import ConfigurationError
from qc.monitoring.completeness import owe_absences
from qc.monitoring.health import serve_health
from qc.monitoring.injection_test import run_self_test
from qc.pipeline.process import process_frames
from qc.project import Project
from qc.reports.publish import publish_night, publish_span, write_index
from qc.reports.threshold_proposals import write_proposal_page
from qc.search.nearest import FEW_NEWER, refresh_index
from qc.service import maintenance
from qc.service.inboxes import prune_fetched
from qc.service.scheduler import SCAN, Daemon, Job, Now
from qc.service.systemd import ServiceManager
from qc.summaries.period import month_of

logger = logging.getLogger(__name__)

TELL = timedelta(seconds=5)  # how often what is owed is looked for
RETRY = timedelta(seconds=30)
INDEX = timedelta(hours=1)  # it turns red after two
LASTING = timedelta(minutes=15)  # trouble that people should hear of
FRAMES, PAGES, POST = "frames", "pages", "post"


def run_daemon(project: Project, supervisor: ServiceManager, now: Now = utc_now) -> None:
    """Keep watch over the project until the process is told to end.

    Raises
    ------
    ConfigurationError
        If another daemon does so already, be it on another host with the same database.
    """
    with (
        only_daemon(project.settings.project, now()) as died,
        db.engine.watching_alone(project.engine) as alone,
    ):
        if not alone:
            raise ConfigurationError(
                f"{db.engine.shown_url(project.engine.url)}: a daemon on another host, or of"
                " another project folder, watches over this database; one is enough,"
                " 'qc process' and 'qc serve' may run on any host"
            )
        watch = Daemon(project, JOBS, now, supervisor)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: watch.stop())
        if died is not None:
            _report_death(watch, died)
        with serve_health(project, now, lambda: len(watch.waiting)) as port:
            facts = {"project": str(project.settings.project), "health_port": port}
            logger.info("daemon begins", extra=facts)
            watch.run()
            logger.info("daemon ends")


def _report_death(watch: Daemon, died: LockHolder) -> None:
    """Let people hear of it, by and by: the disk that it died of may be full still."""
    logger.warning("daemon had died", extra={"who": str(died)})
    words = f"the daemon had died without a word ({died}); it runs again"
    watch.to_tell[f"daemon died {died.since.isoformat()}"] = words


# --- the jobs -------------------------------------------------------------------------------------


def scan(watch: Daemon, now: datetime) -> str:
    """Look for new files in the inboxes, and process what has arrived."""
    watch.renew()
    found = watch.inboxes.scan(now)
    watch.troubles.stand("inbox ", {words: words for words in found.troubles}, now)
    watch.await_turn(found.arrived, now)
    counts = watch.process_waiting()
    if watch.waiting:
        watch.wake_in(0)
    elif found.restless:
        watch.wake_in(watch.settings.watch.quiet_s)
    return _counted(counts)


def rescan(watch: Daemon, now: datetime) -> str:
    """Forget what was seen, so that the next scan asks after every file again."""
    del now
    watch.inboxes.forget()
    watch.wake_in(0)
    return "the next scan asks after every file"


def retry(watch: Daemon, now: datetime) -> str:
    """Try the failed files again whose time has come."""
    with watch.project.writes.begin() as session:
        paths = [Path(row.path) for row in db.frames.files_to_try_again(session, now)]
        gone = [path for path in paths if not path.exists()]
        for path in gone:
            db.frames.postpone(session, path, watch.settings.watch.patience, now)
    there = [path for path in paths if path not in gone][: watch.settings.batch_frames]
    return _counted(Counter(outcome.state for outcome in process_frames(there, watch.project)))


def tell(watch: Daemon, now: datetime) -> str:
    """Gather what is owed into notices, and send what is due."""
    lasting = [trouble for trouble in watch.troubles if trouble.has_lasted(LASTING, now)]
    of_itself = watch.to_tell | {
        f"daemon {one.key} {one.since.isoformat()}": f"{one.key}: {one.words}" for one in lasting
    }
    with watch.project.writes.begin() as session:
        for key, words in of_itself.items():
            db.alerts.owe_alert(session, Topic.DAEMON, key, words)
        made = dispatch.gather_alerts(session, watch.settings, now, watch.project.instruments)
    watch.to_tell.clear()
    sent = dispatch.send_unsent(watch.project, now)
    if sent.sent or sent.deferred or sent.gave_up:  # else nothing was tried
        watch.troubles.stand("mail ", {words: words for words in sent.troubles}, now)
    counts = {"notices made": made, "sent": sent.sent, "deferred": sent.deferred}
    return _counted(Counter(counts) | Counter({"given up": sent.gave_up}))


def report(watch: Daemon, now: datetime) -> str:
    """Write the morning report of the night that has ended, and send it to who asked for it."""
    night = watch.last_night(now)
    written = publish_night(watch.project, night, now, pdf=watch.settings.schedule.pdf)
    heard = mail_night(watch.project, night, written, now)
    return f"{written.html.name}, owed to {heard}"


def absence(watch: Daemon, now: datetime) -> str:
    """Look for what should have come and did not."""
    with watch.project.writes.begin() as session:
        found = owe_absences(session, watch.project.instruments, now)
    return f"{found} missed" if found else ""


def self_test(watch: Daemon, now: datetime) -> str:
    """Put faults into good images of the night, and see that they are found."""
    return run_self_test(watch.project, watch.last_night(now), now).words


def proposal(watch: Daemon, now: datetime) -> str:
    """Propose limits from what was judged and labelled; a person decides."""
    return write_proposal_page(watch.project, now)


def monthly(watch: Daemon, now: datetime) -> str:
    """Write the report of the last full month, and send it to who asked for it."""
    span = month_of(watch.last_night(now).replace(day=1) - timedelta(days=1))
    written = publish_span(watch.project, span, now, pdf=watch.settings.schedule.pdf)
    heard = mail_span(watch.project, span, written, now)
    return f"{written.html.name}, owed to {heard}"


def index(watch: Daemon, now: datetime) -> str:
    """Write the list of the reports anew: what people said since is in it, and it stays young."""
    write_index(watch.project, now)
    return ""


def search_index(watch: Daemon, now: datetime) -> str:
    """Add what has come to the index that large archives are searched with."""
    del now
    return refresh_index(watch.project, lambda *_: None, few=FEW_NEWER // 10)


def prune(watch: Daemon, now: datetime) -> str:
    """Remove what is of no use any more: fetched copies, old runs."""
    copies = prune_fetched(watch.settings, now)
    before = now - timedelta(days=watch.settings.keep.runs_days)
    with watch.project.writes.begin() as session:
        old = db.job_runs.prune_runs(session, before)
    return f"{counted(copies, 'fetched file')}, {counted(old, 'run')}"


def back_up(watch: Daemon, now: datetime) -> str:
    """Copy the database while it is in use."""
    return maintenance.back_up(watch.settings, now)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)


JOBS = (
    Job(SCAN, "look for new files", scan, lambda s: timedelta(seconds=s.watch.scan_s), FRAMES),
    Job(
        "rescan",
        "forget what was seen",
        rescan,
        lambda s: timedelta(hours=s.watch.rescan_h),
        FRAMES,
    ),
    Job("retry", "try failed files again", retry, lambda _: RETRY, FRAMES),
    Job("self-test", "find known faults", self_test, lambda s: s.schedule.self_test, FRAMES),
    Job("tell", "send what is owed", tell, lambda _: TELL, POST),
    Job("report", "morning report", report, lambda s: s.schedule.report, PAGES),
    Job("absence", "look for what is missing", absence, lambda s: s.schedule.absence, PAGES),
    Job("proposal", "propose thresholds", proposal, lambda s: s.schedule.proposal, PAGES),
    Job("monthly", "report of the month", monthly, lambda s: s.schedule.monthly, PAGES),
    Job("index", "list the reports", index, lambda _: INDEX, PAGES),
    Job("search", "index for similar frames", search_index, lambda _: INDEX, PAGES),
    Job("prune", "remove what is of no use", prune, lambda s: s.schedule.prune, PAGES),
    Job("backup", "copy the database", back_up, lambda s: s.schedule.backup, PAGES),
)
