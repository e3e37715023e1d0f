"""Cost of an archive in hours and money: measured on this machine, then modelled.

``python -m benchmarks.scale --work DIR`` takes the frames of
``benchmarks.throughput`` (the same DIR), measures each stage and a Dask cluster of one and of two
workers on this machine, and writes the page. ``--model`` computes the page from the stored
measurements; ``model`` is the whole model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.paths import PAGES, RESULTS
from benchmarks.throughput.frames import FRAMES_A_NIGHT, archive
from benchmarks.throughput.page import table
from qc.core.enums import LabelName
from qc.core.reference import REFERENCE_MODEL_NEWEST
from qc.detection import embed
from qc.pipeline.archive import find_archive
from qc.pipeline.backfill import measure_archive
from qc.pipeline.process import add_thresholds, judge_frame, record
from qc.pipeline.readers import read_file
from qc.pipeline.rejudge import MODELS_AT_ONCE, judge_pending
from qc.project import create_project, open_project
from qc.settings import read_settings

_IMAGES, _MEGABYTES = 2, 35.5  # of the frames that the stages are measured with, uncompressed
_PAGE = Path(__file__).parent / "scale_page.md"
FIGURES = RESULTS / "scale.json"
DOCUMENT = PAGES / "scale.md"


@dataclass(frozen=True)
class Stages:
    """Seconds of one core for one red frame, as measured.

    Attributes
    ----------
    read, embed, record, judge : float
        Reading includes decompression and the metrics; embedding is by a processor.
    learn : float
        Weekly fit of the residual model of one image type and setup, from a full reference.
    """

    read: float
    embed: float
    record: float
    judge: float
    learn: float


@dataclass(frozen=True)
class Load:
    """An archive."""

    frames: int
    gigabytes: float
    uncompressed_gigabytes: float
    images: int
    weeks: float
    setups: int

    def times(self, factor: int) -> "Load":
        """Return an archive so many times as large, of the same years and setups."""
        return Load(
            self.frames * factor,
            self.gigabytes * factor,
            self.uncompressed_gigabytes * factor,
            self.images * factor,
            self.weeks,
            self.setups,
        )


@dataclass(frozen=True)
class Host:
    """A machine for rent with its network; none of it is measured here.

    Attributes
    ----------
    images_per_s : float
        Of its GPU; 0 without one.
    network_mb_s, store_mb_s : float
        Bandwidth of its network, and of the store for all hosts together.
    price : float
        Of an hour.
    """

    cores: int
    images_per_s: float
    network_mb_s: float
    store_mb_s: float
    price: float


UVES = Load(
    frames=80_000,
    gigabytes=500,
    uncompressed_gigabytes=1200,
    images=130_000,
    weeks=520,
    setups=60,
)
GPU_HOST = Host(cores=16, images_per_s=1500, network_mb_s=1000, store_mb_s=4000, price=2.0)
PLAIN_HOST = Host(cores=16, images_per_s=0, network_mb_s=1000, store_mb_s=4000, price=0.7)


def model(load: Load, host: Host, hosts: int, stages: Stages) -> dict[str, float]:
    """Return the hours of each stage, of the whole, and the cost.

    Reading, the network, the store, embedding and recording go on beside each other: the slowest
    sets the pace. One client records; one process judges, when all is recorded; it fits the
    residual models of a few setups at once.
    """
    megabytes = 1000 * load.gigabytes
    measured = load.images / _IMAGES  # red frames of as many images
    read_core_s = stages.read * 1000 * load.uncompressed_gigabytes / _MEGABYTES
    embed_core_s = 0.0 if host.images_per_s else measured * stages.embed
    hours = {
        "cores": (read_core_s + embed_core_s) / (hosts * host.cores),
        "GPU": load.images / (hosts * host.images_per_s) if host.images_per_s else 0.0,
        "network": megabytes / (hosts * host.network_mb_s),
        "store": megabytes / host.store_mb_s,
        "recording": measured * stages.record,
    }
    hours = {name: seconds / 3600 for name, seconds in hours.items()}
    measuring = max(hours.values())
    learning = load.weeks * load.setups * stages.learn / min(host.cores, MODELS_AT_ONCE)
    judging = (measured * stages.judge + learning) / 3600
    # The other hosts are given back before the verdicts: they are one process' work.
    cost = host.price * (hosts * measuring + judging)
    return {**hours, "measuring": measuring, "judging": judging, "cost": cost}


def main() -> None:
    """Measure missing figures, compute, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", action="store_true", help="measure nothing")
    parser.add_argument("--cluster", type=int, help=argparse.SUPPRESS)  # of a process of its own
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cluster:
        print(json.dumps(_on_cluster(arguments.work, arguments.cluster, arguments.frames)))
        return
    result = json.loads(FIGURES.read_text()) if arguments.model else _measured(arguments.work)
    FIGURES.write_text(json.dumps(result, indent=1) + "\n")
    DOCUMENT.write_text(render(result))


def _measured(work: Path) -> dict[str, Any]:
    stages = _stages(work)
    print(stages, flush=True)
    clusters = [
        {"workers": workers, "frames": frames, **_apart(work, workers, frames)}
        for workers, frames in ((1, 12), (1, 24), (2, 24))
    ]
    return {"stages": asdict(stages), "clusters": clusters, "load": os.getloadavg()[0]}


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    create_project(folder)
    return folder


def _stages(work: Path) -> Stages:
    """Return the core time of each stage in this process, one frame after another."""
    paths = archive(work / "archive", 2)
    spent = dict.fromkeys(("read", "embed", "record"), 0.0)

    def timed(name: str, does: Callable[[], Any]) -> Any:
        began = time.process_time()
        done = does()
        spent[name] += time.process_time() - began
        return done

    with open_project(read_settings(_fresh(work / "scale"))) as project:
        judged_in = []
        certified = [*find_archive(map(str, paths[:FRAMES_A_NIGHT]), project)]
        for number, file in enumerate([*certified, *find_archive(map(str, paths[-12:]), project)]):
            reading = timed("read", partial(read_file, file, project.instruments))
            arrival = add_thresholds(reading, project)
            vectors = timed("embed", partial(embed, arrival.measurements, project.encoder))
            if number == 0:
                spent["embed"] = 0.0  # the network's start
            began = time.process_time()
            judged = judge_frame(arrival, vectors, project)
            judged_in.append(time.process_time() - began)
            label = LabelName.GOOD if number < FRAMES_A_NIGHT else None
            timed("record", partial(record, [(arrival, judged)], project, label))
    usual = median(judged_in[FRAMES_A_NIGHT:])  # but two or three, which learn
    results = {name: seconds / len(judged_in) for name, seconds in spent.items()}
    return Stages(**results, judge=usual, learn=_learning_s(work))


def _learning_s(work: Path) -> float:
    """Return the time of fitting a full reference, from the throughput benchmark."""
    judging = json.loads((work / "measured.json").read_text())["judging"]
    [entry] = [item for item in judging if item["references"] == REFERENCE_MODEL_NEWEST]
    learning_ms: float = entry["first_ms"] - entry["later_ms"]
    return learning_ms / 1000


def _apart(work: Path, workers: int, frames: int) -> dict[str, float]:
    text = ["--work", str(work), "--cluster", str(workers), "--frames", str(frames)]
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, "-m", "benchmarks.scale", *text],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=1200,
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _on_cluster(work: Path, workers: int, frames: int) -> dict[str, float]:
    """Return the seconds of a backfill on a Dask cluster of so many processes; their start not."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 - only here

    paths = archive(work / "archive", 2)[: frames + 2]
    with (
        open_project(read_settings(_fresh(work / "cluster"))) as project,
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        files = find_archive(map(str, paths), project)
        for some in files[:2]:  # each worker makes its network
            list(measure_archive([some], project, client=client))
        began = time.perf_counter()
        list(measure_archive(files[2:], project, client=client))
        measured = time.perf_counter() - began
        began = time.perf_counter()
        list(judge_pending(project))
        return {"seconds": measured, "judging": time.perf_counter() - began}


# --- the page ------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """Return the page of the figures."""
    stages = Stages(**result["stages"])
    return _PAGE.read_text().format(
        load=f"{result['load']:.1f}",
        stages=_text(
            ("stage", "core s a frame"),
            [(name, f"{value:.3f}") for name, value in asdict(stages).items()],
        ),
        clusters=_text(
            ("workers", "frames", "s", "frames a minute", "judging, s"),
            _clusters(result["clusters"]),
        ),
        hosts=_text(_HEADS, _hosts(UVES, stages)),
        hundredfold=_text(_HEADS, _hosts(UVES.times(100), stages)),
        uves=_words(UVES),
        gpu=_words(GPU_HOST),
        plain=_words(PLAIN_HOST),
    )


_HEADS = ("hosts", "measuring, h", "set by", "judging, h", "in all, h", "cost, USD")


def _clusters(result: Iterable[dict[str, float]]) -> Iterable[Sequence[object]]:
    for item in result:
        rate = 60 * item["frames"] / item["seconds"]
        workers, frames = int(item["workers"]), int(item["frames"])
        yield workers, frames, f"{item['seconds']:.0f}", f"{rate:.0f}", f"{item['judging']:.0f}"


def _hosts(load: Load, stages: Stages) -> Iterable[Sequence[object]]:
    for name, host in (("with a GPU", GPU_HOST), ("without", PLAIN_HOST)):
        for hosts in (1, 4, 16):
            answer = model(load, host, hosts, stages)
            limits = {
                item: answer[item] for item in ("cores", "GPU", "network", "store", "recording")
            }
            slowest = max(limits, key=lambda item: limits[item])
            whole = answer["measuring"] + answer["judging"]
            yield (
                f"{hosts} {name}",
                f"{answer['measuring']:.1f}",
                slowest,
                f"{answer['judging']:.1f}",
                f"{whole:.1f}",
                f"{answer['cost']:.0f}",
            )


def _words(load: Load | Host) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in asdict(load).items())


def _text(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(table(heads, rows))


if __name__ == "__main__":
    main()
