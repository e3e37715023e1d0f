"""Exceptions that qc raises on purpose.

::

    QCError
    ├── FrameError                      one file cannot be judged; the run continues
    │   ├── UnreadableFrameError        not a FITS file that can be read to its end
    │   ├── IncompleteHeaderError       a required keyword is missing or invalid
    │   ├── UnknownImageTypeError       calibration that no instrument file describes
    │   ├── ShapeMismatchError          image shape differs from the header's setup
    │   ├── DeadDetectorError           all pixels are equal, or some are not finite
    │   └── UnsupportedFrameError       readable, but not a supported calibration: skipped
    ├── UnknownFrameError               query for a frame that was never processed
    ├── InvalidInputError               invalid label, date or other input of a user
    ├── AuthenticationError             invalid credentials, or too many attempts
    ├── InsufficientDataError           too few frames to fit a limit
    ├── InsufficientLabelsError         too few labels to train a classifier
    ├── InboxUnavailableError           a remote inbox does not respond; retried later
    ├── ClusterUnavailableError         the Dask cluster does not respond
    ├── DeliveryError                   a mail or message was not sent; retried later
    │   ├── ServerUnreachableError      the server does not respond
    │   └── RecipientRefusedError       the server refuses the recipient permanently
    └── ConfigurationError              invalid installation or settings; the program stops

A message names the file, the expected and the actual value, and the remedy.
"""


class QCError(Exception):
    """Base class of all errors that qc raises on purpose."""


class FrameError(QCError):
    """One file cannot be judged; other files are not affected."""


class UnreadableFrameError(FrameError):
    """The file is not a FITS image that can be read to its end."""


class IncompleteHeaderError(FrameError):
    """A required keyword is missing, or its value is invalid."""


class UnknownImageTypeError(FrameError):
    """No instrument file describes this kind of calibration."""


class ShapeMismatchError(FrameError):
    """Number or shape of the images differs from the header's setup."""


class DeadDetectorError(FrameError):
    """All pixels of a chip are equal, or some are not finite."""


class UnsupportedFrameError(FrameError):
    """Readable frame outside the scope: science, fibre mode, linearity series."""


class UnknownFrameError(QCError):
    """The requested frame has not been processed."""


class InvalidInputError(QCError):
    """Invalid input of a user; nothing was stored."""


class AuthenticationError(QCError):
    """Invalid credentials or too many attempts; the message does not name the wrong part."""


class InsufficientDataError(QCError):
    """Too few frames or labels to fit the limits of an image type; the old limits stay."""


class InsufficientLabelsError(QCError):
    """Too few labelled images to train a classifier; the present classifier stays."""


class InboxUnavailableError(QCError):
    """A remote inbox cannot be listed or read; the next scan retries."""


class ClusterUnavailableError(QCError):
    """The Dask cluster does not respond; results received so far are stored."""


class DeliveryError(QCError):
    """A mail or message was not sent; it is retried."""


class ServerUnreachableError(DeliveryError):
    """The server does not respond as expected; no other message can be sent either."""


class RecipientRefusedError(DeliveryError):
    """The server permanently refuses this message for this address."""


class ConfigurationError(QCError):
    """Installation, settings or thresholds are invalid; no frame can be judged."""
