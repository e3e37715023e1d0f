"""Definition of a recurring job, and its trigger by the settings."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from qc import errors
from qc.settings import SETTINGS_FILE, Settings

FREQUENT = dt.timedelta(minutes=10)


@dataclass(frozen=True)
class Job:
    """A recurring task of the daemon.

    Attributes
    ----------
    name : str
        Identifier in the database.
    title : str
        Short description.
    work : callable
        Function of the daemon and a time. It returns the result in a few words, empty for no
        result.
    interval : callable
        Function of the settings: the time between two runs, or a crontab line in the
        observatory's time zone.
    lane : str
        Executor; the jobs of a lane run one after another.
    """

    name: str
    title: str
    work: Callable[[Any, dt.datetime], str]
    interval: Callable[[Settings], dt.timedelta | str]
    lane: str

    def trigger(self, settings: Settings) -> BaseTrigger:
        """Return the trigger for APScheduler."""
        interval = self.interval(settings)
        if isinstance(interval, str):
            return CronTrigger.from_crontab(interval, settings.schedule.time_zone)
        return IntervalTrigger(seconds=interval.total_seconds(), timezone=dt.UTC)

    def is_frequent(self, settings: Settings) -> bool:
        """Return True if a missed run need not be repeated."""
        interval = self.interval(settings)
        return isinstance(interval, dt.timedelta) and interval <= FREQUENT


def check_schedule(settings: Settings) -> None:
    """Check the crontab lines of the settings.

    Raises
    ------
    ConfigurationError
        If APScheduler does not accept a line; the message names its key.
    """
    for name, line in settings.schedule.crontab_lines().items():
        try:
            CronTrigger.from_crontab(line, settings.schedule.time_zone)
        except ValueError as error:
            file = settings.project / SETTINGS_FILE
            raise errors.ConfigurationError(
                f"{file} or QC_*: schedule.{name}: {error}, got {line!r}"
            ) from error


def next_report(settings: Settings, after: dt.datetime) -> dt.datetime:
    """Return the time of the first morning report after a time.

    Parameters
    ----------
    settings : Settings
        Crontab line and time zone.
    after : datetime
        Aware.

    Returns
    -------
    datetime
        `after` if the line never matches.
    """
    schedule = settings.schedule
    trigger = CronTrigger.from_crontab(schedule.report, schedule.time_zone)
    time: dt.datetime | None = trigger.get_next_fire_time(None, after)
    return time or after
