"""Project: settings, instruments, thresholds, encoder and database, opened once.

Instruments, thresholds and encoder are loaded at their first use: commands that only read or
write rows need neither NumPy nor the learning libraries.
"""

import contextlib
import dataclasses
import shutil
from collections import abc
from functools import cached_property
from hashlib import sha256
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast, overload

import sqlalchemy as sa

from qc._cache import LRUCache
from qc._files import packaged_path
from qc.db.schema.engine import connect, for_inserting, for_writing
from qc.db.schema.revision import check_schema
from qc.errors import ConfigurationError
from qc.settings import SETTINGS_FILE, Settings, read_settings

if TYPE_CHECKING:
    from embeddings import classifier_data
    from embeddings.classifier import DenseClassifier
    from embeddings.encoder import Encoder
    from qc.db.reference_models import ReferenceModelCache
    from qc.db.schema.models import ClassifierRow
    from qc.detection.thresholds import Thresholds
    from qc.io.instruments import Instrument

_ENCODER_NOTES = Path("cache", "weights.json")  # in the project folder

T = TypeVar("T")


class LazyField(Generic[T]):
    """Field of `Project` that is loaded at its first use, unless it was passed.

    Parameters
    ----------
    load : callable
        Returns the value for a project.
    """

    def __init__(self, load: "abc.Callable[[ProjectContext], T]") -> None:
        self._load = load
        self._lock = RLock()  # threads share one value

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, project: None, owner: type) -> "LazyField[T]": ...

    @overload
    def __get__(self, project: "ProjectContext", owner: type) -> T: ...

    def __get__(self, project: "ProjectContext | None", owner: type) -> "LazyField[T] | T":
        if project is None:
            return self  # the default of the dataclass field
        values = project.__dict__
        with self._lock:
            if self._name not in values:
                values[self._name] = self._load(project)
        return cast("T", values[self._name])

    def __set__(self, project: "ProjectContext", value: "LazyField[T] | T") -> None:
        if value is not self:
            project.__dict__[self._name] = value


def _load_instruments(project: "ProjectContext") -> "tuple[Instrument, ...]":
    from qc.io.instrument_files import read_instruments

    return read_instruments(project.settings.instruments_folder)


def _load_thresholds(project: "ProjectContext") -> "Thresholds":
    from qc.detection.thresholds import read_thresholds

    return read_thresholds(thresholds_file(project.settings), image_types_of(project.instruments))


def _load_encoder(project: "ProjectContext") -> "Encoder":
    from embeddings.encoder import ResNet50Encoder

    project.limit_threads()
    settings = project.settings
    return ResNet50Encoder(
        settings.weights_name,
        settings.stretch,
        notes=settings.project / _ENCODER_NOTES,
        engine=settings.engine,
    )


def _load_reference_models(project: "ProjectContext") -> "ReferenceModelCache":
    from qc.db.reference_models import ReferenceModelCache

    project.limit_threads()
    return ReferenceModelCache()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProjectContext:
    """Settings, database and, loaded at first use, everything that judges frames.

    Attributes
    ----------
    read_session, write_session : sessionmaker
        Sessions that only read, and sessions whose transactions may write.
    instruments : tuple of Instrument
    thresholds : Thresholds
    encoder : Encoder
    reference_models : ReferenceModelCache
    cache : LRUCache
        Results of slow queries.
    at_close : ExitStack
        Closed with the project.
    """

    settings: Settings
    read_session: sa.orm.sessionmaker[sa.orm.Session]
    write_session: sa.orm.sessionmaker[sa.orm.Session]
    instruments: "LazyField[tuple[Instrument, ...]]" = LazyField(_load_instruments)
    thresholds: "LazyField[Thresholds]" = LazyField(_load_thresholds)
    encoder: "LazyField[Encoder]" = LazyField(_load_encoder)
    reference_models: "LazyField[ReferenceModelCache]" = LazyField(_load_reference_models)
    cache: LRUCache = dataclasses.field(default_factory=LRUCache)
    at_close: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.settings.project)!r})"

    @property
    def engine(self) -> sa.Engine:
        """Return the engine of the database."""
        engine: sa.Engine = self.read_session.kw["bind"]
        return engine

    @cached_property
    def insert_session(self) -> sa.orm.sessionmaker[sa.orm.Session]:
        """Return sessions that insert frames, concurrently where the database can."""
        return sa.orm.sessionmaker(for_inserting(self.engine))

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open the project of some settings; instruments and thresholds load at first use.

        Raises
        ------
        ConfigurationError
            If the settings are invalid, or the database does not have this version's schema.
        """
        if settings.engine == "openvino" and find_spec("openvino") is None:
            raise ConfigurationError(
                "engine: expected one that is installed, got 'openvino'; "
                "install it with pip install 'calibration-qc[openvino]'"
            )
        engine = connect(settings.database_url)
        with contextlib.ExitStack() as at_failure:
            at_failure.callback(engine.dispose)
            check_schema(engine)
            at_close = at_failure.pop_all()
        return cls(
            settings=settings,
            read_session=sa.orm.sessionmaker(engine),
            write_session=sa.orm.sessionmaker(for_writing(engine)),
            at_close=at_close,
        )

    def close(self) -> None:
        """Close the connections to the database and restore the number of threads."""
        self.at_close.close()

    def load_files(self) -> None:
        """Read instrument files and thresholds now, so that an error in them shows at once.

        Raises
        ------
        ConfigurationError
            If one of the files is invalid.
        """
        _ = self.instruments, self.thresholds

    def limit_threads(self) -> None:
        """Limit linear algebra to one thread until the project is closed.

        Judging consists of small products. A pool of threads waits longer than it computes, and
        spins on cores that read or embed other frames.
        """
        import scipy.linalg  # noqa: F401 - the limit holds for libraries that are loaded
        from threadpoolctl import threadpool_limits

        self.at_close.enter_context(threadpool_limits(1, user_api="blas"))

    def reload(self) -> "ProjectContext":
        """Return the project with changed thresholds or a newer classifier, if there are any.

        Raises
        ------
        ConfigurationError
            If the thresholds file has become invalid.
        """
        from qc.db.embeddings import newest_classifier
        from qc.detection.thresholds import read_thresholds

        file = thresholds_file(self.settings)
        if sha256(file.read_bytes()).hexdigest() != self.thresholds.digest:
            thresholds = read_thresholds(file, image_types_of(self.instruments))
            return dataclasses.replace(self, thresholds=thresholds)
        with self.read_session() as session:
            newest = newest_classifier(session, self.encoder.fingerprint)
        loaded = self.__dict__.get("classifier")
        is_current = loaded is None or newest is None or newest.digest == loaded.digest
        return self if is_current else dataclasses.replace(self)

    @cached_property
    def classifier(self) -> "DenseClassifier | None":
        """Return the newest accepted classifier of the encoder's embeddings.

        Without one, the packaged classifier if it was trained with this encoder; else None.

        Raises
        ------
        ConfigurationError
            If it cannot be read.
        """
        from embeddings import classifier_data
        from embeddings.classifier import DenseClassifier
        from qc.db.embeddings import newest_classifier
        from qc.detection.classifier_features import is_compatible

        fingerprint = self.encoder.fingerprint
        with self.read_session() as session:
            row = newest_classifier(session, fingerprint)
        try:
            content = row.content if row else _packaged_content("classifier.dense")
            classifier = DenseClassifier.load(content) if content else None
        except classifier_data.ClassifierError as error:
            raise ConfigurationError(
                f"{_describe(row)}: {error}; 'qc classifier train' makes one"
            ) from error
        if classifier is None or classifier.fingerprint != fingerprint:
            return None
        if not is_compatible(classifier):
            raise ConfigurationError(
                f"{_describe(row)}: trained with other metrics than this version measures; "
                "'qc classifier train' makes one that fits"
            )
        return classifier


def create_project(project: Path) -> None:
    """Create a project folder: settings, thresholds and a database; keep existing files.

    Raises
    ------
    ConfigurationError
        If the folder cannot be created or written to, or its settings are invalid.
    """
    from qc.db.schema.migrate import upgrade_schema

    try:
        project.mkdir(parents=True, exist_ok=True)
        if not (project / SETTINGS_FILE).exists():
            example = Path(str(resources.files("qc").joinpath("example.toml")))
            shutil.copyfile(example, project / SETTINGS_FILE)
        settings = read_settings(project)
        own_thresholds = settings.project / settings.thresholds
        if not own_thresholds.exists():
            shutil.copyfile(packaged_path("thresholds.yaml"), own_thresholds)
    except OSError as error:
        raise ConfigurationError(f"{project}: cannot be made a project: {error}") from error
    engine = connect(settings.database_url)
    try:
        upgrade_schema(engine)
    finally:
        engine.dispose()


@contextlib.contextmanager
def open_project(settings: Settings) -> abc.Iterator[ProjectContext]:
    """Open a project, and close it at the end of the block.

    Raises
    ------
    ConfigurationError
        If the settings are invalid, or the database does not have this version's schema.
    """
    project = ProjectContext.open(settings)
    try:
        yield project
    finally:
        project.close()


def image_types_of(instruments: "abc.Iterable[Instrument]") -> list[str]:
    """Return all image types that the instruments describe."""
    return [code for instrument in instruments for code in instrument.image_types()]


def thresholds_file(settings: Settings) -> Path:
    """Return the project's thresholds file, or else the packaged one.

    A file that the settings name is never replaced: it must exist.
    """
    path = settings.project / settings.thresholds
    is_named = "thresholds" in settings.model_fields_set
    return path if is_named or path.exists() else packaged_path("thresholds.yaml")


def read_packaged_examples() -> "classifier_data.Examples | None":
    """Return the packaged simulated examples of faults of every kind, if any."""
    from embeddings import classifier_data

    content = _packaged_content("examples.npz")
    return classifier_data.Examples.load(content) if content else None


def _packaged_content(name: str) -> bytes:
    file = resources.files("embeddings").joinpath("weights", name)
    return file.read_bytes() if file.is_file() else b""


def _describe(row: "ClassifierRow | None") -> str:
    return f"classifier {row.id} of the database" if row else "the packaged classifier"
