"""Nights of exposures on disk: files by archive name, and their ground truth."""

import csv
import datetime as dt
import io
import multiprocessing
import os
from collections import abc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ncompress
import numpy as np
from astropy.io import fits

from qc.simulator import headers
from qc.simulator.detector import Pixels
from qc.simulator.faults import InjectedFault, draw_case, spoil_header
from qc.simulator.instrument_state import state_at
from qc.simulator.plan import DEMO_PLAN, ObservingPlan, PlannedExposure, plan_nights
from qc.simulator.render import render

TRUTH_COLUMNS = ("file", "extension", "image_type", "fault", "strength")


@dataclass(frozen=True)
class _RenderJob:
    """One frame to write; it is sent to a worker process.

    Attributes
    ----------
    exposure : PlannedExposure
        Exposure of the header.
    imaged : PlannedExposure
        Exposure of the image: the same, or the previous one for a repeated frame.
    """

    exposure: PlannedExposure
    imaged: PlannedExposure
    case: InjectedFault | None
    seed: int
    path: Path


def simulate(  # noqa: PLR0913 - one keyword per choice
    out: Path,
    *,
    nights: int,
    start: dt.date,
    faults: float,
    seed: int,
    compressed: bool = False,
    plan: ObservingPlan = DEMO_PLAN,
    workers: int | None = None,
    progress: abc.Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Simulate raw UVES frames with ground truth.

    The frames of each night are in ``out/<night>/``, the ground truth in ``out/truth.csv``.

    The same seed gives the same bytes, whatever the number of workers.

    Parameters
    ----------
    out : Path
        Output folder.
    nights : int
        Number of consecutive nights.
    start : date
        First night, date of the evening; its calibrations have the date of the next day.
    faults : float
        Fraction of frames with a fault, 0 to 1.
    seed : int
        Seed of the history.
    compressed : bool
        Write ``.fits.Z``, as ESO's archive does.
    plan : ObservingPlan
        Calibration plan.
    workers : int or None
        Number of processes; None: one per core, 1: this process. Processes are spawned: a script
        with several workers must guard its start with ``__name__ == "__main__"``.
    progress : callable or None
        Called after each frame with the number of written frames and of all frames.

    Returns
    -------
    list of Path
        The frames in order of time.
    """
    exposures = list(plan_nights(plan, start, nights, seed))
    jobs = _plan_jobs(exposures, faults, seed, out, ".fits.Z" if compressed else ".fits")
    for folder in {job.path.parent for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, abc.Sequence[int]] = {}
    for path, hdus in _run(jobs, workers or os.cpu_count() or 1):
        written[path] = hdus
        if progress is not None:
            progress(len(written), len(jobs))
    _write_truth(out / "truth.csv", jobs, written)
    return [job.path for job in jobs]


def _plan_jobs(
    exposures: abc.Sequence[PlannedExposure], faults: float, seed: int, out: Path, suffix: str
) -> list[_RenderJob]:
    """Assign a fault and a path to each exposure."""
    jobs: list[_RenderJob] = []
    for exposure in exposures:
        case = draw_case(exposure, faults, frame_rng(seed, exposure, "fault"))
        imaged = exposure
        if case is not None and case.kind == "frame_repeated":
            before = jobs[-1] if jobs else None
            if before is None or before.case is not None:
                case = None  # the ground truth holds one fault per frame
            else:
                imaged = before.exposure
        night = exposure.start.date() - dt.timedelta(days=1)
        path = out / night.isoformat() / f"{exposure.archive_name}{suffix}"
        jobs.append(_RenderJob(exposure, imaged, case, seed, path))
    return jobs


def frame_rng(seed: int, exposure: PlannedExposure, purpose: str) -> np.random.Generator:
    """Return a generator that depends on the frame and the purpose only.

    Parameters
    ----------
    seed : int
        Seed of the history.
    exposure : PlannedExposure
    purpose : str
        Distinguishes the draws of one frame.

    Returns
    -------
    Generator
    """
    name = exposure.archive_name + purpose
    return np.random.default_rng(np.random.SeedSequence([seed, *name.encode()]))


def _run(
    jobs: abc.Sequence[_RenderJob], workers: int
) -> abc.Iterator[tuple[Path, abc.Sequence[int]]]:
    """Write all frames, grouped by setup because scenes are cached."""
    by_setup = sorted(jobs, key=lambda job: (repr(job.exposure.stream), job.path))
    if workers == 1:
        yield from map(_write, by_setup)
        return
    context = multiprocessing.get_context("spawn")  # the caller may hold threads
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_write, by_setup, chunksize=8)


def _write(job: _RenderJob) -> tuple[Path, abc.Sequence[int]]:
    """Render one frame and write it; return its path and the HDUs that hold images."""
    exposed = expose(job.exposure, job.seed, job.case, job.imaged)
    compressed = job.path.suffix == ".Z"
    job.path.write_bytes(ncompress.compress(exposed.content) if compressed else exposed.content)
    return job.path, tuple(exposed.images)


@dataclass(frozen=True)
class SimulatedFrame:
    """Simulated frame.

    Attributes
    ----------
    content : bytes
        FITS file.
    images : mapping of HDU number to (ny, nx) uint16 array
        ADU.
    """

    content: bytes
    images: abc.Mapping[int, Pixels]


def expose(
    exposure: PlannedExposure,
    seed: int,
    case: InjectedFault | None = None,
    imaged: PlannedExposure | None = None,
) -> SimulatedFrame:
    """Simulate one exposure of a history: header and images.

    Parameters
    ----------
    exposure : PlannedExposure
    seed : int
        Seed of the history.
    case : InjectedFault, optional
    imaged : PlannedExposure, optional
        Exposure of the images; default: `exposure`.

    Returns
    -------
    SimulatedFrame
    """
    imaged = imaged or exposure
    state = state_at(imaged.start, seed)
    images = render(imaged, state, frame_rng(seed, imaged, "pixels"), case)
    header = headers.primary_header(exposure, state)
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
            hdus.append(fits.ImageHDU(pixels, headers.extension_header(exposure, hdu)))
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return buffer.getvalue()


def _write_truth(
    path: Path, jobs: abc.Sequence[_RenderJob], written: dict[Path, abc.Sequence[int]]
) -> None:
    """Write the ground truth: one row per extension of each file, with its fault if any."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(TRUTH_COLUMNS)
        for job in jobs:
            for hdu in written[job.path]:
                is_hit = job.case is not None and job.case.hits(hdu)
                fault = (job.case.kind, job.case.strength) if is_hit and job.case else ("", "")
                table.writerow((job.path.name, hdu, job.exposure.image_type(hdu), *fault))
