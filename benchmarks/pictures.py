"""Draw one simulated frame of each of the forerunner's image types, full size.

``python -m benchmarks.pictures --out docs/pictures/frames.png``
"""

import argparse
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qc.core.frame import Extension
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments
from qc.simulator import DEMO_PLAN, CalibrationStream, ObservingPlan, simulate

SEED = 7
COLUMNS = 7
_TWO_PORT_ARC = CalibrationStream("arc", "blue", "BLUE", 437, 0.4, (1, 1), "625kHz low", set_size=1)
_RED_ARC = CalibrationStream("arc", "red", "RED", 860, 1.0, (1, 1), "225kHz low", set_size=1)


def main() -> None:
    """Simulate, read, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figure = _draw(_one_of_each(Path(folder)))
    FigureCanvasAgg(figure)
    figure.savefig(arguments.out, dpi=80)


def _one_of_each(folder: Path) -> dict[str, Extension]:
    unbinned = [
        replace(stream, set_size=1, binning=(1, 1), read_mode="225kHz low")
        for stream in DEMO_PLAN.streams
    ]
    plan = ObservingPlan(streams=(*unbinned, _TWO_PORT_ARC, _RED_ARC), aborted=0.0)
    paths = simulate(folder, nights=1, start=date(2026, 7, 1), faults=0, seed=SEED, plan=plan)
    frames = [read_frame(path, read_instruments()) for path in paths]
    extensions = [extension for frame in frames for extension in frame.extensions]
    return {_title(extension): extension for extension in sorted(extensions, key=_title)}


def _title(extension: Extension) -> str:
    setup = extension.setup
    light = f" {setup.wavelength_nm:.0f} nm" if setup.wavelength_nm else ""
    return f"{setup.image_type}  {setup.chip}{light}"


def _draw(extensions: dict[str, Extension]) -> Figure:
    rows = -(-len(extensions) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 4.6 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (title, extension) in zip(axes, extensions.items(), strict=False):
        excess = (
            extension.pixels - np.float32(extension.detector.bias_adu)
        ) / extension.stretch_adu
        displayed = np.arcsinh(excess)
        lowest, highest = np.percentile(displayed, [0.5, 99.7])
        axis.imshow(displayed, origin="lower", cmap="gray", vmin=lowest, vmax=highest)
        axis.set_title(title, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
