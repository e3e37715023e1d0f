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
from qc.db.schema.models import (
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
from qc.pipeline.batch import find_frames
from qc.pipeline.outcomes import ProcessingOutcome
from qc.pipeline.process import process_frame
from qc.pipeline.rejudge import rejudge_frames
from qc.project import ProjectContext
from tests.support.builders import frame_bytes
from tests.support.tiny_spectrograph import (
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
    """A project with twenty certified biases of night 1."""
    process(project, *write_history(inbox), label=GOOD)
    return project


def rows(project: ProjectContext, table: Any) -> Sequence[Any]:
    with project.read_session() as session:
        return session.scalars(select(table).order_by(*table.__table__.primary_key)).all()


def everything(project: ProjectContext) -> dict[str, list[str]]:
    """Return all stored rows as text, by table."""
    with project.read_session() as session:
        return {
            table.name: sorted(map(repr, session.execute(select(table)).all()))
            for table in Base.metadata.sorted_tables
        }


def verdict_of(outcome: ProcessingOutcome) -> Verdict:
    [judged] = outcome.judgements
    return judged.verdict


# --- one frame, disk to alert ---------------------------------------------------------------------


def test_light_leak_is_anomalous_and_creates_alert(project, inbox):
    process(project, *write_history(inbox, frames=20, night=1), label=GOOD)

    outcome = process_frame(write_frame(inbox, night=2, change=light_leak), project)

    assert outcome.state is FrameState.PROCESSED
    [judged] = outcome.judgements
    assert judged.measurement.setup.image_type == "TB0"
    assert judged.evidence.reference_size == 20
    assert judged.evidence.merge_height == pytest.approx(0.7, abs=0.1)
    assert judged.threshold.merge_height == 0.001
    assert judged.verdict.status is Status.ANOMALOUS
    assert "joins its 20 references at cosine distance" in judged.verdict.reasons[0]
    [alert] = rows(project, AlertRow)
    newest = rows(project, VerdictRow)[-1]
    assert (alert.verdict_id, newest.status) == (newest.id, "ANOMALOUS")
    assert (alert.topic, alert.notification_id) == (Topic.VERDICT, None)


# --- verdicts -------------------------------------------------------------------------------------


def test_nominal_frame_creates_no_alert(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2))
    assert verdict_of(outcome).status is Status.NOMINAL
    assert verdict_of(outcome).score < 1
    assert rows(taught, AlertRow) == []


def test_frame_with_nineteen_references_is_undecided(project, inbox):
    process(project, *write_history(inbox, frames=19), label=GOOD)
    [outcome] = process(project, write_frame(inbox, night=2, change=light_leak))
    assert verdict_of(outcome).status is Status.UNDECIDED


def test_absolute_limits_apply_without_references(project, inbox):
    [outcome] = process(project, write_frame(inbox, change=bias_jump))
    assert verdict_of(outcome).status is Status.ANOMALOUS
    assert "outside the instrument's 80 to 120" in verdict_of(outcome).reasons[0]


def test_z_score_is_relative_to_references(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2, change=bias_jump))
    [judged] = outcome.judgements
    levels = [row.metrics["bias_level"] for row in rows(taught, ExtensionRow) if row.frame_id <= 20]
    median = np.median(levels)
    scatter = max(1.4826 * np.median(np.abs(levels - median)), METRICS["bias_level"].floor)
    by_hand = (judged.measurement.metrics["bias_level"] - median) / scatter
    assert judged.evidence.z["bias_level"] == pytest.approx(by_hand, rel=0.1)  # small samples


def test_frames_of_same_night_are_no_references(project, inbox):
    process(project, *write_history(inbox, frames=20, night=2), label=GOOD)
    [outcome] = process(project, write_frame(inbox, night=2, number=30))
    assert outcome.judgements[0].evidence.reference_size == 0


def test_frames_of_later_nights_are_no_references(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=-3))
    assert outcome.judgements[0].evidence.reference_size == 0


def test_frame_labelled_bad_is_no_reference(taught, inbox):
    with taught.write_session.begin() as session:
        when = session.scalar(select(LabelRow.at).limit(1))
        session.add(
            LabelRow(
                extension_id=1, label=LabelName.BAD, kind="light_leak", who="me", at=when, note=""
            )
        )
    [outcome] = process(taught, write_frame(inbox, night=2))
    assert outcome.judgements[0].evidence.reference_size == 19


def test_unlabelled_nominal_frames_are_references(taught, inbox):
    process(taught, write_frame(inbox, night=2), write_frame(inbox, night=2, number=1))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judgements[0].evidence.reference_size == 22


def test_unlabelled_anomalous_frames_are_no_references(taught, inbox):
    process(taught, write_frame(inbox, night=2, change=light_leak))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judgements[0].evidence.reference_size == 20


@pytest.mark.parametrize("scope", ["TB0", "TINY"])
def test_references_do_not_cross_epoch(taught, inbox, scope):
    with taught.write_session.begin() as session:
        when = session.scalar(select(FrameRow.processed_at).limit(1))
        since = date(2026, 1, 2)
        session.add(EpochRow(scope=scope, since=since, why="new lamp", who="me", at=when))
    [before, after] = process(
        taught, write_frame(inbox, night=0, number=1), write_frame(inbox, night=3)
    )
    assert after.judgements[0].evidence.reference_size == 0
    assert before.judgements[0].evidence.reference_size == 0  # older than its would-be references


def test_epoch_of_another_type_is_ignored(taught, inbox):
    with taught.write_session.begin() as session:
        when = session.scalar(select(FrameRow.processed_at).limit(1))
        session.add(EpochRow(scope="TF0", since=date(2026, 1, 2), why="?", who="me", at=when))
    [outcome] = process(taught, write_frame(inbox, night=3))
    assert outcome.judgements[0].evidence.reference_size == 20


def test_rare_slit_width_uses_references_of_all_widths(project, inbox):
    process(project, *write_history(inbox, kind="FLAT", SLIT=1.0), label=GOOD)
    [outcome] = process(project, write_frame(inbox, 2, kind="FLAT", SLIT=1.2, change=light_leak))
    assert outcome.judgements[0].evidence.widened == "any slit width"
    assert outcome.judgements[0].evidence.reference_size == 20


def test_frames_of_another_wavelength_are_no_references(project, inbox):
    process(project, *write_history(inbox, kind="FLAT", WAVELEN=500.0), label=GOOD)
    [outcome] = process(project, write_frame(inbox, 2, kind="FLAT", WAVELEN=600.0))
    assert outcome.judgements[0].evidence.reference_size == 0


def test_identical_pixels_are_anomaly_with_name(project, inbox):
    def still(image):
        image[:] = np.indices(image.shape).sum(axis=0) % 2 + ZERO_ADU

    first, second = (write_frame(inbox, night, change=still) for night in (1, 2))
    [earlier, later] = process(project, first, second)
    assert verdict_of(earlier).status is Status.UNDECIDED
    assert verdict_of(later).status is Status.ANOMALOUS
    assert verdict_of(later).reasons[0] == f"has the very same pixels as {first.stem}"


def test_frame_with_edited_header_is_no_duplicate(project, inbox):
    process(project, write_frame(inbox))
    [outcome] = process(project, write_frame(inbox, suffix=".fits.gz", OBSERVER="edited"))
    assert outcome.state is FrameState.PROCESSED
    assert outcome.judgements[0].evidence.duplicate_of == ""


def test_nearest_reference_has_least_distance(taught, inbox):
    [outcome] = process(taught, write_frame(inbox, night=2))
    [judged] = outcome.judgements
    references = rows(taught, EmbeddingRow)[:20]
    distances = cosine_distances(
        np.stack([row.vector for row in references]), judged.embedding[np.newaxis]
    )
    assert judged.nearest_id == references[int(distances.argmin())].extension_id


def test_embedding_is_independent_of_exposure_time(project, inbox):
    def twice(image):
        image[:, :224] += 1000

    short = process(project, write_frame(inbox, kind="FLAT", EXPTIME=1.0))
    long = process(project, write_frame(inbox, 1, 1, kind="FLAT", EXPTIME=2.0, change=twice))
    embeddings = [outcome.judgements[0].embedding[np.newaxis] for [outcome] in (short, long)]
    assert cosine_distances(*embeddings) < 1e-5


# --- labels and alerts ----------------------------------------------------------------------------


def test_certified_anomaly_creates_no_alert(taught, inbox):
    process(taught, write_frame(inbox, night=2, change=light_leak), label=GOOD)
    assert rows(taught, VerdictRow)[-1].status == "ANOMALOUS"
    assert rows(taught, AlertRow) == []


def test_certifying_known_frames_labels_them_once(project, inbox):
    paths = write_history(inbox, frames=3)
    process(project, *paths)
    for _ in range(2):
        outcomes = process(project, *paths, label=GOOD)
        assert {outcome.state for outcome in outcomes} == {FrameState.KNOWN}
    assert [row.label for row in rows(project, LabelRow)] == ["good"] * 3


def test_certifying_copy_labels_frame(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    process(project, Path(shutil.copy(path, inbox / "copy.fits")), label=GOOD)
    assert [row.label for row in rows(project, LabelRow)] == ["good"]


def test_certifying_archive_keeps_existing_label(project, inbox):
    path = write_frame(inbox)
    process(project, path, label=LabelName.BAD)
    process(project, path, label=GOOD)
    assert [row.label for row in rows(project, LabelRow)] == ["bad"]


# --- repeated processing --------------------------------------------------------------------------


def test_second_run_changes_nothing(taught, inbox):
    paths = find_frames([inbox])
    paths.append(write_frame(inbox, night=2, kind="SCIENCE"))
    process(taught, *paths)
    stored, dates = everything(taught), [path.stat().st_mtime_ns for path in paths]
    outcomes = process(taught, *paths)
    assert {outcome.state for outcome in outcomes} == {FrameState.KNOWN}
    assert everything(taught) == stored
    assert [path.stat().st_mtime_ns for path in paths] == dates


@pytest.mark.parametrize("suffix", [".fits", ".fits.Z", ".fits.gz"])
def test_copy_with_another_name_is_known(project, inbox, tmp_path, suffix):
    process(project, write_frame(inbox))
    copy = write_frame(tmp_path, suffix=suffix).rename(tmp_path / f"copy{suffix}")
    [outcome] = process(project, copy)
    assert outcome.state is FrameState.KNOWN
    assert len(rows(project, FrameRow)) == 1


def test_copy_in_same_batch_is_known(project, inbox):
    path = write_frame(inbox)
    copy = Path(shutil.copy(path, inbox / "copy.fits"))
    states = [outcome.state for outcome in process(project, path, copy)]
    assert sorted(states) == [FrameState.KNOWN, FrameState.PROCESSED]


def test_touched_file_is_read_once_more(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    touch(path)
    process(project, path)
    assert rows(project, FrameRow)[0].modified_ns == path.stat().st_mtime_ns


def test_link_to_known_file_is_known(project, inbox):
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


def test_concurrent_processes_store_each_frame_once(project_folder, inbox):
    write_history(inbox, frames=12)
    (inbox / "broken.fits").write_bytes(b"SIMPLE")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    both = [
        context.Process(target=run_in_a_process, args=(project_folder, inbox, barrier))
        for _ in range(2)
    ]
    for child in both:
        child.start()
    wait_for_end(*both)
    assert [child.exitcode for child in both] == [0, 0]
    with open_tiny(project_folder) as project:
        assert len(rows(project, FrameRow)) == 13
        counts = [len(rows(project, table)) for table in (ExtensionRow, EmbeddingRow, VerdictRow)]
        assert counts == [12, 12, 12]


class DyingStandIn(StandIn):
    """Encoder that ends the process."""

    def embed(self, inputs):  # noqa: ARG002 - signature of an encoder
        os._exit(9)


def die_while_embedding(project_folder, path):
    with open_tiny(project_folder, DyingStandIn()) as project:
        process(project, path)


def die_between_two_writes(project_folder, path):
    def leave_at_a_verdict(_connection, _cursor, statement, *_rest):
        if statement.startswith("INSERT INTO verdict"):
            os._exit(9)

    with open_tiny(project_folder) as project, project.read_session() as session:
        event.listen(session.get_bind(), "after_cursor_execute", leave_at_a_verdict)
        process(project, path)


@pytest.mark.parametrize("die", [die_while_embedding, die_between_two_writes])
def test_killed_process_leaves_nothing_half_stored(project_folder, inbox, die):
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


# --- faulty files ---------------------------------------------------------------------------------


def test_broken_file_has_one_row(project, inbox):
    path = inbox / "broken.fits"
    path.write_bytes(b"not FITS")
    for _ in range(3):
        [outcome] = process(project, path)
        assert (outcome.state, outcome.is_anomalous) == (FrameState.FAILED, True)
    [row] = rows(project, FrameRow)
    assert (row.state, row.reason) == ("failed", outcome.reason)
    assert row.reason.startswith(f"{path}: expected a FITS file")


def test_broken_file_does_not_stop_others(project, inbox):
    (inbox / "A.fits").write_bytes(b"")
    write_frame(inbox)
    outcomes = process(project, *find_frames([inbox]))
    assert [outcome.state for outcome in outcomes] == [FrameState.FAILED, FrameState.PROCESSED]


def test_repaired_file_is_processed(project, inbox):
    path = write_frame(inbox)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    process(project, path)
    path.write_bytes(whole)
    [outcome] = process(project, path)
    assert outcome.state is FrameState.PROCESSED
    [row] = rows(project, FrameRow)
    assert (row.state, row.reason) == ("processed", "")


def test_returned_file_has_no_failure(project, inbox):
    path = write_frame(inbox)
    process(project, path)
    away = path.rename(inbox / "away")
    [outcome] = process(project, path)
    assert outcome.state is FrameState.FAILED
    away.rename(path)
    process(project, path)
    assert [row.state for row in rows(project, FrameRow)] == ["processed"]


def test_vanished_file_fails_with_path(project, inbox, monkeypatch):
    monkeypatch.chdir(inbox)
    relative = write_frame(inbox).relative_to(inbox)
    paths = find_frames([relative])
    relative.unlink()
    [outcome] = process(project, *paths)
    assert outcome.reason == f"{inbox / relative}: No such file or directory"
    write_frame(inbox)
    process(project, relative)
    assert [row.state for row in rows(project, FrameRow)] == ["processed"]


def test_science_frame_is_skipped(project, inbox):
    [outcome] = process(project, write_frame(inbox, kind="SCIENCE"))
    assert (outcome.state, outcome.is_anomalous) == (FrameState.SKIPPED, False)


@pytest.mark.parametrize(
    "name", [b"[red]x.fits", b"a b;'\".fits", "Ωλ.fits".encode(), b"\xff\xfe.fits", b"n\nl.fits"]
)
def test_unusual_file_names_are_processed(project, inbox, name):
    path = write_frame(inbox)
    odd = inbox / os.fsdecode(name)
    shutil.move(path, odd)
    [outcome] = process(project, odd)
    good_name = name != b"\xff\xfe.fits"
    assert outcome.state is (FrameState.PROCESSED if good_name else FrameState.FAILED)
    [row] = rows(project, FrameRow)
    assert row.path == (str(odd) if good_name else f"{inbox}/\\xff\\xfe.fits")


def test_loop_of_links_is_failed_file(project, inbox):
    loop = inbox / "loop.fits"
    loop.symlink_to(loop)
    [outcome] = process(project, loop)
    assert outcome.state is FrameState.FAILED


@pytest.mark.parametrize(
    ("cards", "value", "message"),
    [
        ({"BINX": 2, "BINY": 2}, 101, "expected at least 224x224 pixels, got 112x120"),
        ({}, 1e30, "expected pixels of a detector, got up to 1e+30 ADU"),
        ({"EXPTIME": 1e-20}, 1000, "expected pixels of a detector"),
        ({"DATE-OBS": "1980-01-01T00:00:00"}, 101, "its thresholds begin on 2000-01-01"),
    ],
)
def test_frame_that_cannot_be_judged_fails_alone(project, inbox, cards, value, message):
    image = np.full((224 // cards.get("BINY", 1), 240 // cards.get("BINX", 1)), 100, np.float32)
    image[5, 5] = value
    odd = inbox / "A.fits"
    odd.write_bytes(frame_bytes(cards_of(kind="FLAT") | cards, image))
    first, second = process(project, odd, write_frame(inbox))
    assert (first.state, second.state) == (FrameState.FAILED, FrameState.PROCESSED)
    assert first.reason.startswith(f"{odd}: ")
    assert message in first.reason


def test_process_frame_of_broken_file_raises_and_stores_nothing(project, inbox):
    path = inbox / "broken.fits"
    path.write_bytes(b"not FITS")
    with pytest.raises(FrameError, match="expected a FITS file"):
        process_frame(path, project)
    assert rows(project, FrameRow) == []


# --- faulty installation --------------------------------------------------------------------------


class BrokenStandIn(StandIn):
    """Encoder with damaged weights."""

    def embed(self, inputs):
        return np.full((len(inputs), 13), np.nan, np.float32)


def test_encoder_with_nan_output_stops_run(project_folder, inbox):
    with open_tiny(project_folder, BrokenStandIn()) as project:
        with pytest.raises(
            ConfigurationError, match="stand-in-1: returned an embedding that is not"
        ):
            process(project, write_frame(inbox))
        assert not any(everything(project).values())


def test_encoder_without_thresholds_stops_run(project_folder, inbox):
    text = thresholds_text(["TB0"]) + thresholds_text(["TF0"], encoder="another")
    (project_folder / "thresholds.yaml").write_text(text)
    with open_tiny(project_folder) as project:
        with pytest.raises(ConfigurationError, match=r"TF0: no entry for encoder stand-in-1 .*ano"):
            process(project, write_frame(inbox))
        assert not any(everything(project).values())


# --- finding files --------------------------------------------------------------------------------


def test_find_frames_accepts_every_fits_suffix(inbox):
    deep = inbox / "2026" / "01"
    deep.mkdir(parents=True)
    expected = ["a.fits", "b.FITS", "c.fits.Z", "d.fit.gz", "e.fts.bz2", "f.fits.fz"]
    for name in [*expected, "truth.csv", "fits", "g.fits.part", "h.fits.txt"]:
        (deep / name).touch()
    (deep / "folder.fits").mkdir()
    assert sorted(path.name for path in find_frames([inbox])) == sorted(expected)


def test_find_frames_removes_duplicates(inbox):
    path = write_frame(inbox)
    assert find_frames([inbox, path, inbox]) == [path]


def test_find_frames_with_missing_path_raises(inbox):
    with pytest.raises(UnreadableFrameError, match=r"nowhere\.fits: no such file or folder"):
        find_frames([inbox / "nowhere.fits"])


def test_files_are_processed_in_order_of_names(project, inbox):
    paths = write_history(inbox, frames=3)
    outcomes = process(project, *paths[::-1])
    assert [outcome.path for outcome in outcomes] == paths
    with project.read_session() as session:
        assert session.scalar(select(func.count()).select_from(FrameRow)) == 3


def test_rejudging_uses_present_thresholds(taught, inbox, project_folder):
    process(taught, write_frame(inbox, 2, change=light_leak), write_frame(inbox, 3))
    before = rows(taught, VerdictRow)
    assert [item.status for item in before[-2:]] == [Status.ANOMALOUS, Status.NOMINAL]
    lenient = thresholds_text(["TB0", "TF0"]).replace("merge_height: 0.001", "merge_height: 2")
    (project_folder / "thresholds.yaml").write_text(lenient)
    with open_tiny(project_folder) as today:
        judged = list(rejudge_frames(today, date(2026, 1, 2)))
    after = rows(taught, VerdictRow)
    now = [item.judgement.verdict.status for item in judged]
    assert now == [Status.NOMINAL, Status.NOMINAL]
    assert [item.before for item in judged] == [Status.ANOMALOUS, Status.NOMINAL]
    assert [item.is_changed for item in judged] == [True, False]
    assert [item.id for item in after[: len(before)]] == [
        item.id for item in before
    ]  # none is replaced
    assert [item.extension_id for item in after[len(before) :]] == [
        item.extension_id for item in before[-2:]
    ]


@pytest.mark.parametrize(("in_force", "status"), [("dated", "ANOMALOUS"), ("newest", "NOMINAL")])
def test_rejudging_uses_threshold_policy(taught, inbox, project_folder, in_force, status):
    process(taught, write_frame(inbox, 2, change=light_leak))
    strict = thresholds_text(["TB0", "TF0"])
    later = strict.replace("2000-01-01", "2026-06-01").replace("height: 0.001", "height: 2")
    entries = [line.split("[")[1].rstrip("]\n") for line in (strict + later).splitlines(True)]
    text = f"TB0 TF0:\n  - {entries[0]}\n  - {entries[2]}\n"
    (project_folder / "thresholds.yaml").write_text(text)
    with open_tiny(project_folder) as today:
        [again] = rejudge_frames(today, date(2026, 1, 2), in_force=ThresholdPolicy(in_force))
    assert again.judgement.verdict.status == status


def test_rejudging_skips_undescribed_instrument(taught, inbox):
    process(taught, write_frame(inbox, 2))
    nothing = replace(taught, instruments=(replace(taught.instruments[0], name="GONE"),))
    assert list(rejudge_frames(nothing)) == []


def test_rejudging_with_same_limits_repeats_verdicts(taught, inbox):
    process(taught, *write_history(inbox, 3, night=2), write_frame(inbox, 3, change=bias_jump))
    before = rows(taught, VerdictRow)
    again = [item.judgement.verdict for item in rejudge_frames(taught)]
    assert [item.status for item in again] == [item.status for item in before]
    scores = [item.score for item in before]  # of embeddings not yet rounded to float16
    assert [item.score for item in again] == pytest.approx(scores, rel=1e-3)
