"""Inject faults into real frames of other instruments, and let the product judge them.

``python -m benchmarks.real --real ../shared/real``

Writes ``benchmarks/results/real.json``, the tables in ``docs/results/real-frames.md`` and the
pictures.
"""

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.detection.report import update_markdown, write_json
from benchmarks.paths import PAGES, PICTURES, RESULTS
from benchmarks.real import analysis, pictures, report
from benchmarks.real.archive import ABSENT, MANIFEST
from benchmarks.real.folds import SEED
from benchmarks.real.judging import Verdict
from benchmarks.real.work import SHARES, judge_share


def main() -> None:
    """Make the frames, judge them, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, default=Path("../shared/real"), help="real frames")
    arguments = parser.parse_args()
    if not (arguments.real / MANIFEST).exists():
        sys.exit(ABSENT.format(folder=arguments.real))
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as work,
        ProcessPoolExecutor(len(SHARES), mp_context=context) as pool,
    ):
        judge = partial(judge_share, real=arguments.real, work=Path(work))
        shares = list(pool.map(judge, range(len(SHARES))))
    write([verdict for share in shares for verdict in share])


def write(verdicts: list[Verdict]) -> None:
    """Write figures and pictures."""
    series = analysis.by_series(verdicts)
    kinds = analysis.by_kind(verdicts)
    results = {
        "seed": SEED,
        "series": {title: vars(row) for title, row in series.items()},
        "kinds": {kind: {"found": tally, "auroc": rank} for kind, (tally, rank) in kinds.items()},
        "verdicts": [_plain(verdict) for verdict in verdicts],
    }
    write_json(RESULTS / "real.json", results)
    sections = [
        report.summary(series),
        report.series_section(series, verdicts),
        report.real_section(verdicts),
        report.kinds_section(kinds),
        report.misses_section(analysis.misses(verdicts)),
        report.false_alarms_section(analysis.false_alarms(verdicts)),
    ]
    update_markdown(PAGES / "real-frames.md", sections)
    pictures.draw_scores(verdicts, PICTURES / "real_scores.png")
    pictures.draw_frames(verdicts, PICTURES / "real_frames.png")


def _plain(verdict: Verdict) -> dict[str, object]:
    row = asdict(verdict)
    del row["picture"]
    return {**row, "score": round(verdict.score, 4)}


if __name__ == "__main__":
    main()
