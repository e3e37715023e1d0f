"""The real frames, and which of them belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from qc.core.frame import Extension
from qc.detection.measurement import measure_metrics
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments

Floats = NDArray[np.float32]

MANIFEST = "MANIFEST.tsv"
ABSENT = "no real frames in {folder}: expected the folder that holds " + MANIFEST


@dataclass(frozen=True)
class Series:
    """Real exposures of one setup.

    Attributes
    ----------
    nominal, faulty : tuple of str
        File names. The faulty ones are really so.
    pedestal_adu : float
        Added to frames whose bias was taken off, so that they can be read out again.
    drop : tuple of str
        Header keywords that would then no longer be true.
    starts_set : bool
        The first nominal frame is the first of its set, and electronics settle.
    """

    title: str
    nominal: tuple[str, ...]
    faulty: tuple[str, ...] = ()
    pedestal_adu: float = 0.0
    drop: tuple[str, ...] = ()
    starts_set: bool = False


BIAS = Series(
    "EFOSC2 bias",
    (
        "efosc2/EFOSC.2022-01-26T19-02-38.210.fits.gz",
        "efosc2/EFOSC.2022-01-26T19-03-08.542.fits.gz",
        "efosc2/EFOSC.2022-01-26T19-03-39.513.fits.gz",
        "efosc2/EFOSC.2022-01-26T19-04-10.535.fits.gz",
        "efosc2/EFOSC.2022-01-26T19-04-41.537.fits.gz",
    ),
    starts_set=True,
)
FLAT = Series(
    "EFOSC2 flat",
    (
        "efosc2/EFOSC.2022-01-26T19-18-58.464.fits.gz",
        "efosc2/EFOSC.2022-01-26T19-21-57.491.fits.gz",
    ),
)
EFOSC2_ARC = Series("EFOSC2 arc", ("efosc2/EFOSC.2022-01-26T19-37-39.560.fits.gz",))
SPRAT_ARC = Series(
    "SPRAT arc",
    ("sprat/v_a_20180810_13_1_0_1.fits.gz", "sprat/v_a_20180810_28_1_0_1.fits.gz"),
    pedestal_adu=915,
    drop=("L1DATE",),
)
DEVENY_ARC = Series(
    "DeVeny arc",
    ("deveny/20250203.0021.fits.gz", "deveny/20250203.0023.fits.gz"),
    (
        "deveny/20250203.0025.fits.gz",
        "deveny/20250203.0027.fits.gz",
        "deveny/20250203.0029.fits.gz",
    ),
)
ALFOSC_ARC = Series("ALFOSC arc", ("alfosc_fasu/ALAb170109.fits.gz",))


@dataclass(frozen=True)
class RealFrame:
    """One real exposure.

    Attributes
    ----------
    pixels : (ny, nx) float32 array
        ADU as read, or with the pedestal put back.
    zero_adu, noise_adu : float
        Level and read noise: measured where there is an overscan, else as promised.
    """

    file: str
    header: fits.Header
    extension: Extension
    pixels: Floats
    exposure_s: float
    zero_adu: float
    noise_adu: float


def read_real(folder: Path, series: Series, file: str) -> RealFrame:
    """Read one frame as the product does, and keep its whole header.

    Raises
    ------
    FrameError
        If the product would refuse it.
    """
    frame = read_frame(folder / file, read_instruments())
    (extension,) = frame.extensions
    numbers, detector = measure_metrics(extension), extension.detector
    return RealFrame(
        file=file,
        header=_header(folder / file, series),
        extension=extension,
        pixels=extension.pixels.astype(np.float32) + np.float32(series.pedestal_adu),
        exposure_s=frame.exposure_s,
        zero_adu=numbers.get("bias_level", detector.bias_adu) + series.pedestal_adu,
        noise_adu=numbers.get("read_noise", detector.read_noise_adu),
    )


def _header(path: Path, series: Series) -> fits.Header:
    with fits.open(path) as units:
        header = units[0].header.copy()
        for unit in units[1:]:
            header.extend(unit.header, unique=True)
    for key in (*series.drop, "BZERO", "BSCALE", "EXTEND", "CHECKSUM", "DATASUM"):
        header.remove(key, ignore_missing=True)
    return header
