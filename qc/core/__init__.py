"""Frozen dataclasses and enums that all packages share; no I/O."""

from qc.core.enums import (
    Channel,
    ExportFormat,
    ExportTable,
    FrameState,
    LabelName,
    LogStyle,
    NotificationKind,
    Role,
    ThresholdPolicy,
    Topic,
)
from qc.core.frame import Detector, Extension, Frame, Header, Region, Setup, Value
from qc.core.measurement import FileInfo, Measurement, RetryPolicy
from qc.core.reference import (
    REFERENCE_AMPLE,
    REFERENCE_NEEDED,
    REFERENCE_NEWEST,
    SETTLED_NEWEST,
    Reference,
)
from qc.core.verdict import Evidence, Prediction, Status, Verdict

__all__ = [
    "REFERENCE_AMPLE",
    "REFERENCE_NEEDED",
    "REFERENCE_NEWEST",
    "SETTLED_NEWEST",
    "Channel",
    "Detector",
    "Evidence",
    "ExportFormat",
    "ExportTable",
    "Extension",
    "FileInfo",
    "Frame",
    "FrameState",
    "Header",
    "LabelName",
    "LogStyle",
    "Measurement",
    "NotificationKind",
    "Prediction",
    "Reference",
    "Region",
    "RetryPolicy",
    "Role",
    "Setup",
    "Status",
    "ThresholdPolicy",
    "Topic",
    "Value",
    "Verdict",
]
