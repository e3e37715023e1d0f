"""Settings, read once; and everything a run needs, opened once and passed by hand.

The only place that reads the environment and names concrete classes.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy.orm import Session, sessionmaker

from embeddings.encoder import Encoder, ResNet50Encoder
from qc.database import connect, for_writing
from qc.errors import ConfigurationError
from qc.installation import shipped
from qc.instruments import Instrument, read_instruments
from qc.schema import check_schema, upgrade_schema
from qc.thresholds import Thresholds, read_thresholds

SETTINGS_FILE = "qc.toml"


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
    stretch: str = "physical"
    batch_frames: int = 16

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
    def database_url(self) -> str:
        """Return where the database is."""
        return self.database or f"sqlite:///{self.project / 'qc.db'}"


_NEW_SETTINGS = """\
# A qc project. Each key may also be given in the environment: weights as QC_WEIGHTS.

# weights = "untrained"           # or "imagenet", or the path of a weights file
# stretch = "physical"            # or "minmax", "zscale", "asinh"
# thresholds = "thresholds.yaml"
# instruments = "instruments"     # a folder of further instrument files
# database = ""                   # an SQLAlchemy URL; empty: qc.db in this folder
# batch_frames = 16               # frames read before the encoder is called
"""


def create_project(project: Path) -> None:
    """Make a folder in which every command works; what is there already stays as it is.

    Settings and thresholds to be edited, and a database at this version's schema.
    """
    project.mkdir(parents=True, exist_ok=True)
    if not (project / SETTINGS_FILE).exists():
        (project / SETTINGS_FILE).write_text(_NEW_SETTINGS)
    settings = read_settings(project)
    if not thresholds_file(settings).is_relative_to(settings.project):
        shutil.copyfile(thresholds_file(settings), settings.project / settings.thresholds)
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
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{project / SETTINGS_FILE} or QC_*: {reason}") from error


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


@contextmanager
def open_runtime(settings: Settings) -> Iterator[Runtime]:
    """Open everything a run needs, and close it.

    Raises
    ------
    ConfigurationError
        If the settings, the thresholds or the instrument files are wrong, or the database is
        not at the schema of this version.
    """
    instruments = read_instruments(settings.instruments)
    image_types = [code for instrument in instruments for code in instrument.image_types()]
    engine = connect(settings.database_url)
    try:
        check_schema(engine)
        yield Runtime(
            settings=settings,
            instruments=instruments,
            thresholds=read_thresholds(thresholds_file(settings), image_types),
            encoder=ResNet50Encoder(settings.weights, settings.stretch),
            reads=sessionmaker(engine),
            writes=sessionmaker(for_writing(engine)),
        )
    finally:
        engine.dispose()


def thresholds_file(settings: Settings) -> Path:
    """Return the project's thresholds file, or the one that came with the program."""
    own = settings.project / settings.thresholds
    return own if own.exists() else shipped("thresholds.yaml")
