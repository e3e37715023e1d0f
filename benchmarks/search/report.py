"""The figures as tables."""

from collections.abc import Mapping
from typing import Any

from benchmarks.paths import PAGES, RESULTS

FIGURES = RESULTS / "search.json"
DOCUMENT = PAGES / "search.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Figures = Mapping[str, Any]


def render(figures: Figures, document: str = f"{BEGIN}\n{END}") -> str:
    """Put the tables between the marks of a document."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    sizes = sorted(figures, key=lambda name: (name.split()[0], figures[name]["vectors"]))
    parts = [
        "\n\n".join(
            [
                f"### {_count(figures[name]['vectors'])} embeddings, {name.split()[0]}",
                _own(figures[name]),
                _others(figures[name]),
            ]
        )
        for name in sizes
    ]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(filter(None, parts)) + f"\n\n{END}{after}"


def _count(n: int) -> str:
    return f"{n:,}"


def _own(figures: Figures) -> str:
    rows = [
        "| searched | recall@10 | worst | p50 | p95 | CPU p50 | CPU p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [*figures["questions"].items(), ("any type, without an index", figures["exactly"])]
    rows += [
        f"| {text} | {item['recall']:.4f} | {item['worst']:.1f} | {item['p50_ms']:.0f} ms | "
        f"{item['p95_ms']:.0f} ms | {item['cpu_p50_ms']:.0f} ms | {item['cpu_p95_ms']:.0f} ms |"
        for text, item in named
    ]
    answer = (
        f"{figures['machine']}; faiss {figures['faiss']}, usearch {figures['usearch']}, NumPy "
        f"{figures['numpy']}; {figures['at']}. Index: built in {figures['build_s']:.0f} s "
        f"({figures['build_cpu_s']:.0f} s of CPU) with at most "
        f"{_mb(figures['build_peak_bytes'])} of memory, {_mb(figures['index_bytes'])} on disk "
        f"beside a database of {_mb(figures['database_bytes'])}. Query: the first one of a "
        f"process takes {figures['first_s']:.2f} s, as the index is read once to check it; "
        f"{_mb(figures['own_bytes'])} of memory of its own, {_mb(figures['peak_bytes'])} with the "
        f"mapped file. {figures['queries']} queries each, stored frames, good and faulty."
    )
    return "\n".join(rows) + f"\n\n{answer}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _others(figures: Figures) -> str:
    if not figures["others"]:
        return ""
    rows = [
        "| alternative, any type | recall@10 | p95 | with 100 reranked | p95 | built in | index |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {item['words']} | {item['as it is']['recall']:.3f} | {item['as it is']['p95_ms']:.1f} "
        f"ms | {item['reranked']['recall']:.3f} | {item['reranked']['p95_ms']:.1f} ms | "
        f"{item['build_s']:.0f} s ({item['build_cpu_s']:.0f} s CPU) | {_mb(item['index_bytes'])} |"
        for item in figures["others"].values()
    ]
    return "\n".join(rows)
