from datetime import date, datetime, timedelta

import pytest
from scipy.stats import binom

from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.models import VerdictRow
from qc.errors import InvalidInputError
from qc.labels import store
from qc.labels.spot_check import (
    ONE_IN,
    AcceptanceBound,
    SpotCheckDraw,
    is_drawn,
    missed_share,
    read_draws,
    statements,
)
from qc.summaries.night import read_night
from tests.support.remembered import A_NIGHT, FIRST_NIGHT, Past, remember

NIGHT = FIRST_NIGHT.date()
LATER = timedelta(hours=12)  # when people come to look


def pixels(*, drawn: bool, n: int, night: date = NIGHT) -> list[str]:
    """The first digests that are drawn of that night, or are not."""
    numbered = (str(number) for number in range(10_000))
    return [one for one in numbered if is_drawn(one, night) is drawn][:n]


def say(project, extension_id: int, label: LabelName, at: datetime = FIRST_NIGHT + LATER) -> None:
    with project.writes.begin() as session:
        kind = "light_leak" if label is LabelName.BAD else ""
        db.labels.record_label(session, extension_id, LabelAnswer(label, "kim", kind, at=at))


def draws(project, first: date = NIGHT, last: date = date(2026, 12, 31)) -> list[SpotCheckDraw]:
    with project.reads() as session:
        return read_draws(session, first, last)


def drawn(project, night: date = NIGHT) -> list[int]:
    return [one.extension_id for one in draws(project, night, night) if one.is_drawn]


def test_one_in_five_is_drawn():
    fallen = sum(is_drawn(str(number), NIGHT) for number in range(5000))
    assert ONE_IN == 5
    assert binom.cdf(fallen, 5000, 1 / 5) == pytest.approx(0.5, abs=0.499)


def test_the_same_pixels_fall_anew_each_night():
    nights = [NIGHT + timedelta(days=days) for days in range(200)]
    assert 20 < sum(is_drawn("same", night) for night in nights) < 65


def test_frames_that_come_later_change_nobody_who_was_drawn(project):
    remember(project, *[Past() for _ in range(A_NIGHT // 2)])
    before = drawn(project)
    remember(project, *[Past() for _ in range(A_NIGHT // 2)])
    after = drawn(project)
    assert after[: len(before)] == before


def test_labels_change_nobody_who_was_drawn(project):
    remember(project, *[Past(pixels=one) for one in pixels(drawn=True, n=4)])
    before = drawn(project)
    assert len(before) == 4
    say(project, before[0], LabelName.GOOD)
    say(project, before[1], LabelName.BAD)
    assert drawn(project) == before


def test_a_later_verdict_changes_nobody_who_was_drawn(project):
    remember(project, Past(pixels=pixels(drawn=True, n=1)[0]))
    with project.writes.begin() as session:
        [first] = session.query(VerdictRow).all()
        columns = [one.name for one in VerdictRow.__table__.columns if one.name != "id"]
        again = {name: getattr(first, name) for name in columns}
        session.add(VerdictRow(**again | {"status": Status.ANOMALOUS}))
    assert len(drawn(project)) == 1


def test_an_anomaly_is_not_drawn_whatever_its_pixels(project):
    [one] = pixels(drawn=True, n=1)
    remember(project, Past(pixels=one, status=Status.ANOMALOUS))
    remember(project, Past(pixels=one, status=Status.UNDECIDED))
    assert draws(project) == []


def test_what_was_labelled_because_it_looked_odd_does_not_count(project):
    odd = [Past(pixels=one) for one in pixels(drawn=False, n=3)]
    remember(project, *odd, Past(pixels=pixels(drawn=True, n=1)[0]))
    for one in draws(project):
        say(project, one.extension_id, LabelName.BAD)
    [statement] = statements(draws(project))
    assert (statement.nominal, statement.drawn) == (4, 1)
    assert (statement.looked_at, statement.bad) == (1, 1)


def test_a_certificate_given_with_the_file_is_not_a_look(project):
    remember(project, Past(pixels=pixels(drawn=True, n=1)[0], label=LabelName.GOOD))
    [statement] = statements(draws(project))
    assert (statement.drawn, statement.looked_at) == (1, 0)
    assert statement.words == "nobody has looked yet"


def test_a_label_that_was_undone_is_no_answer(project):
    remember(project, Past(pixels=pixels(drawn=True, n=1)[0]))
    [one] = drawn(project)
    say(project, one, LabelName.BAD)
    with project.writes.begin() as session:
        store.undo(session, db.selection.extensions_with(session, [one]), "kim")
    assert statements(draws(project))[0].looked_at == 0


def test_none_bad_in_sixty_is_at_most_4_9_percent():
    statement = AcceptanceBound("UBB0", nominal=300, drawn=60, looked_at=60, bad=0)
    assert statement.words == "none bad in 60: at most 4.9 % missed, 95 %"


@pytest.mark.parametrize(("looked_at", "bad"), [(60, 1), (60, 5), (400, 0), (1, 0), (7, 6)])
def test_at_the_bound_so_few_bad_ones_are_seen_in_one_sample_of_twenty(looked_at, bad):
    assert binom.cdf(bad, looked_at, missed_share(looked_at, bad)) == pytest.approx(0.05)


def test_a_sample_that_is_all_bad_bounds_nothing():
    assert missed_share(3, 3) == 1


def test_a_statement_is_made_for_each_type_and_for_all():
    said = [
        SpotCheckDraw(1, "TB0", NIGHT, is_drawn=True, answer=LabelName.GOOD),
        SpotCheckDraw(2, "TB0", NIGHT, is_drawn=True, answer=LabelName.BAD),
        SpotCheckDraw(3, "TF0", NIGHT, is_drawn=True, answer=LabelName.VALID_OUTLIER),
        SpotCheckDraw(4, "TF0", NIGHT, is_drawn=True),
        SpotCheckDraw(5, "TF0", NIGHT, is_drawn=False),
    ]
    told = [(one.image_type, one.drawn, one.looked_at, one.bad) for one in statements(said)]
    assert told == [("TB0", 2, 2, 1), ("TF0", 2, 1, 0), ("all types", 4, 3, 1)]


def test_answers_of_ninety_days_add_up_in_the_nights_report_and_older_ones_do_not(project):
    old = [Past(pixels=one) for one in pixels(drawn=True, n=A_NIGHT)]
    remember(project, *old)  # one night
    for one in drawn(project):
        say(project, one, LabelName.GOOD)
    for days, looked_at in ((0, 10), (89, 10), (90, 0)):
        with project.reads() as session:
            night = read_night(session, NIGHT + timedelta(days=days), project.instruments)
        assert sum(one.looked_at for one in night.sample.statements) == looked_at


def test_the_whole_sample_is_answered_for_at_once_but_for_what_was_labelled(project):
    remember(project, *[Past(pixels=one) for one in pixels(drawn=True, n=4)])
    first, *rest = drawn(project)
    say(project, first, LabelName.BAD)
    with project.writes.begin() as session:
        chosen = store.choose_sample(session, None)
        store.answer_for(session, chosen, store.read_answer("good", who="kim"), project.instruments)
    assert [one.id for one in chosen] == rest
    [statement] = statements(draws(project))
    assert (statement.drawn, statement.looked_at, statement.bad) == (4, 4, 1)
    with (
        project.reads() as session,
        pytest.raises(InvalidInputError, match="all 4 drawn have a label"),
    ):
        store.choose_sample(session, NIGHT)


def test_where_nothing_was_drawn_there_is_nothing_to_answer_for(project):
    with project.reads() as session:
        with pytest.raises(InvalidInputError, match="nothing was drawn"):
            store.choose_sample(session, None)
        with pytest.raises(InvalidInputError, match="2026-01-01: nothing was drawn"):
            store.choose_sample(session, NIGHT)
