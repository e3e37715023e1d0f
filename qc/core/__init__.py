"""Frozen dataclasses and enums that all packages share; no I/O."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from qc.core.file import FileInfo, RetryPolicy
    from qc.core.frame import DetectorProperties, Extension, Frame, Header, Region, Setup, Value
    from qc.core.measurement import Measurement, to_float16
    from qc.core.reference import (
        REFERENCE_AMPLE,
        REFERENCE_MODEL_NEWEST,
        REFERENCE_NEEDED,
        REFERENCE_NEWEST,
        Reference,
    )
    from qc.core.verdict import Evidence, Prediction, Status, Verdict

__all__ = [
    "REFERENCE_AMPLE",
    "REFERENCE_MODEL_NEWEST",
    "REFERENCE_NEEDED",
    "REFERENCE_NEWEST",
    "Channel",
    "DetectorProperties",
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
    "to_float16",
]

_MODULE = {
    "Channel": "enums",
    "ExportFormat": "enums",
    "ExportTable": "enums",
    "FrameState": "enums",
    "LabelName": "enums",
    "LogStyle": "enums",
    "NotificationKind": "enums",
    "Role": "enums",
    "ThresholdPolicy": "enums",
    "Topic": "enums",
    "DetectorProperties": "frame",
    "Extension": "frame",
    "Frame": "frame",
    "Header": "frame",
    "Region": "frame",
    "Setup": "frame",
    "Value": "frame",
    "FileInfo": "file",
    "Measurement": "measurement",
    "to_float16": "measurement",
    "RetryPolicy": "file",
    "REFERENCE_AMPLE": "reference",
    "REFERENCE_NEEDED": "reference",
    "REFERENCE_NEWEST": "reference",
    "REFERENCE_MODEL_NEWEST": "reference",
    "Reference": "reference",
    "Evidence": "verdict",
    "Prediction": "verdict",
    "Status": "verdict",
    "Verdict": "verdict",
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: enums load without NumPy."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
