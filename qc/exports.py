"""Exports: verdicts, labels, embeddings and metrics as pandas, CSV, Parquet or VOTable.

pandas and NumPy are imported on first use: the status of a project needs neither.
"""

import itertools
import json
from collections import abc
from datetime import date
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.sax.saxutils import escape

from sqlalchemy.orm import Session

from qc import db
from qc._files import atomic_writer
from qc.core import enums
from qc.db.findings import Finding
from qc.errors import ConfigurationError
from qc.labels.store import history_lines

if TYPE_CHECKING:
    import pandas as pd

ROWS = 1000  # rows of a table in memory at once: 4 MB of embeddings

_IDENTITY = ("file", "extension", "image_type", "observed_at")
_SETUP = ("chip", "binning", "read_mode", "wavelength_nm", "slit_arcsec", "optics")
_LABEL = ("label", "kind", "who", "at", "note")
_TEXT = (
    *("file", "image_type", "status", "reasons", "predicted_type", "predicted_kind"),
    *("fingerprint", "widened", "label", "path", "kind", "who", "note"),
    *("chip", "binning", "read_mode", "optics"),
)
_TIMES, _INTEGERS = ("observed_at", "judged_at", "at"), ("extension", "reference_size")
_NOT_FLOAT = {*_TEXT, *_TIMES, *_INTEGERS, "night", "embedding"}
_VERDICT = (
    *("status", "merge_height", "threshold", "score", "reasons", "predicted_type"),
    *("predicted_kind", "fingerprint", "residual", "reference_size", "widened"),
    *("type_probability", "kind_probability", "label", "judged_at", "night"),
)
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
_VOTABLE_HEAD = """<?xml version="1.0" encoding="utf-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results"><TABLE>"""
_VOTABLE_END = """</TABLEDATA></DATA>
</TABLE></RESOURCE>
</VOTABLE>
"""
_NOT_IN_XML = dict.fromkeys({*range(32)} - {9, 10, 13} | {0xFFFE, 0xFFFF}, " ")


def columns_of(table: enums.ExportTable) -> tuple[str, ...]:
    """Return the columns of a table."""
    if table is enums.ExportTable.VERDICTS:
        return (*_IDENTITY, *_VERDICT, *_SETUP, "path")
    if table is enums.ExportTable.EMBEDDINGS:
        return (*_IDENTITY, "fingerprint", "embedding")
    if table is enums.ExportTable.LABELS:
        return (*_IDENTITY, *_LABEL)
    from qc.detection.metrics import METRICS  # noqa: PLC0415 - imports SciPy

    return (*_IDENTITY, "exposure_s", *_SETUP, *METRICS)


def read_tables(
    session: Session, table: enums.ExportTable, since: date | None = None, rows: int = ROWS
) -> "abc.Iterator[pd.DataFrame]":
    """Yield a table in parts, one row for each judged (or labelled) extension, oldest first.

    Parameters
    ----------
    session : Session
    table : ExportTable
    since : date, optional
        First night.
    rows : int
        Largest number of rows of a part.

    Yields
    ------
    DataFrame
        At least one, which may be empty; all have the same columns.
    """
    findings = db.findings.findings(session, since or date.min)
    yield table_of(session, table, itertools.islice(findings, rows))
    while part := list(itertools.islice(findings, rows)):
        yield table_of(session, table, part)


def read_table(
    session: Session, table: enums.ExportTable, since: date | None = None
) -> "pd.DataFrame":
    """Return a complete table in memory.

    Parameters
    ----------
    session : Session
    table : ExportTable
    since : date, optional
        First night.

    Returns
    -------
    DataFrame
    """
    return table_of(session, table, db.findings.findings(session, since or date.min))


def table_of(
    session: Session, table: enums.ExportTable, findings: abc.Iterable[Finding]
) -> "pd.DataFrame":
    """Return a table with a row for each finding, in their order.

    Parameters
    ----------
    session : Session
    table : ExportTable
    findings : iterable of Finding
        For labels, those without a label are left out.

    Returns
    -------
    DataFrame
    """
    import pandas as pd  # noqa: PLC0415

    records = list(_RECORDS[table](session, findings))
    frame = pd.DataFrame.from_records(records, columns=list(columns_of(table)))
    numbers = [name for name in frame if name not in _NOT_FLOAT]
    return frame.astype(dict.fromkeys(numbers, float))  # a column without values is of objects


def _identity(finding: Finding) -> dict[str, Any]:
    return {
        "file": Path(finding.frame.path).name,
        "extension": finding.extension.number,
        "image_type": finding.extension.image_type,
        "observed_at": finding.frame.observed_at,
    }


def _setup(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding.extension, name) for name in _SETUP}


def verdict_record(finding: Finding) -> dict[str, Any]:
    """Return a finding as a row of the table of verdicts."""
    verdict, label = finding.verdict, finding.label
    return {
        **_identity(finding),
        **_setup(finding),
        "status": str(verdict.status),
        "merge_height": verdict.merge_height,
        "threshold": verdict.threshold,
        "score": verdict.score,
        "reasons": "; ".join(verdict.reasons),
        "predicted_type": verdict.predicted_type or "",
        "type_probability": verdict.type_probability,
        "predicted_kind": verdict.predicted_kind or "",
        "kind_probability": verdict.kind_probability if verdict.predicted_kind else None,
        "fingerprint": finding.fingerprint,
        "residual": verdict.residual,
        "reference_size": verdict.reference_size,
        "widened": verdict.widened,
        "label": str(label.label) if label else "",
        "judged_at": verdict.judged_at,
        "night": finding.frame.night,
        "path": finding.frame.path,
    }


def _verdict_records(
    _session: Session, findings: abc.Iterable[Finding]
) -> abc.Iterator[dict[str, Any]]:
    return map(verdict_record, findings)


def _embedding_records(
    session: Session, findings: abc.Iterable[Finding]
) -> abc.Iterator[dict[str, Any]]:
    findings = list(findings)
    ids_by_encoder: dict[str, list[int]] = {}
    for finding in findings:
        ids_by_encoder.setdefault(finding.fingerprint, []).append(finding.extension.id)
    vectors = {
        fingerprint: db.embeddings.vectors_of(session, fingerprint, ids)
        for fingerprint, ids in ids_by_encoder.items()
    }
    for finding in findings:
        vector = vectors[finding.fingerprint][finding.extension.id]
        yield {**_identity(finding), "fingerprint": finding.fingerprint, "embedding": vector}


def _label_records(
    _session: Session, findings: abc.Iterable[Finding]
) -> abc.Iterator[dict[str, Any]]:
    for finding in findings:
        if label := finding.label:
            yield {**_identity(finding), **{name: getattr(label, name) for name in _LABEL}}


def _metric_records(
    _session: Session, findings: abc.Iterable[Finding]
) -> abc.Iterator[dict[str, Any]]:
    for finding in findings:
        metrics = {"exposure_s": finding.frame.exposure_s, **finding.extension.metrics}
        yield {**_identity(finding), **_setup(finding), **metrics}


_RECORDS: dict[
    enums.ExportTable, abc.Callable[[Session, abc.Iterable[Finding]], abc.Iterator[dict[str, Any]]]
] = {
    enums.ExportTable.VERDICTS: _verdict_records,
    enums.ExportTable.EMBEDDINGS: _embedding_records,
    enums.ExportTable.LABELS: _label_records,
    enums.ExportTable.METRICS: _metric_records,
}


def frame_records(session: Session, name: str) -> list[dict[str, Any]]:
    """Return verdict, labels and metrics of each extension of a frame.

    Parameters
    ----------
    session : Session
    name : str
        Archive name, file name or path.

    Returns
    -------
    list of dict

    Raises
    ------
    UnknownFrameError
        If no processed frame has the name.
    """
    records = []
    for finding in db.findings.findings_named(session, name):
        verdict, extension = finding.verdict, finding.extension
        history = db.labels.labels_of(session, [extension.id]).get(extension.id, ())
        nearest = verdict.nearest_id
        records.append(
            {
                **verdict_record(finding),
                "exposure_s": finding.frame.exposure_s,
                "promised_light": extension.promised_light,
                "template": finding.frame.template,
                "reasons": verdict.reasons,
                "labels": history_lines(history),
                "nearest_reference": (
                    db.extensions.extension_name(session, nearest) if nearest else ""
                ),
                "metrics": {
                    key: {"value": value, "z": verdict.z.get(key)}
                    for key, value in extension.metrics.items()
                },
            }
        )
    return records


def project_status(session: Session) -> dict[str, Any]:
    """Return the counts of a project: files, verdicts, pending alerts, encoders, failed files."""
    failed = [
        row.reason  # begins with the path
        for row in db.statistics.unprocessed_files(session)
        if row.state == enums.FrameState.FAILED
    ]
    return {
        "files": db.statistics.frame_states(session),
        "verdicts": db.statistics.verdict_counts(session),
        "newest_night": db.statistics.newest_night(session),
        "last_processed_at": db.statistics.last_processed_at(session),
        "alerts_owed": db.statistics.count_pending_alerts(session),
        "encoders": db.statistics.encoder_counts(session),
        "failed": failed,
    }


def write_table(table: "pd.DataFrame", form: enums.ExportFormat, stream: BinaryIO) -> None:
    """Write one table; see `write_tables`.

    Parameters
    ----------
    table : DataFrame
    form : ExportFormat
    stream : binary file
    """
    write_tables([table], form, stream)


def write_tables(
    tables: "abc.Iterable[pd.DataFrame]", form: enums.ExportFormat, stream: BinaryIO
) -> int:
    """Write the parts of a table, and return the number of rows.

    An embedding is a list of numbers in Parquet, and JSON in CSV and VOTable.

    Parameters
    ----------
    tables : iterable of DataFrame
        Parts with the same columns; each is in memory once.
    form : ExportFormat
    stream : binary file

    Returns
    -------
    int

    Raises
    ------
    ConfigurationError
        If the format needs a library that is not installed.
    """
    if form is enums.ExportFormat.PARQUET:
        return _write_parquet(tables, stream)
    rows = 0

    def counted_tables() -> "abc.Iterator[pd.DataFrame]":
        nonlocal rows
        for table in tables:
            rows += len(table)
            yield table

    stream.writelines(encode_tables(counted_tables(), form))
    return rows


def write_tables_file(
    tables: "abc.Iterable[pd.DataFrame]", form: enums.ExportFormat, path: Path
) -> int:
    """Write the parts of a table to a file, and return the number of rows.

    Parameters
    ----------
    tables : iterable of DataFrame
    form : ExportFormat
    path : Path
        An existing file is replaced when the new one is complete.

    Returns
    -------
    int
    """
    with atomic_writer(path) as stream:
        return write_tables(tables, form, stream)


def encode_tables(
    tables: "abc.Iterable[pd.DataFrame]", form: enums.ExportFormat
) -> abc.Iterator[bytes]:
    """Yield the parts of a table, at least one, as CSV or VOTable.

    Parameters
    ----------
    tables : iterable of DataFrame
    form : ExportFormat
        CSV or VOTABLE.

    Yields
    ------
    bytes
    """
    if form is enums.ExportFormat.CSV:
        for number, table in enumerate(tables):
            text = _with_json(table).to_csv(
                index=False, header=number == 0, date_format=_TIME_FORMAT
            )
            yield text.encode()
    else:
        yield from _encode_votable(tables)


def _encode_votable(tables: "abc.Iterable[pd.DataFrame]") -> abc.Iterator[bytes]:
    """Yield a VOTable; astropy's writer needs all rows in memory, and five times as long."""
    for number, table in enumerate(tables):
        if number == 0:
            yield "\n".join([_VOTABLE_HEAD, *_fields(table), "<DATA><TABLEDATA>\n"]).encode()
        columns = [list(map(format_cell, values)) for _, values in _with_json(table).items()]
        yield "".join(f"<TR>{''.join(row)}</TR>\n" for row in zip(*columns, strict=True)).encode()
    yield _VOTABLE_END.encode()


def _fields(table: "pd.DataFrame") -> abc.Iterator[str]:
    """Yield the FIELD element of each column."""
    for name in map(str, table.columns):
        kind = 'datatype="double"'
        if name in _INTEGERS:
            kind = 'datatype="long"'
        elif name in _NOT_FLOAT:
            kind = 'datatype="unicodeChar" arraysize="*"'
        yield f'<FIELD ID="{name}" name="{name}" {kind}/>'


def format_cell(value: Any) -> str:
    """Return a cell of a VOTable; a missing number or text is empty."""
    import pandas as pd  # noqa: PLC0415

    if isinstance(value, str):
        return f"<TD>{escape(value.translate(_NOT_IN_XML))}</TD>" if value else "<TD/>"
    if pd.isna(value):
        return "<TD/>"
    if isinstance(value, float) and isinf(value):
        return "<TD>+InF</TD>" if value > 0 else "<TD>-InF</TD>"
    return f"<TD>{value.isoformat() if hasattr(value, 'isoformat') else value}</TD>"


def _write_parquet(tables: "abc.Iterable[pd.DataFrame]", stream: BinaryIO) -> int:
    """Write one row group for each part, with the same types of columns."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional, and slow to import
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs pyarrow: pip install 'calibration-qc[parquet]', or use --format csv"
        ) from error
    kinds = {
        "night": pa.date32(),
        "embedding": pa.list_(pa.float32()),
        **dict.fromkeys(_INTEGERS, pa.int64()),
        **dict.fromkeys(_TIMES, pa.timestamp("us", "UTC")),
        **dict.fromkeys(_TEXT, pa.string()),
    }
    parts = iter(tables)
    first = next(parts)
    schema = pa.schema([(str(name), kinds.get(name, pa.float64())) for name in first.columns])
    plain = [str(name) for name in first.columns if name != "embedding"]
    rows = 0
    with pq.ParquetWriter(stream, schema, use_dictionary=plain) as writer:
        for table in itertools.chain([first], parts):
            writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))
            rows += len(table)
    return rows


def _with_json(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return a table with embeddings as JSON texts."""
    if "embedding" not in table:
        return table
    return table.assign(embedding=[json.dumps(vector.tolist()) for vector in table["embedding"]])
