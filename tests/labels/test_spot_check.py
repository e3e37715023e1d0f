from datetime import date, datetime, timedelta

import pytest
from scipy.stats import binom

from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.schema.models import VerdictRow
from qc.errors import InvalidInputError
from qc.labels import selection, store
from qc.labels.spot_check import (
    ONE_IN,
    AcceptanceBound,
    SpotCheckDraw,
    acceptance_bounds,
    is_drawn,
    missed_share_bound,
    read_draws,
)
from qc.summaries.night import read_night
from tests.support.verdict_rows import A_NIGHT, FIRST_NIGHT, StoredExtension, add_extensions

NIGHT = FIRST_NIGHT.date()
LATER = timedelta(hours=12)  # when people come to look


def pixels(*, drawn: bool, n: int, night: date = NIGHT) -> list[str]:
    """Return the first digests of a night that are drawn, or are not."""
    numbered = (str(number) for number in range(10_000))
    return [item for item in numbered if is_drawn(item, night) is drawn][:n]


def say(project, extension_id: int, label: LabelName, at: datetime = FIRST_NIGHT + LATER) -> None:
    with project.write_session.begin() as session:
        kind = "light_leak" if label is LabelName.BAD else ""
        db.labels.record_label(session, extension_id, LabelAnswer(label, "kim", kind, at=at))


def draws(project, first: date = NIGHT, last: date = date(2026, 12, 31)) -> list[SpotCheckDraw]:
    with project.read_session() as session:
        return read_draws(session, first, last)


def drawn(project, night: date = NIGHT) -> list[int]:
    return [item.extension_id for item in draws(project, night, night) if item.is_drawn]


def test_is_drawn_selects_one_in_five():
    fallen = sum(is_drawn(str(number), NIGHT) for number in range(5000))
    assert ONE_IN == 5
    assert binom.cdf(fallen, 5000, 1 / 5) == pytest.approx(0.5, abs=0.499)


def test_is_drawn_differs_by_night():
    nights = [NIGHT + timedelta(days=days) for days in range(200)]
    assert 20 < sum(is_drawn("same", night) for night in nights) < 65


def test_read_draws_later_frames_change_no_draw(project):
    add_extensions(project, *[StoredExtension() for _ in range(A_NIGHT // 2)])
    before = drawn(project)
    add_extensions(project, *[StoredExtension() for _ in range(A_NIGHT // 2)])
    after = drawn(project)
    assert after[: len(before)] == before


def test_read_draws_labels_change_no_draw(project):
    add_extensions(project, *[StoredExtension(pixels=item) for item in pixels(drawn=True, n=4)])
    before = drawn(project)
    assert len(before) == 4
    say(project, before[0], LabelName.GOOD)
    say(project, before[1], LabelName.BAD)
    assert drawn(project) == before


def test_read_draws_later_verdicts_change_no_draw(project):
    add_extensions(project, StoredExtension(pixels=pixels(drawn=True, n=1)[0]))
    with project.write_session.begin() as session:
        [first] = session.query(VerdictRow).all()
        columns = [item.name for item in VerdictRow.__table__.columns if item.name != "id"]
        again = {name: getattr(first, name) for name in columns}
        session.add(VerdictRow(**again | {"status": Status.ANOMALOUS}))
    assert len(drawn(project)) == 1


def test_read_draws_excludes_anomalies(project):
    [item] = pixels(drawn=True, n=1)
    add_extensions(project, StoredExtension(pixels=item, status=Status.ANOMALOUS))
    add_extensions(project, StoredExtension(pixels=item, status=Status.UNDECIDED))
    assert draws(project) == []


def test_acceptance_bounds_exclude_other_labels(project):
    odd = [StoredExtension(pixels=item) for item in pixels(drawn=False, n=3)]
    add_extensions(project, *odd, StoredExtension(pixels=pixels(drawn=True, n=1)[0]))
    for item in draws(project):
        say(project, item.extension_id, LabelName.BAD)
    [statement] = acceptance_bounds(draws(project))
    assert (statement.nominal, statement.drawn) == (4, 1)
    assert (statement.looked_at, statement.bad) == (1, 1)


def test_acceptance_bounds_exclude_certified_files(project):
    add_extensions(
        project, StoredExtension(pixels=pixels(drawn=True, n=1)[0], label=LabelName.GOOD)
    )
    [statement] = acceptance_bounds(draws(project))
    assert (statement.drawn, statement.looked_at) == (1, 0)
    assert statement.words == "not reviewed yet"


def test_acceptance_bounds_exclude_undone_labels(project):
    add_extensions(project, StoredExtension(pixels=pixels(drawn=True, n=1)[0]))
    [item] = drawn(project)
    say(project, item, LabelName.BAD)
    with project.write_session.begin() as session:
        store.undo(session, db.extensions.extensions_by_id(session, [item]), "kim")
    assert acceptance_bounds(draws(project))[0].looked_at == 0


def test_missed_share_bound_none_in_sixty_is_4_9_percent():
    statement = AcceptanceBound("UBB0", nominal=300, drawn=60, looked_at=60, bad=0)
    assert statement.words == "none bad in 60: at most 4.9 % missed, 95 %"


@pytest.mark.parametrize(("looked_at", "bad"), [(60, 1), (60, 5), (400, 0), (1, 0), (7, 6)])
def test_missed_share_bound_is_exact(looked_at, bad):
    assert binom.cdf(bad, looked_at, missed_share_bound(looked_at, bad)) == pytest.approx(0.05)


def test_missed_share_bound_all_bad_is_one():
    assert missed_share_bound(3, 3) == 1


def test_acceptance_bounds_cover_each_type_and_all():
    draws_with_labels = [
        SpotCheckDraw(1, "TB0", NIGHT, is_drawn=True, answer=LabelName.GOOD),
        SpotCheckDraw(2, "TB0", NIGHT, is_drawn=True, answer=LabelName.BAD),
        SpotCheckDraw(3, "TF0", NIGHT, is_drawn=True, answer=LabelName.VALID_OUTLIER),
        SpotCheckDraw(4, "TF0", NIGHT, is_drawn=True),
        SpotCheckDraw(5, "TF0", NIGHT, is_drawn=False),
    ]
    bounds = [
        (item.image_type, item.drawn, item.looked_at, item.bad)
        for item in acceptance_bounds(draws_with_labels)
    ]
    assert bounds == [("TB0", 2, 2, 1), ("TF0", 2, 1, 0), ("all types", 4, 3, 1)]


def test_night_report_counts_labels_of_ninety_days(project):
    old = [StoredExtension(pixels=item) for item in pixels(drawn=True, n=A_NIGHT)]
    add_extensions(project, *old)  # one night
    for item in drawn(project):
        say(project, item, LabelName.GOOD)
    for days, looked_at in ((0, 10), (89, 10), (90, 0)):
        with project.read_session() as session:
            night = read_night(session, NIGHT + timedelta(days=days), project.instruments)
        assert sum(item.looked_at for item in night.sample.statements) == looked_at


def test_select_sample_excludes_labelled_extensions(project):
    add_extensions(project, *[StoredExtension(pixels=item) for item in pixels(drawn=True, n=4)])
    first, *rest = drawn(project)
    say(project, first, LabelName.BAD)
    with project.write_session.begin() as session:
        chosen = selection.select_sample(session, None)
        store.add_labels(
            session, chosen, store.parse_answer("good", who="kim"), project.instruments
        )
    assert [item.id for item in chosen] == rest
    [statement] = acceptance_bounds(draws(project))
    assert (statement.drawn, statement.looked_at, statement.bad) == (4, 4, 1)
    with (
        project.read_session() as session,
        pytest.raises(InvalidInputError, match="all 4 drawn have a label"),
    ):
        selection.select_sample(session, NIGHT)


def test_select_sample_without_draw_is_refused(project):
    with project.read_session() as session:
        with pytest.raises(InvalidInputError, match="nothing was drawn"):
            selection.select_sample(session, None)
        with pytest.raises(InvalidInputError, match="2026-01-01: nothing was drawn"):
            selection.select_sample(session, NIGHT)
