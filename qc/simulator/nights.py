"""Nights of exposures on disk: files by archive name, and the truth about each."""

import csv
import io
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import ncompress
import numpy as np
from astropy.io import fits

from qc.simulator.detector import Pixels
from qc.simulator.faults import InjectedFault, draw_case, spoil_header
from qc.simulator.headers import extension_header, primary_header
from qc.simulator.instrument_state import state_at
from qc.simulator.plan import DEMO_PLAN, ObservingPlan, PlannedExposure, plan_nights
from qc.simulator.render import render

TRUTH_COLUMNS = ("file", "extension", "image_type", "fault", "strength")


@dataclass(frozen=True)
class _RenderJob:
    """One frame to be written; it crosses into a worker process.

    Attributes
    ----------
    exposure : Exposure
        What the header says.
    shown : Exposure
        What the image shows: the same, or the frame before where one is sent twice.
    """

    exposure: PlannedExposure
    shown: PlannedExposure
    case: InjectedFault | None
    seed: int
    path: Path


def simulate(  # noqa: PLR0913 - one door, every choice named
    out: Path,
    *,
    nights: int,
    start: date,
    faults: float,
    seed: int,
    compressed: bool = False,
    plan: ObservingPlan = DEMO_PLAN,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write consecutive nights of raw frames into ``out/<night>/``, and ``out/truth.csv``.

    The same seed gives the same bytes, whatever the number of workers.

    Parameters
    ----------
    start : date
        Of the first night: the evening. Its calibrations carry the next day's date.
    faults : float
        Fraction of frames that carry a fault, 0 to 1.
    compressed : bool
        Write ``.fits.Z``, as ESO's archive does.
    workers : int or None
        Processes; None takes one per core, 1 stays in this process. They are spawned: a script
        that asks for several must guard its own start with ``__name__ == "__main__"``.
    progress : callable or None
        Told after each frame how many are written, and of how many.

    Returns
    -------
    list of Path
        The frames in order of time.
    """
    exposures = list(plan_nights(plan, start, nights, seed))
    jobs = _plan_jobs(exposures, faults, seed, out, ".fits.Z" if compressed else ".fits")
    for folder in {job.path.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, Sequence[int]] = {}
    for path, hdus in _run(jobs, workers or os.cpu_count() or 1):
        written[path] = hdus
        if progress is not None:
            progress(len(written), len(jobs))
    _write_truth(out / "truth.csv", jobs, written)
    return [job.path for job in jobs]


def _plan_jobs(
    exposures: Sequence[PlannedExposure], faults: float, seed: int, out: Path, suffix: str
) -> list[_RenderJob]:
    """Decide what is wrong with each exposure and where it goes."""
    jobs: list[_RenderJob] = []
    for one in exposures:
        case = draw_case(one, faults, frame_rng(seed, one, "fault"))
        shown = one
        if case is not None and case.kind == "frame_repeated":
            before = jobs[-1] if jobs else None
            if before is None or before.case is not None:
                case = None  # the truth would have two names for what is wrong
            else:
                shown = before.exposure
        jobs.append(_RenderJob(one, shown, case, seed, _path(out, one, suffix)))
    return jobs


def frame_rng(seed: int, exposure: PlannedExposure, purpose: str) -> np.random.Generator:
    """Return the generator that belongs to one frame alone, whoever draws from it and when."""
    name = exposure.archive_name + purpose
    return np.random.default_rng(np.random.SeedSequence([seed, *name.encode()]))


def _path(out: Path, exposure: PlannedExposure, suffix: str) -> Path:
    night = exposure.start.date() - timedelta(days=1)
    return out / night.isoformat() / f"{exposure.archive_name}{suffix}"


def _run(jobs: Sequence[_RenderJob], workers: int) -> Iterator[tuple[Path, Sequence[int]]]:
    """Write all frames; those of one setup one after the other, as their scenes are cached."""
    by_setup = sorted(jobs, key=lambda job: (repr(job.exposure.stream), job.path))
    if workers == 1:
        yield from map(_write, by_setup)
        return
    context = multiprocessing.get_context("spawn")  # the caller may hold threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_write, by_setup, chunksize=8)


def _write(job: _RenderJob) -> tuple[Path, Sequence[int]]:
    """Render one frame and write it; return its path and the HDUs that hold images."""
    exposed = expose(job.exposure, job.seed, job.case, job.shown)
    compressed = job.path.suffix == ".Z"
    job.path.write_bytes(ncompress.compress(exposed.content) if compressed else exposed.content)
    return job.path, tuple(exposed.images)


@dataclass(frozen=True)
class SimulatedFrame:
    """A frame that was taken.

    Attributes
    ----------
    content : bytes
        Of its FITS file.
    images : mapping of HDU number to (ny, nx) uint16 array
        ADU.
    """

    content: bytes
    images: Mapping[int, Pixels]


def expose(
    exposure: PlannedExposure,
    seed: int,
    case: InjectedFault | None = None,
    shown: PlannedExposure | None = None,
) -> SimulatedFrame:
    """Take one exposure in a history: header and images as the instrument was at that moment.

    Parameters
    ----------
    seed : int
        Of the history.
    case : Case, optional
        What goes wrong.
    shown : Exposure, optional
        The exposure whose images are written under this one's header; itself if left out.
    """
    shown = shown or exposure
    state = state_at(shown.start, seed)
    images = render(shown, state, frame_rng(seed, shown, "pixels"), case)
    header = primary_header(exposure, state)
    if case is not None:
        spoil_header(header, case)
    return SimulatedFrame(_frame_bytes(header, exposure, images), images)


def _frame_bytes(
    header: fits.Header, exposure: PlannedExposure, images: dict[int, Pixels]
) -> bytes:
    """Return a frame as a FITS file: blue image in the primary, else in image extensions."""
    if 0 in images:
        hdus = fits.HDUList([fits.PrimaryHDU(images[0], header)])
    else:
        hdus = fits.HDUList([fits.PrimaryHDU(header=header)])
        for hdu, pixels in images.items():
            hdus.append(fits.ImageHDU(pixels, extension_header(exposure, hdu)))
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return buffer.getvalue()


def _write_truth(
    path: Path, jobs: Sequence[_RenderJob], written: dict[Path, Sequence[int]]
) -> None:
    """Write one row for each extension of every file: what is wrong with it, or nothing."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(TRUTH_COLUMNS)
        for job in jobs:
            for hdu in written[job.path]:
                ill = job.case is not None and job.case.hits(hdu)
                fault = (job.case.kind, job.case.strength) if ill and job.case else ("", "")
                table.writerow((job.path.name, hdu, job.exposure.image_type(hdu), *fault))
