"""What the product made of the history, beside the truth; and the material for other methods."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.detection.history import live_through
from embeddings.encoder import ResNet50Encoder
from embeddings.preprocess import STRETCHES
from qc import database
from qc.database import Finding, FrameState
from qc.instruments import read_instruments
from qc.judge import REFERENCE_NEEDED, Status
from qc.runtime import read_settings
from qc.thresholds import Threshold, read_thresholds

Floats = NDArray[np.float32]
_EMBEDDED_AT_ONCE = 64


@dataclass(frozen=True)
class Truth:
    """What is known of one image because it was simulated."""

    night: date
    part: str  # reference, rebuild or test
    file: str
    extension: int
    image_type: str
    fault: str  # empty for a nominal image
    strength: str

    @property
    def is_bad(self) -> bool:
        """Whether it has a fault."""
        return bool(self.fault)


@dataclass(frozen=True)
class Sample:
    """One image: the truth, and what the product found.

    Attributes
    ----------
    finding : Finding or None
        None where the reader refused the file.
    refusal : str
        Why it did.
    """

    arm: str
    truth: Truth
    finding: Finding | None
    refusal: str

    @property
    def is_flagged(self) -> bool:
        """Whether a person would be told to look."""
        return self.finding is None or self.finding.verdict.status == Status.ANOMALOUS

    @property
    def reference_size(self) -> int:
        """How many good images it was held against."""
        return self.finding.verdict.reference_size if self.finding else 0


@dataclass(frozen=True)
class Material:
    """Some images of one setup, as every method may use them; n of them, in one order.

    Attributes
    ----------
    light : (n, h, w, 3) float32 array
        Block means, standard deviations and maxima, ADU above the image's own bias level.
    embeddings : (n, d) float32 array
        The product's.
    forerunner : (n, d) float32 array
        The same network's, of the block means stretched to 8 bits image by image.
    findings : sequence of n Finding
        What the product stored. Empty for references.
    thresholds : Threshold
        The limits in force.
    """

    light: Floats
    embeddings: Floats
    forerunner: Floats
    findings: Sequence[Finding]
    thresholds: Threshold


@dataclass(frozen=True)
class Group:
    """The images of one setup and night, and the references of that night."""

    samples: tuple[Sample, ...]
    references: Material
    tests: Material


class Record:
    """All that one arm's project holds.

    Parameters
    ----------
    work : Path
        The folder that `history.live_through` has filled.
    """

    def __init__(self, work: Path, arm: str) -> None:
        settings = read_settings(work / arm / "project")
        self._folder = work / arm
        self._arm = arm
        self._reads = sessionmaker(database.connect(settings.database_url))
        known = [code for each in read_instruments() for code in each.image_types()]
        self.thresholds = read_thresholds(settings.project / settings.thresholds, known)
        self.samples = tuple(self._join())

    def _join(self) -> Iterator[Sample]:
        with self._reads() as session:
            found = {
                (Path(one.frame.path).name, one.extension.number): one
                for one in database.findings(session, date.min)
            }
            refused = {
                row.name: row.reason
                for row in database.unprocessed(session)
                if row.state == FrameState.FAILED
            }
        for truth in read_truth(self._folder / "truth"):
            finding = found.get((truth.file, truth.extension))
            yield Sample(self._arm, truth, finding, refused.get(truth.file, ""))

    def groups(self) -> Iterator[Group]:
        """Yield what was judged against enough references, by night and setup."""
        by_setup = defaultdict(list)
        for sample in self.samples:
            if sample.finding and sample.reference_size >= REFERENCE_NEEDED:
                by_setup[sample.truth.night, sample.finding.extension.setup].append(sample)
        vectors = self.embed_as_the_forerunner()
        for samples in by_setup.values():
            with self._reads() as session:
                yield self._group(session, samples, vectors)

    def _group(
        self, session: Session, samples: Sequence[Sample], vectors: dict[int, Floats]
    ) -> Group:
        findings = [sample.finding for sample in samples if sample.finding]
        first = findings[0]
        reference = database.reference_of(session, first)
        night = first.frame.night
        assert night is not None
        limits = self.thresholds.threshold(first.extension.image_type, night, first.fingerprint)
        settled = reference.settled(night)
        ids = [finding.extension.id for finding in findings]
        references = Material(
            light=database.light_of(session, settled),
            embeddings=reference.embeddings,
            forerunner=np.stack([vectors[one] for one in reference.extension_ids]),
            findings=(),
            thresholds=limits,
        )
        tests = Material(
            light=np.concatenate([database.light_of(session, [one]) for one in ids]),
            embeddings=np.stack([_embedding(session, one) for one in findings]),
            forerunner=np.stack([vectors[one] for one in ids]),
            findings=findings,
            thresholds=limits,
        )
        return Group(tuple(samples), references, tests)

    def embed_as_the_forerunner(self) -> dict[int, Floats]:
        """Return the forerunner's embedding of each image by its id.

        Kept in the folder, as it takes minutes.
        """
        kept = self._folder / "forerunner.npz"
        ids = sorted(one.finding.extension.id for one in self.samples if one.finding)
        if not kept.exists() or np.load(kept)["ids"].tolist() != ids:
            np.savez(kept, ids=ids, vectors=np.concatenate(list(self._embed(ids))))
        stored = np.load(kept)
        return dict(zip(ids, stored["vectors"], strict=True))

    def _embed(self, ids: Sequence[int]) -> Iterator[Floats]:
        encoder = ResNet50Encoder("untrained", "minmax")
        with self._reads() as session:
            for start in range(0, len(ids), _EMBEDDED_AT_ONCE):
                some = ids[start : start + _EMBEDDED_AT_ONCE]
                pictures = np.stack([_picture(session, one) for one in some])
                yield encoder.embed(STRETCHES["minmax"](pictures, 0, 1))


def _picture(session: Session, extension_id: int) -> Floats:
    picture = database.block_statistics_of(session, extension_id)
    assert picture is not None
    return picture


def _embedding(session: Session, finding: Finding) -> Floats:
    return database.embedding_of(session, finding.extension.id, finding.verdict.encoder_id)


def prepare(arm: str, work: Path) -> None:
    """Simulate, judge and embed what is not yet in the folder of an arm.

    Here, and not in ``__main__``, so that a spawned process finds it.
    """
    live_through(arm, work)
    Record(work, arm).embed_as_the_forerunner()


def read_truth(folder: Path) -> Iterator[Truth]:
    """Yield the truth about every image of the nights that are done."""
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as stream:
            for row in csv.DictReader(stream):
                yield Truth(
                    night=date.fromisoformat(row["night"]),
                    part=row["part"],
                    file=row["file"],
                    extension=int(row["extension"]),
                    image_type=row["image_type"],
                    fault=row["fault"],
                    strength=row["strength"],
                )
