"""Real frames of EFOSC2 with injected faults, as labelled examples of another instrument."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.classifier.examples import LabelledSet
from benchmarks.real.archive import BIAS, EFOSC2_ARC, FLAT
from benchmarks.real.folds import COUNTED, Fold, Test
from benchmarks.real.judging import outcomes_of
from benchmarks.real.work import folds_of
from embeddings.classifier_data import Examples
from qc.core.enums import FrameState
from qc.core.verdict import Status
from qc.detection import describe_extension
from qc.detection.classifier_features import stack_features
from qc.detection.judgement import Judgement
from qc.pipeline.outcomes import ProcessingOutcome
from qc.project import create_project, open_project
from qc.settings import read_settings


def read_efosc2(real: Path) -> LabelledSet:
    """Return EFOSC2's biases, flats and arcs: untouched ones, and with faults injected."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        create_project(folder)
        with open_project(read_settings(folder)) as project:
            folds = [
                item
                for item in folds_of((BIAS, FLAT, EFOSC2_ARC), real)
                if item.question in COUNTED
            ]
            pairs = [
                pair
                for fold in folds
                for pair in _judged(fold, outcomes_of(fold, Path(folder) / "fold", project))
            ]
            return _known(pairs, project.encoder.fingerprint)


def _judged(fold: Fold, outcomes: list[ProcessingOutcome]) -> Iterator[tuple[Test, Judgement]]:
    for test, outcome in zip(fold.tests, outcomes, strict=True):
        if outcome.state is FrameState.PROCESSED:
            (judged,) = outcome.judgements
            yield test, judged


def _known(pairs: list[tuple[Test, Judgement]], fingerprint: str) -> LabelledSet:
    judged = [item for _, item in pairs]
    descriptions = [
        describe_extension(item.measurement, item.embedding, item.evidence, item.threshold)
        for item in judged
    ]
    types = tuple(item.measurement.setup.image_type for item in judged)
    examples = Examples(
        stack_features(descriptions, fingerprint),
        types,
        tuple(frozenset({test.kind} if test.kind else ()) for test, _ in pairs),
        np.arange(len(pairs)),
        np.ones(len(pairs)),
    )
    strengths = np.array([test.strength for test, _ in pairs])
    flagged = np.array([item.verdict.status is Status.ANOMALOUS for item in judged])
    return LabelledSet(examples, np.array(types), strengths, flagged)
