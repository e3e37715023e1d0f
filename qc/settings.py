"""Settings of an installation, read once.

Sources, first to last: environment (``QC_DATABASE``, ``QC_WEIGHTS``, ...; ``QC_MAIL__HOST`` for a
key of a table), ``qc.toml`` in the project folder, defaults. Relative paths start at the project
folder.
"""

import re
from datetime import timedelta
from fnmatch import fnmatchcase
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import pydantic
import pydantic_settings
from pydantic import AfterValidator, Field, SecretStr
from sqlalchemy import URL

from qc.core.enums import LogStyle
from qc.core.file import RetryPolicy
from qc.db.schema.engine import parse_url
from qc.errors import ConfigurationError

SETTINGS_FILE = "qc.toml"
STRETCH_NAMES = ("physical", "minmax", "zscale", "asinh")  # of embeddings.preprocess.STRETCHES
CRONTAB_FIELDS = ("minute", "hour", "day", "month", "weekday")
_NAMED_WEIGHTS = ("simulated", "untrained", "imagenet")

_LONGEST_ADDRESS = 254
# ASCII without blanks, quotes and brackets: an address is part of headers and SMTP commands.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_WEB_ADDRESS = re.compile(r"https?://[^\s<>\"'\\]+")
_SECRET = re.compile("pass|secret|token|key|hook|option|mail$|subscription$", re.IGNORECASE)
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def check_stretch(name: str) -> str:
    """Raise ValueError for an unknown stretch; return its name."""
    if name not in STRETCH_NAMES:
        raise ValueError(f"there are {', '.join(STRETCH_NAMES)}")
    return name


def check_crontab(line: str) -> str:
    """Raise ValueError for a wrong number of fields; return the line.

    `qc.service.job.check_schedule` checks the fields.
    """
    if len(line.split()) != len(CRONTAB_FIELDS):
        raise ValueError(
            f"Wrong number of fields; got {len(line.split())}, expected {len(CRONTAB_FIELDS)}: "
            f"{' '.join(CRONTAB_FIELDS)}"
        )
    return line


def check_address(text: str) -> str:
    """Raise ValueError unless a text is one mail address; return it."""
    if len(text) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(text):
        raise ValueError("expected a mail address like name@example.org, without a display name")
    return text


def check_web_address(text: str) -> str:
    """Raise ValueError unless a text is empty or a URL of HTTP; return it."""
    if text and not _WEB_ADDRESS.fullmatch(text):
        raise ValueError("expected an address that begins with https:// or http://")
    return text


def check_network(text: str) -> str:
    """Raise ValueError unless a text is an IP address or network; return it."""
    ip_network(text)
    return text


Positive = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Patterns = tuple[str, ...]
Crontab = Annotated[str, AfterValidator(check_crontab)]
Address = Annotated[str, AfterValidator(check_address)]
WebAddress = Annotated[str, AfterValidator(check_web_address)]


class _SettingsTable(pydantic.BaseModel):
    """Table of the settings file; unknown keys are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class InboxSettings(_SettingsTable):
    """Inbox: a place where new files arrive.

    Attributes
    ----------
    path : str
        A folder, or an address of fsspec: ``s3://bucket/raw``, ``sftp://host/raw``.
    options : dict
        Options of fsspec without secrets, which the storage's own environment has.
    """

    path: str
    options: dict[str, Any] = {}

    @property
    def is_remote(self) -> bool:
        """Return True if files must be fetched before they can be read."""
        return "://" in self.path and not self.path.startswith(("file://", "local://"))


class WatchSettings(_SettingsTable):
    """Detection of new files, and retries of failed ones.

    Attributes
    ----------
    quiet_s : float
        A file is complete when it has not changed for so long.
    scan_s, rescan_h : float
        Intervals of listing the inboxes, and of clearing the cache of listed files.
    retry_first_s, retry_h : float
        Delay of the first retry, doubled for each further one, and time of the last one.
    """

    quiet_s: Positive = 3
    scan_s: Positive = 60
    rescan_h: Positive = 48
    retry_first_s: Positive = 60
    retry_h: Positive = 48

    @property
    def retry_policy(self) -> RetryPolicy:
        """Return the retry policy of failed files."""
        return RetryPolicy(timedelta(seconds=self.retry_first_s), timedelta(hours=self.retry_h))


class ScheduleSettings(_SettingsTable):
    """Times of the other jobs: crontab lines (minute hour day month weekday) in a time zone.

    Attributes
    ----------
    time_zone : str
        Of the observatory; a name of the IANA database.
    pdf : bool
        Write the night and month reports as PDF too.
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

    def crontab_lines(self) -> dict[str, str]:
        """Return the crontab lines by their keys."""
        fields = type(self).model_fields
        names = [name for name, key in fields.items() if isinstance(key.default, str)]
        return {name: getattr(self, name) for name in names if name != "time_zone"}

    @pydantic.field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, LookupError) as error:
            raise ValueError("expected a name like America/Santiago") from error
        return name


class RetentionSettings(_SettingsTable):
    """Retention of files, backups and job runs.

    Attributes
    ----------
    fetched_days : float
        Age of files fetched from remote inboxes.
    backups : int
        Number of copies of the database.
    runs_days : float
        Age of the daemon's job runs.
    """

    fetched_days: Positive = 30
    backups: Annotated[int, Field(ge=1)] = 7
    runs_days: Positive = 90


class MailSettings(_SettingsTable):
    """SMTP server; without a host no mail is sent.

    The password is read from the environment (``QC_MAIL__PASSWORD``) or from a file that only its
    owner may read; in the settings file it is an error.
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

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if self.host and not self.sender:
            raise ValueError("sender: expected the address of the sender, got none")
        if self.user and self.security == "none" and self.host not in _LOCAL_HOSTS:
            raise ValueError(
                "security: a password would travel in the clear; expected starttls or tls"
            )
        return self


class AlertSettings(_SettingsTable):
    """Grouping of alerts into notifications.

    Attributes
    ----------
    gather_s : float
        Delay of a notification, to collect further alerts of the same event.
    most_at_once : int
        Largest number of separate notifications at once; more become one digest.
    most_a_night : int
        Largest number of notifications of a night; then one digest at the night report's time.
    oldest_days : float
        Age of archive frames: their alerts are not sent.
    review_url : str
        Address of the review pages for links in mails; empty: no links.
    """

    gather_s: Annotated[float, Field(ge=0)] = 20
    most_at_once: Annotated[int, Field(ge=1)] = 5
    most_a_night: Annotated[int, Field(ge=1)] = 20
    oldest_days: Positive = 7
    review_url: WebAddress = ""


class Subscription(_SettingsTable):
    """Recipients of a selection of notifications.

    Attributes
    ----------
    to : tuple of str
        Addresses in order of escalation, `escalate_h` apart until one acknowledges.
    webhook : SecretStr
        URL that receives the notification as JSON at once; itself a credential.
    webhook_file : Path or None
        File with such a URL, which only its owner may read.
    instruments, arms, image_types : tuple of str
        Only these; patterns with ``*`` and ``?``. Empty: all.
    topics : tuple of str
        Of ``verdict``, ``file``, ``absence``, ``self-test``, ``daemon``, ``report``; empty: all
        but reports.
    least_score : float
        Least score of a verdict: 1 is the limit.
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

    @pydantic.field_validator("webhook")
    @classmethod
    def _is_web_address(cls, url: SecretStr) -> SecretStr:
        check_web_address(url.get_secret_value())
        return url


class HealthSettings(_SettingsTable):
    """Address of the daemon's ``/healthz`` and ``/metrics``; port 0: none."""

    host: str = "127.0.0.1"
    port: Port = 9318


class WebSettings(_SettingsTable):
    """Address of the review pages, and access to them.

    Attributes
    ----------
    certificate, certificate_key : Path or None
        PEM files for TLS without a proxy.
    session_h : float
        Lifetime of a session.
    trusted_header : str
        Header in which a reverse proxy passes the name of an authenticated account.
    trusted_proxies : tuple of str
        Networks of proxies whose headers are trusted, X-Forwarded-For and -Proto too.
    upload_mb, upload_s : float
        Limits of an upload's size and time.
    """

    host: str = "127.0.0.1"
    port: Port = 8765
    certificate: Path | None = None
    certificate_key: Path | None = None
    session_h: Positive = 12
    trusted_header: Annotated[str, Field(pattern="^[A-Za-z0-9-]*$")] = ""
    trusted_proxies: tuple[Annotated[str, AfterValidator(check_network)], ...] = ()
    upload_mb: Positive = 200
    upload_s: Positive = 60

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Self:
        if self.trusted_header and not self.trusted_proxies:
            raise ValueError("trusted_proxies: expected the proxy that sets the header, got none")
        if (self.certificate is None) != (self.certificate_key is None):
            raise ValueError("certificate: it needs its certificate_key, and the reverse")
        return self


class SearchSettings(_SettingsTable):
    """Search of similar frames.

    Attributes
    ----------
    exact_below : int
        Number of embeddings from which on an index replaces the exact search.
    """

    exact_below: Annotated[int, Field(ge=1)] = 50_000


class Settings(pydantic_settings.BaseSettings):
    """Settings of one installation.

    Attributes
    ----------
    project : Path
        Folder of the database, the thresholds and the reports.
    database : str
        SQLAlchemy URL; empty for ``qc.db`` in the project folder.
    thresholds : Path
        Thresholds file.
    instruments : Path or None
        Folder of further instrument files.
    weights, stretch : str
        Weights of the encoder, and stretch of its input.
    engine : str
        Library that runs the encoder; verdicts do not depend on it.
    batch_frames : int
        Frames per call of the encoder; limits the memory.
    workers : int or None
        Processes that read and measure files; 0: this one. None: by the number of files.
    log : LogStyle
        Format of the daemon's log.
    """

    model_config = pydantic_settings.SettingsConfigDict(
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
    stretch: Annotated[str, AfterValidator(check_stretch)] = "physical"
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
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Return the sources by priority: arguments, environment, file."""
        del dotenv_settings, file_secret_settings
        project = Path(init_settings()["project"])
        file = pydantic_settings.TomlConfigSettingsSource(settings_cls, project / SETTINGS_FILE)
        mail = file.toml_data.get("mail")
        if isinstance(mail, dict) and "password" in mail:
            raise ValueError(
                "mail.password: a settings file must not contain a password; expected it in the "
                "environment, as QC_MAIL__PASSWORD, or in the file that mail.password_file names"
            )
        return init_settings, env_settings, file

    @property
    def database_url(self) -> URL:
        """Return the address of the database.

        Raises
        ------
        ConfigurationError
            If the setting is not a URL.
        """
        if not self.database:
            return URL.create("sqlite", database=str(self.project / "qc.db"))
        url = parse_url(self.database)
        is_file = url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"}
        return url.set(database=str(self.project / str(url.database))) if is_file else url

    @property
    def weights_name(self) -> str:
        """Return the name of packaged weights, or the path of a file."""
        is_packaged = self.weights in _NAMED_WEIGHTS
        return self.weights if is_packaged else str(self.project / self.weights)

    @property
    def instruments_folder(self) -> Path | None:
        """Return the folder of further instrument files."""
        return None if self.instruments is None else self.project / self.instruments

    @property
    def fetched_folder(self) -> Path:
        """Return the folder of files fetched from remote inboxes."""
        return self.project / "fetched"

    @property
    def reports_folder(self) -> Path:
        """Return the folder of the reports, with its index page."""
        return self.project / "reports"


def matches_patterns(name: str | None, patterns: Patterns) -> bool:
    """Return True if a name matches_patterns a pattern, or there are no patterns.

    Parameters
    ----------
    name : str or None
    patterns : tuple of str
        With ``*`` and ``?``; the case does not matter.

    Returns
    -------
    bool
    """
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
            f"{project}: no such project folder; make one with 'qc init --project {project}'"
        )
    try:
        return Settings(project=project.resolve())
    except pydantic.ValidationError as error:
        reason = "; ".join(
            f"{'.'.join(map(str, details['loc']))}: {details['msg']}{_quote_value(details)}"
            for details in error.errors()
        )
        raise ConfigurationError(f"{project / SETTINGS_FILE} or QC_*: {reason}") from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"{project / SETTINGS_FILE}: {error}") from error


def _quote_value(error: Any) -> str:
    """Return a wrong value for the message if it is short and certainly not a secret.

    A table may contain a secret, and so may an unknown key of a table.
    """
    value, place = error["input"], error["loc"]
    is_unknown = error["type"] == "extra_forbidden" and len(place) > 1
    if is_unknown or any(_SECRET.search(str(name)) for name in place):
        return ""
    return f", got {value!r}" if isinstance(value, str | int | float) else ""
