"""What a frame's pages cost the server: 100,000 frames in SQLite, and a full-size red frame.

The rows are made up, the red frames simulated and read from ``.fits.Z``.

Run: ``python -m benchmarks.frame_pages [--frames 100000]``
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi.testclient import TestClient
from rich.console import Console
from sqlalchemy import insert, select

from qc.frames import Extension, Frame, Setup, read_frame
from qc.instruments import read_instruments
from qc.judge import Status
from qc.metrics import METRICS
from qc.runtime import Runtime, create_project, open_runtime
from qc.settings import read_settings
from qc.simulator import Plan, Stream, simulate
from qc.tables import (
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    FrameState,
    LabelName,
    LabelRow,
    VerdictRow,
)
from qc.web.app import create_app

FIRST = datetime(2016, 1, 1, tzinfo=UTC)
LENGTH = 2048  # of an embedding
BATCH = 2000
_BIASES = Stream("bias", "red", "RED", None, binning=(1, 1), read_mode="225kHz low", set_size=2)


def main() -> None:
    """Make the project, time the pages, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        create_project(project)
        plan = Plan(streams=(_BIASES,), aborted=0.0)
        night = date(2026, 7, 1)
        red = simulate(
            project / "red", nights=1, start=night, faults=0, seed=7, compressed=True, plan=plan
        )
        frames = [read_frame(one, read_instruments()) for one in red]
        with open_runtime(read_settings(project)) as runtime:
            names = _fill(runtime, arguments.frames, frames)
            _print(_times(runtime, names, frames[-1].name, arguments.repeats), arguments.frames)


# --- rows -----------------------------------------------------------------------------------------


def _fill(runtime: Runtime, count: int, red: list[Frame]) -> list[str]:
    """Store red frames, and many others of sixteen setups; return some names."""
    random = np.random.default_rng(1)
    base = random.normal(size=LENGTH)
    own = Setup("URB1", "REDL", "1x1", "225kHz low")
    with runtime.writes.begin() as session:
        session.add(
            EncoderRow(id=1, fingerprint=runtime.encoder.fingerprint, name="made up", stretch="")
        )
    for start in range(1, count + 1, BATCH):
        rows = [_row(number, own, base, random) for number in range(start, start + BATCH)]
        with runtime.writes.begin() as session:
            for table in (FrameRow, ExtensionRow, EmbeddingRow, VerdictRow, LabelRow):
                found = [row[table] for row in rows if table in row]
                session.execute(insert(table), found)
    with runtime.writes.begin() as session:
        for n, frame in enumerate(red):
            _add_red(session, count + BATCH + 10 * n, frame, base, random)
        return list(session.scalars(select(FrameRow.name).where(FrameRow.id % 977 == 0)))


def _row(
    number: int, own: Setup, base: np.ndarray[Any, Any], random: np.random.Generator
) -> dict[Any, dict[str, Any]]:
    at = FIRST + timedelta(minutes=55 * number)
    setup = vars(own) | {"image_type": ("URB1", "UBB0", "URW1", "UD1RF1")[number % 4]}
    setup["read_mode"] = ("225kHz low", "50kHz high")[number // 4 % 2]
    setup["binning"] = ("1x1", "2x2")[number // 8 % 2]
    rows: dict[Any, dict[str, Any]] = {
        FrameRow: _frame_columns(number, f"UVES.{at:%Y-%m-%dT%H:%M:%S}.000", at, f"{number:064x}"),
        ExtensionRow: _extension_columns(number, setup, f"{number:064x}"),
        EmbeddingRow: _embedding_columns(number, base, random),
        VerdictRow: _verdict_columns(number, at),
    }
    if number % 10 == 0:
        label = LabelName.BAD if number % 200 == 0 else LabelName.GOOD
        kind = "light_leak" if label is LabelName.BAD else ""
        said = {"who": "kim", "at": at, "note": "", "label": label, "kind": kind}
        rows[LabelRow] = {"extension_id": number, **said}
    return rows


def _frame_columns(number: int, name: str, at: datetime, sha256: str) -> dict[str, Any]:
    return {
        "id": number,
        "state": FrameState.PROCESSED,
        "path": f"/archive/{name}.fits",
        "file_bytes": 1,
        "modified_ns": 1,
        "processed_at": at,
        "sha256": sha256,
        "name": name,
        "instrument": "UVES",
        "observed_at": at,
        "night": at.date(),
        "exposure_s": 0.0,
        "template": "",
        "template_number": 1,
        "template_size": 5,
    }


def _extension_columns(number: int, setup: dict[str, Any], pixels: str) -> dict[str, Any]:
    return {
        "id": number,
        "frame_id": number,
        "number": 1,
        **setup,
        "frame_class": "bias",
        "ny": 4096,
        "nx": 2148,
        "pixels_sha256": pixels,
        "promised_light": 0.0,
        "zero_adu": 150.0,
        "stretch_adu": 10.0,
        "metrics": dict.fromkeys(METRICS, 1.0),
    }


def _embedding_columns(
    number: int, base: np.ndarray[Any, Any], random: np.random.Generator
) -> dict[str, Any]:
    vector = np.roll(base, int(random.integers(LENGTH))).astype(np.float32)
    return {"extension_id": number, "encoder_id": 1, "vector": vector}


def _verdict_columns(number: int, at: datetime) -> dict[str, Any]:
    return {
        "extension_id": number,
        "encoder_id": 1,
        "judged_at": at,
        "status": Status.NOMINAL,
        "score": 0.5,
        "reasons": [],
        "merge_height": 1e-5,
        "residual": 5.0,
        "threshold": 1e-4,
        "thresholds_digest": "0" * 64,
        "reference_size": 200,
        "widened": "",
        "z": dict.fromkeys(METRICS, 0.5),
        "nearest_id": max(1, number - 16),
    }


def _add_red(
    session: Any, number: int, frame: Frame, base: np.ndarray[Any, Any], random: Any
) -> None:
    columns = _frame_columns(number, frame.name, frame.observed_at, frame.sha256)
    status = frame.path.stat()
    told = {"path": str(frame.path), "file_bytes": status.st_size, "night": frame.night}
    session.execute(insert(FrameRow), columns | told | {"modified_ns": status.st_mtime_ns})
    for n, extension in enumerate(frame.extensions):
        one = number + n
        setup = _extension_columns(one, vars(extension.setup), _digest(extension))
        numbers = {"frame_id": number, "number": extension.number}
        session.execute(insert(ExtensionRow), setup | numbers)
        session.execute(insert(EmbeddingRow), _embedding_columns(one, base, random))
        before = session.get(ExtensionRow, one - 10)  # the same chip of the frame before
        nearest = {"nearest_id": before.id if before else None}
        verdict = _verdict_columns(one, frame.observed_at) | nearest
        session.execute(insert(VerdictRow), verdict)


def _digest(extension: Extension) -> str:
    return hashlib.sha256(np.ascontiguousarray(extension.pixels).data).hexdigest()


# --- times ----------------------------------------------------------------------------------------


def _times(
    runtime: Runtime, names: list[str], red: str, repeats: int
) -> Iterator[tuple[str, list[float]]]:
    here = ("127.0.0.1", 50000)
    client = TestClient(create_app(runtime), base_url="http://localhost", client=here)
    red = quote(red)

    def timed(path: str) -> float:
        start = time.perf_counter()
        answer = client.get(path)
        took = 1000 * (time.perf_counter() - start)
        assert answer.status_code == 200, (path, answer.text[:300])
        return took

    timed("/")  # what is loaded once
    some = [names[n % len(names)] for n in range(repeats)]
    for what, path in {
        "page": "/frames/{}",
        "page as JSON": "/api/v1/frames/{}",
        "why not": "/frames/{}/why",
        "nearest labelled bad": "/api/v1/frames/{}/beside",
        "history of a number (SVG)": "/frames/{}/history.svg?metric=bias_level",
        "dendrogram (SVG)": "/frames/{}/tree.svg",
    }.items():
        timed(path.format(quote(some[0])))
        yield what, [timed(path.format(quote(one))) for one in some]
    yield "cost of catching", [timed(f"/frames/{quote(one)}/why/cost") for one in some[:3]]
    image = f"/api/v1/frames/{red}/image?extension=1&difference=true"
    yield "red frame: first look, two files read", [timed(image)]
    yield "red frame: facts, once cached", _again(lambda: timed(image), repeats)
    look = "?extension=1&stretch=asinh&low=100&high=200"
    spots = [f"0/{row}/{column}" for row in range(16) for column in range(8)]
    yield "tile, level 0", [timed(f"/frames/{red}/tiles/{one}.png{look}") for one in spots]
    yield "tile, coarsest", _again(lambda: timed(f"/frames/{red}/tiles/4/0/0.png{look}"), repeats)
    yield (
        "tile of the difference",
        [timed(f"/frames/{red}/difference/{one}.png?extension=1&reach=9") for one in spots],
    )
    yield (
        "values under the cursor",
        _again(lambda: timed(f"/frames/{red}/values.bin?extension=1&x=900&y=2000"), repeats),
    )
    yield "cuts", _again(lambda: timed(f"/api/v1/frames/{red}/cuts?extension=1&x=9&y=9"), repeats)


def _again(one: Callable[[], float], repeats: int) -> list[float]:
    return [one() for _ in range(repeats)]


def _print(times: Iterator[tuple[str, list[float]]], frames: int) -> None:
    console = Console()
    console.print(f"{frames} frames in SQLite: median and 95th percentile, ms")
    for what, found in times:
        p95 = float(np.percentile(found, 95))
        console.print(f"{what:40} {statistics.median(found):6.0f} {p95:6.0f}   n = {len(found)}")


if __name__ == "__main__":
    main()
