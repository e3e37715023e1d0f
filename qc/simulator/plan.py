"""Calibration streams, plan of a night, planned exposures.

Set sizes and frequencies follow the calibration plan of the UVES User Manual P110.1 (table 4.1),
scatter of exposure times real flats of 2014 to 2019 (EDIBLES).
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from qc.simulator.detector import Binning
from qc.simulator.spectrograph import SETTINGS, Optics, chips_of, standard_exposure_s

DPR_TYPES = {
    "bias": "BIAS",
    "dark": "DARK",
    "flat": "LAMP,FLAT",
    "dflat": "LAMP,DFLAT",
    "arc": "LAMP,WAVE",
    "orderdef": "LAMP,ORDERDEF",
    "fmtchk": "LAMP,FMTCHK",
}
CLASSES = tuple(DPR_TYPES)
_NAMES = {
    "bias": "BIAS",
    "dark": "DARK",
    "flat": "FLAT",
    "dflat": "DFLAT",
    "arc": "WAVE",
    "orderdef": "ORDERDEF",
    "fmtchk": "FMTCHK",
}
_LETTERS = {
    "bias": "B",
    "dark": "D",
    "flat": "F",
    "dflat": "DF",
    "arc": "W",
    "orderdef": "O",
    "fmtchk": "K",
}
HIGH_GAIN_FASTER = 12.0  # 2x2 high gain needs a twelfth of the time (manual)
_SHORTEST_FLAT_S = 0.5  # the shutter takes 50 ms; the manual advises no less
_PINHOLE_ARCSEC = 0.5  # slit length of order definitions and format checks
_OVERHEAD_S = {"225kHz low": 36.0, "50kHz high": 40.0, "625kHz low": 12.0}
_TEMPLATE_S = 95.0


@dataclass(frozen=True)
class CalibrationStream:
    """One kind of calibration that is taken again and again.

    Attributes
    ----------
    image_class : str
        ``bias``, ``dark``, ``flat`` (halogen), ``dflat`` (deuterium), ``arc``, ``orderdef``,
        ``fmtchk``.
    path : str
        INS MODE: ``BLUE``, ``RED``, ``DICHR#1``, ``DICHR#2``.
    arm : str
        ``blue`` or ``red``.
    setting_nm : int or None
        None for biases and darks.
    every_nights : int
        How often a set is taken.
    exposure_s : float
        Of a dark; every other class has its lamp's standard exposure.
    """

    image_class: str
    arm: str
    path: str
    setting_nm: int | None = None
    slit_arcsec: float = 1.0
    binning: Binning = (2, 2)
    read_mode: str = "50kHz high"
    set_size: int = 5
    every_nights: int = 1
    exposure_s: float = 0.0

    @property
    def two_ports(self) -> bool:
        """Whether the blue chip is read in two halves, each its own extension."""
        return self.arm == "blue" and self.read_mode.startswith("625kHz")


@dataclass(frozen=True)
class ObservingPlan:
    """The streams of an observatory, and how complete its sets are.

    Attributes
    ----------
    aborted : float
        Fraction of sets that end early; about one in twenty of the real flats.
    """

    streams: tuple[CalibrationStream, ...]
    aborted: float = 0.02


@dataclass(frozen=True)
class PlannedExposure:
    """One planned exposure.

    Attributes
    ----------
    stream : CalibrationStream
    start : datetime
        Shutter opens, UTC.
    requested_s, exposure_s : float
        Requested and actual exposure time.
    template_start : datetime
    number : int
        Within its template, from 1.
    file_number : int
        Within its day and name, from 1.
    """

    stream: CalibrationStream
    start: dt.datetime
    requested_s: float
    exposure_s: float
    template_start: dt.datetime
    number: int
    file_number: int

    @property
    def chips(self) -> tuple[str, ...]:
        """The chips that are read, in the order of the file's extensions."""
        return chips_of(self.stream.arm)

    @property
    def hdus(self) -> tuple[int, ...]:
        """HDU numbers of the images."""
        if self.stream.arm == "blue" and not self.stream.two_ports:
            return (0,)
        return (1, 2)

    @property
    def lamp(self) -> str | None:
        """The lamp that shines, if any."""
        image_class, setting_nm = self.stream.image_class, self.stream.setting_nm
        if setting_nm is None:
            return None
        if image_class in ("arc", "fmtchk"):
            return "ThAr"
        return "D2" if image_class == "dflat" else SETTINGS[setting_nm].lamp

    @property
    def optics(self) -> Optics:
        """The slit and the path, in focus and unshifted."""
        stream = self.stream
        length = 0.0
        if stream.setting_nm is not None:
            length = SETTINGS[stream.setting_nm].slit_length_arcsec
        if stream.image_class in ("orderdef", "fmtchk"):
            length = _PINHOLE_ARCSEC
        return Optics(stream.slit_arcsec, length, stream.path)

    @property
    def archive_name(self) -> str:
        """ARCFILE without its suffix."""
        return f"UVES.{self.start.isoformat(timespec='milliseconds')[:23]}"

    @property
    def stem(self) -> str:
        """The kind of file, e.g. ``UVES_DIC1B_FLAT``."""
        stream = self.stream
        mode = stream.arm.upper()
        if stream.path.startswith("DICHR"):
            mode = f"DIC{stream.path[-1]}{mode[0]}"
        return f"UVES_{mode}_{_NAMES[stream.image_class]}"

    @property
    def original_name(self) -> str:
        """ORIGFILE."""
        return f"{self.stem}{self.start:%j}_{self.file_number:04d}.fits"

    def image_type(self, hdu: int) -> str:
        """Return the short name of an extension's kind: ``UD1BF0``, ``URW2``."""
        stream = self.stream
        dichroic = f"D{stream.path[-1]}" if stream.path.startswith("DICHR") else ""
        return f"U{dichroic}{stream.arm[0].upper()}{_LETTERS[stream.image_class]}{hdu}"


def _demo(
    image_class: str, arm: str, path: str, setting_nm: int | None, size: int
) -> CalibrationStream:
    return CalibrationStream(image_class, arm, path, setting_nm, set_size=size)


DEMO_PLAN = ObservingPlan(
    streams=(
        _demo("bias", "blue", "BLUE", None, 5),
        _demo("bias", "red", "RED", None, 5),
        _demo("arc", "blue", "BLUE", 437, 2),
        _demo("arc", "red", "RED", 580, 2),
        _demo("flat", "blue", "DICHR#1", 390, 5),
        _demo("dflat", "blue", "DICHR#1", 346, 5),
        _demo("flat", "red", "DICHR#1", 564, 5),
    ),
    aborted=0.0,
)


def _both_modes(stream: CalibrationStream, every_2x2: int) -> tuple[CalibrationStream, ...]:
    """Return a stream unbinned as given, and binned at its own frequency."""
    unbinned = replace(stream, binning=(1, 1), read_mode="225kHz low")
    return unbinned, replace(stream, every_nights=every_2x2)


def _full_streams() -> Iterator[CalibrationStream]:
    for arm in ("blue", "red"):
        path = arm.upper()
        yield from _both_modes(CalibrationStream("bias", arm, path, every_nights=1), 1)
        dark = CalibrationStream("dark", arm, path, set_size=3, every_nights=30, exposure_s=3600.0)
        yield from _both_modes(dark, 30)
    for arm, setting_nm in (("blue", 346), ("blue", 437), ("red", 580), ("red", 860)):
        yield from _lamp_streams(arm, arm.upper(), setting_nm)
    for path, settings in (("DICHR#1", (346, 390, 564, 580)), ("DICHR#2", (390, 437, 760, 860))):
        for setting_nm in settings:
            yield from _lamp_streams(SETTINGS[setting_nm].arm, path, setting_nm)
    yield CalibrationStream(
        "arc", "blue", "BLUE", 437, 0.4, (1, 1), "625kHz low", set_size=1, every_nights=7
    )


def _lamp_streams(arm: str, path: str, setting_nm: int) -> Iterator[CalibrationStream]:
    """Yield flats, arc, order definition and format check of one setting on one path."""
    yield from _both_modes(CalibrationStream("flat", arm, path, setting_nm, every_nights=3), 3)
    yield from _both_modes(CalibrationStream("arc", arm, path, setting_nm, set_size=1), 2)
    if setting_nm == 346:
        yield from _both_modes(CalibrationStream("dflat", arm, path, setting_nm, every_nights=3), 3)
    for image_class in ("orderdef", "fmtchk"):
        short = CalibrationStream(image_class, arm, path, setting_nm, set_size=1, every_nights=3)
        yield from _both_modes(short, 6)


FULL_PLAN = ObservingPlan(streams=tuple(_full_streams()))


def plan_nights(
    plan: ObservingPlan, start: dt.date, nights: int, seed: int
) -> Iterator[PlannedExposure]:
    """Yield all exposures of consecutive nights in order of time.

    Parameters
    ----------
    plan : ObservingPlan
    start : date
        First night.
    nights : int
    seed : int
        Seed of the history.

    Yields
    ------
    PlannedExposure
    """
    for night in range(nights):
        yield from plan_night(plan, start + dt.timedelta(days=night), seed)


def plan_night(plan: ObservingPlan, night: dt.date, seed: int) -> Iterator[PlannedExposure]:
    """Yield the calibrations of one night, taken from 09 UT of the next day on.

    Parameters
    ----------
    plan : ObservingPlan
    night : date
        Date of the evening.
    seed : int
        Seed of the history.

    Yields
    ------
    PlannedExposure
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5, night.toordinal()]))
    morning = night + dt.timedelta(days=1)
    clock = dt.datetime(morning.year, morning.month, morning.day, 9, tzinfo=dt.UTC)
    clock += dt.timedelta(seconds=rng.uniform(60, 1500))
    numbers: dict[str, int] = {}
    for index, stream in enumerate(plan.streams):
        if (night.toordinal() + index) % stream.every_nights:
            continue
        for exposure in _plan_set(plan, stream, clock, rng):
            numbers[exposure.stem] = numbers.get(exposure.stem, 0) + 1
            yield replace(exposure, file_number=numbers[exposure.stem])
            clock = exposure.start + dt.timedelta(seconds=exposure.exposure_s)
        clock += dt.timedelta(seconds=_TEMPLATE_S + rng.uniform(0, 40))


def _plan_set(
    plan: ObservingPlan, stream: CalibrationStream, clock: dt.datetime, rng: np.random.Generator
) -> Iterator[PlannedExposure]:
    """Yield one template's exposures; file numbers are not yet known."""
    requested_s = _requested_s(stream, rng)
    size = stream.set_size
    if size > 1 and rng.random() < plan.aborted:
        size = int(rng.integers(1, size))
    template_start = clock.replace(microsecond=0)
    opens = clock + dt.timedelta(seconds=rng.uniform(30, 60))
    for number in range(1, size + 1):
        # Real times jitter by a few milliseconds: 35.1919 for 35.19, 15.999 for 16.
        shutter_s = requested_s + rng.choice([-0.001, 0.0, 0.0008, 0.0014, 0.0019])
        exposure_s = 0.0 if stream.image_class == "bias" else round(float(shutter_s), 4)
        opens = opens.replace(microsecond=opens.microsecond // 1000 * 1000)
        yield PlannedExposure(stream, opens, requested_s, exposure_s, template_start, number, 0)
        wait_s = _OVERHEAD_S[stream.read_mode] + 31 + rng.uniform(0, 2)
        opens += dt.timedelta(seconds=exposure_s + wait_s)


def _requested_s(stream: CalibrationStream, rng: np.random.Generator) -> float:
    """Choose a set's exposure time: near the standard, not compensating lamp or dichroic."""
    if stream.setting_nm is None:
        return stream.exposure_s
    lamp = SETTINGS[stream.setting_nm].lamp
    lamp = {"arc": "ThAr", "fmtchk": "ThAr", "dflat": "D2"}.get(stream.image_class, lamp)
    standard_s = standard_exposure_s(stream.setting_nm, lamp)
    if stream.read_mode == "50kHz high":
        standard_s /= HIGH_GAIN_FASTER
    if lamp == "ThAr":
        share = float(rng.choice([0.6, 0.8, 1.0]))
        return round(max(standard_s * share, _SHORTEST_FLAT_S), 2)
    habit = float(np.clip(np.exp(rng.normal(-0.35, 0.45)), 0.2, 1.5))
    return round(max(standard_s / stream.slit_arcsec * habit, _SHORTEST_FLAT_S), 1)
