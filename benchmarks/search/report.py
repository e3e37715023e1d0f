"""The figures as tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FIGURES = ROOT / "docs" / "search.json"
DOCUMENT = ROOT / "docs" / "search.md"
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


def _own(found: Figures) -> str:
    rows = [
        "| among | recall@10 | worst | p50 | p95 | CPU p50 | CPU p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [*found["questions"].items(), ("any type, without an index", found["exactly"])]
    rows += [
        f"| {words} | {one['recall']:.4f} | {one['worst']:.1f} | {one['p50_ms']:.0f} ms | "
        f"{one['p95_ms']:.0f} ms | {one['cpu_p50_ms']:.0f} ms | {one['cpu_p95_ms']:.0f} ms |"
        for words, one in named
    ]
    said = (
        f"{found['machine']}; faiss {found['faiss']}, usearch {found['usearch']}, NumPy "
        f"{found['numpy']}; {found['at']}. The index: made in {found['build_s']:.0f} s "
        f"({found['build_cpu_s']:.0f} s of CPU) with at most {_mb(found['build_peak_bytes'])} of "
        f"memory, {_mb(found['index_bytes'])} on disk beside a database of "
        f"{_mb(found['database_bytes'])}. Asking: the first question of a process takes "
        f"{found['first_s']:.2f} s, as the index is read once to see that it is whole; "
        f"{_mb(found['own_bytes'])} of memory of its own, {_mb(found['peak_bytes'])} with the "
        f"mapped file. {found['queries']} queries each, stored frames, good and faulty."
    )
    return "\n".join(rows) + f"\n\n{said}"


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _others(found: Figures) -> str:
    if not found["others"]:
        return ""
    rows = [
        "| another way, any type | recall@10 | p95 | with 100 reranked | p95 | built in | index |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {one['words']} | {one['as it is']['recall']:.3f} | {one['as it is']['p95_ms']:.1f} ms "
        f"| {one['reranked']['recall']:.3f} | {one['reranked']['p95_ms']:.1f} ms | "
        f"{one['build_s']:.0f} s ({one['build_cpu_s']:.0f} s CPU) | {_mb(one['index_bytes'])} |"
        for one in found["others"].values()
    ]
    return "\n".join(rows)
