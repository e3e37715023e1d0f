"""The spot check: nominal extensions drawn by chance for the eye, and what their answers prove.

Who is drawn follows from the pixels and the night alone. What comes later, what people say and
what is judged again change nothing: a sample that its own answers could move would prove nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Any

from scipy.stats import beta
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.labels import labels_of, standing
from qc.db.models import ExtensionRow, FrameRow, LabelRow, VerdictRow
from qc.db.verdicts import first_verdict_id

ONE_IN = 5  # about 50 of a busy night: what can be looked at in two minutes
REMEMBERED = timedelta(days=90)  # answers of longer ago prove nothing about the present
CONFIDENCE = 0.95
A_LOOK = timedelta(seconds=10)  # a word given sooner after the verdict certifies a file, unseen
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class SpotCheckDraw:
    """A nominal extension of a night, drawn or not.

    Attributes
    ----------
    answer : LabelName or None
        A person's newest word on it, if somebody has looked at it.
    """

    extension_id: int
    image_type: str
    night: date
    is_drawn: bool
    answer: LabelName | None = None


@dataclass(frozen=True)
class AcceptanceBound:
    """What the answers prove of the nominal extensions of an image type.

    Attributes
    ----------
    image_type : str
        Or words for several of them.
    nominal : int
        Extensions judged nominal, from which was drawn.
    drawn, looked_at, bad : int
    """

    image_type: str
    nominal: int
    drawn: int
    looked_at: int
    bad: int

    @property
    def at_most(self) -> float | None:
        """Bound the share of missed anomalies; None if nobody has looked."""
        return missed_share(self.looked_at, self.bad) if self.looked_at else None

    @property
    def words(self) -> str:
        """Say it: ``none bad in 60: at most 4.9 % missed, 95 %``."""
        if self.at_most is None:
            return "nobody has looked yet"
        found = f"{self.bad} bad" if self.bad else "none bad"
        bound = f"at most {100 * self.at_most:.1f} % missed, {100 * CONFIDENCE:.0f} %"
        return f"{found} in {self.looked_at}: {bound}"


def is_drawn(pixels_sha256: str, night: date) -> bool:
    """Say whether an extension is drawn: one in five is, whatever else the night brings.

    A hash of what nobody chooses is as good as a die, and falls the same way for every reader.
    """
    fallen = blake2b(pixels_sha256.encode(), key=night.isoformat().encode(), digest_size=8)
    return int.from_bytes(fallen.digest()) % ONE_IN == 0


def missed_share(looked_at: int, bad: int) -> float:
    """Bound the share of anomalies from which `bad` were found among `looked_at` drawn by chance.

    The upper end of the one-sided 95 % interval of Clopper & Pearson (1934, Biometrika 26, 404):
    were the share larger, so few would be found in less than 5 % of samples. Exact for an endless
    supply, and on the safe side for a finite one.
    """
    if bad >= looked_at:
        return 1.0
    return float(beta.ppf(CONFIDENCE, bad + 1, looked_at - bad))


def remembered_from(last: date) -> date:
    """Return the first of the 90 nights that end with `last`."""
    return last - REMEMBERED + timedelta(days=1)


def read_draws(session: Session, first: date, last: date) -> list[SpotCheckDraw]:
    """Return the extensions of these nights that were nominal when they came, in order of time.

    The first verdict counts: a frame that is called an anomaly after people had labelled its like
    was missed all the same. So does only what was said after it.
    """
    rows = list(_nominal_rows(session, first, last))
    drawn = [row.id for row in rows if is_drawn(row.pixels_sha256, row.night)]
    said = labels_of(session, drawn)
    return [
        SpotCheckDraw(
            extension_id=row.id,
            image_type=row.image_type,
            night=row.night,
            is_drawn=is_drawn(row.pixels_sha256, row.night),
            answer=_answer(said.get(row.id, ()), row.judged_at),
        )
        for row in rows
    ]


def _nominal_rows(session: Session, first: date, last: date) -> Iterable[Any]:
    query = (
        select(
            ExtensionRow.id,
            ExtensionRow.image_type,
            ExtensionRow.pixels_sha256,
            FrameRow.night,
            VerdictRow.judged_at,
        )
        .join(ExtensionRow.frame)
        .join(VerdictRow, VerdictRow.id == first_verdict_id())
        .where(FrameRow.night >= first, FrameRow.night <= last, VerdictRow.status == Status.NOMINAL)
        .order_by(FrameRow.observed_at, FrameRow.id, ExtensionRow.number)
    )
    return session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))


def _answer(said: Sequence[LabelRow], judged_at: datetime) -> LabelName | None:
    """Return what a person who may have looked says."""
    row = standing(said)
    looked = row is not None and row.at >= judged_at + A_LOOK
    return LabelName(row.label) if row and looked else None


def statements(draws: Iterable[SpotCheckDraw]) -> tuple[AcceptanceBound, ...]:
    """Say what the answers prove of each image type, and of all; the types by name."""
    by_type: dict[str, list[SpotCheckDraw]] = defaultdict(list)
    for one in draws:
        by_type[one.image_type].append(one)
    found = [_statement(name, own) for name, own in sorted(by_type.items())]
    every = [one for own in by_type.values() for one in own]
    return (*found, _statement("all types", every)) if len(found) > 1 else tuple(found)


def _statement(image_type: str, draws: Sequence[SpotCheckDraw]) -> AcceptanceBound:
    answers = [one.answer for one in draws if one.is_drawn and one.answer is not None]
    return AcceptanceBound(
        image_type=image_type,
        nominal=len(draws),
        drawn=sum(one.is_drawn for one in draws),
        looked_at=len(answers),
        bad=answers.count(LabelName.BAD),
    )


def answers_of(draws: Iterable[SpotCheckDraw]) -> Mapping[int, LabelName | None]:
    """Return the extensions that were drawn, by id, with what a person says of each."""
    return {one.extension_id: one.answer for one in draws if one.is_drawn}
