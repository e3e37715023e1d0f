"""What is stored, as tables for people's own tools."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from itertools import chain, islice
from math import isinf
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import escape

import pandas as pd
from sqlalchemy.orm import Session

from qc import db
from qc._files import written_whole
from qc.core.enums import ExportFormat, ExportTable, FrameState
from qc.db.findings import Finding
from qc.detection.metrics import METRICS
from qc.errors import ConfigurationError
from qc.labels.store import log_in_words

_IDENTITY = ("file", "extension", "image_type", "observed_at")
_SETUP = ("chip", "binning", "read_mode", "wavelength_nm", "slit_arcsec", "optics")
_TEXT = (
    *("file", "image_type", "status", "reasons", "predicted_type", "predicted_kind"),
    *("fingerprint", "widened", "label", "path", "kind", "who", "note"),
    *("chip", "binning", "read_mode", "optics"),
)
_TIMES, _WHOLE = ("observed_at", "judged_at", "at"), ("extension", "reference_size")
_NO_NUMBERS = {*_TEXT, *_TIMES, *_WHOLE, "night", "embedding"}
_COLUMNS = {
    ExportTable.VERDICTS: (
        *_IDENTITY,
        "status",
        "merge_height",
        "threshold",
        "score",
        "reasons",
        "predicted_type",
        "predicted_kind",
        "fingerprint",
        "residual",
        "reference_size",
        "widened",
        "type_probability",
        "kind_probability",
        "label",
        "judged_at",
        "night",
        *_SETUP,
        "path",
    ),
    ExportTable.EMBEDDINGS: (*_IDENTITY, "fingerprint", "embedding"),
    ExportTable.LABELS: (*_IDENTITY, "label", "kind", "who", "at", "note"),
    ExportTable.METRICS: (*_IDENTITY, "exposure_s", *_SETUP, *METRICS),
}


ROWS = 1000  # of a table that are in memory together: 4 MB of embeddings


def read_tables(
    session: Session, what: ExportTable, since: date | None = None, rows: int = ROWS
) -> Iterator[pd.DataFrame]:
    """Yield one row for each extension that was judged (or labelled), oldest first.

    However many they are, few are in memory together: so many at a time, as tables with the same
    columns; at least one table, if only with its columns.

    Parameters
    ----------
    since : date, optional
        The first night wanted.
    """
    found = db.findings.findings(session, since or date.min)
    yield table_of(session, what, islice(found, rows))
    while some := list(islice(found, rows)):
        yield table_of(session, what, some)


def read_table(session: Session, what: ExportTable, since: date | None = None) -> pd.DataFrame:
    """Return all of it as one table: not for the embeddings of ten years."""
    return table_of(session, what, db.findings.findings(session, since or date.min))


def table_of(session: Session, what: ExportTable, found: Iterable[Finding]) -> pd.DataFrame:
    """Return one row for each of these extensions, in this order; of labels, where there are."""
    records = list(_RECORDS[what](session, found))
    table = pd.DataFrame.from_records(records, columns=list(_COLUMNS[what]))
    numbers = [name for name in table if name not in _NO_NUMBERS]
    return table.astype(dict.fromkeys(numbers, float))  # else of a column without a value: objects


def _identity(finding: Finding) -> dict[str, Any]:
    return {
        "file": Path(finding.frame.path).name,
        "extension": finding.extension.number,
        "image_type": finding.extension.image_type,
        "observed_at": finding.frame.observed_at,
    }


def _setup(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding.extension, name) for name in _SETUP}


def _verdict_record(finding: Finding) -> dict[str, Any]:
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


def _verdict_records(_session: Session, found: Iterable[Finding]) -> Iterator[dict[str, Any]]:
    return map(_verdict_record, found)


def _embedding_records(session: Session, found: Iterable[Finding]) -> Iterator[dict[str, Any]]:
    every = list(found)
    by_encoder: dict[str, list[int]] = {}
    for one in every:
        by_encoder.setdefault(one.fingerprint, []).append(one.extension.id)
    vectors = {
        fingerprint: db.embeddings.vectors_with(session, fingerprint, ids)
        for fingerprint, ids in by_encoder.items()
    }
    for one in every:
        vector = vectors[one.fingerprint][one.extension.id]
        yield {**_identity(one), "fingerprint": one.fingerprint, "embedding": vector}


def _label_records(_session: Session, found: Iterable[Finding]) -> Iterator[dict[str, Any]]:
    names = ("label", "kind", "who", "at", "note")
    for one in found:
        if label := one.label:
            yield {**_identity(one), **{name: getattr(label, name) for name in names}}


def _metric_records(_session: Session, found: Iterable[Finding]) -> Iterator[dict[str, Any]]:
    for one in found:
        own = {"exposure_s": one.frame.exposure_s, **one.extension.metrics}
        yield {**_identity(one), **_setup(one), **own}


_RECORDS: dict[ExportTable, Callable[[Session, Iterable[Finding]], Iterator[dict[str, Any]]]] = {
    ExportTable.VERDICTS: _verdict_records,
    ExportTable.EMBEDDINGS: _embedding_records,
    ExportTable.LABELS: _label_records,
    ExportTable.METRICS: _metric_records,
}


def frame_records(session: Session, name: str) -> list[dict[str, Any]]:
    """Return all that is known of one frame, a record for each extension.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name, file name or path.
    """
    return [_frame_record(session, one) for one in db.findings.findings_named(session, name)]


def _frame_record(session: Session, finding: Finding) -> dict[str, Any]:
    record = _verdict_record(finding)
    nearest, extension_id = finding.verdict.nearest_id, finding.extension.id
    z = finding.verdict.z
    metrics = finding.extension.metrics
    return {
        **record,
        "exposure_s": finding.frame.exposure_s,
        "promised_light": finding.extension.promised_light,
        "template": finding.frame.template,
        "reasons": finding.verdict.reasons,
        "labels": log_in_words(db.labels.labels_of(session, [extension_id]).get(extension_id, ())),
        "nearest_reference": db.selection.name_of(session, nearest) if nearest else "",
        "metrics": {key: {"value": value, "z": z.get(key)} for key, value in metrics.items()},
    }


def project_status(session: Session) -> dict[str, Any]:
    """Return what is stored, what failed, what is owed, and how fresh it is."""
    failed = [
        row.reason  # which begins with the path
        for row in db.statistics.unprocessed(session)
        if row.state == FrameState.FAILED
    ]
    return {
        "files": db.statistics.frame_states(session),
        "verdicts": db.statistics.verdict_counts(session),
        "newest_night": db.statistics.newest_night(session),
        "last_processed_at": db.statistics.last_processed_at(session),
        "alerts_owed": db.statistics.alerts_owed(session),
        "encoders": db.statistics.encoder_counts(session),
        "failed": failed,
    }


def write_table(table: pd.DataFrame, form: ExportFormat, stream: BinaryIO) -> None:
    """Write one table; as `write_tables` does."""
    write_tables([table], form, stream)


def write_tables(tables: Iterable[pd.DataFrame], form: ExportFormat, stream: BinaryIO) -> int:
    """Write tables of the same columns as one, in CSV, Parquet or VOTable; return its rows.

    An embedding is a list of numbers in Parquet, and JSON where a cell holds only text. A table is
    in memory at a time.

    Raises
    ------
    ConfigurationError
        If the format needs a library that is not installed.
    """
    if form is ExportFormat.PARQUET:
        return _write_parquet(tables, stream)
    rows = 0

    def told() -> Iterator[pd.DataFrame]:
        nonlocal rows
        for table in tables:
            rows += len(table)
            yield table

    stream.writelines(_TEXTS[form](told()))
    return rows


def text_of(tables: Iterable[pd.DataFrame], form: ExportFormat) -> Iterator[bytes]:
    """Yield tables of the same columns, at least one, as one in CSV or VOTable, as they come."""
    return _TEXTS[form](tables)


def _csv_of(tables: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    for number, table in enumerate(tables):
        yield _flat(table).to_csv(index=False, header=number == 0, date_format=form).encode()


def _votable_of(tables: Iterable[pd.DataFrame]) -> Iterator[bytes]:
    """Yield a VOTable: astropy's own writer has to hold all of it, and takes five times as long."""
    for number, table in enumerate(tables):
        if number == 0:
            yield "\n".join([_VOTABLE_HEAD, *_fields(table), "<DATA><TABLEDATA>\n"]).encode()
        columns = [list(map(_cell, values)) for _, values in _flat(table).items()]
        yield "".join(f"<TR>{''.join(row)}</TR>\n" for row in zip(*columns, strict=True)).encode()
    yield _VOTABLE_END.encode()


_VOTABLE_HEAD = """<?xml version="1.0" encoding="utf-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">
<RESOURCE type="results"><TABLE>"""
_VOTABLE_END = """</TABLEDATA></DATA>
</TABLE></RESOURCE>
</VOTABLE>
"""


def _fields(table: pd.DataFrame) -> Iterator[str]:
    """Yield what a VOTable says of each column."""
    for name in map(str, table.columns):
        kind = 'datatype="double"'
        if name in _WHOLE:
            kind = 'datatype="long"'
        elif name in _NO_NUMBERS:
            kind = 'datatype="unicodeChar" arraysize="*"'
        yield f'<FIELD ID="{name}" name="{name}" {kind}/>'


def _cell(value: Any) -> str:
    """Write a cell of a VOTable: what is missing is empty, of a number or of a text."""
    if isinstance(value, str):
        return f"<TD>{escape(value.translate(_NOT_IN_XML))}</TD>" if value else "<TD/>"
    if pd.isna(value):
        return "<TD/>"
    if isinstance(value, float) and isinf(value):
        return "<TD>+InF</TD>" if value > 0 else "<TD>-InF</TD>"
    return f"<TD>{value.isoformat() if hasattr(value, 'isoformat') else value}</TD>"


_NOT_IN_XML = dict.fromkeys({*range(32)} - {9, 10, 13} | {0xFFFE, 0xFFFF}, " ")


def write_tables_file(tables: Iterable[pd.DataFrame], form: ExportFormat, path: Path) -> int:
    """Write tables to a file and return its rows; what was there stays until it is whole."""
    with written_whole(path) as stream:
        return write_tables(tables, form, stream)


_TEXTS = {ExportFormat.CSV: _csv_of, ExportFormat.VOTABLE: _votable_of}


def _write_parquet(tables: Iterable[pd.DataFrame], stream: BinaryIO) -> int:
    """Write a row group for each table; the columns' types are known before the first row is."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - may not be installed, and is slow to load
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs pyarrow: pip install 'calibration-qc[parquet]', or use --format csv"
        ) from error
    kinds = {
        "night": pa.date32(),
        "embedding": pa.list_(pa.float32()),
        **dict.fromkeys(_WHOLE, pa.int64()),
        **dict.fromkeys(_TIMES, pa.timestamp("us", "UTC")),
        **dict.fromkeys(_TEXT, pa.string()),
    }
    parts = iter(tables)
    first = next(parts)
    schema = pa.schema([(str(name), kinds.get(name, pa.float64())) for name in first.columns])
    plain = [str(name) for name in first.columns if name != "embedding"]
    rows = 0
    with pq.ParquetWriter(stream, schema, use_dictionary=plain) as writer:
        for table in chain([first], parts):
            writer.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))
            rows += len(table)
    return rows


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Write embeddings as JSON: a cell of CSV or VOTable holds text or a number."""
    if "embedding" not in table:
        return table
    return table.assign(embedding=[json.dumps(one.tolist()) for one in table["embedding"]])
