"""Measure time and peak memory of the export of a long history's embeddings.

The rows are generated. The export runs as ``qc frames export embeddings`` does, in a process of its
own. Its peak memory is compared with that of a process which exports nothing.

Run: ``python -m benchmarks.exports --rows 100000 --work DIR``, which needs 15 KB a row there. It
exits 1 if the export took more than 400 MB above the program itself.
"""

import argparse
import shutil
import sys
import time
from datetime import date
from pathlib import Path

from benchmarks.search.__main__ import apart
from benchmarks.search.asking import make, opened, peak_bytes, settings_of
from qc.core.enums import ExportFormat, ExportTable
from qc.exports import read_tables, write_tables_file

MOST_BYTES = 400e6


def export(work: Path, form: ExportFormat, since: date) -> tuple[int, float, int, int]:
    """Return the rows, the seconds, the bytes of the file and the peak memory."""
    target = work / f"embeddings.{form}"
    started = time.perf_counter()
    with opened(settings_of(work)) as project, project.read_session() as session:
        tables = read_tables(session, ExportTable.EMBEDDINGS, since)
        rows = write_tables_file(tables, form, target)
    return rows, time.perf_counter() - started, target.stat().st_size, peak_bytes()


def main() -> None:
    """Create the rows, export them, and print time and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder; removed in the end")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True)
    try:
        apart(make, arguments.work, arguments.rows, "")
        none = apart(export, arguments.work, ExportFormat.PARQUET, date.max)
        every = apart(export, arguments.work, ExportFormat.PARQUET, date.min)
    finally:
        shutil.rmtree(arguments.work)
    for rows, seconds, size, peak in (none, every):
        print(f"{rows:9,} rows: {seconds:6.1f} s, {size / 1e6:8.1f} MB, peak {peak / 1e6:5.0f} MB")
    if every[3] - none[3] > MOST_BYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
