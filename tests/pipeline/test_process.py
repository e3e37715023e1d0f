import multiprocessing
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, func, select

from embeddings.clustering import cosine_distances
from qc.core.enums import FrameState, LabelName, ThresholdPolicy, Topic
from qc.core.verdict import Status, Verdict
from qc.db.models import (
    AlertRow,
    Base,
    EmbeddingRow,
    EpochRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)
from qc.detection.metrics import METRICS
from qc.errors import ConfigurationError, FrameError, UnreadableFrameError
from qc.pipeline.process import ProcessingOutcome, find_frames, judge_again, process_frame
from qc.project import Project
from tests.support.builders import frame_bytes
from tests.support.tiny import (
    ZERO_ADU,
    StandIn,
    bias_jump,
    cards_of,
    light_leak,
    open_tiny,
    process,
    thresholds_text,
    touch,
    write_frame,
    write_history,
)
from tests.support.waiting import wait_for_end

GOOD = LabelName.GOOD


@pytest.fixture
def taught(project, inbox):
    """A runtime that knows twenty certified biases of night 1."""
    process(project, *write_history(inbox), label=GOOD)
    return project


def rows(project: Project, table: Any) -> Sequence[Any]:
    with project.reads() as session:
        return session.scalars(select(table).order_by(*table.__table__.primary_key)).all()


def everything(project: Project) -> dict[str, list[str]]:
    """All that is stored, value by value."""
    with project.reads() as session:
        return {
            table.name: sorted(map(repr, session.execute(select(table)).all()))
            for table in Base.metadata.sorted_tables
        }


def verdict_of(outcome: ProcessingOutcome) -> Verdict:
    [judged] = outcome.judged
    return judged.verdict


# --- the newcomer's walk --------------------------------------------------------------------------


def test_a_light_leak_goes_from_disk_to_verdict_to_an_alert(project, inbox):
    process(project, *write_history(inbox, frames=20, night=1), label=GOOD)

    outcome = process_frame(write_frame(inbox, night=2, change=light_leak), project)

    assert outcome.state is FrameState.PROCESSED
    [judged] = outcome.judged
    assert judged.measured.setup.image_type == "TB0"
    assert judged.evidence.reference_size == 20
    assert judged.evidence.merge_height == pytest.approx(0.7, abs=0.1)
    assert judged.threshold.merge_height == 0.001
    assert judged.verdict.status is Status.ANOMALOUS
    assert "joins its 20 references at cosine distance" in judged.verdict.reasons[0]
    [alert] = rows(project, AlertRow)
    newest = rows(project, VerdictRow)[-1]
    assert (alert.verdict_id, newest.status) == (newest.id, "ANOMALOUS")
    assert (alert.topic, alert.notice_id) == (Topic.VERDICT, None)


# --- verdicts -------------------------------------------------------------------------------------


def test_a_frame_like_its_references_is_nominal_and_owes_no_alert(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2))
    assert verdict_of(outcome).status is Status.NOMINAL
    assert verdict_of(outcome).score < 1
    assert rows(taught, AlertRow) == []


def test_with_nineteen_references_a_frame_is_undecided(project, inbox):
    process(project, *write_history(inbox, frames=19), label=GOOD)
    [outcome] = process(project, write_frame(inbox, night=2, change=light_leak))
    assert verdict_of(outcome).status is Status.UNDECIDED


def test_the_instruments_own_limits_need_no_reference(project, inbox):
    [outcome] = process(project, write_frame(inbox, change=bias_jump))
    assert verdict_of(outcome).status is Status.ANOMALOUS
    assert "outside the instrument's 80 to 120" in verdict_of(outcome).reasons[0]


def test_a_metric_is_told_in_sigma_of_its_references(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2, change=bias_jump))
    [judged] = outcome.judged
    levels = [row.metrics["bias_level"] for row in rows(taught, ExtensionRow) if row.frame_id <= 20]
    median = np.median(levels)
    scatter = max(1.4826 * np.median(np.abs(levels - median)), METRICS["bias_level"].floor)
    by_hand = (judged.measured.metrics["bias_level"] - median) / scatter
    assert judged.evidence.z["bias_level"] == pytest.approx(by_hand, rel=0.1)  # small samples


def test_frames_of_the_same_night_do_not_vouch_for_each_other(project, inbox):
    process(project, *write_history(inbox, frames=20, night=2), label=GOOD)
    [outcome] = process(project, write_frame(inbox, night=2, number=30))
    assert outcome.judged[0].evidence.reference_size == 0


def test_later_nights_do_not_vouch_for_earlier_ones(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=-3))
    assert outcome.judged[0].evidence.reference_size == 0


def test_a_bad_label_takes_a_frame_from_the_references(taught, inbox):
    with taught.writes.begin() as session:
        when = session.scalar(select(LabelRow.at).limit(1))
        session.add(
            LabelRow(
                extension_id=1, label=LabelName.BAD, kind="light_leak", who="me", at=when, note=""
            )
        )
    [outcome] = process(taught, write_frame(inbox, night=2))
    assert outcome.judged[0].evidence.reference_size == 19


def test_nominal_frames_without_a_label_become_references(taught, inbox):
    process(taught, write_frame(inbox, night=2), write_frame(inbox, night=2, number=1))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judged[0].evidence.reference_size == 22


def test_anomalous_frames_without_a_label_do_not_become_references(taught, inbox):
    process(taught, write_frame(inbox, night=2, change=light_leak))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judged[0].evidence.reference_size == 20


@pytest.mark.parametrize("scope", ["TB0", "TINY"])
def test_references_do_not_cross_an_epoch(taught, inbox, scope):
    with taught.writes.begin() as session:
        when = session.scalar(select(FrameRow.processed_at).limit(1))
        since = date(2026, 1, 2)
        session.add(EpochRow(scope=scope, since=since, why="new lamp", who="me", at=when))
    [before, after] = process(
        taught, write_frame(inbox, night=0, number=1), write_frame(inbox, night=3)
    )
    assert after.judged[0].evidence.reference_size == 0
    assert before.judged[0].evidence.reference_size == 0  # older than its would-be references


def test_an_epoch_of_another_type_cuts_nothing(taught, inbox):
    with taught.writes.begin() as session:
        when = session.scalar(select(FrameRow.processed_at).limit(1))
        session.add(EpochRow(scope="TF0", since=date(2026, 1, 2), why="?", who="me", at=when))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judged[0].evidence.reference_size == 20


def test_where_a_slit_width_is_rare_all_widths_are_references_and_the_verdict_says_so(
    project, inbox
):
    process(project, *write_history(inbox, kind="FLAT", SLIT=1.0), label=GOOD)
    [outcome] = process(project, write_frame(inbox, 2, kind="FLAT", SLIT=1.2, change=light_leak))
    assert outcome.judged[0].evidence.widened == "any slit width"
    assert outcome.judged[0].evidence.reference_size == 20


def test_another_wavelength_is_another_setup(project, inbox):
    process(project, *write_history(inbox, kind="FLAT", WAVELEN=500.0), label=GOOD)
    [outcome] = process(project, write_frame(inbox, 2, kind="FLAT", WAVELEN=600.0))
    assert outcome.judged[0].evidence.reference_size == 0


def test_the_very_same_pixels_in_two_frames_are_an_anomaly_that_names_the_other(project, inbox):
    def still(image):
        image[:] = np.indices(image.shape).sum(axis=0) % 2 + ZERO_ADU

    first, second = (write_frame(inbox, night, change=still) for night in (1, 2))
    [one, other] = process(project, first, second)
    assert verdict_of(one).status is Status.UNDECIDED
    assert verdict_of(other).status is Status.ANOMALOUS
    assert verdict_of(other).reasons[0] == f"has the very same pixels as {first.stem}"


def test_a_frame_whose_header_the_archive_edited_is_no_duplicate_of_itself(project, inbox):
    process(project, write_frame(inbox))
    [outcome] = process(project, write_frame(inbox, suffix=".fits.gz", OBSERVER="edited"))
    assert outcome.state is FrameState.PROCESSED
    assert outcome.judged[0].evidence.duplicate_of == ""


def test_the_nearest_reference_is_the_one_at_the_least_distance(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2))
    [judged] = outcome.judged
    references = rows(taught, EmbeddingRow)[:20]
    distances = cosine_distances(
        np.stack([row.vector for row in references]), judged.embedding[np.newaxis]
    )
    assert judged.nearest_id == references[int(distances.argmin())].extension_id


def test_twice_the_exposure_with_twice_the_light_gives_the_same_embedding(project, inbox):
    def twice(image):
        image[:, :224] += 1000

    one = process(project, write_frame(inbox, kind="FLAT", EXPTIME=1.0))
    other = process(project, write_frame(inbox, 1, 1, kind="FLAT", EXPTIME=2.0, change=twice))
    embeddings = [outcome.judged[0].embedding[np.newaxis] for [outcome] in (one, other)]
    assert cosine_distances(*embeddings) < 1e-5


# --- labels and alerts ----------------------------------------------------------------------------


def test_a_certified_frame_owes_no_alert_however_odd(taught, inbox):
    process(taught, write_frame(inbox, night=2, change=light_leak), label=GOOD)
    assert rows(taught, VerdictRow)[-1].status == "ANOMALOUS"
    assert rows(taught, AlertRow) == []


def test_certifying_frames_already_known_labels_them_once(project, inbox):
    paths = write_history(inbox, frames=3)
    process(project, *paths)
    for _ in range(2):
        outcomes = process(project, *paths, label=GOOD)
        assert {outcome.state for outcome in outcomes} == {FrameState.KNOWN}
    assert [row.label for row in rows(project, LabelRow)] == ["good"] * 3


def test_certifying_a_copy_labels_the_frame(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    process(project, Path(shutil.copy(path, inbox / "copy.fits")), label=GOOD)
    assert [row.label for row in rows(project, LabelRow)] == ["good"]


def test_certifying_an_archive_does_not_overrule_a_person(project, inbox):
    path = write_frame(inbox)
    process(project, path, label=LabelName.BAD)
    process(project, path, label=GOOD)
    assert [row.label for row in rows(project, LabelRow)] == ["bad"]


# --- once and only once ---------------------------------------------------------------------------


def test_a_second_run_changes_nothing(taught, inbox):
    paths = find_frames([inbox])
    paths.append(write_frame(inbox, night=2, kind="SCIENCE"))
    process(taught, *paths)
    stored, dates = everything(taught), [path.stat().st_mtime_ns for path in paths]
    outcomes = process(taught, *paths)
    assert {outcome.state for outcome in outcomes} == {FrameState.KNOWN}
    assert everything(taught) == stored
    assert [path.stat().st_mtime_ns for path in paths] == dates


@pytest.mark.parametrize("suffix", [".fits", ".fits.Z", ".fits.gz"])
def test_a_copy_under_another_name_is_known(project, inbox, tmp_path, suffix):
    process(project, write_frame(inbox))
    copy = write_frame(tmp_path, suffix=suffix).rename(tmp_path / f"copy{suffix}")
    [outcome] = process(project, copy)
    assert outcome.state is FrameState.KNOWN
    assert len(rows(project, FrameRow)) == 1


def test_a_copy_in_the_same_batch_is_known(project, inbox):
    path = write_frame(inbox)
    copy = Path(shutil.copy(path, inbox / "copy.fits"))
    states = [outcome.state for outcome in process(project, path, copy)]
    assert sorted(states) == [FrameState.KNOWN, FrameState.PROCESSED]


def test_a_touched_file_is_read_once_more_and_then_known_by_its_date(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    touch(path)
    process(project, path)
    assert rows(project, FrameRow)[0].modified_ns == path.stat().st_mtime_ns


def test_a_link_is_known_by_the_file_it_leads_to(project, inbox):
    path = write_frame(inbox)
    link = inbox / "link.fits"
    link.symlink_to(path)
    process(project, path)
    stored = everything(project)
    [outcome] = process(project, link)
    assert outcome.state is FrameState.KNOWN
    assert everything(project) == stored


def run_in_a_process(project_folder, inbox, barrier):
    with open_tiny(project_folder) as project:
        paths = find_frames([inbox])
        barrier.wait(60)
        for _ in process(project, *paths):
            pass


def test_two_processes_on_the_same_files_store_each_frame_once(project_folder, inbox):
    write_history(inbox, frames=12)
    (inbox / "broken.fits").write_bytes(b"SIMPLE")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [
        context.Process(target=run_in_a_process, args=(project_folder, inbox, barrier))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    wait_for_end(*both)
    assert [one.exitcode for one in both] == [0, 0]
    with open_tiny(project_folder) as project:
        assert len(rows(project, FrameRow)) == 13
        counts = [len(rows(project, table)) for table in (ExtensionRow, EmbeddingRow, VerdictRow)]
        assert counts == [12, 12, 12]


class DyingStandIn(StandIn):
    """An encoder that takes the whole process with it."""

    def embed(self, inputs):  # noqa: ARG002 - what every encoder takes
        os._exit(9)


def die_while_embedding(project_folder, path):
    with open_tiny(project_folder, DyingStandIn()) as project:
        process(project, path)


def die_between_two_writes(project_folder, path):
    def leave_at_a_verdict(_connection, _cursor, statement, *_rest):
        if statement.startswith("INSERT INTO verdict"):
            os._exit(9)

    with open_tiny(project_folder) as project, project.reads() as session:
        event.listen(session.get_bind(), "after_cursor_execute", leave_at_a_verdict)
        process(project, path)


@pytest.mark.parametrize("die", [die_while_embedding, die_between_two_writes])
def test_a_process_killed_in_the_middle_leaves_nothing_half_stored(project_folder, inbox, die):
    path = write_frame(inbox, change=bias_jump)
    child = multiprocessing.get_context("spawn").Process(target=die, args=(project_folder, path))
    child.start()
    wait_for_end(child)
    assert child.exitcode == 9
    with open_tiny(project_folder) as project:
        assert not any(everything(project).values())
        [outcome] = process(project, path)
        assert outcome.state is FrameState.PROCESSED
        assert len(rows(project, AlertRow)) == 1


# --- files at fault -------------------------------------------------------------------------------


def test_a_broken_file_has_one_row_however_often_it_is_tried(project, inbox):
    path = inbox / "broken.fits"
    path.write_bytes(b"not FITS")
    for _ in range(3):
        [outcome] = process(project, path)
        assert (outcome.state, outcome.is_anomalous) == (FrameState.FAILED, True)
    [row] = rows(project, FrameRow)
    assert (row.state, row.reason) == ("failed", outcome.reason)
    assert row.reason.startswith(f"{path}: expected a FITS file")


def test_a_broken_file_does_not_stop_the_others(project, inbox):
    (inbox / "A.fits").write_bytes(b"")
    write_frame(inbox)
    outcomes = process(project, *find_frames([inbox]))
    assert [outcome.state for outcome in outcomes] == [FrameState.FAILED, FrameState.PROCESSED]


def test_a_file_mended_under_its_name_becomes_a_frame(project, inbox):
    path = write_frame(inbox)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    process(project, path)
    path.write_bytes(whole)
    [outcome] = process(project, path)
    assert outcome.state is FrameState.PROCESSED
    [row] = rows(project, FrameRow)
    assert (row.state, row.reason) == ("processed", "")


def test_a_processed_file_that_was_gone_for_a_while_has_no_failure_left(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    away = path.rename(inbox / "away")
    [outcome] = process(project, path)
    assert outcome.state is FrameState.FAILED
    away.rename(path)
    process(project, path)
    assert [row.state for row in rows(project, FrameRow)] == ["processed"]


def test_a_file_that_vanishes_before_it_is_read_is_told(project, inbox, monkeypatch):
    monkeypatch.chdir(inbox)
    relative = write_frame(inbox).relative_to(inbox)
    paths = find_frames([relative])
    relative.unlink()
    [outcome] = process(project, *paths)
    assert outcome.reason == f"{inbox / relative}: No such file or directory"
    write_frame(inbox)
    process(project, relative)
    assert [row.state for row in rows(project, FrameRow)] == ["processed"]


def test_a_science_frame_is_skipped_and_no_anomaly(project, inbox):
    [outcome] = process(project, write_frame(inbox, kind="SCIENCE"))
    assert (outcome.state, outcome.is_anomalous) == (FrameState.SKIPPED, False)


@pytest.mark.parametrize(
    "name", [b"[red]x.fits", b"a b;'\".fits", "Ωλ.fits".encode(), b"\xff\xfe.fits", b"n\nl.fits"]
)
def test_odd_names_do_not_stop_the_night(project, inbox, name):
    path = write_frame(inbox)
    odd = inbox / os.fsdecode(name)
    shutil.move(path, odd)
    [outcome] = process(project, odd)
    good_name = name != b"\xff\xfe.fits"
    assert outcome.state is (FrameState.PROCESSED if good_name else FrameState.FAILED)
    [row] = rows(project, FrameRow)
    assert row.path == (str(odd) if good_name else f"{inbox}/\\xff\\xfe.fits")


def test_a_loop_of_links_is_one_failed_file(project, inbox):
    loop = inbox / "loop.fits"
    loop.symlink_to(loop)
    [outcome] = process(project, loop)
    assert outcome.state is FrameState.FAILED


@pytest.mark.parametrize(
    ("cards", "value", "words"),
    [
        ({"BINX": 2, "BINY": 2}, 101, "expected at least 224x224 pixels, got 112x120"),
        ({}, 1e30, "expected pixels of a detector, got up to 1e+30 ADU"),
        ({"EXPTIME": 1e-20}, 1000, "expected pixels of a detector"),
        ({"DATE-OBS": "1980-01-01T00:00:00"}, 101, "its thresholds begin on 2000-01-01"),
    ],
)
def test_what_cannot_be_judged_fails_alone_and_in_words(project, inbox, cards, value, words):
    image = np.full((224 // cards.get("BINY", 1), 240 // cards.get("BINX", 1)), 100, np.float32)
    image[5, 5] = value
    odd = inbox / "A.fits"
    odd.write_bytes(frame_bytes(cards_of(kind="FLAT") | cards, image))
    first, second = process(project, odd, write_frame(inbox))
    assert (first.state, second.state) == (FrameState.FAILED, FrameState.PROCESSED)
    assert first.reason.startswith(f"{odd}: ")
    assert words in first.reason


def test_a_single_frame_at_fault_raises_and_stores_nothing(project, inbox):
    path = inbox / "broken.fits"
    path.write_bytes(b"not FITS")
    with pytest.raises(FrameError, match="expected a FITS file"):
        process_frame(path, project)
    assert rows(project, FrameRow) == []


# --- the installation at fault --------------------------------------------------------------------


class BrokenStandIn(StandIn):
    """An encoder whose weights are damaged."""

    def embed(self, inputs):
        return np.full((len(inputs), 13), np.nan, np.float32)


def test_an_encoder_that_gives_no_numbers_stops_the_run_and_nothing_is_stored(
    project_folder, inbox
):
    with open_tiny(project_folder, BrokenStandIn()) as project:
        with pytest.raises(ConfigurationError, match="stand-in-1: gave an embedding that is not"):
            process(project, write_frame(inbox))
        assert not any(everything(project).values())


def test_an_encoder_without_thresholds_stops_the_run_at_the_first_frame(project_folder, inbox):
    text = thresholds_text(["TB0"]) + thresholds_text(["TF0"], encoder="another")
    (project_folder / "thresholds.yaml").write_text(text)
    with open_tiny(project_folder) as project:
        with pytest.raises(ConfigurationError, match=r"TF0: no entry for encoder stand-in-1 .*ano"):
            process(project, write_frame(inbox))
        assert not any(everything(project).values())


# --- finding files --------------------------------------------------------------------------------


def test_folders_are_searched_for_fits_files_of_every_spelling(inbox):
    deep = inbox / "2026" / "01"
    deep.mkdir(parents=True)
    wanted = ["a.fits", "b.FITS", "c.fits.Z", "d.fit.gz", "e.fts.bz2", "f.fits.fz"]
    for name in [*wanted, "truth.csv", "fits", "g.fits.part", "h.fits.txt"]:
        (deep / name).touch()
    (deep / "folder.fits").mkdir()
    assert sorted(path.name for path in find_frames([inbox])) == sorted(wanted)


def test_a_file_given_twice_is_found_once(inbox):
    path = write_frame(inbox)
    assert find_frames([inbox, path, inbox]) == [path]


def test_a_path_that_does_not_exist_is_a_mistake(inbox):
    with pytest.raises(UnreadableFrameError, match=r"nowhere\.fits: no such file or folder"):
        find_frames([inbox / "nowhere.fits"])


def test_files_are_taken_in_the_order_of_their_names(project, inbox):
    paths = write_history(inbox, frames=3)
    outcomes = process(project, *paths[::-1])
    assert [outcome.path for outcome in outcomes] == paths
    with project.reads() as session:
        assert session.scalar(select(func.count()).select_from(FrameRow)) == 3


def test_what_is_stored_can_be_judged_again_with_the_thresholds_of_today(
    taught, inbox, project_folder
):
    process(taught, write_frame(inbox, 2, change=light_leak), write_frame(inbox, 3))
    before = rows(taught, VerdictRow)
    assert [each.status for each in before[-2:]] == [Status.ANOMALOUS, Status.NOMINAL]
    lenient = thresholds_text(["TB0", "TF0"]).replace("merge_height: 0.001", "merge_height: 2")
    (project_folder / "thresholds.yaml").write_text(lenient)
    with open_tiny(project_folder) as today:
        judged = list(judge_again(today, date(2026, 1, 2)))
    after = rows(taught, VerdictRow)
    now = [each.judged.verdict.status for each in judged]
    assert now == [Status.NOMINAL, Status.NOMINAL]
    assert [each.before for each in judged] == [Status.ANOMALOUS, Status.NOMINAL]
    assert [each.is_changed for each in judged] == [True, False]
    assert [each.id for each in after[: len(before)]] == [each.id for each in before]  # all kept
    assert [each.extension_id for each in after[len(before) :]] == [
        each.extension_id for each in before[-2:]
    ]


@pytest.mark.parametrize(("in_force", "status"), [("dated", "ANOMALOUS"), ("newest", "NOMINAL")])
def test_judging_again_takes_the_limits_of_the_night_or_the_newest(
    taught, inbox, project_folder, in_force, status
):
    process(taught, write_frame(inbox, 2, change=light_leak))
    strict = thresholds_text(["TB0", "TF0"])
    later = strict.replace("2000-01-01", "2026-06-01").replace("height: 0.001", "height: 2")
    entries = [line.split("[")[1].rstrip("]\n") for line in (strict + later).splitlines(True)]
    text = f"TB0 TF0:\n  - {entries[0]}\n  - {entries[2]}\n"
    (project_folder / "thresholds.yaml").write_text(text)
    with open_tiny(project_folder) as today:
        [again] = judge_again(today, date(2026, 1, 2), in_force=ThresholdPolicy(in_force))
    assert again.judged.verdict.status == status


def test_what_no_instrument_file_describes_any_more_is_not_judged_again(taught, inbox):
    process(taught, write_frame(inbox, 2))
    nothing = replace(taught, instruments=(replace(taught.instruments[0], name="GONE"),))
    assert list(judge_again(nothing)) == []


def test_judging_again_with_the_same_limits_says_the_same(taught, inbox):
    process(taught, *write_history(inbox, 3, night=2), write_frame(inbox, 3, change=bias_jump))
    before = rows(taught, VerdictRow)
    again = [each.judged.verdict for each in judge_again(taught)]
    assert [each.status for each in again] == [each.status for each in before]
    scores = [each.score for each in before]  # of embeddings not yet rounded to float16
    assert [each.score for each in again] == pytest.approx(scores, rel=1e-3)
