"""Simulated frames as the encoder sees them: block statistics and their transform to inputs.

A set of images is simulated stream by stream, a file for each, so that a run that was stopped
goes on where it was. Frames are read by the product's own reader.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings.preprocess import GRID, block_statistics, physical, scale_to_standard_light
from qc.core.frame import Extension
from qc.detection.measurement import measure_metrics
from qc.errors import FrameError
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments
from qc.simulator import (
    FULL_PLAN,
    CalibrationStream,
    InjectedFault,
    ObservingPlan,
    PlannedExposure,
    expose,
    make_case,
    plan_night,
    possible_faults,
    render,
    state_at,
)
from qc.simulator.instrument_state import last_intervention
from qc.simulator.nights import frame_rng

Floats = NDArray[np.float32]

TRAINING_SEED = 31
VALIDATION_SEED = 33
# Invisible in the image: the reader refuses such a file, or its image is a good one.
_NOT_SEEN = {
    "keyword_missing",
    "binning_misreported",
    "frame_repeated",
    "chip_missing",
    "dead_output",
}
_LARGEST = 3  # streams, the last of the training's
_FAST_ARC = CalibrationStream("arc", "blue", "BLUE", 437, 0.4, (1, 1), "625kHz low")
VALIDATION_STREAMS = (
    CalibrationStream("bias", "blue", "BLUE"),
    CalibrationStream("flat", "blue", "DICHR#1", 390),
    CalibrationStream("dflat", "blue", "DICHR#1", 346),
    _FAST_ARC,
    CalibrationStream("bias", "red", "RED"),
    CalibrationStream("arc", "red", "RED", 580),
    CalibrationStream("flat", "red", "DICHR#1", 564),
)


@dataclass(frozen=True)
class Shot:
    """One exposure, its fault if any, and its purpose: ``reference`` or ``test``."""

    exposure: PlannedExposure
    seed: int
    case: InjectedFault | None = None
    part: str = "reference"


@dataclass(frozen=True)
class Images:
    """n images with ground truth.

    Attributes
    ----------
    light : (n, h, w, 3) float16 array
        Block means, standard deviations and maxima, ADU above the zero level that the instrument
        file promises.
    zero_adu : (n,) float32 array
        The measured zero level, above the promised one.
    promised_light : (n,) float32 array
        In units of the setup's standard exposure; 0 without a lamp.
    stretch_adu, gain_e_per_adu, read_noise_adu : (n,) float32 arrays
    shape : (n, 2) int array
        Pixels along y and x.
    exposed : (n, 4) int array
        The part that light can reach: rows from and to, columns from and to.
    image_type, setup, part, fault, strength : (n,) str arrays
        A setup's images may be compared with one another. No fault is an empty string.
    """

    light: NDArray[np.float16]
    zero_adu: Floats
    promised_light: Floats
    stretch_adu: Floats
    gain_e_per_adu: Floats
    read_noise_adu: Floats
    shape: NDArray[np.int_]
    exposed: NDArray[np.int_]
    image_type: NDArray[np.str_]
    setup: NDArray[np.str_]
    part: NDArray[np.str_]
    fault: NDArray[np.str_]
    strength: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.light)

    def only(self, chosen: NDArray[Any]) -> "Images":
        """Return some of the images, by mask or number."""
        return Images(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def network_input(self, index: int, light: Floats | None = None) -> Floats:
        """Return the encoder's input for an image: (h, w, 3).

        Parameters
        ----------
        light : (h, w, 3) float32 array, optional
            Block statistics to be shown in the image's place, ADU above the promised zero.
        """
        observed = self.light[index].astype(np.float32) if light is None else light
        promised = float(self.promised_light[index])
        scaled = scale_to_standard_light(observed, float(self.zero_adu[index]), promised)
        return physical(scaled, 0.0, float(self.stretch_adu[index]))


def training_shots(nights: int) -> Iterator[list[Shot]]:
    """Plan good exposures of every stream, on nights spread over two epochs; a list a stream."""
    seed, streams = TRAINING_SEED, _training_streams()
    # The largest frames take longest to simulate: one epoch of them is enough.
    for first, chosen in ((date(2025, 1, 1), streams), (date(2025, 7, 1), streams[:-_LARGEST])):
        dates = _within_an_epoch(first, nights, seed)
        yield from _by_stream([Shot(exposure, seed) for exposure in _plan(chosen, dates, seed)])


def _training_streams() -> tuple[CalibrationStream, ...]:
    """Return the binned streams of the full plan, and the unbinned ones of the eleven types."""
    lean = [
        stream for stream in FULL_PLAN.streams if stream.image_class not in ("orderdef", "fmtchk")
    ]
    binned = [item for item in lean if item.binning == (2, 2)]
    results = {(item.image_class, item.path, item.setting_nm) for item in VALIDATION_STREAMS}
    unbinned = [
        item
        for item in lean
        if item.binning == (1, 1) and (item.image_class, item.path, item.setting_nm) in results
    ]
    return (*binned, *unbinned, _FAST_ARC)


def validation_shots(references: int, tests: int) -> Iterator[list[Shot]]:
    """Plan each stream's references, later good tests, and every fault at every strength.

    Parameters
    ----------
    references, tests : int
        Nights; a night has two exposures of a stream.
    """
    seed = VALIDATION_SEED
    rng = np.random.default_rng(seed)
    dates = _within_an_epoch(date(2025, 1, 1), references + 2 * tests, seed)
    exposures = _plan(VALIDATION_STREAMS, dates, seed)
    for shots in _by_stream([Shot(exposure, seed) for exposure in exposures]):
        good, rest = shots[: 2 * (references + tests)], shots[2 * (references + tests) :]
        yield [
            *good[: 2 * references],
            *(replace(item, part="test") for item in good[2 * references :]),
            *_spoilt(rest, rng),
        ]


def _spoilt(shots: Sequence[Shot], rng: np.random.Generator) -> Iterator[Shot]:
    """Yield a shot for each fault that these exposures can have, at each strength."""
    first = shots[0].exposure
    cards = [
        (fault.kind, strength)
        for fault in possible_faults(first)
        for strength in fault.classes[first.stream.image_class]
        if fault.kind not in _NOT_SEEN
    ]
    for number, card in enumerate(cards):
        shot = shots[number % len(shots)]
        # Another moment of the same night, so that no two images share their noise.
        later = shot.exposure.start + timedelta(milliseconds=1 + number)
        exposure = replace(shot.exposure, start=later)
        yield Shot(exposure, shot.seed, make_case(exposure, *card, rng), "test")


def _within_an_epoch(after: date, nights: int, seed: int) -> list[date]:
    """Return nights, every third, that nobody opened the instrument between."""
    first, result = after, [after]
    while len(result) < nights:
        following = result[-1] + timedelta(days=3)
        if _opened(following, seed) != _opened(first, seed):
            first, result = following, [following]
        else:
            result.append(following)
    return result


def _opened(night: date, seed: int) -> datetime:
    """Return when the instrument was last opened before a night's calibrations."""
    morning = datetime(night.year, night.month, night.day, 9, tzinfo=UTC) + timedelta(days=1)
    return last_intervention(morning, seed).when


def _plan(
    streams: Sequence[CalibrationStream], dates: Sequence[date], seed: int
) -> list[PlannedExposure]:
    plan = ObservingPlan(
        tuple(replace(stream, set_size=2, every_nights=1) for stream in streams), aborted=0.0
    )
    return [item for night in dates for item in plan_night(plan, night, seed)]


def _by_stream(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    streams = dict.fromkeys(shot.exposure.stream for shot in shots)
    for stream in streams:
        yield [shot for shot in shots if shot.exposure.stream == stream]


def simulate(shots: Sequence[list[Shot]], folder: Path, number: int) -> None:
    """Simulate the images of one stream, unless its file is there already."""
    path = folder / f"{number:03d}.npz"
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    images = join([item for shot in shots[number] for item in observe(shot)])
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{field.name: getattr(images, field.name) for field in fields(Images)})
    partial.rename(path)


def load(folder: Path) -> Images:
    """Return all images of a folder."""
    parts = []
    for path in sorted(folder.glob("???.npz")):
        with np.load(path) as file:
            parts.append(Images(*(file[field.name] for field in fields(Images))))
    return join(parts)


def join(parts: Sequence[Images]) -> Images:
    """Return the images of all parts in one."""
    return Images(
        *(
            np.concatenate([getattr(images, field.name) for images in parts])
            for field in fields(Images)
        )
    )


def observe(shot: Shot, grid: tuple[int, int] = GRID) -> Iterator[Images]:
    """Expose and read one frame; yield each of its valid images."""
    exposed = expose(shot.exposure, shot.seed, shot.case)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{shot.exposure.archive_name}.fits"
        path.write_bytes(exposed.content)
        try:
            frame = read_frame(path, read_instruments())
        except FrameError as error:
            print(f"refused: {shot.case}: {error}", flush=True)
            return
    spoilt = _spoilt_hdus(shot, exposed.images)
    for extension in frame.extensions:
        if shot.case is None or extension.number in spoilt:
            yield _image(extension, shot, grid)


def _healthy(shot: Shot) -> dict[int, NDArray[np.uint16]]:
    rng = frame_rng(shot.seed, shot.exposure, "pixels")
    return render(shot.exposure, state_at(shot.exposure.start, shot.seed), rng, None)


def _spoilt_hdus(shot: Shot, images: Mapping[int, NDArray[np.uint16]]) -> Sequence[int]:
    """Return the images that have the fault: of a chip read in two halves, not always both."""
    if shot.case is None or not shot.exposure.stream.two_ports:
        return shot.case.hdus if shot.case else ()
    twin = _healthy(shot)
    return [hdu for hdu, pixels in images.items() if not np.array_equal(pixels, twin[hdu])]


def _image(extension: Extension, shot: Shot, grid: tuple[int, int]) -> Images:
    detector, light = extension.detector, extension.light
    zero = np.array([detector.bias_adu, 0, detector.bias_adu], np.float32)
    level = measure_metrics(extension).get("bias_level", detector.bias_adu)
    setup = f"{extension.setup} since {last_intervention(shot.exposure.start, shot.seed).when}"
    return Images(
        light=(block_statistics(extension.pixels, grid) - zero).astype(np.float16)[np.newaxis],
        zero_adu=np.array([level - detector.bias_adu], np.float32),
        promised_light=np.array([extension.promised_light], np.float32),
        stretch_adu=np.array([extension.stretch_adu], np.float32),
        gain_e_per_adu=np.array([detector.gain_e_per_adu], np.float32),
        read_noise_adu=np.array([detector.read_noise_adu], np.float32),
        shape=np.array([extension.pixels.shape]),
        exposed=np.array([[edge for part in light for edge in (part.start, part.stop)]]),
        image_type=np.array([extension.setup.image_type]),
        setup=np.array([setup]),
        part=np.array([shot.part]),
        fault=np.array([shot.case.kind if shot.case else ""]),
        strength=np.array([shot.case.strength if shot.case else ""]),
    )
