"""Everything qc raises on purpose.

::

    QCError
    ├── FrameError              one file is at fault; the night goes on
    │   ├── UnreadableFrame     not a FITS file that can be read to its end
    │   ├── IncompleteHeader    a keyword that decides is missing or makes no sense
    │   ├── UnknownImageType    a calibration frame of a kind nobody has described
    │   ├── WrongShape          the pixels are not what the header's setup promises
    │   ├── DeadReadOut         the pixels carry nothing: all are equal, or not numbers
    │   └── NotForUs            readable and healthy, but not ours to judge: recorded as skipped
    ├── UnknownFrame            a question about a frame that was never processed
    ├── InvalidAnswer           a person says what cannot be: a misspelt kind, a date to come
    ├── NotAdmitted             a name and a password that do not fit, or were tried too often
    ├── CannotTune              what is stored does not say where a limit should be
    ├── CannotTrain             too little is labelled to learn from
    ├── InboxAway               a remote inbox does not answer; it is asked again
    ├── ClusterGone             the machines that were to help do not answer; run it again
    ├── NotDelivered            a mail or message has not left: to be tried again
    │   ├── OutOfReach          the server is not to be had: nothing else leaves either
    │   └── Refused             the server will never take it for this address
    └── ConfigurationError      the installation is at fault; the program stops

A message says which file, what was expected, what was found, and what to do about it.
"""


class QCError(Exception):
    """Base of every error qc raises on purpose."""


class FrameError(QCError):
    """One frame cannot be judged; the others can."""


class UnreadableFrameError(FrameError):
    """The file is not a FITS image that can be read to its end."""


class IncompleteHeaderError(FrameError):
    """A keyword that decides is missing, or its value makes no sense."""


class UnknownImageTypeError(FrameError):
    """The header says calibration, but of no kind that the instrument file describes."""


class ShapeMismatchError(FrameError):
    """The images are not of the number or shape that the header's setup promises."""


class DeadDetectorError(FrameError):
    """The pixels carry nothing: all of a chip's are equal, or some are not numbers."""


class UnsupportedFrameError(FrameError):
    """A healthy frame that is not ours to judge: science, fibre mode, a linearity series."""


class UnknownFrameError(QCError):
    """The frame that was asked about has not been processed."""


class InvalidInputError(QCError):
    """What a person said of a frame or an instrument cannot be; nothing of it has been kept."""


class AuthenticationError(QCError):
    """Somebody wants to log in and may not, or not now; which word was wrong is not said."""


class InsufficientDataError(QCError):
    """Too few frames or labels are known to set an image type's limits by; the old ones hold."""


class InsufficientLabelsError(QCError):
    """Too few images are labelled for a classifier to learn from; the one in use stays."""


class InboxUnavailableError(QCError):
    """A remote inbox cannot be listed or read now; the next scan asks again."""


class ClusterUnavailableError(QCError):
    """The cluster that reads and embeds does not answer any more; what it sent back is kept."""


class DeliveryError(QCError):
    """A mail or message was not taken this time; it may be the next."""


class ServerUnreachableError(DeliveryError):
    """The server does not answer as it should: no other message would leave either."""


class RecipientRefusedError(DeliveryError):
    """The server will not take this message for this address, however often it is asked."""


class ConfigurationError(QCError):
    """The installation, its settings or its thresholds are wrong; nothing can be judged."""
