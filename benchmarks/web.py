"""What each page of the review costs the server, with so many frames in the database.

The rows are made up, those of `benchmarks.reports`; frames are not needed for that. The time is
that of the application alone: a request goes in, the last byte of the answer comes out.

Run: ``python -m benchmarks.web --frames 100000 --out FOLDER``, which leaves the project there for
the next time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.reports import FRAMES, IN_SIGHT, LAST, Remembered, morning
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


def timings_ms(client: TestClient, address: str, times: int) -> Iterator[float]:
    """Yield how long the server took for each of so many requests, the first one too.

    Raises
    ------
    RuntimeError
        If the page is not there.
    """
    for _ in range(times):
        started = time.perf_counter()
        answer = client.get(address)
        if answer.status_code != 200:
            raise RuntimeError(f"{address}: expected a page, got {answer.status_code}")
        yield 1000 * (time.perf_counter() - started)


def run(runtime: Runtime, now: datetime, pages: list[str], times: int) -> bool:
    """Print a line for each page; return whether all are quick enough."""
    app = create_app(runtime, lambda: now)
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))
    print(
        f"| page | first | p50 | p95 | of {times} requests, milliseconds |\n|---|--:|--:|--:|---|"
    )
    is_quick = True
    for address in pages:
        first, *others = timings_ms(client, address, times + 1)
        p50, p95 = statistics.median(others), statistics.quantiles(others, n=20)[-1]
        is_quick &= p95 < LIMIT_MS
        verdict = "" if p95 < LIMIT_MS else "TOO SLOW"
        print(f"| {address} | {first:.0f} | {p50:.0f} | {p95:.0f} | {verdict} |", flush=True)
    return is_quick


def main() -> None:
    """Make the project if it is not there, and ask for its pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("pages", nargs="*", help="addresses; all that are known, by default")
    asked = parser.parse_args()
    is_new = not asked.out.exists()
    create_project(asked.out)
    with open_runtime(read_settings(asked.out)) as runtime:
        if is_new:
            nights = max(1, asked.frames // FRAMES)
            with runtime.writes.begin() as session:
                Remembered(session, nights=nights, pictured=IN_SIGHT).remember()
        now = morning(LAST) + timedelta(hours=4)
        is_quick = run(runtime, now, asked.pages or list(PAGES), asked.times)
    sys.stdout.flush()
    sys.exit(0 if is_quick else 1)


if __name__ == "__main__":
    main()
