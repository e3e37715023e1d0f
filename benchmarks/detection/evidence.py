"""The product's results for a history with ground truth, and inputs for other methods."""

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.detection.features import Networks, Picture, extract
from benchmarks.detection.history import History, judge_anew, live_through
from embeddings.encoder import ResNet50Encoder
from embeddings.preprocess import STRETCHES, scale_to_standard_light
from embeddings.residual import Sensor
from qc import db
from qc.core.enums import FrameState
from qc.core.frame import Setup
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.db.schema.models import ExtensionRow
from qc.detection.references import sensor_of
from qc.detection.thresholds import Threshold, read_thresholds
from qc.io.instrument_files import read_instruments
from qc.io.instrument_parts import ChipNumbers
from qc.settings import read_settings

Floats = NDArray[np.float32]
_EMBEDDED_AT_ONCE = 64
_SAMPLE_SEED = 1
SAMPLED_REFERENCES = 24  # of a setup and part; a large network takes a fifth of a second for each
SAMPLED_TESTS = 20  # good ones of an image type, and as many bad ones


@dataclass(frozen=True)
class Truth:
    """Ground truth of a simulated image."""

    night: date
    part: str  # reference, rebuild, test or new lamp
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
    """An image with ground truth and the product's result.

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
    def name(self) -> str:
        """Return the file's name and the number of its image."""
        return f"{self.truth.file.removesuffix('.fits')}[{self.truth.extension}]"

    @property
    def is_flagged(self) -> bool:
        """Whether it raises an alert."""
        return self.finding is None or self.finding.verdict.status == Status.ANOMALOUS

    @property
    def reference_size(self) -> int:
        """How many good images it was held against."""
        return self.finding.verdict.reference_size if self.finding else 0


@dataclass(frozen=True)
class Sampled:
    """A network's features of those images that are in the sample.

    Attributes
    ----------
    rows : (k,) int array
        Which of the material's images they are.
    vectors : (k, ...) float32 array
    """

    rows: NDArray[np.intp]
    vectors: Floats


@dataclass(frozen=True)
class Material:
    """Some images of one setup, as every method may use them; n of them, in one order.

    Attributes
    ----------
    light : (n, h, w, 3) float32 array
        Block means, standard deviations and maxima, ADU above the image's own bias level. Of
        references in a `Group`: of the settled ones alone.
    promised : (n,) float64 array
        The light that the header promises of each of `light`; 0 where no lamp shines.
    embeddings : (n, d) float32 array
        The product's.
    forerunner : (n, d) float32 array
        The same network's, of the block means stretched to 8 bits image by image.
    metrics : sequence of n mappings
        The metrics.
    findings : sequence of n Finding
        Stored results. Empty for references.
    thresholds : Threshold
        The limits in force.
    features : mapping of extractor's name to Sampled
    """

    light: Floats
    promised: NDArray[np.float64]
    embeddings: Floats
    forerunner: Floats
    metrics: Sequence[Mapping[str, float]]
    findings: Sequence[Finding]
    thresholds: Threshold
    features: Mapping[str, Sampled] = field(default_factory=dict)

    def only(self, rows: Sequence[int]) -> "Material":
        """Return some of the images, without other networks' features."""
        return Material(
            light=self.light[rows],
            promised=self.promised[rows],
            embeddings=self.embeddings[rows],
            forerunner=self.forerunner[rows],
            metrics=[self.metrics[row] for row in rows],
            findings=[self.findings[row] for row in rows],
            thresholds=self.thresholds,
        )


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
    networks : Networks, optional
        Whose features are wanted too; without, the forerunner's embeddings are left empty.
    """

    def __init__(self, work: Path, arm: str, networks: Networks | None = None) -> None:
        settings = read_settings(work / arm / "project")
        self._folder = work / arm
        self.arm = arm
        self._reads = sessionmaker(db.schema.engine.connect(settings.database_url))
        self._networks = networks
        instruments = read_instruments()
        (self._instrument,) = (
            instrument for instrument in instruments if instrument.name == "UVES"
        )
        results = [code for instrument in instruments for code in instrument.image_types()]
        self.thresholds = read_thresholds(settings.project / settings.thresholds, results)
        self.samples = tuple(self._join())

    def _join(self) -> Iterator[Sample]:
        with self._reads() as session:
            results = {
                (Path(item.frame.path).name, item.extension.number): item
                for item in db.findings.findings(session, date.min)
            }
            refused = {
                row.name: row.reason
                for row in db.statistics.unprocessed_files(session)
                if row.state == FrameState.FAILED
            }
        for truth in read_truth(self._folder / "truth"):
            finding = results.get((truth.file, truth.extension))
            yield Sample(self.arm, truth, finding, refused.get(truth.file, ""))

    def groups(self) -> Iterator[Group]:
        """Yield the samples with enough references, by night and setup."""
        for samples in self.by_night_and_setup().values():
            with self._reads() as session:
                yield self._group(session, samples)

    def by_night_and_setup(self) -> dict[tuple[date, Setup], list[Sample]]:
        """Return the samples with enough references."""
        groups = defaultdict(list)
        for sample in self.samples:
            if sample.finding and sample.reference_size >= REFERENCE_NEEDED:
                groups[sample.truth.night, sample.finding.extension.setup].append(sample)
        return groups

    def _group(self, session: Session, samples: Sequence[Sample]) -> Group:
        findings = [sample.finding for sample in samples if sample.finding]
        first = findings[0]
        reference = db.findings.reference_of(session, first)
        night = first.frame.night
        assert night is not None
        limits = self.thresholds.threshold(first.extension.image_type, night, first.fingerprint)
        settled = sorted(reference.select_for_model(night))  # as `load_light` orders them
        references = Material(
            light=db.block_statistics.load_light(session, settled),
            promised=np.array([self._findings[item].extension.promised_light for item in settled]),
            embeddings=reference.embeddings,
            forerunner=self._forerunner_of(reference.extension_ids),
            metrics=reference.metrics,
            findings=(),
            thresholds=limits,
            features=self._features_of(reference.extension_ids),
        )
        ids = [finding.extension.id for finding in findings]
        tests = self._material(session, ids, limits)
        return Group(tuple(samples), references, tests)

    def material(self, samples: Sequence[Sample]) -> Material:
        """Return any judged images of one setup, in the order given."""
        findings = [sample.finding for sample in samples if sample.finding]
        first = findings[0]
        assert first.frame.night is not None
        limits = self.thresholds.threshold(
            first.extension.image_type, first.frame.night, first.fingerprint
        )
        with self._reads() as session:
            return self._material(session, [finding.extension.id for finding in findings], limits)

    def references_of(self, sample: Sample) -> list[Sample]:
        """Return the images that one was held against, newest first."""
        assert sample.finding is not None
        with self._reads() as session:
            ids = db.findings.reference_of(session, sample.finding).extension_ids
        results = {item.finding.extension.id: item for item in self.samples if item.finding}
        return [results[item] for item in ids]

    def _material(self, session: Session, ids: Sequence[int], limits: Threshold) -> Material:
        findings = [self._findings[number] for number in ids]
        return Material(
            light=np.concatenate(
                [db.block_statistics.load_light(session, [number]) for number in ids]
            ),
            promised=np.array([finding.extension.promised_light for finding in findings]),
            embeddings=np.stack([_embedding(session, finding) for finding in findings]),
            forerunner=self._forerunner_of(ids),
            metrics=[finding.extension.metrics for finding in findings],
            findings=findings,
            thresholds=limits,
            features=self._features_of(ids),
        )

    def sensor(self, extension: ExtensionRow) -> Sensor:
        """Return the sensor of an image, for the residual."""
        with self._reads() as session:
            measured = db.block_statistics.load_measurement(session, extension, limits={})
        assert measured is not None
        return sensor_of(measured)

    def chip_numbers(self, extension: ExtensionRow) -> ChipNumbers:
        """Return gain, noise and level of an image's detector as it was read."""
        return self._instrument.chips[extension.chip].read_modes[extension.read_mode]

    def absolute_limits(self, extension: ExtensionRow) -> Mapping[str, tuple[float, float]]:
        """Return the instrument's own limits for an image."""
        return self._instrument.limits_of(extension.image_type, extension.chip, extension.read_mode)

    @cached_property
    def _findings(self) -> dict[int, Finding]:
        results = [sample.finding for sample in self.samples if sample.finding]
        return {finding.extension.id: finding for finding in results}

    def _forerunner_of(self, ids: Sequence[int]) -> Floats:
        if not self._networks:
            return np.empty((len(ids), 0), np.float32)
        return np.stack([self._forerunner[number] for number in ids])

    def _features_of(self, ids: Sequence[int]) -> dict[str, Sampled]:
        return {name: _sampled(features, ids) for name, features in self._features.items()}

    @cached_property
    def _features(self) -> dict[str, dict[int, Floats]]:
        """Return each extractor's features of the sample by image's id; kept in the folder."""
        if not self._networks:
            return {}
        sample = self._draw_sample()
        return {
            extractor.name: extract(extractor, sample, self._pictures, self._folder / "features")
            for extractor in self._networks.extractors()
        }

    def _draw_sample(self) -> list[int]:
        """Draw some images of every setup's labelled nights, and some tests of every type."""
        strata = defaultdict(list)
        for sample in self.samples:
            if sample.finding:
                truth, setup = sample.truth, sample.finding.extension.setup
                test = truth.part == "test"
                key = (truth.image_type, truth.is_bad) if test else (setup, truth.part)
                strata[test, key].append(sample.finding.extension.id)
        rng = np.random.default_rng(_SAMPLE_SEED)
        most = {True: SAMPLED_TESTS, False: SAMPLED_REFERENCES}
        drawn = [rng.permutation(ids)[: most[test]] for (test, _), ids in strata.items()]
        return sorted(int(item) for some in drawn for item in some)

    def _pictures(self, ids: Sequence[int]) -> Iterator[Picture]:
        """Yield the network input of some images, as the product makes it."""
        with self._reads() as session:
            for number in ids:
                about = self._findings[number].extension
                zero = np.array([about.zero_adu, 0, about.zero_adu], np.float32)
                level = about.metrics.get("bias_level", about.zero_adu)
                statistics = scale_to_standard_light(
                    _picture(session, number) + zero, level, about.promised_light
                )
                yield STRETCHES["physical"](statistics, about.zero_adu, about.stretch_adu)

    @cached_property
    def _forerunner(self) -> dict[int, Floats]:
        return self.embed_as_the_forerunner()

    def extract_features(self) -> None:
        """Compute and keep every extractor's features."""
        _ = self._features

    def embed_as_the_forerunner(self) -> dict[int, Floats]:
        """Return the forerunner's embedding of each image by its id.

        Kept in the folder, as it takes minutes.
        """
        entry = self._folder / "forerunner.npz"
        ids = sorted(sample.finding.extension.id for sample in self.samples if sample.finding)
        if not entry.exists() or np.load(entry)["ids"].tolist() != ids:
            np.savez(entry, ids=ids, vectors=np.concatenate(list(self._embed(ids))))
        stored = np.load(entry)
        return dict(zip(ids, stored["vectors"], strict=True))

    def _embed(self, ids: Sequence[int]) -> Iterator[Floats]:
        encoder = ResNet50Encoder("untrained", "minmax")
        with self._reads() as session:
            for start in range(0, len(ids), _EMBEDDED_AT_ONCE):
                some = ids[start : start + _EMBEDDED_AT_ONCE]
                pictures = np.stack([_picture(session, item) for item in some])
                yield encoder.embed(STRETCHES["minmax"](pictures, 0, 1))


def _sampled(features: Mapping[int, Floats], ids: Sequence[int]) -> Sampled:
    rows = [row for row, item in enumerate(ids) if item in features]
    vectors = (
        np.stack([features[ids[row]] for row in rows]) if rows else np.empty((0, 0), np.float32)
    )
    return Sampled(np.array(rows, np.intp), vectors)


def _picture(session: Session, extension_id: int) -> Floats:
    picture = db.block_statistics.find_block_statistics(session, extension_id)
    assert picture is not None
    return picture


def _embedding(session: Session, finding: Finding) -> Floats:
    return db.embeddings.embedding_of(session, finding.extension.id, finding.verdict.encoder_id)


def prepare(
    arm: str,
    work: Path,
    history: History,
    *,
    again: bool = False,
    networks: Networks | None = None,
) -> None:
    """Simulate and judge an arm's missing frames; compute features of other networks.

    If `again`, existing frames are judged again.

    Here, and not in ``__main__``, so that a spawned process finds it.
    """
    live_through(arm, work, history)
    if again:
        judge_anew(arm, work)
    if networks:
        record = Record(work, arm, networks)
        record.embed_as_the_forerunner()
        record.extract_features()


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
