"""Settings, read once; and everything a run needs, opened once and passed by hand.

The only place that reads the environment and names concrete classes.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import URL
from sqlalchemy.orm import Session, sessionmaker

from embeddings.classifier import ClassifierError, DenseClassifier, Examples
from embeddings.encoder import Encoder, ResNet50Encoder
from embeddings.preprocess import STRETCHES
from qc.database import connect, for_writing, newest_classifier, read_url
from qc.errors import ConfigurationError
from qc.expectations import Expectations
from qc.features import knows_these
from qc.installation import shipped
from qc.instruments import Instrument, read_instruments
from qc.schema import check_schema, upgrade_schema
from qc.tables import ClassifierRow
from qc.thresholds import Thresholds, read_thresholds

SETTINGS_FILE = "qc.toml"
_NAMED_WEIGHTS = ("simulated", "untrained", "imagenet")


def _known_stretch(name: str) -> str:
    if name not in STRETCHES:
        raise ValueError(f"there are {', '.join(STRETCHES)}")
    return name


class Settings(BaseSettings):
    """What may differ from one installation to the next.

    From the environment (``QC_DATABASE``, ``QC_WEIGHTS``, ...), else from ``qc.toml`` in the
    project folder, else as below. Relative paths are relative to the project folder.

    Attributes
    ----------
    project : Path
        The folder that holds the database, the thresholds and the reports.
    database : str
        SQLAlchemy URL; empty for ``qc.db`` in the project folder.
    thresholds : Path
        The thresholds file.
    instruments : Path or None
        A folder of further instrument files beside those that come with the program.
    weights, stretch : str
        The encoder's weights and the stretch of its inputs.
    batch_frames : int
        Frames read before the encoder is called; bounds the memory.
    """

    model_config = SettingsConfigDict(env_prefix="QC_", extra="forbid")

    project: Path = Path()
    database: str = ""
    thresholds: Path = Path("thresholds.yaml")
    instruments: Path | None = None
    weights: str = "untrained"
    stretch: Annotated[str, AfterValidator(_known_stretch)] = "physical"
    batch_frames: Annotated[int, Field(gt=0)] = 16

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the caller outrank the environment, and the environment the file."""
        del dotenv_settings, file_secret_settings
        project = Path(init_settings()["project"])
        file = TomlConfigSettingsSource(settings_cls, project / SETTINGS_FILE)
        return init_settings, env_settings, file

    @property
    def database_url(self) -> URL:
        """Return where the database is.

        Raises
        ------
        ConfigurationError
            If the setting is not a URL.
        """
        if not self.database:
            return URL.create("sqlite", database=str(self.project / "qc.db"))
        url = read_url(self.database)
        is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
        return url.set(database=str(self.project / str(url.database))) if is_file else url

    @property
    def weights_name(self) -> str:
        """Return the encoder's weights: a name, or the path of a file."""
        named = self.weights in _NAMED_WEIGHTS
        return self.weights if named else str(self.project / self.weights)

    @property
    def instruments_folder(self) -> Path | None:
        """Return the folder of further instrument files."""
        return None if self.instruments is None else self.project / self.instruments


_NEW_SETTINGS = """\
# A qc project. Each key may also be given in the environment: weights as QC_WEIGHTS.

# weights = "untrained"           # or "simulated", "imagenet", the path of a weights file
# stretch = "physical"            # or "minmax", "zscale", "asinh"
# thresholds = "thresholds.yaml"
# instruments = "instruments"     # a folder of further instrument files
# database = ""                   # an SQLAlchemy URL; empty: qc.db in this folder
# batch_frames = 16               # frames read before the encoder is called
"""


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
            (project / SETTINGS_FILE).write_text(_NEW_SETTINGS)
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


def read_settings(project: Path) -> Settings:
    """Read the settings of a project folder.

    Raises
    ------
    ConfigurationError
        If the folder does not exist, or a key is unknown or its value of the wrong kind.
    """
    if not project.is_dir():
        raise ConfigurationError(
            f"{project}: no such project folder; make one with 'qc db upgrade --project {project}'"
        )
    try:
        return Settings(project=project.resolve())
    except ValidationError as error:
        reason = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}, got {each['input']!r}"
            for each in error.errors()
        )
        raise ConfigurationError(f"{project / SETTINGS_FILE} or QC_*: {reason}") from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{project / SETTINGS_FILE}: {error}") from error


@dataclass(frozen=True)
class Runtime:
    """The collaborators of the pipeline.

    Attributes
    ----------
    reads, writes : sessionmaker
        Sessions that only read, and sessions whose transactions may write.
    """

    settings: Settings
    instruments: tuple[Instrument, ...]
    thresholds: Thresholds
    encoder: Encoder
    reads: sessionmaker[Session]
    writes: sessionmaker[Session]
    expectations: Expectations = field(default_factory=Expectations)

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
def open_runtime(settings: Settings) -> Iterator[Runtime]:
    """Open everything a run needs, and close it.

    Raises
    ------
    ConfigurationError
        If the settings, the thresholds or the instrument files are wrong, or the database is
        not at the schema of this version.
    """
    instruments = read_instruments(settings.instruments_folder)
    image_types = [code for instrument in instruments for code in instrument.image_types()]
    engine = connect(settings.database_url)
    try:
        check_schema(engine)
        yield Runtime(
            settings=settings,
            instruments=instruments,
            thresholds=read_thresholds(thresholds_file(settings), image_types),
            encoder=ResNet50Encoder(settings.weights_name, settings.stretch),
            reads=sessionmaker(engine),
            writes=sessionmaker(for_writing(engine)),
        )
    finally:
        engine.dispose()


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
