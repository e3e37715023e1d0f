"""Ten people label at once while the server is killed and started again; nothing may be lost.

Each reviewer labels frame after frame as the page does: what the server has not answered with 200
is sent again under the same key. In the end every label that was answered must be in the
database, once. Between labels each asks for its next frame, whose time is told.

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

from benchmarks.reports import FRAMES, IN_SIGHT, LAST, Remembered
from qc.db.models import ExtensionRow, IdempotentRequestRow, LabelRow
from qc.project import create_project, open_project
from qc.settings import read_settings
from qc.web.app import create_app

LIMIT_MS = 100
UP_S = (4.0, 10.0)  # how long the server lives between two deaths
PATIENCE_S = 60.0  # of a reviewer for one label
START_S = 60.0


@dataclass
class Reviewer:
    """One who labels: what was answered, and how long the next frame took."""

    name: int
    url: str
    extensions: list[int]
    stop: Event
    answered: dict[str, int] = field(default_factory=dict)  # extension, by key
    next_ms: list[float] = field(default_factory=list)
    again: int = 0

    def run(self) -> None:
        """Label until told to stop."""
        dice = random.Random(self.name)  # noqa: S311 - no secret hangs on it
        with httpx.Client(base_url=self.url, timeout=10) as client:
            while not self.stop.is_set():
                one = dice.choice(self.extensions)
                self._look(client, one)
                self._say(client, one, dice.choice(["good", "valid-outlier"]))

    def _look(self, client: httpx.Client, one: int) -> None:
        started = time.perf_counter()
        try:
            answer = client.get(f"/review/frames/{one}")
        except httpx.TransportError:
            return  # the server is dead: the page would ask again
        if answer.status_code == 200:
            self.next_ms.append(1000 * (time.perf_counter() - started))

    def _say(self, client: httpx.Client, one: int, label: str) -> None:
        key, note = uuid.uuid4().hex, f"reviewer {self.name}, {time.monotonic_ns()}"
        said = {"extensions": [one], "label": label, "key": key, "note": note}
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                answer = client.post("/api/v1/labels", json=said)
            except httpx.TransportError:
                self.again += 1
                self.stop.wait(0.1)
                continue
            if answer.status_code != 200:
                raise RuntimeError(f"{answer.status_code}: {answer.text[:200]}")
            self.answered[key] = one
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
        with project.writes.begin() as session:
            Remembered(session, nights=nights, pictured=IN_SIGHT).remember()
        with project.reads() as session:
            newest = select(ExtensionRow.id).order_by(ExtensionRow.id.desc()).limit(500)
            return list(session.scalars(newest))


def missing_and_doubled(
    folder: Path, reviewers: list[Reviewer], since: datetime
) -> tuple[int, int]:
    """Count the labels that were answered and are not there, and those that are there twice."""
    with open_project(read_settings(folder)) as project, project.reads() as session:
        kept = {row.key: row.label_ids for row in session.scalars(select(IdempotentRequestRow))}
        notes = session.scalars(select(LabelRow.note).where(LabelRow.at >= since)).all()
        ids = set(session.scalars(select(LabelRow.id)))
        total = session.scalar(select(func.count()).select_from(IdempotentRequestRow))
    answered = [key for one in reviewers for key in one.answered]
    lost = sum(key not in kept or not set(kept[key]) <= ids for key in answered)
    lost += sum(not kept.get(key) for key in answered)  # each had a note of its own: it was new
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
    asked = parser.parse_args()
    if asked.serve:
        serve(Path(asked.serve[0]), int(asked.serve[1]))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "project"
        extensions = make(folder, asked.frames)
        if not review(folder, extensions, asked.seconds, asked.reviewers):
            sys.exit(1)


def review(folder: Path, extensions: list[int], seconds: float, count: int) -> bool:
    """Return whether nothing was lost or doubled and frames came in time."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    since, dice, deaths = datetime.now(UTC), random.Random(0), 0  # noqa: S311 - no secret
    stop, server = Event(), start(folder, port)
    url = f"http://127.0.0.1:{port}"
    reviewers = [Reviewer(number, url, extensions, stop) for number in range(count)]
    threads = [Thread(target=one.run) for one in reviewers]
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
    times = sorted(ms for one in reviewers for ms in one.next_ms)
    p95 = statistics.quantiles(times, n=20)[-1]
    again = sum(one.again for one in reviewers)
    print(f"nights up to {LAST}; server killed {deaths} times, {again} requests sent again")
    print(f"lost {lost}, doubled {doubled}")
    print(
        f"next frame, {len(times)} times: p50 {statistics.median(times):.0f} ms, p95 {p95:.0f} ms"
    )
    return lost == doubled == 0 and p95 < LIMIT_MS


if __name__ == "__main__":
    main()
