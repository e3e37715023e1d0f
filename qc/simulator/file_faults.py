"""Faults of a FITS file: wrong or missing keywords, a missing image."""

import io
import warnings

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from qc.simulator.faults import FAULTS, InjectedFault, spoil_header

FILE_FAULTS = ("chip_missing", "keyword_missing", "binning_misreported")


def spoil_file(content: bytes, kind: str, strength: str) -> bytes:
    """Apply a fault to the file of a raw frame.

    Parameters
    ----------
    content : bytes
        Uncompressed FITS, with the headers of UVES. Not changed.
    kind : str
        One of `FILE_FAULTS`.
    strength : str
        One of `STRENGTHS`; selects the missing keyword.

    Raises
    ------
    ValueError
        If the kind is not one of these, or the file lacks the part that the fault removes.
    """
    if kind not in FILE_FAULTS:
        raise ValueError(f"{kind!r} is no fault of a file; known: {FILE_FAULTS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        with fits.open(io.BytesIO(content), do_not_scale_image_data=True, memmap=False) as units:
            _spoil(units, kind, strength)
            spoilt = io.BytesIO()
            units.writeto(spoilt, output_verify="silentfix")
    return spoilt.getvalue()


def _spoil(units: fits.HDUList, kind: str, strength: str) -> None:
    if kind == "chip_missing":
        images = [number for number, unit in enumerate(units) if unit.header["NAXIS"]]
        if len(images) < 2:
            raise ValueError(
                f"chip_missing: expected several images in the file, got {len(images)}"
            )
        del units[images[-1]]
        return
    if strength not in FAULTS[kind].amount:
        raise ValueError(f"{kind!r} is not offered at strength {strength!r}")
    try:
        spoil_header(units[0].header, InjectedFault(kind, strength, (0,)))
    except KeyError as error:
        raise ValueError(f"{kind}: not in this header: {error}") from None
