"""Ten people label at once while the server is killed and started again; nothing may be lost.

Each reviewer labels frame after frame as the page does: requests without a 200 response are
sent again under the same key. In the end every label that was answered must be in the
database, once. Between labels each requests the next frame, whose time is printed.

Run: ``python -m benchmarks.review --seconds 60``; exits 1 if a label was lost or doubled, or the
next frame took more than 100 ms (p95).
"""

import argparse
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import httpx
import uvicorn
from sqlalchemy import func, select

from benchmarks.reports import FRAMES, IN_SIGHT, LAST, HistoryWriter
from qc.db.schema.models import ExtensionRow, IdempotentRequestRow, LabelRow
from qc.project import create_project, open_project
from qc.settings import read_settings
from qc.web.app import create_app

LIMIT_MS = 100
UP_S = (4.0, 10.0)  # how long the server lives between two deaths
PATIENCE_S = 60.0  # of a reviewer for one label
START_S = 60.0


@dataclass
class Reviewer:
    """A reviewer: answered requests and response times."""

    name: int
    url: str
    extensions: list[int]
    stop: Event
    answered: dict[str, int] = field(default_factory=dict)  # extension, by key
    next_ms: list[float] = field(default_factory=list)
    again: int = 0

    def run(self) -> None:
        """Label until stopped."""
        dice = random.Random(self.name)  # noqa: S311 - no secret hangs on it
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self.stop.is_set():
                item = dice.choice(self.extensions)
                self._look(client, item)
                self._say(client, item, dice.choice(["good", "valid-outlier"]))

    def _look(self, client: httpx.Client, number: int) -> None:
        started = time.perf_counter()
        try:
            response = client.get(f"/review/frames/{number}")
        except httpx.TransportError:
            return  # the server is dead: the page would ask again
        if response.status_code == 200:
            self.next_ms.append(1000 * (time.perf_counter() - started))

    def _say(self, client: httpx.Client, number: int, label: str) -> None:
        key, note = uuid.uuid4().hex, f"reviewer {self.name}, {time.monotonic_ns()}"
        request = {"extensions": [number], "label": label, "key": key, "note": note}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                response = client.post("/api/v1/labels", json=request)
            except httpx.TransportError:
                self.again += 1
                self.stop.wait(0.1)
                continue
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {response.text[:200]}")
            self.answered[key] = number
            return


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server of its own process, which can be killed, and wait until it answers."""
    command = [sys.executable, "-m", "benchmarks.review", "--serve", str(folder), str(port)]
    server = subprocess.Popen(command)  # noqa: S603 - our own interpreter and module
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            httpx.get(f"http://127.0.0.1:{port}/static/pages.css", timeout=1)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return server
    server.kill()
    raise RuntimeError(f"the server did not answer within {START_S:g} s")


def serve(folder: Path, port: int) -> None:
    """Serve a project until killed."""
    with open_project(read_settings(folder)) as project:
        uvicorn.run(create_app(project), host="127.0.0.1", port=port, log_config=None)


def make(folder: Path, frames: int) -> list[int]:
    """Make a project of remembered nights; return its extensions."""
    create_project(folder)
    nights = max(1, frames // FRAMES)
    with open_project(read_settings(folder)) as project:
        with project.write_session.begin() as session:
            HistoryWriter(session, nights=nights, pictured=IN_SIGHT).remember()
        with project.read_session() as session:
            newest = select(ExtensionRow.id).order_by(ExtensionRow.id.desc()).limit(500)
            return list(session.scalars(newest))


def missing_and_doubled(
    folder: Path, reviewers: list[Reviewer], since: datetime
) -> tuple[int, int]:
    """Count the labels that were answered and are not there, and those that are there twice."""
    with open_project(read_settings(folder)) as project, project.read_session() as session:
        results = {row.key: row.label_ids for row in session.scalars(select(IdempotentRequestRow))}
        notes = session.scalars(select(LabelRow.note).where(LabelRow.at >= since)).all()
        ids = set(session.scalars(select(LabelRow.id)))
        total = session.scalar(select(func.count()).select_from(IdempotentRequestRow))
    answered = [key for reviewer in reviewers for key in reviewer.answered]
    lost = sum(key not in results or not set(results[key]) <= ids for key in answered)
    lost += sum(not results.get(key) for key in answered)  # each had a note of its own: it was new
    doubled = sum(count - 1 for count in Counter(notes).values())
    print(f"{len(answered)} labels answered, {total} requests kept, {len(notes)} labels kept")
    return lost, doubled


def main() -> None:
    """Let them work, kill the server now and then, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--reviewers", type=int, default=10)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--serve", nargs=2, metavar=("PROJECT", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(Path(arguments.serve[0]), int(arguments.serve[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        extensions = make(folder, arguments.frames)
        if not review(folder, extensions, arguments.seconds, arguments.reviewers):
            sys.exit(1)


def review(folder: Path, extensions: list[int], seconds: float, count: int) -> bool:
    """Return whether nothing was lost or doubled and frames came in time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    since, dice, deaths = datetime.now(UTC), random.Random(0), 0  # noqa: S311 - no secret
    stop, server = Event(), start(folder, port)
    url = f"http://127.0.0.1:{port}"
    reviewers = [Reviewer(number, url, extensions, stop) for number in range(count)]
    threads = [Thread(target=reviewer.run) for reviewer in reviewers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(dice.uniform(*UP_S), max(until - time.monotonic(), 0)))
        server.send_signal(signal.SIGKILL)  # in the midst of whatever it does
        server.wait()
        deaths += 1
        server = start(folder, port)
    stop.set()
    for thread in threads:
        thread.join()
    server.terminate()
    server.wait()
    lost, doubled = missing_and_doubled(folder, reviewers, since)
    times = sorted(ms for reviewer in reviewers for ms in reviewer.next_ms)
    p95 = statistics.quantiles(times, n=20)[-1]
    again = sum(reviewer.again for reviewer in reviewers)
    print(f"nights up to {LAST}; server killed {deaths} times, {again} requests sent again")
    print(f"lost {lost}, doubled {doubled}")
    print(
        f"next frame, {len(times)} times: p50 {statistics.median(times):.0f} ms, p95 {p95:.0f} ms"
    )
    return lost == doubled == 0 and p95 < LIMIT_MS


if __name__ == "__main__":
    main()
