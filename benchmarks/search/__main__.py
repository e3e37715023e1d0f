"""Measure recall and latency of the nearest-neighbour search among up to a million embeddings.

An archive of generated embeddings with the structure of real ones is written to the database of a
project. The index is built as by ``qc db index`` and searched as by ``qc frames similar``, with and
without filters. The ground truth is an exhaustive search in double precision.

Run: ``python -m benchmarks.search --vectors 100000 --work DIR [--others all] [--write]``; a million
needs 9 GB in DIR, and some minutes of two idle cores. ``--postgres URL``: an empty database there
takes the file's place; the password is better given as PGPASSWORD than in the URL. Exits 1 if a
recall is below 0.99, or a p95 above 50 ms.
"""

import argparse
import json
import multiprocessing
import platform
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.search.asking import (
    ask,
    ask_exactly,
    ask_other,
    environment,
    find_truth,
    index,
    make,
)
from benchmarks.search.report import DOCUMENT, FIGURES, render
from benchmarks.search.ways import OTHERS

LEAST_RECALL, MOST_MS = 0.99, 50


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def measure(
    work: Path, total: int, queries: int, names: list[str], postgres: str
) -> dict[str, Any]:
    """Return all figures of one size."""
    result: dict[str, Any] = {
        "vectors": total,
        "queries": queries,
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.processor() or platform.machine()}, "
        f"{multiprocessing.cpu_count()} cores, Python {platform.python_version()}",
        **environment(),
    }
    tell(f"making {total} embeddings")
    result |= apart(make, work, total, postgres)
    tell("the truth")
    truth = apart(find_truth, total, queries)
    tell("the index")
    result |= apart(index, work, postgres)
    tell("asking")
    result |= apart(ask, work, truth, postgres)
    tell("asking without the index")
    result["exactly"] = apart(ask_exactly, work, truth, postgres)
    result["others"] = {}
    for name in names:
        tell(name)
        result["others"][name] = apart(ask_other, name, total, truth)
    return result


def tell(name: str) -> None:
    """Print the current step."""
    print(f"{datetime.now(UTC):%H:%M:%S} {name}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure one size, print it, and keep it if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder; removed in the end")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--others", default="", help=f"all, or some of {','.join(OTHERS)}")
    parser.add_argument("--postgres", default="", metavar="URL")
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {DOCUMENT}")
    arguments = parser.parse_args()
    rest = (
        list(OTHERS) if arguments.others == "all" else [*filter(None, arguments.others.split(","))]
    )
    arguments.work.mkdir(parents=True)
    try:
        result = measure(
            arguments.work, arguments.vectors, arguments.queries, rest, arguments.postgres
        )
    finally:
        shutil.rmtree(arguments.work)
    figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    name = f"{'postgres' if arguments.postgres else 'embedded'} {arguments.vectors}"
    print(render({name: result}))
    if arguments.write:
        figures[name] = result
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        DOCUMENT.write_text(render(figures, DOCUMENT.read_text()))
    answers = result["questions"].values()
    if any(answer["recall"] < LEAST_RECALL or answer["p95_ms"] > MOST_MS for answer in answers):
        sys.exit(1)


if __name__ == "__main__":
    main()
