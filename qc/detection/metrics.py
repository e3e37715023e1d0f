"""Definitions of the metrics, and their robust z-scores.

A metric without meaning for a frame is absent: no overscan ramp without an overscan, no spectral
lines without a lamp. The header decides whether a frame has light, so that a lamp that failed is
measured as a lamp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

FEWEST_REFERENCES = 3  # with fewer, the scatter is unknown


@dataclass(frozen=True)
class Metric:
    """Definition of a metric.

    Attributes
    ----------
    unit : str
        Empty for a pure number.
    meaning : str
        One sentence for the report.
    floor : float
        Least scatter assumed, in `unit`: the smallest change of physical relevance.
    digits : int
        Decimals worth printing.
    """

    unit: str
    meaning: str
    floor: float
    digits: int

    def show(self, value: float) -> str:
        """Return a value with its unit, e.g. ``203.41 ADU``."""
        return f"{value:.{self.digits}f} {self.unit}".rstrip()


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        # It wanders: steps below 1 ADU are normal, those above 5 are faults; 6 sigma are 1.5 ADU.
        "bias_level": Metric("ADU", "Level of the overscan: the zero of the frame.", 0.25, 2),
        "read_noise": Metric(
            "ADU", "Scatter of one overscan pixel, from differences of neighbours.", 0.02, 3
        ),
        "overscan_ramp": Metric(
            "ADU", "Change of the overscan level from the first row to the last.", 0.1, 2
        ),
        "prescan_minus_overscan": Metric(
            "ADU", "Level of the prescan above that of the overscan.", 0.05, 2
        ),
        "light_level": Metric(
            "ADU", "Level of the light-sensitive area of a frame without light, above bias.", 0.1, 2
        ),
        "light_noise": Metric(
            "ADU", "Scatter of one light-sensitive pixel of a frame without light.", 0.02, 3
        ),
        "light_ratio": Metric(
            "dex", "Mean light per promised exposure: did the lamp give what was promised?", 0.01, 3
        ),
        "peak_level": Metric(
            "ADU", "Level above bias that one pixel in 200 exceeds without light.", 0.5, 1
        ),
        "peak_ratio": Metric(
            "dex", "Level that one pixel in 200 exceeds, per promised exposure.", 0.02, 3
        ),
        "saturated_fraction": Metric("", "Share of light-sensitive pixels at the end.", 1e-5, 6),
        "dead_fraction": Metric("", "Share of pixels below half the bias level.", 1e-6, 7),
        "hot_fraction": Metric(
            "", "Share of single pixels far brighter than all their neighbours.", 2e-6, 7
        ),
        "hot_cluster": Metric(
            "pixels", "Most hot pixels close together, in 16 by 16, no trail of one ray.", 0.7, 0
        ),
        "row_structure": Metric(
            "ADU", "Scatter of the row means: horizontal stripes and drifts.", 0.01, 3
        ),
        "column_structure": Metric(
            "ADU", "Scatter of the column means: vertical stripes and glows.", 0.01, 3
        ),
        "column_defect": Metric(
            "ADU", "How far the worst column stands off its neighbours without light.", 0.3, 2
        ),
        "column_contrast": Metric(
            "", "How far the worst column stands off its neighbours, per mean light.", 0.002, 4
        ),
        "defective_columns": Metric(
            "columns", "Number of columns that stand off their neighbours.", 1.0, 0
        ),
        "gradient_x": Metric("ADU", "Rise from the left edge to the right edge.", 0.1, 2),
        "gradient_y": Metric("ADU", "Rise from the bottom edge to the top edge.", 0.1, 2),
        "pattern_noise": Metric(
            "ADU", "Amplitude of the strongest periodic signal in read-out order.", 0.03, 3
        ),
        "bottom_top_ratio": Metric("dex", "Light of the bottom half over the top half.", 0.01, 3),
        "left_right_ratio": Metric("dex", "Light of the left half over the right half.", 0.01, 3),
        "unlit_rows": Metric("", "Share of rows that got no light though others did.", 0.005, 3),
        "order_contrast": Metric(
            "", "Contrast between the spectral orders and the gaps between them.", 0.005, 3
        ),
        "order_spacing": Metric("px", "Dominant distance of one order to the next.", 0.1, 2),
        "order_phase_sine": Metric(
            "px", "Place of the order pattern across the dispersion, sine part.", 0.1, 2
        ),
        "order_phase_cosine": Metric(
            "px", "Place of the order pattern across the dispersion, cosine part.", 0.1, 2
        ),
        "line_count": Metric("lines", "Spectral lines met along 64 columns.", 10.0, 0),
        "line_width": Metric("px", "Median full width of lines at half their height.", 0.02, 2),
        "line_brightness": Metric(
            "dex", "Height of the 32nd brightest line per promised exposure.", 0.02, 3
        ),
        "line_phase_sine": Metric(
            "px", "Place of the line pattern along the dispersion, sine part.", 0.05, 2
        ),
        "line_phase_cosine": Metric(
            "px", "Place of the line pattern along the dispersion, cosine part.", 0.05, 2
        ),
        "sharpness_x": Metric("", "Sharpness of order edges: 1 as sharp as can be.", 0.02, 3),
        "sharpness_y": Metric("", "Sharpness of spectral lines: 1 as sharp as can be.", 0.02, 3),
        "repeated_rows": Metric("", "Share of rows that copy another row.", 1e-4, 5),
        "bit_balance": Metric(
            "",
            "How far the lowest bits of the converter are from being set half the time.",
            0.002,
            4,
        ),
        "distinct_values": Metric(
            "values", "Number of different pixel values seen without light.", 2.0, 0
        ),
    }
)


def robust_z(value: float, reference: NDArray[np.float64], *, floor: float) -> float:
    """Return the distance of a value from the median of its references in robust sigma.

    The scatter is 1.4826 MAD, corrected for small samples (Croux & Rousseeuw 1992), but never
    below `floor`; it is widened by ``sqrt(1 + 1/m)`` because the median itself is uncertain.

    Parameters
    ----------
    value : float
    reference : (m,) float64 array
        Values of the references, in the unit of `value`.
    floor : float
        Least scatter, in the unit of `value`, above 0; keeps the score finite for equal values.

    Returns
    -------
    float
    """
    count = len(reference)
    median = np.median(reference)
    mad = np.median(np.abs(reference - median)) * small_sample_factor(count)
    return float((value - median) / (max(1.4826 * mad, floor) * np.sqrt(1 + 1 / count)))


def z_scores(
    values: Mapping[str, float], references: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Return the robust z-score of every metric that at least three references have.

    Parameters
    ----------
    values : mapping of str to float
        Values by metric.
    references : sequence of mappings
        Values by metric of each reference.

    Returns
    -------
    dict of str to float
        By metric, in order of name.
    """
    scores = {}
    for name in values.keys() & METRICS.keys():
        reference = np.array([metrics[name] for metrics in references if name in metrics])
        if len(reference) >= FEWEST_REFERENCES:
            scores[name] = robust_z(values[name], reference, floor=METRICS[name].floor)
    return dict(sorted(scores.items()))


def small_sample_factor(count: int) -> float:
    """Return the factor that makes the MAD unbiased: Croux & Rousseeuw 1992, COMPSTAT 1, 411."""
    table = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
    return table.get(count, count / (count - 0.8))
