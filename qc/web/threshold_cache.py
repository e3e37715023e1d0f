"""What was judged of an image type, kept for all pages that try limits on it."""

from datetime import date

from sqlalchemy.orm import Session

from qc import db
from qc._cache import LRUCache
from qc.detection.thresholds import Threshold
from qc.project import Project
from qc.tuning import proposals
from qc.tuning.proposals import PastVerdicts, VerdictHistory

NEWEST = 20_000  # extensions of a type that limits are tried on: 100 MB, and years of a type
_TYPES = 3  # whose past is kept
_LIMITS = 6  # that it is kept beside


def past_of(
    project: Project,
    session: Session,
    kept: LRUCache,
    image_type: str,
    present: Threshold,
    since: date,
) -> PastVerdicts:
    """Return a type's past from a night on, beside the limits that are in force.

    It is read again only when something of it has changed, and sorted out again when the limits
    have.
    """
    stamp = *db.findings.newest_word(session, image_type), project.encoder.fingerprint
    records: LRUCache = kept.get("records", None, lambda: LRUCache(_TYPES))
    pasts: LRUCache = kept.get("pasts", None, lambda: LRUCache(_LIMITS))

    def sort_out() -> PastVerdicts:
        record: VerdictHistory = records.get(
            (image_type, since), stamp, lambda: proposals.read_record(project, image_type, since)
        )
        history = proposals.sort_out(record, present)
        return PastVerdicts(image_type, present, history, record.notes)

    name = image_type, since, present.since
    past: PastVerdicts = pasts.get(name, (stamp, project.thresholds.digest), sort_out)
    return past
