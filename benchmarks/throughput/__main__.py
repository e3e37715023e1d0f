"""Measure the throughput of a backfill beside a plain script and the floor under both.

``python -m benchmarks.throughput --work DIR [--nights 8]``: the same full-size ``.fits.Z`` frames
in one run. The frames are made once. An interrupted run continues with the missing measurements.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.throughput import encoders, page
from benchmarks.throughput.frames import archive
from benchmarks.throughput.memory import run_watched
from qc.core.file import FileInfo
from qc.detection.embedding import network_input
from qc.io.instrument_files import read_instruments
from qc.pipeline.readers import cores, read_file

_BATCHES = ["1", "2", "16", "32"]
_BATCHES_OF_GPU = ["16", "64", "128", "256", "512"]
_INPUTS = 32  # images that the engines are measured with
_LIMIT_S = 1800.0  # for any one measurement
_PACKAGES = ("tensorflow", "keras", "openvino", "numpy", "astropy", "ncompress")


def main() -> None:
    """Create the frames, measure missing figures, write the page."""
    namespace = _arguments()
    namespace.work.mkdir(parents=True, exist_ok=True)
    paths = archive(namespace.work / "archive", namespace.nights)
    bench = Bench(namespace.work, paths, namespace.weights)
    if namespace.gpu is not None:
        batches = namespace.gpu or _BATCHES_OF_GPU
        print(json.dumps(bench.engines(batches, namespace.peak_tflops, gpu=True), indent=1))
        return
    bench.measure("plain", lambda: bench.plain(paths[: namespace.plain]))
    for workers in (0, 1, 2, 4):
        bench.measure(f"ours {workers}", partial(bench.ours, paths, "openvino", workers))
    bench.measure("ours keras", lambda: bench.ours(paths, "keras", cores()))
    bench.measure("zcat", lambda: bench.zcat(paths))
    bench.measure("engines", lambda: bench.engines(_BATCHES, None, gpu=False))
    bench.measure("judging", lambda: bench.judging(paths[0]))
    bench.measure("machine", lambda: _machine(paths))
    page.write(bench.found)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="frames and what was measured")
    parser.add_argument("--nights", type=int, default=8, help="of 24 frames")
    parser.add_argument("--plain", type=int, default=8, help="frames for the plain script")
    parser.add_argument("--weights", default="untrained", help="that there are limits for")
    parser.add_argument(
        "--gpu", nargs="*", metavar="BATCH", help="only TensorFlow, at batches that fill a GPU"
    )
    parser.add_argument("--peak-tflops", type=float, help="of the GPU, as its maker promises")
    return parser.parse_args()


class Bench:
    """Measurements, written to a file after each one."""

    def __init__(self, work: Path, paths: Sequence[Path], weights: str) -> None:
        self.work, self.paths, self.weights = work, paths, weights
        self.kept = work / "measured.json"
        self.found: dict[str, Any] = json.loads(self.kept.read_text()) if self.kept.exists() else {}

    def measure(self, name: str, measurement: Callable[[], Any]) -> None:
        """Measure missing figures."""
        if name not in self.found:
            print(f"{datetime.now(UTC):%H:%M:%S} {name}", flush=True)
            self.found[name] = measurement()
            self.kept.write_text(json.dumps(self.found, indent=1))

    def plain(self, paths: Sequence[Path]) -> Any:
        """Run the script that most people would write."""
        database = self.work / "plain.db"
        database.unlink(missing_ok=True)
        return self._run("plain", {}, database, *paths)

    def ours(self, paths: Sequence[Path], engine: str, workers: int) -> Any:
        """Run the pipeline in a fresh project."""
        project = self.work / "project"
        shutil.rmtree(project, ignore_errors=True)
        settings = {"QC_WEIGHTS": self.weights, "QC_ENGINE": engine, "QC_WORKERS": str(workers)}
        return self._run("ours", settings, project, *paths)

    def zcat(self, paths: Sequence[Path]) -> dict[str, Any]:
        """Decompress the same files with all cores, without using the result."""
        began, before = time.perf_counter(), os.times()
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(_zcat, paths))
        after = os.times()
        core = after.children_user - before.children_user
        core += after.children_system - before.children_system
        seconds = time.perf_counter() - began
        return {"frames": len(paths), "seconds": seconds, "core_seconds": core}

    def engines(
        self, batches: Sequence[str], peak: float | None, *, gpu: bool
    ) -> list[dict[str, Any]]:
        """Measure each engine, with one thread and with all cores; or those that use a GPU."""
        inputs = self._inputs()
        names = [name for name in encoders.ENGINES if not gpu or name.startswith("tensorflow")]
        names = [name for name in names if not encoders.missing(name)]
        more = ["--peak-tflops", str(peak)] if peak else []
        return [
            self._run(
                "encoders",
                {"OMP_NUM_THREADS": str(threads)},
                name,
                inputs,
                *("--weights", self.weights, "--threads", threads, "--batch", *batches, *more),
            )
            for name in names
            for threads in sorted({cores()} if gpu else {1, cores()})
        ]

    def judging(self, path: Path) -> Any:
        """Judge against references of several sizes."""
        project = self.work / "judging"
        shutil.rmtree(project, ignore_errors=True)
        return self._run("judging", {"QC_WEIGHTS": self.weights}, project, path)

    def _inputs(self) -> Path:
        """Return a file with network inputs of the archive's own frames."""
        place = self.work / "inputs.npy"
        if not place.exists():
            instruments = read_instruments(None)
            some = self.paths[:: max(1, 2 * len(self.paths) // _INPUTS)]
            read = [read_file(FileInfo(path, 0, 0), instruments) for path in some]
            measured = [measurement for item in read for measurement in item.measurements][:_INPUTS]
            np.save(place, np.stack([network_input(item, "physical") for item in measured]))
        return place

    def _run(self, module: str, settings: dict[str, str], *words: object) -> Any:
        command = [sys.executable, "-m", f"benchmarks.throughput.{module}", *map(str, words)]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **settings}
        printed, peak_mb = run_watched(command, environment, _LIMIT_S)
        result = json.loads(printed)
        return {**result, "peak_mb": peak_mb} if isinstance(result, dict) else result


def _zcat(path: Path) -> None:
    subprocess.run(["zcat", path], stdout=subprocess.DEVNULL, check=True)  # noqa: S603, S607


def _machine(paths: Sequence[Path]) -> dict[str, Any]:
    model = next(
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "processor": model,
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "frames": len(paths),
        "megabytes": sum(path.stat().st_size for path in paths) / 1e6,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
