"""Measurement and references to a verdict: metrics, evidence, decision, thresholds; no I/O."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qc.detection.classifier_features import (
        ClassifierFeatures,
        FaultClassifier,
        describe_extension,
    )
    from qc.detection.decision import EvidenceRatio, decide, rarity, weigh, widen_limits, widening
    from qc.detection.embedding import embed
    from qc.detection.judgement import Judgement, judge
    from qc.detection.measurement import measure
    from qc.detection.metrics import METRICS, Metric, z_scores
    from qc.detection.references import fit_residual_model, make_reference
    from qc.detection.thresholds import MetricLimit, Threshold, Thresholds, read_thresholds

__all__ = [
    "METRICS",
    "ClassifierFeatures",
    "EvidenceRatio",
    "FaultClassifier",
    "Judgement",
    "Metric",
    "MetricLimit",
    "Threshold",
    "Thresholds",
    "decide",
    "describe_extension",
    "embed",
    "fit_residual_model",
    "judge",
    "make_reference",
    "measure",
    "rarity",
    "read_thresholds",
    "weigh",
    "widen_limits",
    "widening",
    "z_scores",
]

_MODULES = {
    "classifier_features": ("ClassifierFeatures", "FaultClassifier", "describe_extension"),
    "decision": ("EvidenceRatio", "decide", "rarity", "weigh", "widen_limits", "widening"),
    "embedding": ("embed",),
    "judgement": ("Judgement", "judge"),
    "measurement": ("measure",),
    "metrics": ("METRICS", "Metric", "z_scores"),
    "references": ("fit_residual_model", "make_reference"),
    "thresholds": ("MetricLimit", "Threshold", "Thresholds", "read_thresholds"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: thresholds load without SciPy."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
