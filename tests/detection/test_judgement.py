import numpy as np
import pytest

from qc import core, detection
from qc.io.frame_reader import read_frame
from qc.pipeline.process import process_frame
from tests.support.tiny_spectrograph import (
    RoundedStandIn,
    bias_jump,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)

REFERENCES = 22


def measure_file(path, project):
    frame = read_frame(path, project.instruments)
    [measurement] = detection.measure(frame)
    return frame, measurement


def judge_file(path, reference_paths, project):
    """Judge a file against reference files, oldest first, without the database."""
    frame, measurement = measure_file(path, project)
    pairs = [measure_file(reference, project) for reference in reversed(reference_paths)]
    references = [reference for _, reference in pairs]
    reference = detection.make_reference(
        references,
        detection.embed(references, project.encoder),
        night=frame.night,
        nights=[reference_frame.night for reference_frame, _ in pairs],
    )
    embeddings = detection.embed([measurement], project.encoder)
    fingerprint = project.encoder.fingerprint
    thresholds = project.thresholds.select([measurement], frame.night, fingerprint)
    [judgement] = detection.judge([measurement], embeddings, [reference], thresholds)
    return judgement


@pytest.mark.slow
@pytest.mark.parametrize("change", [None, light_leak, bias_jump])
def test_judge_with_made_reference_equals_stored_reference(project_folder, inbox, change):
    with open_tiny(project_folder, RoundedStandIn()) as project:
        paths = write_history(inbox, frames=REFERENCES)
        process(project, *paths, label=core.LabelName.GOOD)
        new = write_frame(inbox, night=9, change=change)
        [stored] = process_frame(new, project).judgements
        pure = judge_file(new, paths, project)
    assert pure.evidence.reference_size == REFERENCES
    assert pure.evidence.residual is not None
    assert pure.evidence == stored.evidence
    assert pure.verdict == stored.verdict


def test_judge_with_few_made_references_is_undecided(project, inbox):
    paths = write_history(inbox, frames=core.REFERENCE_NEEDED - 1)
    judgement = judge_file(write_frame(inbox, night=2), paths, project)
    assert judgement.verdict.status is core.Status.UNDECIDED
    assert judgement.evidence.residual is None


def test_judge_without_reference_has_no_merge_height_and_no_nearest(project, inbox):
    judgement = judge_file(write_frame(inbox), [], project)
    assert judgement.evidence.merge_height is None
    assert judgement.nearest_id is None


def test_nearest_id_is_index_of_measurement(project, inbox):
    paths = write_history(inbox, frames=3)
    judgement = judge_file(paths[1], paths, project)
    assert judgement.nearest_id == 1


def test_duplicate_of_reference_is_anomaly(project, inbox):
    frame, measurement = measure_file(write_frame(inbox), project)
    empty = np.empty((0, 0), np.float32)
    reference = detection.make_reference([], empty, duplicate_of="other")
    embeddings = detection.embed([measurement], project.encoder)
    fingerprint = project.encoder.fingerprint
    thresholds = project.thresholds.select([measurement], frame.night, fingerprint)
    [judgement] = detection.judge([measurement], embeddings, [reference], thresholds)
    assert judgement.verdict.reasons[0] == "has the very same pixels as other"
