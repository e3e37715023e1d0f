"""Small FITS files with headers and layouts of UVES."""

import bz2
import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ncompress
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from qc.core.frame import Value
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument

STANDARD_KEYWORDS = {"INSTRUME", "OBJECT", "EXPTIME", "DATE-OBS", "ARCFILE", "ORIGFILE"}
Cards = Mapping[str, Value]
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    ".fits": bytes,
    ".fits.Z": ncompress.compress,
    ".fits.gz": lambda content: gzip.compress(content, 1),
    ".fits.bz2": bz2.compress,
}

COMMON: Cards = {
    "INSTRUME": "UVES",
    "OBJECT": "",
    "EXPTIME": 9.0,
    "DATE-OBS": "2024-03-17T11:25:15.064",
    "ARCFILE": "UVES.2024-03-17T11:25:15.063.fits",
    "DPR CATG": "CALIB",
    "DPR TECH": "ECHELLE",
    "TPL START": "2024-03-17T11:24:31",
    "TPL NEXP": 5,
    "TPL EXPNO": 2,
    "DET WIN1 BINX": 1,
    "DET WIN1 BINY": 1,
    "DET READ SPEED": "1pt/225kHz/lg",
    "DET READ CLOCK": "225kHz/1port/low_gain",
    "INS SLIT1 NAME": "FREE",
}
ARMS: Mapping[str, Cards] = {
    "blue": {
        "DET CHIPS": 1,
        "INS PATH": "BLUE",
        "INS MODE": "BLUE",
        "INS GRAT1 NAME": "CD#2",
        "INS GRAT1 WLEN": 437.0,
        "INS FILT2 NAME": "HER_5",
        "INS SLIT2 WID": 1.0,
        "INS SLIT2 LEN": 10.0,
    },
    "red": {
        "DET CHIPS": 2,
        "INS PATH": "RED",
        "INS MODE": "RED",
        "INS GRAT2 NAME": "CD#3",
        "INS GRAT2 WLEN": 580.0,
        "INS FILT3 NAME": "SHP700",
        "INS SLIT3 WID": 1.0,
        "INS SLIT3 LEN": 12.0,
    },
}
ROWS = 30  # of the shortened chips


def short_uves() -> Instrument:
    """UVES with chips of 30 rows: as wide as the real ones, a hundredth of the bytes."""
    [uves] = [item for item in read_instruments() if item.name == "UVES"]
    layouts = tuple(replace(layout, shape=(ROWS, layout.shape[1])) for layout in uves.layouts)
    return replace(uves, layouts=layouts)


def cards(arm: str = "blue", dpr_type: str | None = "LAMP,FLAT", **changes: Value | None) -> Cards:
    """Cards of a frame; a change to None takes a card out, underscores stand for blanks."""
    changed = {**COMMON, **ARMS[arm], "DPR TYPE": dpr_type}
    changed |= {key.replace("_", " "): value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


def pixels(
    ny: int = ROWS, nx: int = 2148, level: int = 150, dtype: type[np.number] = np.uint16
) -> NDArray[Any]:
    """(ny, nx) of `level`, and one more in every second pixel, so that the image is alive."""
    rows, columns = np.indices((ny, nx))
    return np.asarray(level + (rows + columns) % 2, dtype)


def header_of(header_cards: Cards) -> fits.Header:
    header = fits.Header()
    for key, value in header_cards.items():
        plain = key in STANDARD_KEYWORDS or " " not in key
        header[key if plain else f"HIERARCH ESO {key}"] = value
    return header


def frame_bytes(header_cards: Cards, *images: NDArray[Any]) -> bytes:
    """A file as UVES writes it: one image in the primary, two in extensions of an empty one."""
    if len(images) == 1:
        units = [fits.PrimaryHDU(images[0], header_of(header_cards))]
    else:
        units = [fits.PrimaryHDU(header=header_of(header_cards)), *map(fits.ImageHDU, images)]
    return bytes_of(units)


def bytes_of(units: list[Any]) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(units).writeto(buffer)
    return buffer.getvalue()


def tile_compressed_bytes(header_cards: Cards, *images: NDArray[Any]) -> bytes:
    """A file as fpack makes it: every image in a compressed extension."""
    if len(images) == 1:
        tiles = [fits.CompImageHDU(images[0], header_of(header_cards))]
        return bytes_of([fits.PrimaryHDU(), *tiles])
    return bytes_of(
        [fits.PrimaryHDU(header=header_of(header_cards)), *map(fits.CompImageHDU, images)]
    )


def write(path: Path, content: bytes) -> Path:
    """Write a file, compressed as its name says."""
    suffixes = sorted(COMPRESS, key=len)[::-1]
    suffix = next(item for item in suffixes if path.name.endswith(item))
    path.write_bytes(COMPRESS[suffix](content))
    return path
