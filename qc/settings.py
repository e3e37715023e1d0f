"""What may differ from one installation to the next, read once.

From the environment (``QC_DATABASE``, ``QC_WEIGHTS``, ...; ``QC_MAIL__HOST`` for a key of a
section), else from ``qc.toml`` in the project folder, else as below. Relative paths are relative
to the project folder.
"""

import re
from datetime import timedelta
from fnmatch import fnmatchcase
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy import URL

from embeddings.preprocess import STRETCHES
from qc.core.enums import LogStyle
from qc.core.measurement import RetryPolicy
from qc.db.engine import read_url
from qc.errors import ConfigurationError

SETTINGS_FILE = "qc.toml"
_NAMED_WEIGHTS = ("simulated", "untrained", "imagenet")

Positive = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Patterns = tuple[str, ...]


def _known_stretch(name: str) -> str:
    if name not in STRETCHES:
        raise ValueError(f"there are {', '.join(STRETCHES)}")
    return name


def _crontab(words: str) -> str:
    CronTrigger.from_crontab(words, "UTC")  # says what is wrong with it
    return words


Crontab = Annotated[str, AfterValidator(_crontab)]


def read_address(words: str) -> str:
    """Return a mail address as it is.

    Raises
    ------
    ValueError
        If it is none, or more than one.
    """
    if len(words) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(words):
        raise ValueError("expected a mail address like name@example.org, and no name beside it")
    return words


# No blank, quote or bracket, and ASCII: it stands in headers and in what the server is told.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_LONGEST_ADDRESS = 254
Address = Annotated[str, AfterValidator(read_address)]


def _web_address(words: str) -> str:
    if words and not _WEB_ADDRESS.fullmatch(words):
        raise ValueError("expected an address that begins with https:// or http://")
    return words


_WEB_ADDRESS = re.compile(r"https?://[^\s<>\"'\\]+")


class _SettingsTable(BaseModel):
    """A table of the settings file; a key that it does not know is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class InboxSettings(_SettingsTable):
    """Where new files arrive.

    Attributes
    ----------
    path : str
        A folder, or an address that fsspec knows: ``s3://bucket/raw``, ``abfs://container``,
        ``sftp://host/raw``, ``https://host/raw/``.
    options : dict
        What fsspec is to be told besides: ``endpoint_url``, ``username``. No secrets: those are
        taken from the environment that the storage's own tools read.
    """

    path: str
    options: dict[str, Any] = {}

    @property
    def is_remote(self) -> bool:
        """Say whether files must be fetched before they can be read."""
        return "://" in self.path and not self.path.startswith(("file://", "local://"))


class WatchSettings(_SettingsTable):
    """How new files are noticed.

    Attributes
    ----------
    quiet_s : float
        A file has arrived when it has not changed for so long.
    scan_s, rescan_h : float
        How often the inboxes are listed, and how often everything seen is forgotten before.
    retry_first_s, retry_h : float
        When a file that failed is tried again, twice as late each time; and for how long.
    """

    quiet_s: Positive = 3
    scan_s: Positive = 60
    rescan_h: Positive = 48
    retry_first_s: Positive = 60
    retry_h: Positive = 48

    @property
    def patience(self) -> RetryPolicy:
        """Return how long a file that failed is tried again."""
        return RetryPolicy(timedelta(seconds=self.retry_first_s), timedelta(hours=self.retry_h))


class ScheduleSettings(_SettingsTable):
    """When the other jobs run: crontab lines (minute hour day month weekday) in a time zone.

    Attributes
    ----------
    time_zone : str
        The observatory's; a name of the IANA data base.
    pdf : bool
        Whether the morning's and the month's report are written as PDF too.
    """

    time_zone: str = "America/Santiago"
    report: Crontab = "0 8 * * *"
    absence: Crontab = "5 * * * *"
    self_test: Crontab = "30 7 * * *"
    proposal: Crontab = "0 9 * * mon"
    monthly: Crontab = "15 8 1 * *"
    prune: Crontab = "0 12 * * *"
    backup: Crontab = "30 12 * * *"
    pdf: bool = False

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, LookupError) as error:
            raise ValueError("expected a name like America/Santiago") from error
        return name


class RetentionSettings(_SettingsTable):
    """What is pruned, and when.

    Attributes
    ----------
    fetched_days : float
        Files fetched from remote inboxes.
    backups : int
        Copies of the database.
    runs_days : float
        What is known of the daemon's jobs.
    """

    fetched_days: Positive = 30
    backups: Annotated[int, Field(ge=1)] = 7
    runs_days: Positive = 90


_OWN_HOST = ("localhost", "127.0.0.1", "::1")


class MailSettings(_SettingsTable):
    """The server that takes our mail; without a host none is sent.

    The password comes from the environment (``QC_MAIL__PASSWORD``) or a file that only its owner
    may read; in the settings file it is a mistake.
    """

    host: str = ""
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    ca_file: Path | None = None
    sender: Address | Literal[""] = ""
    timeout_s: Positive = 30
    retry_first_s: Positive = 60
    retry_days: Positive = 5

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.host and not self.sender:
            raise ValueError("sender: expected the address that mails come from, got none")
        if self.user and self.security == "none" and self.host not in _OWN_HOST:
            raise ValueError(
                "security: a password would travel in the clear; expected starttls or tls"
            )
        return self


class AlertSettings(_SettingsTable):
    """How events become notices.

    Attributes
    ----------
    gather_s : float
        How long an event is left to gather its frames before people are told of it.
    most_at_once : int
        Events that are told one by one; more at a time make one digest.
    most_a_night : int
        Mails of one night; the next one is a digest. What comes after a digest of a night waits
        for the next one, when the morning report is due.
    oldest_days : float
        Frames taken longer ago are an archive's: nobody is woken for them.
    review_url : str
        Where the review pages are, for the links in mails; empty: no links.
    """

    gather_s: Annotated[float, Field(ge=0)] = 20
    most_at_once: Annotated[int, Field(ge=1)] = 5
    most_a_night: Annotated[int, Field(ge=1)] = 20
    oldest_days: Positive = 7
    review_url: Annotated[str, AfterValidator(_web_address)] = ""


class Subscription(_SettingsTable):
    """Who is told of what.

    Attributes
    ----------
    to : tuple of str
        Addresses in the order in which they are told: the first at once, each next one only if
        nobody has acknowledged the notice `escalate_h` hours after the one before was told.
    webhook : SecretStr
        A URL to which the notice is posted as JSON, at once. Whoever knows it may post.
    webhook_file : Path or None
        A file that only its owner may read, with such a URL where it is itself a secret.
    instruments, arms, image_types : tuple of str
        Only these; patterns with ``*`` and ``?``. Empty: all.
    topics : tuple of str
        Of ``verdict``, ``file``, ``absence``, ``self-test``, ``daemon``, ``report``; empty: all
        but reports.
    least_score : float
        Only verdicts at least so grave: 1 is the limit itself.
    escalate_h : float
        Hours.
    """

    to: tuple[Address, ...] = ()
    webhook: SecretStr = SecretStr("")
    webhook_file: Path | None = None
    instruments: Patterns = ()
    arms: Patterns = ()
    image_types: Patterns = ()
    topics: tuple[Literal["verdict", "file", "absence", "self-test", "daemon", "report"], ...] = ()
    least_score: float = 0
    escalate_h: Positive = 4

    @field_validator("webhook")
    @classmethod
    def _is_web_address(cls, url: SecretStr) -> SecretStr:
        _web_address(url.get_secret_value())
        return url


class HealthSettings(_SettingsTable):
    """Where the daemon answers ``/healthz`` and ``/metrics``; port 0: nowhere."""

    host: str = "127.0.0.1"
    port: Port = 9318


def _network(words: str) -> str:
    ip_network(words)  # says what is wrong with it
    return words


class WebSettings(_SettingsTable):
    """Where the review pages are served, and who may come in.

    Attributes
    ----------
    certificate, certificate_key : Path or None
        PEM files, to be served over TLS without a proxy.
    session_h : float
        How long somebody stays logged in.
    trusted_header : str
        What a reverse proxy calls the person it has let in, in an account's name.
    trusted_proxies : tuple of str
        Addresses or networks from which that header, and X-Forwarded-For and
        X-Forwarded-Proto, are believed.
    upload_mb, upload_s : float
        How large a file may be that a browser sends to be looked at, and how long that may take.
    """

    host: str = "127.0.0.1"
    port: Port = 8765
    certificate: Path | None = None
    certificate_key: Path | None = None
    session_h: Positive = 12
    trusted_header: Annotated[str, Field(pattern="^[A-Za-z0-9-]*$")] = ""
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    upload_mb: Positive = 200
    upload_s: Positive = 60

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.trusted_header and not self.trusted_proxies:
            raise ValueError("trusted_proxies: expected the proxy that sets the header, got none")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate: it needs its certificate_key, and the reverse")
        return self


class SearchSettings(_SettingsTable):
    """How frames are found that look alike.

    Attributes
    ----------
    exact_below : int
        With fewer embeddings than this all are looked at; with more, an index beside the
        database says which.
    """

    exact_below: Annotated[int, Field(ge=1)] = 50_000


class Settings(BaseSettings):
    """What may differ from one installation to the next.

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
    engine : str
        What computes the encoder; it changes the time that takes, and no verdict.
    batch_frames : int
        Frames read before the encoder is called; bounds the memory.
    workers : int or None
        Processes that read and measure files; 0: this one does. None: as many as there are
        cores where there are many files, 0 for a handful.
    log : LogStyle
        How the daemon's log is written.
    """

    model_config = SettingsConfigDict(
        env_prefix="QC_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    project: Path = Path()
    database: str = ""
    thresholds: Path = Path("thresholds.yaml")
    instruments: Path | None = None
    weights: str = "untrained"
    stretch: Annotated[str, AfterValidator(_known_stretch)] = "physical"
    engine: Literal["keras", "openvino"] = "keras"
    batch_frames: Annotated[int, Field(gt=0)] = 16
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    log: LogStyle = LogStyle.LOGFMT
    inbox: tuple[InboxSettings, ...] = ()
    watch: WatchSettings = WatchSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    keep: RetentionSettings = RetentionSettings()
    mail: MailSettings = MailSettings()
    alerts: AlertSettings = AlertSettings()
    subscription: tuple[Subscription, ...] = ()
    health: HealthSettings = HealthSettings()
    web: WebSettings = WebSettings()
    search: SearchSettings = SearchSettings()

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
        if "password" in _table(file.toml_data, "mail"):
            raise ValueError(
                "mail.password: a settings file is no place for a password; expected it in the "
                "environment, as QC_MAIL__PASSWORD, or in the file that mail.password_file names"
            )
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

    @property
    def fetched_folder(self) -> Path:
        """Return the folder of the copies of what lies in remote inboxes."""
        return self.project / "fetched"

    @property
    def reports_folder(self) -> Path:
        """Return the folder of the reports, with its index page."""
        return self.project / "reports"


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    table = document.get(name)
    return table if isinstance(table, dict) else {}


def matches(name: str | None, patterns: Patterns) -> bool:
    """Say whether a name is one of those wanted; without patterns, all are."""
    return not patterns or any(
        fnmatchcase((name or "").casefold(), pattern.casefold()) for pattern in patterns
    )


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
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}{_got(each)}"
            for each in error.errors()
        )
        raise ConfigurationError(f"{project / SETTINGS_FILE} or QC_*: {reason}") from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{project / SETTINGS_FILE}: {error}") from error


def _got(mistake: ErrorDetails) -> str:
    """Quote a value that is short and plain, and certainly no secret.

    A whole section may hold one, and so may a misspelt key of a section, or of any.
    """
    value, place = mistake["input"], mistake["loc"]
    is_unknown = mistake["type"] == "extra_forbidden" and len(place) > 1
    if is_unknown or any(_SECRET.search(str(name)) for name in place):
        return ""
    return f", got {value!r}" if isinstance(value, str | int | float) else ""


_SECRET = re.compile("pass|secret|token|key|hook|option|mail$|subscription$", re.IGNORECASE)


def read_secret(file: Path) -> str:
    """Return what a file holds that only its owner may read.

    Raises
    ------
    ConfigurationError
        If it cannot be read, is empty, or others may read it. Its content is never told.
    """
    try:
        mode = file.stat().st_mode
        content = file.read_bytes()[:_LONGEST_SECRET].decode().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{file}: a secret is expected here: {reason}") from None
    if mode & 0o077:
        raise ConfigurationError(
            f"{file}: holds a secret that others may read; expected a file of its owner's alone: "
            f"chmod 600 {file}"
        )
    if not content:
        raise ConfigurationError(f"{file}: expected a secret, got an empty file")
    return content


_LONGEST_SECRET = 4096
