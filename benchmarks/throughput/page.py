"""The page of what was measured."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.throughput.encoders import ENGINES, NEEDS

GOAL_TIMES_PLAIN, GOAL_TIMES_FLOOR, GOAL_MB = 12, 1.25, 2500
IMAGES = 2  # of a red frame


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write ``out.md`` and ``out.json``."""
    found = {**found, "summary": summary(found)}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join(_lines(found)) + "\n")


def summary(found: Mapping[str, Any]) -> dict[str, float]:
    """Return what the goals are held against, by the clock and by the cores' time."""
    ours, plain, zcat = found[f"ours {found['machine']['cores']}"], found["plain"], found["zcat"]
    encoder = best_encoder(found, "openvino float32", found["machine"]["cores"])
    images = IMAGES * zcat["frames"]
    floor_s = zcat["seconds"] + images / encoder["images_per_s"]
    floor_core_s = zcat["core_seconds"] + images * encoder["core_ms"] / 1000
    return {
        "times_plain": per_frame(plain, "seconds") / per_frame(ours, "seconds"),
        "times_plain_core": per_frame(plain, "core_seconds") / per_frame(ours, "core_seconds"),
        "floor_s_per_frame": floor_s / zcat["frames"],
        "times_floor": ours["seconds"] / floor_s,
        "floor_core_s_per_frame": floor_core_s / zcat["frames"],
        "times_floor_core": ours["core_seconds"] / floor_core_s,
        "peak_mb": ours["peak_mb"],
    }


def best_encoder(found: Mapping[str, Any], engine: str, threads: int) -> dict[str, float]:
    """Return an engine's figures at its best batch."""
    [one] = [e for e in found["engines"] if (e["engine"], e["threads"]) == (engine, threads)]
    best: dict[str, float] = max(one["batches"], key=lambda batch: batch["images_per_s"])
    return best


def per_frame(run: Mapping[str, float], what: str) -> float:
    """Return seconds of a frame."""
    return run[what] / run["frames"]


def _lines(found: Mapping[str, Any]) -> Iterable[str]:
    machine, reached = found["machine"], found["summary"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield "# Throughput\n"
    yield (
        f"`python -m benchmarks.throughput --work DIR`, {machine['date']}: "
        f"{machine['cores']} cores of {machine['processor']}, "
        f"Python {machine['python']}, {versions}; {machine['frames']} simulated red "
        "frames, unbinned, of both chips, "
        f"{machine['megabytes'] / machine['frames']:.1f} MB each as `.fits.Z`, 35 MB without. "
        f"The machine's load when the run ended was {machine['load']:.1f}: above "
        f"{machine['cores']}, others were at work, and the cores' own time tells more than the "
        "clock. The start of Python and of the network is not counted, the start of the reading "
        "processes is.\n"
    )
    yield from _goals(reached)
    yield "\n## The same files\n"
    yield from table(
        ("", "frames", "s a frame", "core s a frame", "frames a minute", "peak MB"), _runs(found)
    )
    yield (
        "\nThe plain script (`benchmarks/throughput/plain.py`) lets astropy open the file, scales "
        "the image from its minimum to its maximum in 8 bits, resizes it to 224 x 224, calls "
        "`model.predict` for each image and commits each row. It judges nothing. Ours also "
        "measures the detector numbers, judges each image against its references "
        "and records all of it. The floor is `zcat` of the same files by all cores, "
        "and after it the encoder alone, on inputs that are ready, at its best batch.\n"
    )
    yield "## The encoder alone\n"
    yield from table(
        ("engine", "", "threads", "best batch", "images a s", "core ms an image", "one image, ms",
         "furthest", "peak MB"),
        _engines(found["engines"]),
    )  # fmt: skip
    yield (
        "\nFurthest: the largest cosine distance to the embeddings by the first line, of "
        "network inputs of the same frames. "
        + "".join(
            f"{name}: not measured, as {' and '.join(NEEDS[name])} were not installed. "
            for name in ENGINES.keys() - {one["engine"] for one in found["engines"]}
        )
        + "\n"
    )
    yield "## Judging, against the size of the reference\n"
    yield from table(
        ("references", "core ms an extension", "the first of a setup"),
        [
            (one["references"], f"{one['later_ms']:.1f}", f"{one['first_ms']:.0f}")
            for one in found["judging"]
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


def _runs(found: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    cores = found["machine"]["cores"]
    named = [("plain script", found["plain"])]
    named += [(f"ours, {n} reading processes, OpenVINO", found[f"ours {n}"]) for n in (0, 1, 2, 4)]
    named += [(f"ours, {cores} reading processes, TensorFlow", found["ours keras"])]
    named += [("`zcat`", found["zcat"])]
    for name, run in named:
        each = per_frame(run, "seconds")
        core = per_frame(run, "core_seconds")
        peak = f"{run['peak_mb']:.0f}" if "peak_mb" in run else ""
        yield name, run["frames"], f"{each:.2f}", f"{core:.2f}", f"{60 / each:.0f}", peak
    floor = found["summary"]["floor_s_per_frame"]
    core = found["summary"]["floor_core_s_per_frame"]
    yield (
        "the floor",
        found["zcat"]["frames"],
        f"{floor:.2f}",
        f"{core:.2f}",
        f"{60 / floor:.0f}",
        "",
    )


def _engines(found: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[object]]:
    for one in found:
        best = max(one["batches"], key=lambda batch: batch["images_per_s"])
        [alone] = [each for each in one["batches"] if each["batch"] == 1]
        yield (
            one["engine"],
            ENGINES[one["engine"]],
            one["threads"],
            best["batch"],
            f"{best['images_per_s']:.1f}",
            f"{best['core_ms']:.0f}",
            f"{1000 / alone['images_per_s']:.0f}",
            f"{one['furthest']:.1e}",
            f"{one['peak_mb']:.0f}",
        )


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    """Yield the lines of a table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
