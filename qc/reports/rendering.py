"""Rendering: Jinja templates, number formats and page files."""

import datetime as dt
import functools
import platform
from collections import abc
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import jinja2

from qc import _text, core
from qc._files import atomic_writer
from qc.detection.decision import describe_sample
from qc.labels import spot_check
from qc.monitoring.recall import SHOWN_NIGHTS
from qc.reports import extension_figures, trend_figures
from qc.summaries import night_range, standing
from qc.summaries.night import HISTORY_NIGHTS

Progress = abc.Callable[[int, int], None]
T = TypeVar("T")

LISTED = 200  # rows of a table; an export has all
LARGEST = 1000  # larger scores and sigmas are shown as ">1000"


class ProgressIterator:
    """Counts items and reports the progress.

    Parameters
    ----------
    total : int
        Number of all items.
    progress : callable or None
        Function of the number of finished items and the total.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.done = total, progress, 0

    def iterate(self, items: abc.Iterable[T]) -> abc.Iterator[T]:
        """Yield items; each is finished when the next one is requested."""
        for item in items:
            yield item
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total)


def render_template(template: str, **context: object) -> str:
    """Return a self-contained page.

    Parameters
    ----------
    template : str
        File name of the template.
    **context : object
        Variables of the template.

    Returns
    -------
    str
    """
    versions = {"calibration-qc": version("calibration-qc"), "Python": platform.python_version()}
    return _environment().get_template(template).render(versions=versions, **context)


@functools.cache
def _environment() -> jinja2.Environment:
    packages = ("qc.reports", "qc.alerts")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": format_score,
        "age": format_age,
        "sigma": format_sigma,
        "utc": format_second,
        "sample": describe_sample,
        "duration": night_range.format_duration,
    }
    environment.globals |= {
        "counted": _text.pluralise,
        "standing_of": standing.standing_of,
        "listed": LISTED,
        "ample": core.REFERENCE_AMPLE,
        "history_nights": HISTORY_NIGHTS,
        "recall_nights": SHOWN_NIGHTS,
        "days_after": extension_figures.DAYS_AFTER.days,
        "largest_score": f"{trend_figures.LARGEST_SCORE:g}",
        "confidence": spot_check.CONFIDENCE,
        "one_in": spot_check.ONE_IN,
        "remembered_days": spot_check.REMEMBERED.days,
    }
    return environment


def format_score(score: float) -> str:
    """Return a score with three digits."""
    if score > LARGEST:
        return f">{LARGEST}"
    return f"{score:.2f}" if score < 10 else f"{score:.0f}"


def format_sigma(sigma: float) -> str:
    """Return a deviation in standard deviations, with sign."""
    if abs(sigma) > LARGEST:
        return f">+{LARGEST}" if sigma > 0 else f"<-{LARGEST}"
    return f"{sigma:+.1f}" if abs(sigma) < 100 else f"{sigma:+.0f}"


def format_age(age: dt.timedelta) -> str:
    """Return an age in hours or days."""
    hours = age.total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def format_second(time: dt.datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{time.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}"


def write_page(file: Path, page: str) -> Path:
    """Write a page; the previous file stays until the new one is complete.

    Parameters
    ----------
    file : Path
        File; its folder is created.
    page : str
        HTML.

    Returns
    -------
    Path
        The file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_writer(file) as stream:
        stream.write(page.encode())
    return file
