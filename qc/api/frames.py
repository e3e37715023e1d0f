"""Frames of files and of the simulator."""

import datetime as dt
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from qc import core, io, simulator


@cache
def packaged_instruments() -> tuple[io.Instrument, ...]:
    """Return the instruments that are described by packaged files."""
    return io.read_instruments()


def read_frame(path: str | Path, instruments: Sequence[io.Instrument] | None = None) -> core.Frame:
    """Read a calibration frame from a FITS file, compressed or not.

    Parameters
    ----------
    path : str or Path
        ``.fits``, ``.fits.Z``, ``.fits.gz``, ``.fits.bz2`` or ``.fits.fz``.
    instruments : sequence of Instrument, optional
        Instruments to recognise; default: the packaged ones.

    Returns
    -------
    Frame
        Setup, times and, per detector, an `Extension` with its pixels in ADU.

    Raises
    ------
    FrameError
        If the file is no readable calibration frame of one of the instruments.

    Examples
    --------
    >>> import qc
    >>> frame = qc.read_frame("bias.fits")
    >>> frame.instrument, frame.extensions[0].setup.image_type
    ('UVES', 'UBB0')
    >>> frame.extensions[0].pixels.dtype
    dtype('uint16')
    """
    return io.read_frame(Path(path), instruments or packaged_instruments())


def simulate(
    folder: str | Path,
    *,
    nights: int = 1,
    start: dt.date = dt.date(2026, 7, 1),
    faults: float = 0.0,
    seed: int = 1,
    plan: simulator.ObservingPlan = simulator.DEMO_PLAN,
) -> list[Path]:
    """Simulate raw UVES frames with ground truth.

    Parameters
    ----------
    folder : str or Path
        Folder to write to: one subfolder per night, and ``truth.csv``.
    nights : int
        Number of consecutive nights.
    start : date
        First night.
    faults : float
        Fraction of frames with a fault, 0 to 1.
    seed : int
        Equal seeds give equal bytes.
    plan : ObservingPlan
        Calibration plan; default: a small one with 2x2 binning.

    Returns
    -------
    list of Path
        The files in order of time.

    Examples
    --------
    >>> import qc
    >>> from qc.simulator import CalibrationStream, ObservingPlan
    >>> biases = CalibrationStream("bias", "blue", "BLUE", set_size=2)
    >>> paths = qc.simulate("simulated", plan=ObservingPlan((biases,), aborted=0))
    >>> len(paths), paths[0].parent.name
    (2, '2026-07-01')
    """
    return simulator.simulate(
        Path(folder), nights=nights, start=start, faults=faults, seed=seed, plan=plan, workers=1
    )
