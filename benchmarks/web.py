"""Measure the response time of every page and API address with a large database.

The rows are generated, those of `benchmarks.reports`; two red frames are simulated and read from
``.fits.Z``, for their pixels. A server answers as ``qc web serve`` does. The time is measured from
the request to the last byte of the answer; of a table as a file, to the first.

Run: ``python -m benchmarks.web --frames 100000 --out FOLDER``, which leaves the project there for
the next run, and writes the figures and the page ``docs/results/pages.md``; with
``--database postgres`` in a server of its own, which keeps its data there too.
"""

import argparse
import gc
import json
import platform
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from os import cpu_count, getloadavg
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import uvicorn
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.paths import PAGES, RESULTS
from benchmarks.postgresql import chosen, settle
from benchmarks.reports import FRAMES, IN_SIGHT, LAST, HistoryWriter, morning
from qc import db
from qc.core.frame import Frame
from qc.db.schema.models import ExtensionRow, FrameRow, VerdictRow
from qc.io.frame_reader import read_frame
from qc.io.instrument_files import read_instruments
from qc.project import ProjectContext, create_project, open_project
from qc.review.pixels import CACHE
from qc.search.nearest import refresh_index
from qc.settings import read_settings
from qc.simulator import CalibrationStream, ObservingPlan, simulate
from qc.web.app import create_app
from qc.web.server import disable_nagle

LIMIT_MS, NEXT_MS = 200, 100  # of a page, p95; of the review's next frame
FIRST_MS = 1000
AFTER_MS = 10_000  # for content loaded after the page
TIMES = 60
EMBEDDED = 150_000  # frames at most whose embeddings are made up: 4 kB each
SPREAD = 40  # frames of all years that a page is asked of
_BIASES = CalibrationStream(
    "bias", "red", "RED", None, binning=(1, 1), read_mode="225kHz low", set_size=2
)


@dataclass(frozen=True)
class Page:
    """A page with its limits.

    Attributes
    ----------
    addresses : tuple of str
        Asked for in turn: of different frames, as people look at them.
    limit_ms : float
        Of 95 in 100 requests, the first left out.
    first_ms : float
        Of the first.
    is_stream : bool
        Whether the first byte is measured.
    upload : Path or None
        File to upload.
    """

    what: str
    addresses: tuple[str, ...]
    limit_ms: float = LIMIT_MS
    first_ms: float = FIRST_MS
    times: int = TIMES
    is_stream: bool = False
    upload: Path | None = None


@dataclass(frozen=True)
class Cost:
    """Cost of a page in milliseconds: wall clock and processor time."""

    page: str
    address: str
    requests: int
    first: float
    p50: float
    p95: float
    cpu_p50: float
    limit: float
    first_limit: float

    @property
    def is_quick(self) -> bool:
        """Return True if it is within its limits."""
        return self.p95 < self.limit and self.first < self.first_limit


# --- pages --------------------------------------------------------------------------------------


def list_pages(session: Session, red: Sequence[str], file: Path) -> list[Page]:
    """List every page and address."""
    count = session.scalar(select(func.count()).select_from(FrameRow)) or 1
    compared = min(count, EMBEDDED)  # the newest; of older ones there is no tree
    some = select(FrameRow.name).where(FrameRow.id > count - compared)
    some = some.where(FrameRow.id % max(1, compared // SPREAD) == 0)
    names = list(session.scalars(some.order_by(FrameRow.id)))
    newest = select(ExtensionRow.id).order_by(ExtensionRow.id.desc()).limit(TIMES)
    return [
        *_nights(),
        *_frames(names),
        *_pixels(red),
        *_review(list(session.scalars(newest)), _digests(session)),
        *_limits(),
        *_history(names, file),
        *_tables(),
    ]


def _digests(session: Session) -> list[str]:
    query = (
        select(ExtensionRow.id, ExtensionRow.pixels_sha256, VerdictRow.id)
        .join(VerdictRow, VerdictRow.extension_id == ExtensionRow.id)
        .order_by(ExtensionRow.id.desc())
        .limit(SPREAD)
    )
    rows = session.execute(query)
    return [f"{item}/{pixels[:12]}-{verdict}" for item, pixels, verdict in rows]


def _nights() -> Iterator[Page]:
    nights = [LAST - timedelta(days=back) for back in range(7, 7 + SPREAD)]
    yield Page("dashboard", ("/",))
    yield Page("dashboard of an earlier night", tuple(f"/?night={night}" for night in nights))
    yield Page("dashboard as JSON", ("/api/v1/dashboard",))


def _frames(names: Sequence[str]) -> Iterator[Page]:
    def each(form: str) -> tuple[str, ...]:
        return tuple(form.format(quote(name, safe=":")) for name in names)

    yield Page("frame", each("/frames/{}"))
    yield Page("frame as JSON", each("/api/v1/frames/{}"))
    yield Page("frame: history of a metric", each("/frames/{}/history.svg?metric=bias_level"))
    yield Page("frame: dendrogram", each("/frames/{}/dendrogram.svg"), first_ms=2 * FIRST_MS)
    yield Page("frame: nearest bad", each("/api/v1/frames/{}/nearest-bad"))
    yield Page("frame: residual map", each("/api/v1/frames/{}/residual-map"))
    yield Page("frame: header", each("/frames/{}/header"))
    yield Page("explanation", each("/frames/{}/explanation"))
    yield Page("explanation as JSON", each("/api/v1/frames/{}/explanation"))
    costs = each("/frames/{}/explanation/cost")[-8:]
    yield Page(
        "explanation: cost of flagging, after the page", costs, AFTER_MS, AFTER_MS, len(costs)
    )
    yield Page("thumbnail", tuple(_thumbnails(names)))


def _thumbnails(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        yield f"/thumbnails/{quote(name, safe=':')}/1.png"


def _pixels(red: Sequence[str]) -> Iterator[Page]:
    frame = f"/frames/{quote(red[-1], safe=':')}"
    look = "?extension=1&stretch=asinh&low=100&high=200"
    spots = [f"0/{row}/{column}" for row in range(16) for column in range(8)]
    facts = f"/api/v1{frame}/image?extension=1&difference=true"
    yield Page("red frame: properties; first, two files are read", (facts,), first_ms=AFTER_MS)
    yield Page("tile", tuple(f"{frame}/tiles/{item}.png{look}" for item in spots))
    yield Page("tile, coarsest", (f"{frame}/tiles/4/0/0.png{look}",))
    less = (f"{frame}/difference/{item}.png?extension=1&reach=9" for item in spots)
    yield Page("tile of the difference", tuple(less))
    yield Page("whole picture", (f"{frame}/picture.png{look}",), AFTER_MS, AFTER_MS, 10)
    whole = (f"{frame}/difference.png?extension=1",)
    yield Page("whole difference", whole, AFTER_MS, AFTER_MS, 10)
    spot = "extension=1&x=900&y=2000"
    yield Page("values under the cursor", (f"{frame}/values.bin?{spot}",))
    yield Page("values as JSON", (f"/api/v1{frame}/values?{spot}",))
    yield Page("cuts", (f"/api/v1{frame}/cuts?{spot}",))


def _review(ids: Sequence[int], digests: Sequence[str]) -> Iterator[Page]:
    yield Page("review", ("/review",))
    yield Page("review, one type", ("/review?type=UBB0",))
    yield Page("review, text of a setup", ("/review?setup=REDU+225kHz&status=anomalous",))
    yield Page("review, by score", ("/review?order=score",))
    yield Page("review, newest first", ("/review?order=time",))
    yield Page("review, informative", ("/review?order=informative",))
    yield Page("review, labelled bad by a person", ("/review?labelled=yes&by=kim",))
    yield Page("review, the spot check", ("/review?sample=true",))
    yield Page("review, wall", ("/review?view=grid",))
    yield Page("review: following frames", ("/review/ahead",))
    frames = tuple(f"/review/frames/{number}" for number in ids)
    yield Page("review: next frame", frames, NEXT_MS)
    for picture in ("own", "nearest", "small"):
        yield Page(
            f"review: picture, {picture}",
            tuple(f"/review/pictures/{name}/{picture}.png" for name in digests),
        )
    maps = tuple(f"/review/pictures/{name}/map.png" for name in digests[:10])
    yield Page("review: residual map, after the page", maps, AFTER_MS, AFTER_MS, len(maps))
    yield Page("review: keys", ("/review/keys",))


def _limits() -> Iterator[Page]:
    factors = [round(10 ** (step / 100), 3) for step in range(-50, 51, 2)]
    yield Page("thresholds", ("/thresholds",))
    yield Page("thresholds as JSON", ("/api/v1/thresholds",))
    yield Page("thresholds of a type", ("/thresholds/UBB0",))
    slid = tuple(f"/thresholds/UBB0?factor={factor}" for factor in factors)
    yield Page("thresholds: slider, the page having been opened before", slid)
    rates = ("/thresholds/UBB0?false_alarms=0.001", "/thresholds/UBB0?recall=0.9")
    yield Page("thresholds: for a rate, a recall", rates)
    yield Page("thresholds: consequences", ("/api/v1/thresholds/URB1/consequences?factor=1.2",))
    yield Page("thresholds: compare", ("/thresholds/UBB0/compare?one=1&other=1",))


def _history(names: Sequence[str], file: Path) -> Iterator[Page]:
    yield Page("trends", ("/trends",))
    yield Page("trend", ("/trends/UBB0?metric=bias_level",))
    for part in ("plot.json", "table"):
        address = f"/trends/URB2/{part}?metric=bias_level"
        yield Page(f"trend: {part}, after the page", (address,), first_ms=AFTER_MS)
    every = {"json": "?metric=score", "csv": "/points.csv?metric=merge_ratio"}
    for form, rest in every.items():
        address = f"/api/v1/trends/UBB0{rest}"
        yield Page(f"trend as {form.upper()}, all years", (address,), AFTER_MS, AFTER_MS)
    yield Page("similar frames", ("/similar",))
    alike = tuple(f"/similar?frame={quote(name)}" for name in names)
    yield Page("similar frames: of a frame", alike)
    yield Page("similar frames as JSON", tuple(f"/api/v1{item}" for item in alike))
    yield Page(
        "similar frames: of a file; first, the network is loaded",
        ("/api/v1/similar",),
        AFTER_MS,
        6 * AFTER_MS,
        5,
        upload=file,
    )
    yield Page("projection", ("/projection?type=UBB0",))
    plots = tuple(f"/projection/plot.json?type={item}" for item in ("UBB0", "URB1"))
    yield Page("projection: plot, after the page", plots, first_ms=AFTER_MS)
    yield Page("dendrogram", ("/dendrogram?type=UBB0",), first_ms=AFTER_MS)


def _tables() -> Iterator[Page]:
    for table in ("labels", "verdicts", "extensions"):
        yield Page(f"API: {table}", (f"/api/v1/{table}?count=100",))
        yield Page(f"API: {table} of a night", (f"/api/v1/{table}?from={LAST}&to={LAST}",))
    for table in ("labels", "verdicts"):
        yield Page(
            f"{table} as CSV: first byte",
            (f"/api/v1/{table}?format=csv",),
            FIRST_MS,
            times=5,
            is_stream=True,
        )
    yield Page(
        "verdicts of a month as VOTable",
        (f"/api/v1/verdicts?format=votable&from={LAST - timedelta(days=30)}",),
        AFTER_MS,
        AFTER_MS,
        3,
    )
    yield Page("OpenAPI document", ("/api/openapi.json",), first_ms=2 * FIRST_MS)


# --- asking ---------------------------------------------------------------------------------------


@contextmanager
def serving(project: ProjectContext, now: datetime) -> Iterator[httpx.Client]:
    """Serve a project on a free port of this machine for as long as it is asked."""
    config = uvicorn.Config(create_app(project, lambda: now), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        disable_nagle(listening)
        port = listening.getsockname()[1]
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def ask(client: httpx.Client, page: Page) -> Cost:
    """Ask for a page many times."""
    took = [_once(client, page, number) for number in range(page.times + 1)]
    (first, _), *rest = took
    clock, cpu = (sorted(figures) for figures in zip(*rest, strict=True))
    p95 = statistics.quantiles([*clock, *clock], n=20, method="inclusive")[-1]  # one may be all
    return Cost(
        page=page.what,
        address=page.addresses[0],
        requests=page.times,
        first=round(first, 1),
        p50=round(statistics.median(clock), 1),
        p95=round(p95, 1),
        cpu_p50=round(statistics.median(cpu), 1),
        limit=page.limit_ms,
        first_limit=page.first_ms,
    )


def _once(client: httpx.Client, page: Page, number: int) -> tuple[float, float]:
    address = page.addresses[number % len(page.addresses)]
    content = None if page.upload is None else {"file": page.upload.read_bytes()}
    started, worked = time.perf_counter(), time.process_time()
    with client.stream("POST" if content else "GET", address, files=content) as response:
        if page.is_stream:
            next(response.iter_raw())
        else:
            response.read()
        took, work = time.perf_counter() - started, time.process_time() - worked
    if response.status_code not in {200, 404}:
        raise RuntimeError(f"{address}: expected a page, got {response.status_code}")
    if response.status_code == 404 and not response.headers["content-type"].startswith("image/svg"):
        raise RuntimeError(f"{address}: there is no such page")
    return 1000 * took, 1000 * work


# --- the project ----------------------------------------------------------------------------------


def make(folder: Path, frames: int) -> None:
    """Make a project of remembered nights, unless there is one; embeddings of the newest alone."""
    create_project(folder)
    nights = max(1, frames // FRAMES)
    compared = min(nights, EMBEDDED // FRAMES)
    with open_project(read_settings(folder)) as project:
        with project.write_session.begin() as session:
            if db.statistics.newest_night(session) is not None:
                return
            HistoryWriter(session, nights=nights, pictured=IN_SIGHT, compared=compared).remember()
        settle(project.engine)


def red_frames(folder: Path) -> list[Path]:
    """Return two simulated red frames, made at the first time."""
    folder = folder / "red"
    if not folder.exists():
        plan = ObservingPlan(streams=(_BIASES,), aborted=0.0)
        night = date(2026, 7, 1)
        simulate(folder, nights=1, start=night, faults=0, seed=7, compressed=True, plan=plan)
    return sorted(folder.rglob("*.fits.Z"))


def stand_in(project: ProjectContext, files: Sequence[Path]) -> list[str]:
    """Let the newest remembered red biases be these files; return their names."""
    with project.write_session.begin() as session:
        newest = (
            select(FrameRow)
            .join(FrameRow.extensions)
            .where(ExtensionRow.image_type == "URB1", FrameRow.night == LAST)
            .order_by(FrameRow.id.desc())
            .limit(len(files))
        )
        rows = list(reversed(session.scalars(newest).all()))
        for row, file in zip(rows, files, strict=True):
            _become(row, read_frame(file, read_instruments()))
        return [row.name for row in rows]


def _become(row: FrameRow, frame: Frame) -> None:
    status = frame.path.stat()
    row.path, row.sha256 = str(frame.path), frame.sha256
    row.file_bytes, row.modified_ns = status.st_size, status.st_mtime_ns
    for extension, simulated in zip(row.extensions, frame.extensions, strict=True):
        extension.ny, extension.nx = simulated.pixels.shape
        extension.number = simulated.number


# --- the table ------------------------------------------------------------------------------------


_CALLED = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def write(costs: Sequence[Cost], frames: int, dialect: str) -> None:
    """Write the figures and their page, those of one database."""
    name = "pages" if dialect == "sqlite" else f"pages_{dialect}"
    machine = {
        "frames": frames,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpus": cpu_count(),
        "load": round(getloadavg()[0], 1),
        "python": platform.python_version(),
        "sqlalchemy": version("sqlalchemy"),
    }
    record = {"machine": machine, "pages": [asdict(cost) for cost in costs]}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (PAGES / f"{name.replace('_', '-')}.md").write_text(render(record, dialect))


def render(record: Mapping[str, Any], dialect: str) -> str:
    """Return the page of the figures."""
    machine = record["machine"]
    costs = [Cost(**page) for page in record["pages"]]
    option = "" if dialect == "sqlite" else " --database postgres"
    quick = sum(cost.is_quick for cost in costs)
    lines = [
        f"# Page latency, {_CALLED[dialect]}",
        "",
        f"`python -m benchmarks.web --frames {machine['frames']} --out DIR{option}`",
        "",
        (
            f"{machine['frames']} frames in {_CALLED[dialect]}, {machine['cpus']} processors, "
            f"load {machine['load']} at the end of the run."
        ),
        "Milliseconds from the request to the last byte, for tables as files to the first byte.",
        "*First* is the first request to a new server; p50 and p95 are of the following requests,",
        "each for another frame where the page shows a frame. CPU is the median processor time,",
        "including the client's. The limits are 200 ms (p95), 100 ms for the review's next frame,",
        "and one second for the first request. Content that is loaded after the page has ten",
        "seconds.",
        "",
        f"{quick} of {len(costs)} pages keep to their limits.",
        "",
        "| page | first | p50 | p95 | CPU | |",
        "|---|--:|--:|--:|--:|---|",
        *map(row_of, costs),
    ]
    return "\n".join(lines) + "\n"


def row_of(cost: Cost) -> str:
    """Write a line of the table."""
    figures = " | ".join(f"{item:.0f}" for item in (cost.first, cost.p50, cost.p95, cost.cpu_p50))
    return f"| {cost.page} | {figures} | {'' if cost.is_quick else 'slow'} |"


def fill(project: ProjectContext, frames: int) -> None:
    """Make up so many frames, if there are none."""
    with project.write_session.begin() as session:
        if db.statistics.newest_night(session) is not None:
            return
        started = time.perf_counter()
        HistoryWriter(session, nights=max(1, frames // FRAMES), pictured=IN_SIGHT).remember()
    settle(project.engine)
    print(f"{frames} frames made up in {time.perf_counter() - started:.0f} s\n", flush=True)


def main() -> None:
    """Make the project if it is not there, and ask for its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=TIMES, help="requests of a page at most")
    parser.add_argument("--database", default="sqlite", help="sqlite, postgres, or a server's URL")
    parser.add_argument("only", nargs="*", help="beginnings of pages' names; all, by default")
    arguments = parser.parse_args()
    with chosen(arguments.database, arguments.out):
        make(arguments.out, arguments.frames)
        files = red_frames(arguments.out)
        shutil.rmtree(arguments.out / CACHE, ignore_errors=True)  # tiles of the previous run
        with open_project(read_settings(arguments.out)) as project:
            costs = measure(project, files, arguments.only, arguments.times)
            if not arguments.only:
                write(costs, arguments.frames, project.engine.dialect.name)
    sys.stdout.flush()
    sys.exit(0 if all(cost.is_quick for cost in costs) else 1)


def measure(
    project: ProjectContext, files: Sequence[Path], only: Sequence[str], times: int
) -> list[Cost]:
    """Request each page repeatedly; print its cost."""
    red = stand_in(project, files)
    refresh_index(project, lambda *_: None)
    with project.read_session() as session:
        pages = list_pages(session, red, files[-1])
    costs = []
    gc.collect()
    gc.freeze()  # as the server does
    with serving(project, morning(LAST) + timedelta(hours=4)) as client:
        for page in pages:
            if not only or page.what.startswith(tuple(only)):
                costs.append(ask(client, replace(page, times=min(page.times, times))))
                print(row_of(costs[-1]), flush=True)
    return costs


if __name__ == "__main__":
    main()
