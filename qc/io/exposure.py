"""Exposure: the properties of a frame that its header states for all extensions."""

from collections.abc import Sequence
from dataclasses import dataclass

from qc import core, errors
from qc.io import conditions, header_values
from qc.io import instrument_parts as parts
from qc.io.instruments import Instrument

_MAX_OPTICS = 200  # characters of the optics description


@dataclass(frozen=True)
class ExposureInfo:
    """Properties that all extensions of a frame share."""

    instrument: Instrument
    calibration: parts.Calibration
    arm_name: str
    mode: parts.OpticalMode
    binning: tuple[int, int]
    read_mode: str
    wavelength_nm: float | None
    slit_arcsec: float | None
    optics: str
    exposure_s: float


def recognise_instrument(header: core.Header, instruments: Sequence[Instrument]) -> Instrument:
    """Return the instrument of a header.

    Parameters
    ----------
    header : Header
        Values by keyword.
    instruments : sequence of Instrument
        Candidates, in order of preference.

    Returns
    -------
    Instrument

    Raises
    ------
    IncompleteHeaderError
        If no keyword that identifies an instrument is present.
    UnsupportedFrameError
        If the frame belongs to another instrument.
    """
    for instrument in instruments:
        if instrument.recognises(header):
            return instrument
    keywords = conditions.list_keywords(instrument.match for instrument in instruments)
    if not any(keyword in header for keyword in keywords):
        raise errors.IncompleteHeaderError(f"missing or blank: {', '.join(keywords)}")
    names = ", ".join(instrument.name for instrument in instruments)
    raise errors.UnsupportedFrameError(
        f"expected one of {names}, got {header_values.quote(header, keywords)}"
    )


def recognise_calibration(header: core.Header, instrument: Instrument) -> parts.Calibration:
    """Return the kind of calibration of a header.

    Parameters
    ----------
    header : Header
        Values by keyword.
    instrument : Instrument
        Instrument of the frame.

    Returns
    -------
    Calibration

    Raises
    ------
    UnsupportedFrameError
        If frames of this kind are not judged.
    IncompleteHeaderError
        If a decisive keyword is absent.
    UnknownImageTypeError
        If the instrument file describes no such calibration.
    """
    reason = instrument.find_skip_reason(header)
    if reason:
        skip_keywords = conditions.list_keywords(skip.when for skip in instrument.skip)
        raise errors.UnsupportedFrameError(
            f"{reason} ({header_values.quote(header, skip_keywords)})"
        )
    calibration = instrument.recognise_calibration(header)
    if calibration:
        return calibration
    keywords = conditions.list_keywords(
        [(instrument.calibrations_have,), *(kind.when for kind in instrument.calibrations)]
    )
    header_values.require(header, [(key,) for key in keywords if instrument.is_decisive(key)])
    names = ", ".join(kind.name for kind in instrument.calibrations)
    raise errors.UnknownImageTypeError(
        f"expected one of {names}, got {header_values.quote(header, keywords)}"
    )


def read_exposure(header: core.Header, instrument: Instrument) -> ExposureInfo:
    """Return the properties of an exposure that all its extensions share.

    Parameters
    ----------
    header : Header
        Values by keyword.
    instrument : Instrument
        Instrument of the frame.

    Returns
    -------
    ExposureInfo

    Raises
    ------
    FrameError
        If a keyword is missing or implausible, or the frame is not a described calibration.
    """
    calibration = recognise_calibration(header, instrument)
    arm_name = recognise_arm(header, instrument)
    names, arm, is_lit = instrument.keywords, instrument.arms[arm_name], calibration.light
    light_path = [arm.wavelength_nm, arm.slit_arcsec] if is_lit else []
    binning = [(key,) for key in names.binning]
    header_values.require(header, [names.observed_at, names.exposure_s, *binning, *light_path])
    read_number = header_values.read_number
    return ExposureInfo(
        instrument=instrument,
        calibration=calibration,
        arm_name=arm_name,
        mode=instrument.recognise_mode(header),
        binning=header_values.read_binning(header, names.binning),
        read_mode=recognise_read_mode(header, instrument),
        wavelength_nm=(
            read_number(header, arm.wavelength_nm, lowest=1, digits=1) if is_lit else None
        ),
        slit_arcsec=read_number(header, arm.slit_arcsec, lowest=0, digits=2) if is_lit else None,
        optics=describe_optics(header, arm) if is_lit else "",
        exposure_s=read_number(header, names.exposure_s, lowest=0) or 0.0,
    )


def recognise_arm(header: core.Header, instrument: Instrument) -> str:
    """Return the name of a frame's arm.

    Parameters
    ----------
    header : Header
        Values by keyword.
    instrument : Instrument
        Instrument of the frame.

    Returns
    -------
    str

    Raises
    ------
    IncompleteHeaderError
        If the header identifies no arm.
    """
    arm_name = instrument.recognise_arm(header)
    if arm_name is None:
        keywords = conditions.list_keywords(arm.when for arm in instrument.arms.values())
        raise errors.IncompleteHeaderError(
            f"expected a sign of {' or '.join(instrument.arms)}, "
            f"got {header_values.quote(header, keywords)}"
        )
    return arm_name


def recognise_read_mode(header: core.Header, instrument: Instrument) -> str:
    """Return the name of a frame's read mode.

    Parameters
    ----------
    header : Header
        Values by keyword.
    instrument : Instrument
        Instrument of the frame.

    Returns
    -------
    str

    Raises
    ------
    IncompleteHeaderError
        If the instrument file describes no such read mode.
    """
    read_mode = instrument.recognise_read_mode(header)
    if read_mode is None:
        keywords = conditions.list_keywords(mode.when for mode in instrument.read_modes)
        names = ", ".join(mode.name for mode in instrument.read_modes)
        raise errors.IncompleteHeaderError(
            f"expected a read mode of {names}, got {header_values.quote(header, keywords)}"
        )
    return read_mode


def describe_optics(header: core.Header, arm: parts.Arm) -> str:
    """Return the optical elements in the light path.

    Parameters
    ----------
    header : Header
        Values by keyword.
    arm : Arm
        Camera of the frame.

    Returns
    -------
    str
        Names separated by spaces, at most 200 characters.
    """
    values = (header_values.read_value(header, keywords) for keywords in arm.optics)
    elements = (f"{x:.4g}" if isinstance(x, float) else str(x) for x in values if x)
    return " ".join(name for name in elements if name.upper() not in {"FREE", "OUT"})[:_MAX_OPTICS]
