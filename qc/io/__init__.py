"""FITS files to frames: FITS reader, instrument definitions, remote storage; no database."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qc.io.compression import read_content
    from qc.io.fits import Card, Pixels, read_cards
    from qc.io.frame_reader import MAX_BYTES, check_alive, parse_frame, read_frame
    from qc.io.instrument_files import read_instrument, read_instruments
    from qc.io.instrument_parts import (
        Area,
        Calibration,
        ChipNumbers,
        FaultKind,
        Layout,
        OpticalMode,
    )
    from qc.io.instruments import Instrument
    from qc.io.remote import RemoteFile, RemoteFolder

__all__ = [
    "MAX_BYTES",
    "Area",
    "Calibration",
    "Card",
    "ChipNumbers",
    "FaultKind",
    "Instrument",
    "Layout",
    "OpticalMode",
    "Pixels",
    "RemoteFile",
    "RemoteFolder",
    "check_alive",
    "parse_frame",
    "read_cards",
    "read_content",
    "read_frame",
    "read_instrument",
    "read_instruments",
]

_MODULE = {
    "MAX_BYTES": "frame_reader",
    "Area": "instrument_parts",
    "Calibration": "instrument_parts",
    "Card": "fits",
    "ChipNumbers": "instrument_parts",
    "FaultKind": "instrument_parts",
    "Instrument": "instruments",
    "Layout": "instrument_parts",
    "OpticalMode": "instrument_parts",
    "Pixels": "fits",
    "RemoteFile": "remote",
    "RemoteFolder": "remote",
    "check_alive": "frame_reader",
    "parse_frame": "frame_reader",
    "read_cards": "fits",
    "read_content": "compression",
    "read_frame": "frame_reader",
    "read_instrument": "instrument_files",
    "read_instruments": "instrument_files",
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: instruments load without astropy and fsspec."""
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
