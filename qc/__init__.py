"""Anomaly detection for the calibration frames of UVES and other spectrographs.

>>> import qc
>>> project = qc.open_project("demo")
>>> frame = qc.read_frame("bias.fits")
>>> verdict = project.judge(frame)[0]
>>> print(verdict)
UBB0 NOMINAL, score 0...
>>> figure = verdict.plot()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qc.api.detector import Detector
    from qc.api.frames import read_frame, simulate
    from qc.api.project import Project, open_project
    from qc.core import Extension, Frame, Status, Verdict
    from qc.core import LabelName as Label
    from qc.detection import Thresholds
    from qc.errors import QCError

    __version__: str

__all__ = [
    "Detector",
    "Extension",
    "Frame",
    "Label",
    "Project",
    "QCError",
    "Status",
    "Thresholds",
    "Verdict",
    "__version__",
    "open_project",
    "read_frame",
    "simulate",
]

_SOURCES = {
    "Detector": ("qc.api.detector", "Detector"),
    "Extension": ("qc.core", "Extension"),
    "Frame": ("qc.core", "Frame"),
    "Label": ("qc.core", "LabelName"),
    "Project": ("qc.api.project", "Project"),
    "QCError": ("qc.errors", "QCError"),
    "Status": ("qc.core", "Status"),
    "Thresholds": ("qc.detection", "Thresholds"),
    "Verdict": ("qc.core", "Verdict"),
    "open_project": ("qc.api.project", "open_project"),
    "read_frame": ("qc.api.frames", "read_frame"),
    "simulate": ("qc.api.frames", "simulate"),
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that ``import qc`` takes milliseconds."""
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("calibration-qc")
    elif name in _SOURCES:
        module, attribute = _SOURCES[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'qc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
