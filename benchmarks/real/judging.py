"""The product's verdict on every test: its whole pipeline, from the file on."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from sqlalchemy.orm import sessionmaker

from benchmarks.real.folds import Fold, Test
from benchmarks.real.making import Made
from embeddings.preprocess import block_statistics
from qc.core.enums import FrameState, LabelName
from qc.core.verdict import Status
from qc.db.engine import connect, for_writing
from qc.db.migrate import upgrade_schema
from qc.db.reference_models import ReferenceModelCache
from qc.pipeline.process import ProcessingOutcome, process_frames
from qc.project import Project

Floats = NDArray[np.float32]

REFUSED = 1e4  # the score of a file that the reader refuses: above all others that matter
_FIRST_NIGHT = datetime(2031, 3, 3, 20, tzinfo=UTC)  # a Monday, in no instrument's noon
_NIGHTS = 5  # of references; tests come two weeks later
_APART = timedelta(days=14)


@dataclass(frozen=True)
class Verdict:
    """A test, and what the product said.

    Attributes
    ----------
    series, question, source : str
        Which series, how it was tested, and the real frame that the test was made of.
    part : int
        Which of the images made of that frame.
    kind, strength : str
        The fault; empty for none.
    score : float
        1 is where a frame becomes anomalous.
    reason : str
        The strongest.
    picture : (h, w) float32 array
        Block means, ADU.
    """

    series: str
    question: str
    source: str
    part: int
    is_real: bool
    kind: str
    strength: str
    score: float
    flagged: bool
    reason: str
    picture: Floats

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong with the frame."""
        return bool(self.kind)


def judge_fold(fold: Fold, folder: Path, project: Project) -> list[Verdict]:
    """Let the product see the references, labelled good, and then the tests, unlabelled."""
    verdicts = zip(fold.tests, outcomes_of(fold, folder, project), strict=True)
    return [_verdict(fold, test, outcome) for test, outcome in verdicts]


def outcomes_of(fold: Fold, folder: Path, project: Project) -> list[ProcessingOutcome]:
    """Return what the product made of each test, after the references."""
    with _fresh_memory(folder, project) as fresh:
        for night in range(_NIGHTS):
            start = _FIRST_NIGHT + timedelta(days=night)
            _process(fold.references[night::_NIGHTS], start, folder, fresh, LabelName.GOOD)
        made = [test.made for test in fold.tests]
        return _process(made, _FIRST_NIGHT + _APART, folder, fresh, None)


@contextmanager
def _fresh_memory(folder: Path, project: Project) -> Iterator[Project]:
    """Give the runtime a database of its own, gone afterwards; a network takes seconds to start."""
    folder.mkdir(parents=True)
    engine = connect(f"sqlite:///{folder / 'qc.db'}")
    upgrade_schema(engine)
    try:
        yield replace(
            project,
            reads=sessionmaker(engine),
            writes=sessionmaker(for_writing(engine)),
            expectations=ReferenceModelCache(),
        )
    finally:
        engine.dispose()
        shutil.rmtree(folder)


def _process(
    some: Sequence[Made],
    start: datetime,
    folder: Path,
    project: Project,
    label: LabelName | None,
) -> list[ProcessingOutcome]:
    paths = [
        _write(made, folder, start + timedelta(minutes=number)) for number, made in enumerate(some)
    ]
    # A file that cannot be judged is reported ahead of its batch.
    outcomes = {each.path.name: each for each in process_frames(paths, project, label)}
    for path in paths:
        path.unlink()
    return [outcomes[path.name] for path in paths]


def _write(made: Made, folder: Path, taken: datetime) -> Path:
    """Write an image with the header of its real frame; only time, name and exposure differ."""
    name = f"{taken:%Y-%m-%dT%H:%M:%S}"
    header = made.source.header.copy()
    header["DATE-OBS"] = name
    header["EXPTIME"] = made.exposure_s
    if "ARCFILE" in header:
        header["ARCFILE"] = f"{name}.fits"
    path = folder / f"{name}.fits"
    fits.PrimaryHDU(made.pixels, header).writeto(path, output_verify="silentfix")
    return path


def _verdict(fold: Fold, test: Test, outcome: ProcessingOutcome) -> Verdict:
    score, reason = REFUSED, outcome.reason
    if outcome.state is not FrameState.FAILED:
        ((judged),) = outcome.judged
        score, reason = judged.verdict.score, (*judged.verdict.reasons, "")[0]
        assert judged.verdict.status is not Status.UNDECIDED
    made = test.made
    return Verdict(
        series=fold.series.title,
        question=fold.question,
        source=made.source.file,
        part=made.part,
        is_real=made.is_real,
        kind=test.kind,
        strength=test.strength,
        score=score,
        flagged=outcome.is_anomalous,
        reason=reason,
        picture=block_statistics(made.pixels)[..., 0],
    )
