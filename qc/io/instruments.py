"""Instrument definitions: header meaning, detectors, light path, calibration plan, faults.

``instruments/uves.yaml`` explains every key in its comments. In a header mapping ``HIERARCH ESO``
is left out of the keywords and blank values are absent. Two entries are added: ``IMAGES``, the
number of images of the file, and ``HDUS``, the number of units.
"""

import datetime as dt
import zoneinfo
from dataclasses import field
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from qc import core
from qc.io import conditions
from qc.io import instrument_parts as parts

_IMPOSSIBLE = 1e-6  # relative frequency of a fault that cannot occur in a frame class


_UNIVERSAL_FAULTS = {
    "other": "Something else; the note describes it.",
    "needs_discussion": "Not clear; a second opinion is needed.",
}


def _check_time_zone(name: str) -> str:
    """Refuse an unknown time zone."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, OSError):
        raise ValueError(f"no time zone {name!r}") from None
    return name


@dataclass(frozen=True, config=parts.STRICT)
class Instrument:
    """One instrument; ``instruments/uves.yaml`` explains every key."""

    name: str
    prefix: str
    match: conditions.When
    time_zone: Annotated[str, AfterValidator(_check_time_zone)]
    night_starts_utc_hour: parts.Hour
    keywords: parts.KeywordNames
    arms: dict[str, parts.Arm]
    layouts: tuple[parts.Layout, ...]
    chips: dict[str, parts.Chip]
    read_modes: tuple[parts.ReadMode, ...]
    calibrations: tuple[parts.Calibration, ...]
    calibrations_have: conditions.Condition = field(default_factory=dict)
    skip: tuple[parts.Skip, ...] = ()
    modes: tuple[parts.OpticalMode, ...] = ()
    standard_exposures: dict[str, dict[float, parts.Positive]] = field(default_factory=dict)
    speeds: tuple[parts.Speed, ...] = ()
    faults: tuple[parts.FaultKind, ...] = ()
    fault_rate: parts.Share = 0.02  # expected share of bad images
    calibrations_due_utc_hour: parts.Hour | None = None  # None: at the end of the night
    set_stopped_after_min: parts.Positive = 60
    self_test: parts.InjectionTestLimits = field(default_factory=parts.InjectionTestLimits)

    def recognises(self, header: core.Header) -> bool:
        """Return True if a header belongs to this instrument."""
        return conditions.matches(self.match, header)

    def find_skip_reason(self, header: core.Header) -> str | None:
        """Return the reason why frames of this kind are not judged; None if they are."""
        return next((skip.why for skip in self.skip if conditions.matches(skip.when, header)), None)

    def recognise_calibration(self, header: core.Header) -> parts.Calibration | None:
        """Return the calibration that a header describes; None for an undescribed kind."""
        if not conditions.matches((self.calibrations_have,), header):
            return None
        return next(
            (
                calibration
                for calibration in self.calibrations
                if conditions.matches(calibration.when, header)
            ),
            None,
        )

    def is_decisive(self, keyword: str) -> bool:
        """Return True if no calibration can be recognised without a keyword."""
        return keyword in self.calibrations_have or all(
            keyword in condition
            for calibration in self.calibrations
            for condition in calibration.when
        )

    def recognise_arm(self, header: core.Header) -> str | None:
        """Return the arm's name; None if no condition holds.

        The first conditions of all arms are tried before any second condition: an instrument file
        lists the most reliable condition first.
        """
        ranked = sorted(
            (rank, name)
            for name, arm in self.arms.items()
            for rank, condition in enumerate(arm.when or ({},))
            if conditions.matches((condition,), header)
        )
        return ranked[0][1] if ranked else None

    def recognise_mode(self, header: core.Header) -> parts.OpticalMode:
        """Return the optical mode; the plain mode if no condition holds."""
        plain = parts.OpticalMode("", ())
        return next((mode for mode in self.modes if conditions.matches(mode.when, header)), plain)

    def recognise_read_mode(self, header: core.Header) -> str | None:
        """Return the read mode's name; None for an undescribed mode."""
        return next(
            (mode.name for mode in self.read_modes if conditions.matches(mode.when, header)), None
        )

    def list_layouts(self, arm_name: str) -> tuple[parts.Layout, ...]:
        """Return the layouts that files of an arm may have."""
        return tuple(layout for layout in self.layouts if layout.arm == arm_name)

    def compose_image_type(
        self, calibration: parts.Calibration, mode: parts.OpticalMode, arm: parts.Arm, number: int
    ) -> str:
        """Return an image type, e.g. ``UD1BF0``.

        Parameters
        ----------
        calibration : Calibration
            Kind of calibration; without light the optical mode does not count.
        mode : OpticalMode
            Optical mode.
        arm : Arm
            Camera.
        number : int
            Number of the detector.

        Returns
        -------
        str
        """
        code = mode.code if calibration.light else ""
        return f"{self.prefix}{code}{arm.letter}{calibration.letter}{number}"

    def calibration_of(self, image_type: str) -> parts.Calibration | None:
        """Return the calibration of an image type; None for an unknown type."""
        return self.calibrations_by_image_type.get(image_type)

    def limits_of(self, image_type: str, chip: str, read_mode: str) -> parts.Limits:
        """Return the absolute metric limits; a calibration's limit replaces the chip's.

        Parameters
        ----------
        image_type : str
            Image type; without limits if the instrument file no longer describes it.
        chip : str
            Name of the detector.
        read_mode : str
            Name of the read mode.

        Returns
        -------
        dict of str to (float, float)
            Lowest and highest value by metric.
        """
        calibration = self.calibration_of(image_type)
        numbers = self.chips[chip].read_modes.get(read_mode) if chip in self.chips else None
        return {
            **(numbers.limits if numbers else {}),
            **(calibration.limits if calibration else {}),
        }

    def image_types(self) -> tuple[str, ...]:
        """Return every image type that a frame of this instrument can have."""
        return tuple(self.calibrations_by_image_type)

    def fault_kinds(self, frame_class: str | None = None) -> tuple[parts.FaultKind, ...]:
        """Return the fault kinds of a frame class, or of all classes.

        The kinds of the file come first, then the two universal kinds.
        """
        classes = tuple(dict.fromkeys(kind.frame_class for kind in self.calibrations))
        specific = [kind for kind in self.faults if kind.name not in _UNIVERSAL_FAULTS]
        universal = [
            parts.FaultKind(name, sentence, classes) for name, sentence in _UNIVERSAL_FAULTS.items()
        ]
        return tuple(kind for kind in specific + universal if frame_class in {None, *kind.classes})

    def expected_faults(self, frame_class: str, rate: float | None = None) -> dict[str, float]:
        """Return the expected share of images with each fault kind.

        All kinds that can occur share the rate equally.

        Parameters
        ----------
        frame_class : str
            ``bias``, ``dark``, ``flat`` or ``arc``.
        rate : float, optional
            Share of bad images; `fault_rate` if omitted.

        Returns
        -------
        dict of str to float
            Share, 0 to 1, by kind; nearly 0 for a kind that cannot occur in the class.
        """
        possible = {kind.name for kind in self.faults if frame_class in kind.classes}
        share = (rate or self.fault_rate) / max(len(possible), 1)
        return {
            kind.name: share if kind.name in possible else _IMPOSSIBLE * share
            for kind in self.faults
        }

    @cached_property
    def calibrations_by_image_type(self) -> dict[str, parts.Calibration]:
        """Return the calibration of every possible image type."""
        return {
            self.compose_image_type(
                calibration, mode, self.arms[layout.arm], section.number
            ): calibration
            for calibration in self.calibrations
            for mode in (parts.OpticalMode("", ()), *self.modes)
            for layout in self.layouts
            for section in layout.sections
        }

    def standard_exposure_s(
        self,
        calibration: parts.Calibration,
        *,
        wavelength_nm: float | None,
        slit_arcsec: float | None,
        mode: parts.OpticalMode,
        read_mode: str,
        binning: str,
    ) -> float:
        """Return the exposure time that the manual recommends for a setup.

        Parameters
        ----------
        calibration : Calibration
            Kind of calibration; its lamp selects the table.
        wavelength_nm : float or None
            Central wavelength, nm; the nearest one of the table counts, as its lamp and filter
            are used.
        slit_arcsec : float or None
            Slit width, arcsec.
        mode : OpticalMode
            Optical mode.
        read_mode : str
            Name of the read mode.
        binning : str
            Binning in x and y, e.g. ``1x1``.

        Returns
        -------
        float
            Exposure time, s; 1 without an entry in the table.
        """
        table = self.standard_exposures.get(calibration.lamp or "", {})
        if not table or wavelength_nm is None:
            return 1.0
        nearest = min(table, key=lambda nm: abs(nm - wavelength_nm))
        slit = slit_arcsec if calibration.slit_scales and slit_arcsec else 1.0
        speed = next(
            (s.times for s in self.speeds if (s.read_mode, s.binning) == (read_mode, binning)), 1.0
        )
        return table[nearest] * mode.exposure_factor / slit / speed

    def night_of(self, observed_at: dt.datetime) -> dt.date:
        """Return the calibration night of a UTC time: the date of its first evening."""
        return (observed_at - dt.timedelta(hours=self.night_starts_utc_hour)).date()

    def night_ends(self, night: dt.date) -> dt.datetime:
        """Return the UTC time at which the next night's calibrations begin."""
        return dt.datetime.combine(night, dt.time(), dt.UTC) + dt.timedelta(
            days=1, hours=self.night_starts_utc_hour
        )

    def due_at(self, night: dt.date, calibration: parts.Calibration | None = None) -> dt.datetime:
        """Return the UTC time from which calibrations of a night are late.

        Parameters
        ----------
        night : date
            Calibration night.
        calibration : Calibration, optional
            Kind of calibration, if it has an hour of its own.

        Returns
        -------
        datetime
        """
        hour = calibration.due_utc_hour if calibration else None
        if hour is None:
            hour = self.calibrations_due_utc_hour
        early_h = 0.0 if hour is None else (self.night_starts_utc_hour - hour) % 24
        return self.night_ends(night) - dt.timedelta(hours=early_h)
