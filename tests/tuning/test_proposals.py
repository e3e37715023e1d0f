from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.detection.decision import judge
from qc.detection.thresholds import read_thresholds
from qc.errors import ConfigurationError, InsufficientDataError, InvalidInputError
from qc.reports.threshold_proposals import write_proposal_page
from qc.tuning.proposals import (
    TuningGoal,
    draw_proposals,
    proposal_record,
    propose,
    propose_all,
    read_record,
    sort_out,
    write_proposals,
)
from tests.support.remembered import Past, nominal_frames, remember
from tests.support.tiny import MERGE_HEIGHT, open_tiny

GOAL = TuningGoal(effective=date(2026, 6, 1))
GOOD, BAD, OUTLIER = LabelName.GOOD, LabelName.BAD, LabelName.VALID_OUTLIER


def proposed(project, goal=GOAL):
    return propose(project, "TB0", goal, "a test", "kim")


def bad_frames(*heights: float, kind: str = "lamp_weak") -> list[Past]:
    """At so many times the present limit."""
    return [Past(each * MERGE_HEIGHT, label=BAD, kind=kind) for each in heights]


def test_from_nominal_frames_alone_limits_are_set_for_the_rate_granted(project):
    remember(project, *nominal_frames())
    found = proposed(project, replace(GOAL, false_alarms=0.01))
    assert found.basis == "tuned from 100 nominal frames to 0.01 false alarms, none bad"
    assert found.proposed.false_alarms == 0.01
    assert found.proposed.why == f"a test; {found.basis}"
    assert (found.proposed.since, found.proposed.by) == (GOAL.effective, "kim")
    assert found.false_alarms.low <= 0.01 <= found.false_alarms.high
    assert found.merge_height.low < found.proposed.merge_height < found.merge_height.high
    assert 0.4 * MERGE_HEIGHT < found.proposed.merge_height < 0.9 * MERGE_HEIGHT
    assert found.recall is found.precision is None


def test_without_a_wish_the_rate_granted_before_is_granted_again(project):
    remember(project, *nominal_frames())
    assert proposed(project).proposed.false_alarms == 0.001


def test_frames_without_a_label_are_as_good_as_labelled_ones(project):
    remember(project, *nominal_frames(label=None))
    assert len(proposed(project).history.nominal) == 100


def test_a_single_bad_frame_says_little_of_the_recall_and_changes_no_limit(project):
    remember(project, *nominal_frames())
    before = proposed(project)
    remember(project, *bad_frames(30))
    after = proposed(project)
    assert after.proposed.merge_height == before.proposed.merge_height
    assert after.basis.endswith("false alarms, 1 frame labelled bad")
    assert after.recall is not None
    assert (after.recall.value, after.recall.low < 0.2) == (1, True)


def test_with_labels_limits_are_scaled_together_to_the_best_f1(project):
    """All bad frames lie at half the present limit and more, all nominal ones lower."""
    past = [Past(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)]
    remember(project, *past, *bad_frames(*np.linspace(0.5, 0.95, 10)))
    found = proposed(project)
    assert found.basis == "tuned to the best F1 of 10 bad and 60 nominal frames"
    factor = found.proposed.merge_height / MERGE_HEIGHT
    assert 0.35 < factor < 0.5
    assert found.proposed.residual == pytest.approx(1000 * factor, rel=0.01)
    assert found.recall is not None
    assert found.recall.value > 0.9
    assert [flip.kind for flip in found.newly_flagged] == ["lamp_weak"] * 10
    assert found.no_longer_flagged == ()


def test_a_recall_is_kept_by_the_widest_limits_that_do(project):
    past = [Past(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)]
    remember(project, *past, *bad_frames(*np.linspace(0.5, 0.95, 10)))
    found = proposed(project, replace(GOAL, recall=0.8))
    assert sum(flip.label == "bad" for flip in found.newly_flagged) >= 8
    assert found.basis == "tuned to a recall of 0.8 of 10 bad and 60 nominal frames"


def test_past_frames_that_flip_are_told_by_name_in_both_directions(project):
    odd = [Past(1.2 * MERGE_HEIGHT, label=GOOD), Past(1.3 * MERGE_HEIGHT, label=GOOD)]
    remember(project, *nominal_frames(60), *odd, *bad_frames(*np.linspace(4, 9, 10)))
    [fine] = remember(project, Past(0.3 * MERGE_HEIGHT, residual=9000.0))
    found = proposed(project)
    assert {flip.name for flip in found.no_longer_flagged} == {"TINY.60[0]", "TINY.61[0]"}
    assert fine in {case.name for case in found.history.unexplained}
    tighter = proposed(project, replace(GOAL, false_alarms=0.1))
    assert tighter.newly_flagged
    assert all(flip.ratio > 1 for flip in tighter.newly_flagged)


def test_status_by_the_proposal_is_what_the_judge_would_say(project):
    odd = [Past(height * MERGE_HEIGHT, references=25) for height in np.linspace(0.5, 2, 40)]
    off = [Past(bias_level_adu=300.0, label=BAD), Past(bias_level_z=15.0, label=GOOD)]
    remember(project, *nominal_frames(60), *odd, *off)
    found = proposed(project, replace(GOAL, false_alarms=0.05))
    [instrument] = project.instruments
    absolute = instrument.limits_of("TB0", "CCD", "only")
    for threshold in (found.present, found.proposed):
        judged = {
            case.name
            for case in found.history.cases
            if judge(case.evidence, threshold, absolute).status is Status.ANOMALOUS
        }
        flips = {flip.name for flip in (*found.newly_flagged, *found.no_longer_flagged)}
        flagged = {case.name for case in found.history.cases if case.is_flagged}
        expected = flagged if threshold is found.present else flagged ^ flips
        assert judged == expected


def test_unlabelled_frames_beyond_the_limit_count_where_the_tail_goes_on_and_else_are_named(
    project,
):
    """The present limit cuts the nominal tail: without what lies beyond it could only shrink."""
    random = np.random.default_rng(1)
    heights = MERGE_HEIGHT * random.exponential(0.5, 300)
    gross = [Past(80 * MERGE_HEIGHT), Past(90 * MERGE_HEIGHT)]
    remember(project, *(Past(float(height)) for height in heights), *gross)
    found = proposed(project, replace(GOAL, false_alarms=0.01))
    assert found.history.continued > 30
    assert [case.name for case in found.history.unexplained][-2:] == ["TINY.300[0]", "TINY.301[0]"]
    assert found.proposed.merge_height > 1.8 * MERGE_HEIGHT
    assert any(note.startswith("flagged without a label, and counted") for note in found.notes)


def test_valid_outliers_and_contradictions_are_left_out_and_said(project):
    outlier = Past(50 * MERGE_HEIGHT, label=OUTLIER)
    twice = [Past(40 * MERGE_HEIGHT, label=one, name="TWICE") for one in (GOOD, BAD)]
    remember(project, *nominal_frames())
    before = proposed(project)
    remember(project, outlier, *twice)
    after = proposed(project)
    assert after.proposed.merge_height == before.proposed.merge_height
    assert after.recall is None
    assert "valid outliers, so left out: 1, right to stand apart, not bad" in after.notes
    words = "labelled good and bad under one name, so left out: 2 (TWICE[0], TWICE[0])"
    assert words in after.notes


def test_the_newest_label_counts_and_what_was_undone_does_not(project):
    remember(project, *nominal_frames(), *bad_frames(*[30] * 6))
    assert len(proposed(project).history.bad) == 6
    with project.writes.begin() as session:
        found = [one for one in db.findings.findings_of_type(session, "TB0") if one.label]
        *_, before, last = [one for one in found if one.label and one.label.label == BAD]
        said = db.labels.LabelAnswer(GOOD, "kim")
        db.labels.record_label(session, before.extension.id, said)
        db.labels.record_label(session, last.extension.id, said, undoes=last.label)
    history = proposed(project).history
    assert len(history.bad) == 4


def test_a_copy_is_found_whatever_the_limits(project):
    copies = [Past(pixels="same", label=GOOD), Past(pixels="same", label=BAD)]
    remember(project, *nominal_frames(), *copies)
    found = proposed(project)
    assert found.recall is not None
    assert found.recall.value == 1
    assert found.newly_flagged == ()


def test_frames_of_too_few_references_or_another_encoder_are_left_out_and_said(project):
    young = [Past(references=19)] * 3
    foreign = [Past(encoder="another")] * 2
    remember(project, *nominal_frames(), *young, *foreign)
    found = proposed(project)
    assert len(found.history.cases) == 100
    assert "judged with fewer than 20 references, so left out: 3" in found.notes
    assert "last judged with another encoder, so left out: 2; 'qc process --again' judges them" in (
        " ".join(found.notes)
    )


def test_only_frames_since_a_night_are_looked_at(project):
    remember(project, *nominal_frames())
    found = proposed(project, replace(GOAL, since=date(2026, 1, 6)))
    assert len(found.history.nominal) == 50


@pytest.mark.parametrize(
    ("past", "goal", "words"),
    [
        ([], GOAL, "no frame has been judged against 20 references with the encoder in use"),
        (nominal_frames(29), GOAL, "29 nominal frames judged against 20 references, 30 needed"),
        (bad_frames(*[9] * 40), GOAL, "0 nominal frames judged against 20 references, 30 needed"),
        ([Past(references=3)] * 50, GOAL, "no frame has been judged against 20"),
        (
            nominal_frames(),
            replace(GOAL, recall=0.9),
            "0 frames labelled bad, 5 needed to know the recall of a limit; label some, or use",
        ),
        (
            [*nominal_frames(), *bad_frames(9)],
            replace(GOAL, recall=0.9),
            "1 frame labelled bad, 5 needed",
        ),
        (
            [*nominal_frames(), *bad_frames(*[0.01] * 9)],
            GOAL,
            "the frames labelled bad look no odder than nominal ones; look at the labels again",
        ),
        (
            [*nominal_frames(), *bad_frames(*[0.01] * 9)],
            replace(GOAL, recall=0.9),
            "a recall of 0.9 would flag more than 5% of the nominal frames",
        ),
    ],
)
def test_too_little_knowledge_is_told_and_moves_no_limit(project, past, goal, words):
    remember(project, *past)
    with pytest.raises(InsufficientDataError, match=r"^TB0: ") as told:
        proposed(project, goal)
    assert words in str(told.value)


def test_all_types_seen_are_tried_and_those_without_a_proposal_are_told(project):
    remember(project, *nominal_frames(), *[Past(image_type="TF0")] * 3)
    steps = []
    found, refused = propose_all(
        project, [], GOAL, "", "kim", progress=lambda done, total: steps.append((done, total))
    )
    assert [one.image_type for one in found] == ["TB0"]
    assert [sentence[:32] for sentence in refused] == ["TF0: 3 nominal frames judged aga"]
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("word", "words"), [("TB1", "did you mean TB0"), ("zzz", "there are: ")])
def test_an_unknown_type_is_told(project, word, words):
    with pytest.raises(InvalidInputError, match=words):
        propose_all(project, [word], GOAL, "", "kim", progress=lambda *_: None)


def test_a_type_that_no_instrument_describes_any_more_is_left_alone(project):
    remember(project, *nominal_frames(), Past(image_type="OLD"))
    found, refused = propose_all(project, [], GOAL, "", "kim", progress=lambda *_: None)
    assert ([one.image_type for one in found], refused) == (["TB0"], [])


def test_an_empty_project_has_nothing_to_tune(project):
    with pytest.raises(InsufficientDataError, match="nothing has been processed"):
        propose_all(project, [], GOAL, "", "kim", progress=lambda *_: None)


def test_what_is_written_judges_the_next_frame(project_folder, project):
    remember(project, *nominal_frames())
    found = proposed(project)
    write_proposals(project, [found])
    with open_tiny(project_folder) as later:
        threshold = later.thresholds.threshold("TB0", GOAL.effective, "stand-in-1")
        assert threshold == found.proposed
        earlier = later.thresholds.threshold("TB0", date(2026, 5, 31), "stand-in-1")
        assert earlier == found.present
        other = later.thresholds.threshold("TF0", GOAL.effective, "stand-in-1")
        assert other.merge_height == MERGE_HEIGHT
        with pytest.raises(ConfigurationError, match="TB0: has an entry from 2026-06-01"):
            write_proposals(later, [proposed(later)])


def test_the_file_that_came_with_the_program_is_not_written_to(project):
    remember(project, *nominal_frames())
    elsewhere = replace(project.thresholds, path=project.settings.project / "shipped.yaml")
    with pytest.raises(ConfigurationError, match="came with the program is not to be changed"):
        write_proposals(replace(project, thresholds=elsewhere), [proposed(project)])


def test_a_record_has_every_flip_and_both_entries(project):
    odd = [Past(1.5 * MERGE_HEIGHT, label=GOOD)] * 30
    remember(project, *nominal_frames(60), *odd)
    record = proposal_record(proposed(project))
    assert len(record["no_longer_flagged"]) == 30
    assert record["present"]["merge_height"] == MERGE_HEIGHT
    assert record["proposed"]["from"] == "2026-06-01"
    assert record["expected"]["recall"] is None
    assert set(record["expected"]["false_alarms"]) == {"value", "low", "high"}
    assert record["frames"]["nominal"] == 90


@pytest.mark.parametrize("bad", [0, 8])
def test_the_picture_is_a_png_of_a_row_for_each_type(project, bad):
    remember(project, *nominal_frames(), *bad_frames(*np.linspace(0.5, 9, bad)))
    one = proposed(project)
    assert draw_proposals([one]).startswith(b"\x89PNG")
    assert len(draw_proposals([one, one])) > len(draw_proposals([one]))
    assert draw_proposals([one]) == draw_proposals([one])


def test_a_history_says_how_odd_each_frame_was(project_folder, project):
    remember(project, Past(2 * MERGE_HEIGHT, references=100), Past(residual=500.0))
    thresholds = read_thresholds(project_folder / "thresholds.yaml", ["TB0", "TF0"])
    present = thresholds.threshold("TB0", GOAL.effective, "stand-in-1")
    record = read_record(project, "TB0", date.min)
    history = sort_out(record, present)
    assert [case.ratio for case in history.cases] == pytest.approx([0.5, 2])
    assert record.notes == ()


def test_the_weekly_page_tells_each_limit_and_changes_none(project):
    remember(project, *nominal_frames(), *bad_frames(0.4))
    before = (project.settings.project / "thresholds.yaml").read_bytes()
    words = write_proposal_page(project, datetime(2026, 6, 1, 9, tzinfo=UTC))
    page = (project.settings.reports_folder / "proposals" / "2026-06-01.html").read_text()
    assert words.startswith("2026-06-01.html: 1 image type, ")
    assert "<h2>TB0</h2>" in page
    assert (project.settings.project / "thresholds.yaml").read_bytes() == before


def test_a_project_without_frames_has_no_weekly_page(project):
    words = write_proposal_page(project, datetime(2026, 6, 1, 9, tzinfo=UTC))
    assert words.startswith("nothing to propose")
    assert not project.settings.reports_folder.exists()
