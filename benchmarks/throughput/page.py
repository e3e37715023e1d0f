"""Page of the measurements."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.paths import PAGES, RESULTS
from benchmarks.throughput.encoders import ENGINES, NEEDS

GOAL_TIMES_PLAIN, GOAL_TIMES_FLOOR, GOAL_MB = 12, 1.25, 2500
IMAGES = 2  # of a red frame


FIGURES = RESULTS / "throughput.json"
DOCUMENT = PAGES / "throughput.md"


def write(result: Mapping[str, Any]) -> None:
    """Write the figures and their page."""
    result = {**result, "summary": summary(result)}
    FIGURES.write_text(json.dumps(result, indent=1) + "\n")
    DOCUMENT.write_text(render(result))


def render(result: Mapping[str, Any]) -> str:
    """Return the page of the figures."""
    return "\n".join(_lines(result)) + "\n"


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures compared with the goals, by wall clock and core time."""
    product, plain, zcat = (
        result[f"ours {result['machine']['cores']}"],
        result["plain"],
        result["zcat"],
    )
    encoder = best_encoder(result, "openvino float32", result["machine"]["cores"])
    images = IMAGES * zcat["frames"]
    floor_s = zcat["seconds"] + images / encoder["images_per_s"]
    floor_core_s = zcat["core_seconds"] + images * encoder["core_ms"] / 1000
    return {
        "times_plain": per_frame(plain, "seconds") / per_frame(product, "seconds"),
        "times_plain_core": per_frame(plain, "core_seconds") / per_frame(product, "core_seconds"),
        "floor_s_per_frame": floor_s / zcat["frames"],
        "times_floor": product["seconds"] / floor_s,
        "floor_core_s_per_frame": floor_core_s / zcat["frames"],
        "times_floor_core": product["core_seconds"] / floor_core_s,
        "peak_mb": product["peak_mb"],
    }


def best_encoder(result: Mapping[str, Any], engine: str, threads: int) -> dict[str, float]:
    """Return an engine's figures at its best batch."""
    [item] = [e for e in result["engines"] if (e["engine"], e["threads"]) == (engine, threads)]
    best: dict[str, float] = max(item["batches"], key=lambda batch: batch["images_per_s"])
    return best


def per_frame(run: Mapping[str, float], name: str) -> float:
    """Return seconds of a frame."""
    return run[name] / run["frames"]


def _lines(result: Mapping[str, Any]) -> Iterable[str]:
    machine, reached = result["machine"], result["summary"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield "# Throughput\n"
    yield (
        f"`python -m benchmarks.throughput --work DIR`, {machine['date']}: "
        f"{machine['cores']} cores of {machine['processor']}, "
        f"Python {machine['python']}, {versions}; {machine['frames']} simulated red "
        "frames, unbinned, of both chips, "
        f"{machine['megabytes'] / machine['frames']:.1f} MB each as `.fits.Z`, 35 MB without. "
        f"The machine's load at the end of the run was {machine['load']:.1f}. Above "
        f"{machine['cores']} other programs ran, and core time is more reliable than elapsed "
        "time. The start of Python and of the network is not counted; the start of the reader "
        "processes is.\n"
    )
    yield from _goals(reached)
    yield "\n## The same files\n"
    yield from table(
        ("", "frames", "s a frame", "core s a frame", "frames a minute", "peak MB"), _runs(result)
    )
    yield (
        "\nThe plain script (`benchmarks/throughput/plain.py`) lets astropy open the file, scales "
        "the image from its minimum to its maximum in 8 bits, resizes it to 224 x 224, calls "
        "`model.predict` for each image and commits each row. It judges nothing. Ours also "
        "measures the metrics, judges each image against its references and stores the results. "
        "The floor is `zcat` of the same files by all cores, then the encoder alone, on prepared "
        "inputs, at its best batch.\n"
    )
    yield "## The encoder alone\n"
    yield from table(
        ("engine", "", "threads", "best batch", "images a s", "core ms an image", "one image, ms",
         "furthest", "peak MB"),
        _engines(result["engines"]),
    )  # fmt: skip
    yield (
        "\nFurthest: the largest cosine distance to the embeddings of the first line, for the "
        "same frames. "
        + "".join(
            f"{name}: not measured, as {' and '.join(NEEDS[name])} were not installed. "
            for name in ENGINES.keys() - {item["engine"] for item in result["engines"]}
        )
        + "\n"
    )
    yield "## Judging, by number of references\n"
    yield from table(
        ("references", "core ms an extension", "the first of a setup"),
        [
            (item["references"], f"{item['later_ms']:.1f}", f"{item['first_ms']:.0f}")
            for item in result["judging"]
        ],
    )


def _goals(reached: Mapping[str, float]) -> Iterable[str]:
    plain = f"{reached['times_plain']:.1f} ({reached['times_plain_core']:.1f} in core time)"
    floor = f"{reached['times_floor']:.2f} ({reached['times_floor_core']:.2f} in core time)"
    yield from table(
        ("", "goal", "measured"),
        [
            ("times as fast as the plain script", f"≥ {GOAL_TIMES_PLAIN}", plain),
            ("times the floor", f"≤ {GOAL_TIMES_FLOOR}", floor),
            ("peak memory of all processes, MB", f"≤ {GOAL_MB}", f"{reached['peak_mb']:.0f}"),
        ],
    )


def _runs(result: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    cores = result["machine"]["cores"]
    named = [("plain script", result["plain"])]
    named += [(f"ours, {n} reader processes, OpenVINO", result[f"ours {n}"]) for n in (0, 1, 2, 4)]
    named += [(f"ours, {cores} reader processes, TensorFlow", result["ours keras"])]
    named += [("`zcat`", result["zcat"])]
    for name, run in named:
        value = per_frame(run, "seconds")
        core = per_frame(run, "core_seconds")
        peak = f"{run['peak_mb']:.0f}" if "peak_mb" in run else ""
        yield name, run["frames"], f"{value:.2f}", f"{core:.2f}", f"{60 / value:.0f}", peak
    floor = result["summary"]["floor_s_per_frame"]
    core = result["summary"]["floor_core_s_per_frame"]
    yield (
        "the floor",
        result["zcat"]["frames"],
        f"{floor:.2f}",
        f"{core:.2f}",
        f"{60 / floor:.0f}",
        "",
    )


def _engines(result: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    for entry in result:
        best = max(entry["batches"], key=lambda batch: batch["images_per_s"])
        [alone] = [item for item in entry["batches"] if item["batch"] == 1]
        yield (
            entry["engine"],
            ENGINES[entry["engine"]],
            entry["threads"],
            best["batch"],
            f"{best['images_per_s']:.1f}",
            f"{best['core_ms']:.0f}",
            f"{1000 / alone['images_per_s']:.0f}",
            f"{entry['furthest']:.1e}",
            f"{entry['peak_mb']:.0f}",
        )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
