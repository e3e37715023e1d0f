"""Filters of the review queue, and their conditions on database rows."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from qc import _text, core, db, errors, io
from qc.db.schema import models
from qc.labels import spot_check
from qc.project import image_types_of

_SETUP_COLUMNS = ("chip", "binning", "read_mode", "optics")
_MAX_DRAWN = 30_000  # ids that one query accepts


class QueueOrder(StrEnum):
    """Order of the review queue."""

    DOUBT = "doubt"  # extensions without verdict, then those nearest to the limit
    SCORE = "score"  # highest first
    TIME = "time"  # newest first
    INFORMATIVE = "informative"  # most informative for the classifier first


class LabelFilter(StrEnum):
    """Selection by the presence of a valid label."""

    NO = "no"
    YES = "yes"
    ANY = "any"


@dataclass(frozen=True)
class QueueFilters:
    """Selection of extensions; None and empty text select all.

    Attributes
    ----------
    first, last : date or None
        Nights.
    types : str
        Image types, separated by commas or spaces, with the wildcards ``*`` and ``?``.
    setup : str
        Words that must all occur in chip, binning, read mode, optics or wavelength.
    status : str
        Status of the newest verdict.
    kind : str
        Fault kind: the labelled one, or the predicted one without a label.
    least, most : float or None
        Range of the score.
    labelled : LabelFilter
        Presence of a valid label.
    by : str
        Author of the valid label.
    is_sample : bool
        Only the spot check; that of the newest night without `last`.
    order : QueueOrder
        Order of the result.
    """

    first: dt.date | None = None
    last: dt.date | None = None
    types: str = ""
    setup: str = ""
    status: str = ""
    kind: str = ""
    least: float | None = None
    most: float | None = None
    labelled: LabelFilter = LabelFilter.ANY
    by: str = ""
    is_sample: bool = False
    order: QueueOrder = QueueOrder.DOUBT

    @property
    def nights(self) -> tuple[dt.date, dt.date]:
        """Return the first and the last night."""
        return self.first or dt.date.min, self.last or dt.date.max


def build_conditions(
    session: orm.Session, instruments: Sequence[io.Instrument], filters: QueueFilters
) -> list[sa.ColumnElement[bool]]:
    """Return all conditions of the filters.

    Parameters
    ----------
    session : Session
        For reading.
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection.

    Returns
    -------
    list of ColumnElement
        Conditions on a query that joins extension, frame and newest verdict.

    Raises
    ------
    InvalidInputError
        If an image type, a status or a kind does not exist, or the spot check spans too many
        nights.
    """
    conditions = db.schema.engine.night_conditions(*filters.nights)
    conditions += type_conditions(instruments, filters)
    conditions += [setup_condition(term) for term in filters.setup.split()]
    if filters.status:
        status = core.Status(_text.match_name(filters.status, core.Status, "status"))
        conditions.append(models.VerdictRow.status == status)
    if filters.least is not None:
        conditions.append(models.VerdictRow.score >= filters.least)
    if filters.most is not None:
        conditions.append(models.VerdictRow.score <= filters.most)
    conditions += label_conditions(instruments, filters)
    return conditions + spot_check_conditions(session, filters)


def type_conditions(
    instruments: Sequence[io.Instrument], filters: QueueFilters
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on the image type.

    Parameters
    ----------
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection.

    Returns
    -------
    list of ColumnElement

    Raises
    ------
    InvalidInputError
        If an image type does not exist.
    """
    patterns = filters.types.replace(",", " ").split()
    image_types = _text.match_names(patterns, image_types_of(instruments), "image type")
    return [models.ExtensionRow.image_type.in_(image_types)] if patterns else []


def setup_condition(term: str) -> sa.ColumnElement[bool]:
    """Return the condition that a term occurs in the setup, or is the wavelength."""
    texts = [
        getattr(models.ExtensionRow, name).icontains(term, autoescape=True)
        for name in _SETUP_COLUMNS
    ]
    try:
        return sa.or_(*texts, models.ExtensionRow.wavelength_nm == float(term))
    except ValueError:
        return sa.or_(*texts)


def label_conditions(
    instruments: Sequence[io.Instrument], filters: QueueFilters
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions on the valid label.

    Parameters
    ----------
    instruments : sequence of Instrument
        Instruments of the project.
    filters : QueueFilters
        Selection.

    Returns
    -------
    list of ColumnElement

    Raises
    ------
    InvalidInputError
        If the fault kind does not exist.
    """
    conditions: list[sa.ColumnElement[bool]] = []
    newest = db.labels.newest_label()
    labelled = sa.select(models.LabelRow.extension_id).where(
        models.LabelRow.id == newest_label_id()
    )
    if filters.labelled is LabelFilter.NO:
        conditions.append(newest.is_(None))
    elif filters.labelled is LabelFilter.YES:
        conditions.append(models.ExtensionRow.id.in_(labelled))
    if filters.by:
        conditions.append(
            models.ExtensionRow.id.in_(labelled.where(models.LabelRow.who == filters.by))
        )
    if filters.kind:
        names = [kind.name for instrument in instruments for kind in instrument.fault_kinds()]
        kind = _text.match_name(filters.kind, dict.fromkeys(names), "kind of fault")
        predicted = sa.and_(models.VerdictRow.predicted_kind == kind, newest.is_(None))
        conditions.append(sa.or_(predicted, db.labels.newest_label(models.LabelRow.kind) == kind))
    return conditions


def newest_label_id() -> Any:
    """Return the id of the valid label of the extension of the enclosing query's label."""
    earlier, undoing = orm.aliased(models.LabelRow), orm.aliased(models.LabelRow)
    undone = sa.exists().where(undoing.undoes_id == earlier.id)
    return (
        sa.select(sa.func.max(earlier.id))
        .where(
            earlier.extension_id == models.LabelRow.extension_id,
            (earlier.undoes_id + 0).is_(None),
            ~undone,
        )
        .correlate(models.LabelRow)
        .scalar_subquery()
    )


def spot_check_conditions(
    session: orm.Session, filters: QueueFilters
) -> list[sa.ColumnElement[bool]]:
    """Return the condition on the spot check: a list of ids, as SQL cannot compute the hash.

    Parameters
    ----------
    session : Session
        For reading.
    filters : QueueFilters
        Selection.

    Returns
    -------
    list of ColumnElement

    Raises
    ------
    InvalidInputError
        If the nights span more than the 90 nights of the spot check.
    """
    if not filters.is_sample:
        return []
    last = filters.last or db.statistics.newest_night(session)
    if last is None:
        return []
    first = filters.first or last
    if first < spot_check.first_counted_night(last):
        raise errors.InvalidInputError("the spot check spans 90 nights at most: narrow the nights")
    drawn = list(spot_check.drawn_answers(spot_check.read_draws(session, first, last)))
    return [models.ExtensionRow.id.in_(drawn[-_MAX_DRAWN:])]
