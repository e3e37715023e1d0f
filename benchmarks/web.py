"""What each page of the review costs the server, with so many frames in the database.

The rows are made up, those of `benchmarks.reports`; frames are not needed for that. The time is
that of the application alone: a request goes in, the last byte of the answer comes out.

Run: ``python -m benchmarks.web --frames 100000 --out FOLDER``, which leaves the project there for
the next time; with ``--database postgres`` in a server of its own, which keeps its data there too.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.postgresql import chosen, settle
from benchmarks.reports import FRAMES, IN_SIGHT, LAST, Remembered, morning
from qc import database
from qc.runtime import Runtime, create_project, open_runtime
from qc.settings import read_settings
from qc.web.app import create_app

LIMIT_MS = 200
PAGES = (
    "/",
    f"/?night={LAST - timedelta(days=7)}",
    "/api/v1/tonight",
    "/thresholds",
    "/thresholds/UBB0",
    "/thresholds/UBB0?factor=0.8",
    "/trends",
    "/trends/UBB0?metric=bias_level",
    "/trends/UBB0/plot.json?metric=bias_level",
    "/trends/UBB0/table?metric=bias_level",
    "/similar",
    "/map?type=UBB0",
    "/map/plot.json?type=UBB0",
    "/dendrogram?type=UBB0",
)


def timings_ms(client: TestClient, address: str, times: int) -> Iterator[tuple[float, float]]:
    """Yield what each of so many requests took, the first one too: by the clock, and of CPU.

    On a machine that does something else besides, only the second says what the page costs.

    Raises
    ------
    RuntimeError
        If the page is not there.
    """
    for _ in range(times):
        started, worked = time.perf_counter(), time.process_time()
        answer = client.get(address)
        if answer.status_code != 200:
            raise RuntimeError(f"{address}: expected a page, got {answer.status_code}")
        took, work = time.perf_counter() - started, time.process_time() - worked
        yield 1000 * took, 1000 * work


def spread(figures: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return statistics.median(figures), statistics.quantiles(figures, n=20)[-1]


def run(runtime: Runtime, now: datetime, pages: list[str], times: int) -> bool:
    """Print a line for each page; return whether all are quick enough."""
    app = create_app(runtime, lambda: now)
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))
    print(f"{times} requests of each page, milliseconds; the first request is not among them.\n")
    print("| page | first | p50 | p95 | CPU p50 | CPU p95 | |\n|---|--:|--:|--:|--:|--:|---|")
    is_quick = True
    gc.collect()
    gc.freeze()  # as the server does
    for address in pages:
        (first, _), *others = timings_ms(client, address, times + 1)
        clock, cpu = (spread(figures) for figures in zip(*others, strict=True))
        is_quick &= clock[1] < LIMIT_MS
        shown = " | ".join(f"{one:.0f}" for one in (first, *clock, *cpu))
        print(f"| {address} | {shown} | {'' if clock[1] < LIMIT_MS else 'slow'} |", flush=True)
    return is_quick


def fill(runtime: Runtime, frames: int) -> None:
    """Make up so many frames, if there are none."""
    with runtime.writes.begin() as session:
        if database.newest_night(session) is not None:
            return
        started = time.perf_counter()
        Remembered(session, nights=max(1, frames // FRAMES), pictured=IN_SIGHT).remember()
    settle(runtime.engine)
    print(f"{frames} frames made up in {time.perf_counter() - started:.0f} s\n", flush=True)


def main() -> None:
    """Make the project if it is not there, and ask for its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("pages", nargs="*", help="addresses; all that are known, by default")
    parser.add_argument("--database", default="sqlite", help="sqlite, postgres, or a server's URL")
    asked = parser.parse_args()
    with chosen(asked.database, asked.out):
        create_project(asked.out)
        with open_runtime(read_settings(asked.out)) as runtime:
            fill(runtime, asked.frames)
            now = morning(LAST) + timedelta(hours=4)
            is_quick = run(runtime, now, asked.pages or list(PAGES), asked.times)
    sys.stdout.flush()
    sys.exit(0 if is_quick else 1)


if __name__ == "__main__":
    main()
