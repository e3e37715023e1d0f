"""Cached verdict histories of image types, for the pages that try thresholds on them."""

from datetime import date

from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc.detection.thresholds import Threshold
from qc.project import ProjectContext
from qc.tuning import history
from qc.tuning.history import PastVerdicts, VerdictHistory

NEWEST = 20_000  # extensions of a type on which thresholds are tried: 100 MB, several years
_MOST_HISTORIES = 3
_MOST_GROUPED = 6


def read_past(
    project: ProjectContext,
    session: Session,
    cache: LRUCache,
    image_type: str,
    present: Threshold,
    since: date,
) -> PastVerdicts:
    """Return the verdicts of an image type since a night, grouped by the present thresholds.

    The verdicts are read again only if a verdict, label or intervention is new, and grouped again
    only if the thresholds have changed.

    Parameters
    ----------
    project : ProjectContext
    session : Session
        For reading.
    cache : LRUCache
    image_type : str
    present : Threshold
        The thresholds in force.
    since : date
        First night.
    """
    stamp = *db.extensions.newest_ids_of_type(session, image_type), project.encoder.fingerprint
    histories: LRUCache = cache.get("records", None, lambda: LRUCache(_MOST_HISTORIES))
    grouped: LRUCache = cache.get("pasts", None, lambda: LRUCache(_MOST_GROUPED))

    def group() -> PastVerdicts:
        verdicts: VerdictHistory = histories.get(
            (image_type, since),
            stamp,
            lambda: history.read_verdict_history(project, image_type, since),
        )
        cases = history.group_cases(verdicts, present)
        return PastVerdicts(image_type, present, cases, verdicts.notes)

    key = image_type, since, present.since
    past: PastVerdicts = grouped.get(key, (stamp, project.thresholds.digest), group)
    return past
