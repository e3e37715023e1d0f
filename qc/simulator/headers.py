"""Header cards of a raw frame, as the instrument writes them.

After headers of real arcs of 2012 and 2024, the UVES User Manual P110.1 and the rules of ESO's
pipeline. Peculiarities of real headers: GAIN is the inverse of CONAD, OBJECT is blank on most red
flats, a red primary holds the cards of the window and no image.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from astropy.io import fits

from qc.simulator import detector
from qc.simulator.instrument_state import InstrumentState
from qc.simulator.plan import DPR_TYPES, PlannedExposure
from qc.simulator.spectrograph import SETTINGS

Value = str | float | int | bool
Cards = Iterator[tuple[str, Value]]

_MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
_READ_CARDS = {
    "225kHz low": ("1pt/225kHz/lg", "225kHz/1port/low_gain", 28.6 / (2148 * 3000)),
    "50kHz high": ("1pt/50kHz/hg", "50kHz/1port/high_gain", 34.0 / (1074 * 1500)),
    "625kHz low": ("2pt/625kHz/lg", "625kHz/2port/low_gain", 10.0 / (2148 * 4096)),
}
_CHIP_CARDS = {
    "BLUE": ("CCD-44b", "EEV CCD-44", "2004-10-14"),
    "REDL": ("CCD-44a", "EEV CCD-44 Sting", "1999-09-01"),
    "REDU": ("CCID-20b", "MIT-LL CCID-20 Zeus", "2009-07-06"),
}
_TEMPLATES = {
    "bias": ("tec_bias", "Bias"),
    "dark": ("tec_dark", "Dark"),
    "flat": ("cal_flatfree", "Free Flatfield Calibration"),
    "dflat": ("cal_dflatfree", "Free Deuterium Flatfield Calibration"),
    "arc": ("cal_wavefree", "Free Wave Calibration"),
    "orderdef": ("cal_orderdef", "Order Definition"),
    "fmtchk": ("cal_fmtchk", "Format Check"),
}


def primary_header(exposure: PlannedExposure, state: InstrumentState) -> fits.Header:
    """Return the primary header; the FITS writer adds the size of the image.

    Parameters
    ----------
    exposure : PlannedExposure
    state : InstrumentState

    Returns
    -------
    fits.Header
    """
    header = fits.Header()
    for name, value in _standard(exposure):
        header[name] = value
    sections = (_data_product, _template, _telescope, _instrument, _detector)
    for section in sections:
        for name, value in section(exposure, state):
            header[f"HIERARCH ESO {name}"] = value
    if exposure.hdus == (0,):
        header.extend(_output(exposure, detector.CHIPS["BLUE"]))
    header["ORIGFILE"] = exposure.original_name
    header["ARCFILE"] = f"{exposure.archive_name}.fits"
    return header


def extension_header(exposure: PlannedExposure, hdu: int) -> fits.Header:
    """Return the header of a red chip, or of one half of a blue chip with two ports.

    Parameters
    ----------
    exposure : PlannedExposure
    hdu : int
        HDU number, 1 or 2.

    Returns
    -------
    fits.Header
    """
    chip = detector.CHIPS[exposure.chips[min(hdu, len(exposure.chips)) - 1]]
    header = fits.Header()
    header["EXTNAME"] = f"CCD{hdu}" if len(exposure.chips) == 1 else _CHIP_CARDS[chip.name][0]
    header.extend(_output(exposure, chip))
    return header


def _standard(exposure: PlannedExposure) -> Cards:
    days = (exposure.start - _MJD_EPOCH).total_seconds() / 86400
    midnight = exposure.start.replace(hour=0, minute=0, second=0, microsecond=0)
    yield "ORIGIN", "ESO"
    yield "TELESCOP", "ESO-VLT-U2"
    yield "INSTRUME", "UVES"
    yield "OBJECT", _object(exposure)
    yield "RA", 229.345375
    yield "DEC", 2.18604
    yield "EQUINOX", 2000.0
    yield "RADESYS", "FK5"
    yield "EXPTIME", exposure.exposure_s
    yield "MJD-OBS", round(days, 9)
    yield "DATE-OBS", exposure.start.isoformat(timespec="milliseconds")[:23]
    yield "UTC", round((exposure.start - midnight).total_seconds(), 3)
    yield "LST", round((days * 1.00273791 % 1) * 86400, 3)
    yield "PI-COI", "UVES Operation Team"
    yield "OBSERVER", ""


def _object(exposure: PlannedExposure) -> str:
    """Return OBJECT: blank on all but the first of a red set of flats (archive, 2014 to 2019)."""
    stream = exposure.stream
    if stream.arm == "red" and stream.image_class == "flat" and exposure.number > 1:
        return ""
    return DPR_TYPES[stream.image_class]


def _data_product(exposure: PlannedExposure, _state: InstrumentState) -> Cards:
    image_class = exposure.stream.image_class
    yield "DPR CATG", "CALIB"
    yield "DPR TYPE", DPR_TYPES[image_class]
    yield "DPR TECH", "IMAGE" if image_class in ("bias", "dark") else "ECHELLE"


def _template(exposure: PlannedExposure, _state: InstrumentState) -> Cards:
    stream = exposure.stream
    camera = stream.path.replace("DICHR#", "dic").lower()
    suffix, title = _TEMPLATES[stream.image_class]
    arm = stream.arm.capitalize()
    night = exposure.template_start.date()
    yield "OBS ID", 200_000_000 + night.toordinal() % 1_000_000
    yield "OBS NAME", "Calibration"
    yield "OBS PROG ID", "60.A-9022(A)"
    yield "OBS START", f"{night.isoformat()}T09:00:21"
    yield "TPL ID", f"UVES_{camera}_{suffix}"
    yield (
        "TPL NAME",
        f"{camera.capitalize()} {arm} {title}" if "dic" in camera else f"{arm} {title}",
    )
    yield "TPL START", exposure.template_start.isoformat()[:19]
    yield "TPL NEXP", stream.set_size
    yield "TPL EXPNO", exposure.number


def _telescope(_exposure: PlannedExposure, state: InstrumentState) -> Cards:
    yield "TEL ALT", 88.993
    yield "TEL DOME STATUS", "CLOSED"
    yield "TEL TRAK STATUS", "OFF"
    yield "TEL AMBI PRES START", round(state.pressure_hpa + 0.6, 1)


def _instrument(exposure: PlannedExposure, state: InstrumentState) -> Cards:
    """Yield INS cards; a bias has few of them."""
    stream = exposure.stream
    yield "INS ID", "UVES/$Revision: 372709 $"
    yield "INS SWSIM", "NORMAL"
    if stream.setting_nm is not None:
        yield "INS PATH", stream.arm.upper()
        yield "INS MODE", stream.path
        yield from _lamps(exposure)
        yield from _light_path(exposure)
    yield "INS TEMP1 MEAN", round(state.temperature_c, 1)
    yield "INS TEMP2 MEAN", round(state.temperature_c + 0.1, 1)
    yield "INS TEMP3 MEAN", round(state.temperature_c + 0.7, 1)
    yield "INS TEMP4 MEAN", round(state.temperature_c + 0.9, 1)
    yield "INS SENS26 MEAN", round(state.pressure_hpa, 1)


def _lamps(exposure: PlannedExposure) -> Cards:
    """Yield the commanded lamps and shutters; a fault may have left them off."""
    lamp = exposure.lamp
    assert lamp is not None
    yield "INS SHUT1 NAME", "Tel_Shutter"
    yield "INS SHUT1 ST", False
    yield "INS MIRR1 NAME", {"ThAr": "THAR", "D2": "D2"}.get(lamp, "FFL")
    yield "INS MIRR1 NO", {"ThAr": 4, "D2": 3}.get(lamp, 2)
    yield "INS MIRR2 NAME", exposure.stream.path
    yield "INS LAMP1 NAME", "D2_Lamp"
    yield "INS LAMP1 ST", lamp == "D2"
    yield "INS LAMP2 NAME", "ThAr_Lamp"
    yield "INS LAMP2 ST", lamp == "ThAr"
    for number in (1, 2, 3, 4):
        yield f"INS LAMP{number + 2} NAME", f"FFL{number}_Lamp"
        yield f"INS LAMP{number + 2} ST", lamp == f"FFL{number}"
    yield "INS SHUT2 NAME", "Sphere_Shutter"
    yield "INS SHUT2 ST", lamp.startswith("FFL")
    yield "INS SHUT3 NAME", "D2L_Shutter"
    yield "INS SHUT3 ST", lamp == "D2"
    yield "INS SHUT4 NAME", "ThAr_Shutter"
    yield "INS SHUT4 ST", lamp == "ThAr"


def _light_path(exposure: PlannedExposure) -> Cards:
    """Yield slit, filter and grating; their numbers depend on the arm."""
    stream = exposure.stream
    assert stream.setting_nm is not None
    setting = SETTINGS[stream.setting_nm]
    blue = stream.arm == "blue"
    slit, order_filter, grating = (
        ("SLIT2", "FILT2", "GRAT1") if blue else ("SLIT3", "FILT3", "GRAT2")
    )
    yield "INS SLIT1 NAME", "FREE"
    yield "INS SLIT1 WID", 0.0
    yield "INS SLIT1 LEN", 0.0
    yield f"INS {slit} WID", stream.slit_arcsec
    yield f"INS {slit} LEN", exposure.optics.slit_length_arcsec
    yield "INS FILT1 NAME", "FREE"
    yield f"INS {order_filter} NAME", setting.order_filter
    yield "INS OPTI1 NAME", "OUT"
    yield "INS OPTI2 NAME", "OVRSIZ"
    yield f"INS {grating} ID", setting.disperser
    yield f"INS {grating} NAME", setting.disperser
    yield f"INS {grating} NO", int(setting.disperser[-1])
    yield f"INS {grating} WLEN", float(setting.nm)
    yield f"INS {grating} ENC", 5_980_000 + 7 * setting.nm
    yield f"INS {grating} PIXSCALE", 0.246 if blue else 0.182
    yield f"INS TILT{1 if blue else 2} POS", 0.01
    yield "INS ADC MODE", "OFF"
    yield "INS DROT MODE", "STAT"


def _detector(exposure: PlannedExposure, _state: InstrumentState) -> Cards:
    """Yield cards of the whole camera: window, binning, read mode."""
    stream = exposure.stream
    chip = detector.CHIPS[exposure.chips[0]]
    speed, clock, pixel_s = _READ_CARDS[stream.read_mode]
    rows, columns = detector.raw_shape(chip.name, stream.binning)
    yield "DET ID", "CCD FIERA - Rev: 238334"
    yield "DET NAME", "ccdUvB - uvesb" if stream.arm == "blue" else "ccdUvR - uvesr"
    yield "DET CHIPS", len(exposure.chips)
    yield "DET OUTPUTS", len(exposure.hdus)
    yield "DET WINDOWS", 1
    yield "DET BITS", 16
    yield "DET EXP NO", 7000 + exposure.file_number
    yield "DET EXP TYPE", "Normal" if stream.setting_nm is not None else "Dark"
    yield "DET EXP RDTTIME", round(rows * columns * pixel_s, 3)
    yield "DET WIN1 ST", True
    yield "DET WIN1 STRX", 1
    yield "DET WIN1 STRY", 1
    yield "DET WIN1 NX", columns
    yield "DET WIN1 NY", rows
    yield "DET WIN1 BINX", stream.binning[0]
    yield "DET WIN1 BINY", stream.binning[1]
    yield "DET WIN1 NDIT", 1
    yield "DET WIN1 UIT1", exposure.requested_s
    yield "DET WIN1 DIT1", exposure.exposure_s
    yield "DET READ MODE", "normal"
    yield "DET READ SPEED", speed
    yield "DET READ CLOCK", clock
    yield "DET READ NFRAM", 1
    yield "DET SHUT TYPE", "Slit"
    yield "DET FRAM TYPE", "Normal"
    yield "DET TLM1 START", 152.8 if stream.arm == "blue" else 135.1


def _output(exposure: PlannedExposure, chip: detector.SimulatedChip) -> fits.Header:
    """Return the cards of one chip and of the output it is read through."""
    read = chip.modes[exposure.stream.read_mode]
    identity, name, installed = _CHIP_CARDS[chip.name]
    ports = 2 if exposure.stream.two_ports else 1
    cards: dict[str, Value] = {
        "DET CHIP1 ID": identity,
        "DET CHIP1 NAME": name,
        "DET CHIP1 DATE": installed,
        "DET CHIP1 NX": 2048,
        "DET CHIP1 NY": 4096,
        "DET CHIP1 PSZX": 15.0,
        "DET OUT1 NAME": "L",
        "DET OUT1 CHIP": 1,
        "DET OUT1 X": 1,
        "DET OUT1 Y": 1,
        "DET OUT1 NX": chip.columns // ports,
        "DET OUT1 NY": chip.rows,
        "DET OUT1 PRSCX": detector.PRESCAN_PX,
        "DET OUT1 OVSCX": detector.OVERSCAN_PX,
        "DET OUT1 CONAD": read.gain_e_per_adu,
        "DET OUT1 RON": read.read_noise_e,
        "DET OUT1 GAIN": round(1 / read.gain_e_per_adu, 2),
    }
    header = fits.Header()
    for key, value in cards.items():
        header[f"HIERARCH ESO {key}"] = value
    return header
