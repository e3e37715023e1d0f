from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from qc import db
from qc.core.enums import LabelName
from qc.core.verdict import Status
from qc.detection.decision import decide
from qc.detection.thresholds import read_thresholds
from qc.errors import ConfigurationError, InsufficientDataError, InvalidInputError
from qc.reports.threshold_proposals import write_proposal_page
from qc.tuning.choice import TuningGoal
from qc.tuning.history import group_cases, read_verdict_history
from qc.tuning.proposals import (
    draw_proposals,
    proposal_record,
    propose,
    propose_all,
    write_proposals,
)
from tests.support.tiny_spectrograph import MERGE_HEIGHT, open_tiny
from tests.support.verdict_rows import StoredExtension, add_extensions, nominal_frames

GOAL = TuningGoal(effective=date(2026, 6, 1))
GOOD, BAD, OUTLIER = LabelName.GOOD, LabelName.BAD, LabelName.VALID_OUTLIER


def make_proposal(project, goal=GOAL):
    return propose(project, "TB0", goal, "a test", "kim")


def bad_frames(*heights: float, kind: str = "lamp_weak") -> list[StoredExtension]:
    """At so many times the present limit."""
    return [StoredExtension(height * MERGE_HEIGHT, label=BAD, kind=kind) for height in heights]


def test_propose_from_nominal_frames_uses_the_granted_rate(project):
    add_extensions(project, *nominal_frames())
    proposal = make_proposal(project, replace(GOAL, false_alarms=0.01))
    assert proposal.basis == "tuned from 100 nominal frames to 0.01 false alarms, none bad"
    assert proposal.proposed.false_alarms == 0.01
    assert proposal.proposed.why == f"a test; {proposal.basis}"
    assert (proposal.proposed.since, proposal.proposed.by) == (GOAL.effective, "kim")
    assert proposal.false_alarms.low <= 0.01 <= proposal.false_alarms.high
    assert proposal.merge_height.low < proposal.proposed.merge_height < proposal.merge_height.high
    assert 0.4 * MERGE_HEIGHT < proposal.proposed.merge_height < 0.9 * MERGE_HEIGHT
    assert proposal.recall is proposal.precision is None


def test_propose_without_a_rate_uses_the_present_one(project):
    add_extensions(project, *nominal_frames())
    assert make_proposal(project).proposed.false_alarms == 0.001


def test_propose_uses_unlabelled_frames(project):
    add_extensions(project, *nominal_frames(label=None))
    assert len(make_proposal(project).history.nominal) == 100


def test_propose_with_a_single_bad_frame_changes_no_limit(project):
    add_extensions(project, *nominal_frames())
    before = make_proposal(project)
    add_extensions(project, *bad_frames(30))
    after = make_proposal(project)
    assert after.proposed.merge_height == before.proposed.merge_height
    assert after.basis.endswith("false alarms, 1 frame labelled bad")
    assert after.recall is not None
    assert (after.recall.value, after.recall.low < 0.2) == (1, True)


def test_propose_with_labels_scales_limits_to_the_best_f1(project):
    """All bad frames lie at half the present limit and more, all nominal ones lower."""
    past = [
        StoredExtension(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)
    ]
    add_extensions(project, *past, *bad_frames(*np.linspace(0.5, 0.95, 10)))
    proposal = make_proposal(project)
    assert proposal.basis == "tuned to the best F1 of 10 bad and 60 nominal frames"
    factor = proposal.proposed.merge_height / MERGE_HEIGHT
    assert 0.35 < factor < 0.5
    assert proposal.proposed.residual == pytest.approx(1000 * factor, rel=0.01)
    assert proposal.recall is not None
    assert proposal.recall.value > 0.9
    assert [flip.kind for flip in proposal.newly_flagged] == ["lamp_weak"] * 10
    assert proposal.no_longer_flagged == ()


def test_propose_with_a_recall_gives_the_widest_limits(project):
    past = [
        StoredExtension(height * MERGE_HEIGHT, label=GOOD) for height in np.linspace(0.1, 0.35, 60)
    ]
    add_extensions(project, *past, *bad_frames(*np.linspace(0.5, 0.95, 10)))
    proposal = make_proposal(project, replace(GOAL, recall=0.8))
    assert sum(flip.label == "bad" for flip in proposal.newly_flagged) >= 8
    assert proposal.basis == "tuned to a recall of 0.8 of 10 bad and 60 nominal frames"


def test_propose_lists_flips_in_both_directions(project):
    odd = [
        StoredExtension(1.2 * MERGE_HEIGHT, label=GOOD),
        StoredExtension(1.3 * MERGE_HEIGHT, label=GOOD),
    ]
    add_extensions(project, *nominal_frames(60), *odd, *bad_frames(*np.linspace(4, 9, 10)))
    [fine] = add_extensions(project, StoredExtension(0.3 * MERGE_HEIGHT, residual=9000.0))
    proposal = make_proposal(project)
    assert {flip.name for flip in proposal.no_longer_flagged} == {"TINY.60[0]", "TINY.61[0]"}
    assert fine in {case.name for case in proposal.history.unexplained}
    tighter = make_proposal(project, replace(GOAL, false_alarms=0.1))
    assert tighter.newly_flagged
    assert all(flip.ratio > 1 for flip in tighter.newly_flagged)


def test_propose_flips_agree_with_the_decision(project):
    odd = [
        StoredExtension(height * MERGE_HEIGHT, references=25) for height in np.linspace(0.5, 2, 40)
    ]
    off = [
        StoredExtension(bias_level_adu=300.0, label=BAD),
        StoredExtension(bias_level_z=15.0, label=GOOD),
    ]
    add_extensions(project, *nominal_frames(60), *odd, *off)
    proposal = make_proposal(project, replace(GOAL, false_alarms=0.05))
    [instrument] = project.instruments
    absolute = instrument.limits_of("TB0", "CCD", "only")
    for threshold in (proposal.present, proposal.proposed):
        judged = {
            case.name
            for case in proposal.history.cases
            if decide(case.evidence, threshold, absolute).status is Status.ANOMALOUS
        }
        flips = {flip.name for flip in (*proposal.newly_flagged, *proposal.no_longer_flagged)}
        flagged = {case.name for case in proposal.history.cases if case.is_flagged}
        expected = flagged if threshold is proposal.present else flagged ^ flips
        assert judged == expected


def test_propose_counts_unlabelled_frames_that_continue_the_tail(
    project,
):
    """The present limit cuts the nominal tail; without the frames beyond, it can only shrink."""
    random = np.random.default_rng(1)
    heights = MERGE_HEIGHT * random.exponential(0.5, 300)
    gross = [StoredExtension(80 * MERGE_HEIGHT), StoredExtension(90 * MERGE_HEIGHT)]
    add_extensions(project, *(StoredExtension(float(height)) for height in heights), *gross)
    proposal = make_proposal(project, replace(GOAL, false_alarms=0.01))
    assert proposal.history.continued > 30
    assert [case.name for case in proposal.history.unexplained][-2:] == [
        "TINY.300[0]",
        "TINY.301[0]",
    ]
    assert proposal.proposed.merge_height > 1.8 * MERGE_HEIGHT
    assert any(note.startswith("flagged without a label, and counted") for note in proposal.notes)


def test_propose_leaves_out_outliers_and_contradictions(project):
    outlier = StoredExtension(50 * MERGE_HEIGHT, label=OUTLIER)
    twice = [StoredExtension(40 * MERGE_HEIGHT, label=label, name="TWICE") for label in (GOOD, BAD)]
    add_extensions(project, *nominal_frames())
    before = make_proposal(project)
    add_extensions(project, outlier, *twice)
    after = make_proposal(project)
    assert after.proposed.merge_height == before.proposed.merge_height
    assert after.recall is None
    assert "valid outliers, so left out: 1, correctly anomalous, but not bad" in after.notes
    note = "labelled good and bad under one name, so left out: 2 (TWICE[0], TWICE[0])"
    assert note in after.notes


def test_propose_uses_the_newest_label_that_is_not_undone(project):
    add_extensions(project, *nominal_frames(), *bad_frames(*[30] * 6))
    assert len(make_proposal(project).history.bad) == 6
    with project.write_session.begin() as session:
        findings = db.findings.findings_of_type(session, "TB0")
        bad = [item for item in findings if item.label and item.label.label == BAD]
        *_, before, last = bad
        answer = db.labels.LabelAnswer(GOOD, "kim")
        db.labels.record_label(session, before.extension.id, answer)
        db.labels.record_label(session, last.extension.id, answer, undoes=last.label)
    history = make_proposal(project).history
    assert len(history.bad) == 4


def test_propose_flags_copies_with_any_limits(project):
    copies = [StoredExtension(pixels="same", label=GOOD), StoredExtension(pixels="same", label=BAD)]
    add_extensions(project, *nominal_frames(), *copies)
    proposal = make_proposal(project)
    assert proposal.recall is not None
    assert proposal.recall.value == 1
    assert proposal.newly_flagged == ()


def test_propose_leaves_out_small_references_and_other_encoders(project):
    young = [StoredExtension(references=19)] * 3
    foreign = [StoredExtension(encoder="another")] * 2
    add_extensions(project, *nominal_frames(), *young, *foreign)
    proposal = make_proposal(project)
    assert len(proposal.history.cases) == 100
    assert "judged with fewer than 20 references, so left out: 3" in proposal.notes
    assert (
        "last judged with another encoder, so left out: 2; 'qc archive reprocess' judges them"
        in (" ".join(proposal.notes))
    )


def test_propose_uses_frames_since_a_night(project):
    add_extensions(project, *nominal_frames())
    proposal = make_proposal(project, replace(GOAL, since=date(2026, 1, 6)))
    assert len(proposal.history.nominal) == 50


@pytest.mark.parametrize(
    ("past", "goal", "message"),
    [
        ([], GOAL, "no frame has been judged against 20 references with the encoder in use"),
        (nominal_frames(29), GOAL, "29 nominal frames judged against 20 references, 30 needed"),
        (bad_frames(*[9] * 40), GOAL, "0 nominal frames judged against 20 references, 30 needed"),
        ([StoredExtension(references=3)] * 50, GOAL, "no frame has been judged against 20"),
        (
            nominal_frames(),
            replace(GOAL, recall=0.9),
            "0 frames labelled bad, 5 needed to measure the recall of a limit; label some, or use",
        ),
        (
            [*nominal_frames(), *bad_frames(9)],
            replace(GOAL, recall=0.9),
            "1 frame labelled bad, 5 needed",
        ),
        (
            [*nominal_frames(), *bad_frames(*[0.01] * 9)],
            GOAL,
            "the frames labelled bad are not separated from nominal ones; check the labels",
        ),
        (
            [*nominal_frames(), *bad_frames(*[0.01] * 9)],
            replace(GOAL, recall=0.9),
            "a recall of 0.9 would flag more than 5% of the nominal frames",
        ),
    ],
)
def test_propose_with_insufficient_data_is_an_error(project, past, goal, message):
    add_extensions(project, *past)
    with pytest.raises(InsufficientDataError, match=r"^TB0: ") as error:
        make_proposal(project, goal)
    assert message in str(error.value)


def test_propose_all_lists_types_without_a_proposal(project):
    add_extensions(project, *nominal_frames(), *[StoredExtension(image_type="TF0")] * 3)
    steps = []
    proposals, refused = propose_all(
        project, [], GOAL, "", "kim", progress=lambda done, total: steps.append((done, total))
    )
    assert [proposal.image_type for proposal in proposals] == ["TB0"]
    assert [sentence[:32] for sentence in refused] == ["TF0: 3 nominal frames judged aga"]
    assert steps == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("name", "message"), [("TB1", "did you mean TB0"), ("zzz", "there are: ")])
def test_propose_all_with_an_unknown_type_is_an_error(project, name, message):
    with pytest.raises(InvalidInputError, match=message):
        propose_all(project, [name], GOAL, "", "kim", progress=lambda *_: None)


def test_propose_all_ignores_obsolete_types(project):
    add_extensions(project, *nominal_frames(), StoredExtension(image_type="OLD"))
    proposals, refused = propose_all(project, [], GOAL, "", "kim", progress=lambda *_: None)
    assert ([proposal.image_type for proposal in proposals], refused) == (["TB0"], [])


def test_propose_all_in_an_empty_project_is_an_error(project):
    with pytest.raises(InsufficientDataError, match="nothing has been processed"):
        propose_all(project, [], GOAL, "", "kim", progress=lambda *_: None)


def test_written_proposals_apply_to_later_nights(project_folder, project):
    add_extensions(project, *nominal_frames())
    proposal = make_proposal(project)
    write_proposals(project, [proposal])
    with open_tiny(project_folder) as later:
        threshold = later.thresholds.threshold("TB0", GOAL.effective, "stand-in-1")
        assert threshold == proposal.proposed
        earlier = later.thresholds.threshold("TB0", date(2026, 5, 31), "stand-in-1")
        assert earlier == proposal.present
        flat = later.thresholds.threshold("TF0", GOAL.effective, "stand-in-1")
        assert flat.merge_height == MERGE_HEIGHT
        with pytest.raises(ConfigurationError, match="TB0: has an entry from 2026-06-01"):
            write_proposals(later, [make_proposal(later)])


def test_write_proposals_to_the_packaged_file_is_an_error(project):
    add_extensions(project, *nominal_frames())
    elsewhere = replace(project.thresholds, path=project.settings.project / "shipped.yaml")
    with pytest.raises(ConfigurationError, match="came with the program is not to be changed"):
        write_proposals(replace(project, thresholds=elsewhere), [make_proposal(project)])


def test_proposal_record_has_flips_and_entries(project):
    odd = [StoredExtension(1.5 * MERGE_HEIGHT, label=GOOD)] * 30
    add_extensions(project, *nominal_frames(60), *odd)
    record = proposal_record(make_proposal(project))
    assert len(record["no_longer_flagged"]) == 30
    assert record["present"]["merge_height"] == MERGE_HEIGHT
    assert record["proposed"]["from"] == "2026-06-01"
    assert record["expected"]["recall"] is None
    assert set(record["expected"]["false_alarms"]) == {"value", "low", "high"}
    assert record["frames"]["nominal"] == 90


@pytest.mark.parametrize("bad", [0, 8])
def test_draw_proposals_is_a_png_with_a_row_per_type(project, bad):
    add_extensions(project, *nominal_frames(), *bad_frames(*np.linspace(0.5, 9, bad)))
    proposal = make_proposal(project)
    assert draw_proposals([proposal]).startswith(b"\x89PNG")
    assert len(draw_proposals([proposal, proposal])) > len(draw_proposals([proposal]))
    assert draw_proposals([proposal]) == draw_proposals([proposal])


def test_group_cases_has_the_ratio_of_each_frame(project_folder, project):
    add_extensions(
        project, StoredExtension(2 * MERGE_HEIGHT, references=100), StoredExtension(residual=500.0)
    )
    thresholds = read_thresholds(project_folder / "thresholds.yaml", ["TB0", "TF0"])
    present = thresholds.threshold("TB0", GOAL.effective, "stand-in-1")
    record = read_verdict_history(project, "TB0", date.min)
    history = group_cases(record, present)
    assert [case.ratio for case in history.cases] == pytest.approx([0.5, 2])
    assert record.notes == ()


def test_weekly_page_changes_no_limit(project):
    add_extensions(project, *nominal_frames(), *bad_frames(0.4))
    before = (project.settings.project / "thresholds.yaml").read_bytes()
    summary = write_proposal_page(project, datetime(2026, 6, 1, 9, tzinfo=UTC))
    page = (project.settings.reports_folder / "proposals" / "2026-06-01.html").read_text()
    assert summary.startswith("2026-06-01.html: 1 image type, ")
    assert "<h2>TB0</h2>" in page
    assert (project.settings.project / "thresholds.yaml").read_bytes() == before


def test_weekly_page_without_frames_is_not_written(project):
    summary = write_proposal_page(project, datetime(2026, 6, 1, 9, tzinfo=UTC))
    assert summary.startswith("nothing to propose")
    assert not project.settings.reports_folder.exists()
