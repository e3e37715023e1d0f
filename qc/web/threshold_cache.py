"""What was judged of an image type, kept for all pages that try limits on it."""

from datetime import date

from sqlalchemy.orm import Session

from qc import db
from qc._cache import Kept
from qc.detection.thresholds import Threshold
from qc.project import Runtime
from qc.tuning import proposals
from qc.tuning.proposals import Past, Record

NEWEST = 20_000  # extensions of a type that limits are tried on: 100 MB, and years of a type
_TYPES = 3  # whose past is kept
_LIMITS = 6  # that it is kept beside


def past_of(
    runtime: Runtime,
    session: Session,
    kept: Kept,
    image_type: str,
    present: Threshold,
    since: date,
) -> Past:
    """Return a type's past from a night on, beside the limits that are in force.

    It is read again only when something of it has changed, and sorted out again when the limits
    have.
    """
    stamp = *db.findings.newest_word(session, image_type), runtime.encoder.fingerprint
    records: Kept = kept.get("records", None, lambda: Kept(_TYPES))
    pasts: Kept = kept.get("pasts", None, lambda: Kept(_LIMITS))

    def sort_out() -> Past:
        record: Record = records.get(
            (image_type, since), stamp, lambda: proposals.read_record(runtime, image_type, since)
        )
        history = proposals.sort_out(record, present)
        return Past(image_type, present, history, record.notes)

    name = image_type, since, present.since
    past: Past = pasts.get(name, (stamp, runtime.thresholds.digest), sort_out)
    return past
