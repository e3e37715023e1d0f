"""Spot check: acceptance sampling of nominal extensions, with a bound on missed anomalies.

The sample follows from pixels and night alone. Later frames, labels and verdicts do not change it:
a sample that depended on its own labels would be biased.
"""

import datetime as dt
from collections import abc, defaultdict
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.extensions import first_verdict_id
from qc.db.labels import current_label, labels_of
from qc.db.schema import models

ONE_IN = 5  # about 50 extensions of a busy night: two minutes of review
REMEMBERED = dt.timedelta(days=90)  # older labels do not count
CONFIDENCE = 0.95
A_LOOK = dt.timedelta(
    seconds=10
)  # a label sooner after the verdict certifies a file without review
_ROWS_PER_FETCH = 2000


@dataclass(frozen=True)
class SpotCheckDraw:
    """Nominal extension of a night, drawn or not.

    Attributes
    ----------
    answer : LabelName or None
        Current label after a review.
    """

    extension_id: int
    image_type: str
    night: dt.date
    is_drawn: bool
    answer: LabelName | None = None


@dataclass(frozen=True)
class AcceptanceBound:
    """Upper bound on missed anomalies among the nominal extensions of an image type.

    Attributes
    ----------
    image_type : str
        One image type, or "all types".
    nominal : int
        Extensions judged nominal.
    drawn, looked_at, bad : int
        Extensions drawn from them; reviewed; labelled bad.
    """

    image_type: str
    nominal: int
    drawn: int
    looked_at: int
    bad: int

    @property
    def at_most(self) -> float | None:
        """Return the upper bound on the share of missed anomalies; None without a review."""
        return missed_share_bound(self.looked_at, self.bad) if self.looked_at else None

    @property
    def words(self) -> str:
        """Return the bound in words: ``none bad in 60: at most 4.9 % missed, 95 %``."""
        if self.at_most is None:
            return "not reviewed yet"
        count = f"{self.bad} bad" if self.bad else "none bad"
        bound = f"at most {100 * self.at_most:.1f} % missed, {100 * CONFIDENCE:.0f} %"
        return f"{count} in {self.looked_at}: {bound}"


def is_drawn(pixels_sha256: str, night: dt.date) -> bool:
    """Return True for one in five extensions, by a hash of pixels and night.

    Parameters
    ----------
    pixels_sha256 : str
        Hex digest of the pixels.
    night : date

    Returns
    -------
    bool
        The same for every process.
    """
    digest = blake2b(pixels_sha256.encode(), key=night.isoformat().encode(), digest_size=8)
    return int.from_bytes(digest.digest()) % ONE_IN == 0


def missed_share_bound(looked_at: int, bad: int) -> float:
    """Return the 95 % upper bound on the share of anomalies in a sampled population.

    The upper end of the one-sided interval of Clopper & Pearson (1934, Biometrika 26, 404). It is
    exact for an infinite population and conservative for a finite one.

    Parameters
    ----------
    looked_at : int
        Size of the random sample.
    bad : int
        Anomalies among it.

    Returns
    -------
    float
        0 to 1.
    """
    from scipy.stats import beta  # slow to import, and few callers need it

    if bad >= looked_at:
        return 1.0
    return float(beta.ppf(CONFIDENCE, bad + 1, looked_at - bad))


def first_counted_night(last: dt.date) -> dt.date:
    """Return the first of the 90 nights that end with `last`."""
    return last - REMEMBERED + dt.timedelta(days=1)


def read_draws(session: Session, first: dt.date, last: dt.date) -> list[SpotCheckDraw]:
    """Return the extensions of some nights whose first verdict was nominal, in order of time.

    A frame that is judged anomalous only after similar frames were labelled counts as missed.
    Labels before the first verdict do not count.

    Parameters
    ----------
    session : Session
    first, last : date
        First and last night.

    Returns
    -------
    list of SpotCheckDraw
    """
    rows = list(_nominal_rows(session, first, last))
    drawn = [row.id for row in rows if is_drawn(row.pixels_sha256, row.night)]
    histories = labels_of(session, drawn)
    return [
        SpotCheckDraw(
            extension_id=row.id,
            image_type=row.image_type,
            night=row.night,
            is_drawn=is_drawn(row.pixels_sha256, row.night),
            answer=_reviewed_label(histories.get(row.id, ()), row.judged_at),
        )
        for row in rows
    ]


def _nominal_rows(session: Session, first: dt.date, last: dt.date) -> abc.Iterable[Any]:
    query = (
        select(
            models.ExtensionRow.id,
            models.ExtensionRow.image_type,
            models.ExtensionRow.pixels_sha256,
            models.FrameRow.night,
            models.VerdictRow.judged_at,
        )
        .join(models.ExtensionRow.frame)
        .join(models.VerdictRow, models.VerdictRow.id == first_verdict_id())
        .where(
            models.FrameRow.night >= first,
            models.FrameRow.night <= last,
            models.VerdictRow.status == Status.NOMINAL,
        )
        .order_by(models.FrameRow.observed_at, models.FrameRow.id, models.ExtensionRow.number)
    )
    return session.execute(query.execution_options(yield_per=_ROWS_PER_FETCH))


def _reviewed_label(
    rows: abc.Sequence[models.LabelRow], judged_at: dt.datetime
) -> LabelName | None:
    """Return the current label if its author had time to review the extension."""
    row = current_label(rows)
    if row is None or row.at < judged_at + A_LOOK:
        return None
    return LabelName(row.label)


def acceptance_bounds(draws: abc.Iterable[SpotCheckDraw]) -> tuple[AcceptanceBound, ...]:
    """Return the bound of each image type, by name, and of all types together."""
    by_type: dict[str, list[SpotCheckDraw]] = defaultdict(list)
    for draw in draws:
        by_type[draw.image_type].append(draw)
    bounds = [_bound_of(name, by_type[name]) for name in sorted(by_type)]
    if len(bounds) > 1:
        bounds.append(_bound_of("all types", [draw for own in by_type.values() for draw in own]))
    return tuple(bounds)


def _bound_of(image_type: str, draws: abc.Sequence[SpotCheckDraw]) -> AcceptanceBound:
    labels = [draw.answer for draw in draws if draw.is_drawn and draw.answer is not None]
    return AcceptanceBound(
        image_type=image_type,
        nominal=len(draws),
        drawn=sum(draw.is_drawn for draw in draws),
        looked_at=len(labels),
        bad=labels.count(LabelName.BAD),
    )


def drawn_answers(draws: abc.Iterable[SpotCheckDraw]) -> abc.Mapping[int, LabelName | None]:
    """Return the label of each drawn extension by its id; None where not reviewed."""
    return {draw.extension_id: draw.answer for draw in draws if draw.is_drawn}
