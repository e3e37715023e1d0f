"""Enumerations shared by all packages."""

from enum import StrEnum


class ExportTable(StrEnum):
    """Exportable table."""

    VERDICTS = "verdicts"
    EMBEDDINGS = "embeddings"
    LABELS = "labels"
    METRICS = "metrics"


class ExportFormat(StrEnum):
    """Format of an exported table."""

    CSV = "csv"
    PARQUET = "parquet"
    VOTABLE = "votable"


class ThresholdPolicy(StrEnum):
    """Entries of the thresholds file for rejudging."""

    DATED = "dated"  # the entry valid on the frame's night
    NEWEST = "newest"


class LogStyle(StrEnum):
    """Format of the service log."""

    LOGFMT = "logfmt"
    JSON = "json"


class Role(StrEnum):
    """Role of an account; a role includes all earlier ones."""

    LOOK = "look"
    REVIEW = "review"
    TUNE = "tune"

    def includes(self, role: "Role") -> bool:
        """Return True if the role has all permissions of another."""
        order = list(Role)
        return order.index(self) >= order.index(role)


class FrameState(StrEnum):
    """Processing state of a file."""

    PROCESSED = "processed"
    FAILED = "failed"  # tried again at each run
    SKIPPED = "skipped"  # readable, but not a supported calibration
    KNOWN = "known"  # processed or skipped before; never stored


class LabelName(StrEnum):
    """Label of an extension."""

    GOOD = "good"
    BAD = "bad"
    VALID_OUTLIER = "valid-outlier"  # a real change of the instrument; starts an epoch


class Topic(StrEnum):
    """Topic of an alert."""

    VERDICT = "verdict"  # anomalous extension
    FILE = "file"  # file that failed for days
    ABSENCE = "absence"  # missing calibration
    SELF_TEST = "self-test"  # recall of the injection test below its limit
    DAEMON = "daemon"  # problem of the service
    REPORT = "report"  # report page


class NotificationKind(StrEnum):
    """Kind of a notification."""

    EVENT = "event"
    DIGEST = "digest"  # many events of a night in one message
    ARCHIVE = "archive"  # judged long after the night; not sent


class Channel(StrEnum):
    """Transport of a notification."""

    MAIL = "mail"
    WEBHOOK = "webhook"
