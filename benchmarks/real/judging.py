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
from benchmarks.real.making import MadeImage
from embeddings.preprocess import block_statistics
from qc.core.enums import FrameState, LabelName
from qc.core.verdict import Status
from qc.db.reference_models import ReferenceModelCache
from qc.db.schema.engine import connect, for_writing
from qc.db.schema.migrate import upgrade_schema
from qc.pipeline.batch import process_frames
from qc.pipeline.outcomes import ProcessingOutcome
from qc.project import ProjectContext

Floats = NDArray[np.float32]

REFUSED = 1e4  # the score of a file that the reader refuses: above all others that matter
_FIRST_NIGHT = datetime(2031, 3, 3, 20, tzinfo=UTC)  # a Monday, in no instrument's noon
_NIGHTS = 5  # of references; tests come two weeks later
_APART = timedelta(days=14)


@dataclass(frozen=True)
class Verdict:
    """A test with the product's verdict.

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


def judge_fold(fold: Fold, folder: Path, project: ProjectContext) -> list[Verdict]:
    """Let the product see the references, labelled good, and then the tests, unlabelled."""
    verdicts = zip(fold.tests, outcomes_of(fold, folder, project), strict=True)
    return [_verdict(fold, test, outcome) for test, outcome in verdicts]


def outcomes_of(fold: Fold, folder: Path, project: ProjectContext) -> list[ProcessingOutcome]:
    """Return the product's verdict of each test, after the references."""
    with _fresh_memory(folder, project) as fresh:
        for night in range(_NIGHTS):
            start = _FIRST_NIGHT + timedelta(days=night)
            _process(fold.references[night::_NIGHTS], start, folder, fresh, LabelName.GOOD)
        results = [test.made for test in fold.tests]
        return _process(results, _FIRST_NIGHT + _APART, folder, fresh, None)


@contextmanager
def _fresh_memory(folder: Path, project: ProjectContext) -> Iterator[ProjectContext]:
    """Give the runtime a database of its own, gone afterwards; a network takes seconds to start."""
    folder.mkdir(parents=True)
    engine = connect(f"sqlite:///{folder / 'qc.db'}")
    upgrade_schema(engine)
    try:
        yield replace(
            project,
            read_session=sessionmaker(engine),
            write_session=sessionmaker(for_writing(engine)),
            reference_models=ReferenceModelCache(),
        )
    finally:
        engine.dispose()
        shutil.rmtree(folder)


def _process(
    some: Sequence[MadeImage],
    start: datetime,
    folder: Path,
    project: ProjectContext,
    label: LabelName | None,
) -> list[ProcessingOutcome]:
    paths = [
        _write(image, folder, start + timedelta(minutes=number))
        for number, image in enumerate(some)
    ]
    # A file that cannot be judged is reported ahead of its batch.
    outcomes = {frame.path.name: frame for frame in process_frames(paths, project, label)}
    for path in paths:
        path.unlink()
    return [outcomes[path.name] for path in paths]


def _write(image: MadeImage, folder: Path, chosen: datetime) -> Path:
    """Write an image with the header of its real frame; only time, name and exposure differ."""
    name = f"{chosen:%Y-%m-%dT%H:%M:%S}"
    header = image.source.header.copy()
    header["DATE-OBS"] = name
    header["EXPTIME"] = image.exposure_s
    if "ARCFILE" in header:
        header["ARCFILE"] = f"{name}.fits"
    path = folder / f"{name}.fits"
    fits.PrimaryHDU(image.pixels, header).writeto(path, output_verify="silentfix")
    return path


def _verdict(fold: Fold, test: Test, outcome: ProcessingOutcome) -> Verdict:
    score, reason = REFUSED, outcome.reason
    if outcome.state is not FrameState.FAILED:
        ((judged),) = outcome.judgements
        score, reason = judged.verdict.score, (*judged.verdict.reasons, "")[0]
        assert judged.verdict.status is not Status.UNDECIDED
    image = test.made
    return Verdict(
        series=fold.series.title,
        question=fold.question,
        source=image.source.file,
        part=image.part,
        is_real=image.is_real,
        kind=test.kind,
        strength=test.strength,
        score=score,
        flagged=outcome.is_anomalous,
        reason=reason,
        picture=block_statistics(image.pixels)[..., 0],
    )
