"""Measure detection on a simulated history that nothing was tuned on.

``python -m benchmarks.detection --work /tmp/detection``

Simulates and judges what is not yet in the folder (half an hour on two cores), then scores every
method and writes ``docs/detection.json``, the figures in ``docs/detection.md`` and the pictures.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.detection import analysis, pictures, report
from benchmarks.detection.evidence import Record, prepare
from benchmarks.detection.history import ARMS, TEST
from benchmarks.detection.methods import METHODS


def main() -> None:
    """Simulate and judge what is missing; measure; write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for databases; resumable")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of detection.md")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(ARMS), mp_context=context) as pool:
        list(pool.map(partial(prepare, work=arguments.work, history=TEST), ARMS))
    _measure([Record(arguments.work, arm) for arm in ARMS], arguments.docs)


def _measure(records: list[Record], docs: Path) -> None:
    samples = [sample for record in records for sample in record.samples]
    scores = analysis.score_all(records)
    product = analysis.product_table(samples)
    methods = analysis.method_tables(scores)
    faults = analysis.recall_by_fault(samples)
    sizes = analysis.by_reference_size(samples)
    light = analysis.by_brightness(scores)
    costs = {row.name: scores.milliseconds(row) for row in METHODS}
    results = {
        "seed": TEST.seed,
        "product": product,
        "methods": methods,
        "milliseconds": costs,
        "recall_by_fault": faults,
        "by_reference_size": sizes,
        "by_brightness": light,
    }
    report.write_json(docs / "detection.json", results)
    sections = [
        report.product_section(product),
        report.methods_section(methods, costs),
        report.by_type_section(methods, "auroc", "AUROC by image type"),
        report.by_type_section(methods, "f1", "F1 at the threshold by image type"),
        report.rates_section("Verdicts by number of references", "references", sizes),
        report.rates_section("Verdicts by light, of frames of a lamp", "its light", light),
        report.misses_section(analysis.misses(samples)),
        report.false_alarms_section(analysis.false_alarms(samples)),
    ]
    report.update_markdown(docs / "detection.md", sections)
    pictures.draw_curves(scores.scored, methods, docs / "pictures" / "detection_curves.png")
    pictures.draw_recall(faults, docs / "pictures" / "detection_recall.png")
    pictures.draw_scores(scores.scored, docs / "pictures" / "detection_scores.png")
    pictures.draw_misses(analysis.misses(samples), docs / "pictures" / "detection_misses.png")


if __name__ == "__main__":
    main()
