"""Enumerations shared by all packages."""

from enum import StrEnum


class ExportTable(StrEnum):
    """The tables that can be exported."""

    VERDICTS = "verdicts"
    EMBEDDINGS = "embeddings"
    LABELS = "labels"
    METRICS = "metrics"


class ExportFormat(StrEnum):
    """The formats that they can be written in."""

    CSV = "csv"
    PARQUET = "parquet"
    VOTABLE = "votable"


class ThresholdPolicy(StrEnum):
    """Which entries of the thresholds file judge what is judged again."""

    DATED = "dated"  # those in force on the frame's own night
    NEWEST = "newest"


class LogStyle(StrEnum):
    """How the daemon's log is written."""

    LOGFMT = "logfmt"
    JSON = "json"


class Role(StrEnum):
    """What an account may do; each includes those before it."""

    LOOK = "look"
    REVIEW = "review"
    TUNE = "tune"

    def includes(self, other: "Role") -> bool:
        """Say whether who may do this may do the other too."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class FrameState(StrEnum):
    """What became of a file."""

    PROCESSED = "processed"
    FAILED = "failed"  # something is wrong with it: tried again at each run
    SKIPPED = "skipped"  # nothing is wrong with it, but it is not ours to judge
    KNOWN = "known"  # was processed or skipped before; never stored


class LabelName(StrEnum):
    """What a person may say of an extension."""

    GOOD = "good"
    BAD = "bad"
    VALID_OUTLIER = "valid-outlier"  # a real change: accept it, and start a new epoch


class Topic(StrEnum):
    """What people are told of."""

    VERDICT = "verdict"  # a frame stands apart
    FILE = "file"  # a file that cannot be judged, for days
    ABSENCE = "absence"  # what should have come and did not
    SELF_TEST = "self-test"  # known faults are no longer found
    DAEMON = "daemon"  # the watch itself is in trouble
    REPORT = "report"  # a page to read


class NotificationKind(StrEnum):
    """What a notice tells of."""

    EVENT = "event"
    DIGEST = "digest"  # many events of a night, as one by one they would not be read
    ARCHIVE = "archive"  # what was long past when it was judged: on record, and nobody is told


class Channel(StrEnum):
    """How a notice travels."""

    MAIL = "mail"
    WEBHOOK = "webhook"
