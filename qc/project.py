"""Everything a run needs, opened once and passed by hand.

The only place that names concrete classes.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker
from threadpoolctl import threadpool_limits

from embeddings.classifier import ClassifierError, DenseClassifier, Examples
from embeddings.encoder import Encoder, ResNet50Encoder
from qc._cache import LRUCache
from qc._files import shipped
from qc.db.classifiers import newest_classifier
from qc.db.engine import connect, for_adding, for_writing
from qc.db.migrate import check_schema, upgrade_schema
from qc.db.models import ClassifierRow
from qc.db.reference_models import ReferenceModelCache
from qc.detection.classifier_features import knows_these
from qc.detection.thresholds import Thresholds, read_thresholds
from qc.errors import ConfigurationError
from qc.io.instruments import Instrument, read_instruments
from qc.settings import SETTINGS_FILE, Settings, read_settings

_NOTES = Path("cache", "weights.json")  # in the project folder


def create_project(project: Path) -> None:
    """Make a folder in which every command works; what is there already stays as it is.

    Settings and thresholds to be edited, and a database at this version's schema.

    Raises
    ------
    ConfigurationError
        If the folder cannot be made or written to, or its settings are wrong.
    """
    try:
        project.mkdir(parents=True, exist_ok=True)
        if not (project / SETTINGS_FILE).exists():
            shutil.copyfile(_example_settings(), project / SETTINGS_FILE)
        settings = read_settings(project)
        own_thresholds = settings.project / settings.thresholds
        if not own_thresholds.exists():
            shutil.copyfile(shipped("thresholds.yaml"), own_thresholds)
    except OSError as error:
        raise ConfigurationError(f"{project}: cannot be made a project: {error}") from error
    engine = connect(settings.database_url)
    try:
        upgrade_schema(engine)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Project:
    """The collaborators of the pipeline.

    Attributes
    ----------
    reads, writes : sessionmaker
        Sessions that only read, and sessions whose transactions may write.
    kept : Kept
        What is asked for again and again, and takes long to look up.
    """

    settings: Settings
    instruments: tuple[Instrument, ...]
    thresholds: Thresholds
    encoder: Encoder
    reads: sessionmaker[Session]
    writes: sessionmaker[Session]
    expectations: ReferenceModelCache = field(default_factory=ReferenceModelCache)
    kept: LRUCache = field(default_factory=LRUCache)

    @property
    def engine(self) -> Engine:
        """Return the database's engine."""
        engine: Engine = self.reads.kw["bind"]
        return engine

    @cached_property
    def adds(self) -> sessionmaker[Session]:
        """Return sessions that add frames, beside those of other processes where that can be."""
        return sessionmaker(for_adding(self.engine))

    def renewed(self) -> "Project":
        """Return the runtime with what people have changed since: limits, and the classifier.

        Raises
        ------
        ConfigurationError
            If the thresholds file is wrong now.
        """
        file = thresholds_file(self.settings)
        if sha256(file.read_bytes()).hexdigest() != self.thresholds.digest:
            thresholds = read_thresholds(file, image_types_of(self.instruments))
            return replace(self, thresholds=thresholds)
        with self.reads() as session:
            newest = newest_classifier(session, self.encoder.fingerprint)
        used = self.__dict__.get("classifier")  # loaded only once it was asked for
        is_used = used is None or newest is None or newest.digest == used.digest
        return self if is_used else replace(self)

    @cached_property
    def classifier(self) -> DenseClassifier | None:
        """Return the newest accepted classifier of the encoder's embeddings.

        Without one, that which came with the program if it knows this encoder; else None.

        Raises
        ------
        ConfigurationError
            If it cannot be read.
        """
        fingerprint = self.encoder.fingerprint
        with self.reads() as session:
            row = newest_classifier(session, fingerprint)
        try:
            content = row.content if row else _shipped_classifier()
            known = DenseClassifier.load(content) if content else None
        except ClassifierError as error:
            raise ConfigurationError(f"{_whose(row)}: {error}; 'qc train' makes one") from error
        if known is None or known.fingerprint != fingerprint:
            return None
        if not knows_these(known):
            raise ConfigurationError(
                f"{_whose(row)}: trained with other detector numbers than this version measures; "
                "'qc train' makes one that fits"
            )
        return known


@contextmanager
def open_project(settings: Settings) -> Iterator[Project]:
    """Open everything a run needs, and close it.

    Linear algebra has one thread meanwhile. Judging is made of small products, for which a pool of
    threads waits longer than it computes; and by spinning, on cores that others read or embed with.

    Raises
    ------
    ConfigurationError
        If the settings, the thresholds or the instrument files are wrong, or the database is
        not at the schema of this version.
    """
    instruments = read_instruments(settings.instruments_folder)
    engine = connect(settings.database_url)
    try:
        check_schema(engine)
        with threadpool_limits(1, user_api="blas"):
            yield Project(
                settings=settings,
                instruments=instruments,
                thresholds=read_thresholds(thresholds_file(settings), image_types_of(instruments)),
                encoder=_encoder(settings),
                reads=sessionmaker(engine),
                writes=sessionmaker(for_writing(engine)),
            )
    finally:
        engine.dispose()


def _encoder(settings: Settings) -> ResNet50Encoder:
    if settings.engine == "openvino" and find_spec("openvino") is None:
        raise ConfigurationError(
            "engine: expected one that is installed, got 'openvino'; "
            "pip install 'calibration-qc[openvino]' brings it"
        )
    return ResNet50Encoder(
        settings.weights_name,
        settings.stretch,
        notes=settings.project / _NOTES,
        engine=settings.engine,
    )


def _example_settings() -> Path:
    return Path(str(resources.files("qc").joinpath("example.toml")))


def image_types_of(instruments: Iterable[Instrument]) -> list[str]:
    """List every image type that the instruments describe."""
    return [code for instrument in instruments for code in instrument.image_types()]


def _whose(row: ClassifierRow | None) -> str:
    return f"classifier {row.id} of the database" if row else "the program's classifier"


def _shipped_classifier() -> bytes:
    file = resources.files("embeddings").joinpath("weights", "classifier.dense")
    return file.read_bytes() if file.is_file() else b""


def shipped_examples() -> Examples | None:
    """Return the simulated examples that came with the program, faults of every kind, if any."""
    file = resources.files("embeddings").joinpath("weights", "examples.npz")
    return Examples.load(file.read_bytes()) if file.is_file() else None


def thresholds_file(settings: Settings) -> Path:
    """Return the project's thresholds file; without one, the one that came with the program.

    A file that was named in the settings is never replaced by another: it must be there.
    """
    own = settings.project / settings.thresholds
    named = "thresholds" in settings.model_fields_set
    return own if named or own.exists() else shipped("thresholds.yaml")
