"""What is stored, as tables for people's own tools."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
from astropy.table import Table
from sqlalchemy.orm import Session

from qc import database
from qc.choices import Format, What
from qc.database import Finding
from qc.errors import ConfigurationError
from qc.files import written_whole
from qc.labels import log_in_words
from qc.metrics import METRICS
from qc.tables import FrameState

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
    What.VERDICTS: (
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
    What.EMBEDDINGS: (*_IDENTITY, "fingerprint", "embedding"),
    What.LABELS: (*_IDENTITY, "label", "kind", "who", "at", "note"),
    What.METRICS: (*_IDENTITY, "exposure_s", *_SETUP, *METRICS),
}


ROWS = 1000  # of a table that are in memory together: 4 MB of embeddings


def read_tables(
    session: Session, what: What, since: date | None = None, rows: int = ROWS
) -> Iterator[pd.DataFrame]:
    """Yield one row for each extension that was judged (or labelled), oldest first.

    However many they are, few are in memory together: so many at a time, as tables with the same
    columns; at least one table, if only with its columns.

    Parameters
    ----------
    since : date, optional
        The first night wanted.
    """
    found = database.findings(session, since or date.min)
    yield table_of(session, what, islice(found, rows))
    while some := list(islice(found, rows)):
        yield table_of(session, what, some)


def read_table(session: Session, what: What, since: date | None = None) -> pd.DataFrame:
    """Return all of it as one table: not for the embeddings of ten years."""
    return table_of(session, what, database.findings(session, since or date.min))


def table_of(session: Session, what: What, found: Iterable[Finding]) -> pd.DataFrame:
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
        fingerprint: database.vectors_with(session, fingerprint, ids)
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


_RECORDS: dict[What, Callable[[Session, Iterable[Finding]], Iterator[dict[str, Any]]]] = {
    What.VERDICTS: _verdict_records,
    What.EMBEDDINGS: _embedding_records,
    What.LABELS: _label_records,
    What.METRICS: _metric_records,
}


def frame_records(session: Session, name: str) -> list[dict[str, Any]]:
    """Return all that is known of one frame, a record for each extension.

    Raises
    ------
    UnknownFrame
        If no processed frame has this archive name, file name or path.
    """
    return [_frame_record(session, one) for one in database.findings_named(session, name)]


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
        "labels": log_in_words(database.labels_of(session, [extension_id]).get(extension_id, ())),
        "nearest_reference": database.name_of(session, nearest) if nearest else "",
        "metrics": {key: {"value": value, "z": z.get(key)} for key, value in metrics.items()},
    }


def project_status(session: Session) -> dict[str, Any]:
    """Return what is stored, what failed, what is owed, and how fresh it is."""
    failed = [
        row.reason  # which begins with the path
        for row in database.unprocessed(session)
        if row.state == FrameState.FAILED
    ]
    return {
        "files": database.frame_states(session),
        "verdicts": database.verdict_counts(session),
        "newest_night": database.newest_night(session),
        "last_processed_at": database.last_processed_at(session),
        "alerts_owed": database.alerts_owed(session),
        "encoders": database.encoder_counts(session),
        "failed": failed,
    }


def write_table(table: pd.DataFrame, form: Format, stream: BinaryIO) -> None:
    """Write one table; as `write_tables` does."""
    write_tables([table], form, stream)


def write_tables(tables: Iterable[pd.DataFrame], form: Format, stream: BinaryIO) -> int:
    """Write tables of the same columns as one, in CSV, Parquet or VOTable; return its rows.

    An embedding is a list of numbers in Parquet, and JSON where a cell holds only text. CSV and
    Parquet take a table at a time; a VOTable is in memory as a whole.

    Raises
    ------
    ConfigurationError
        If the format needs a library that is not installed.
    """
    if form is Format.PARQUET:
        return _write_parquet(tables, stream)
    if form is Format.CSV:
        return _write_csv(tables, stream)
    table = pd.concat([_flat(one) for one in tables], ignore_index=True)
    Table.from_pandas(_textual(table)).write(stream, format="votable")
    return len(table)


def csv_of(table: pd.DataFrame, *, has_names: bool = True) -> bytes:
    """Return a table as CSV, under the names of its columns or without them."""
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    return _flat(table).to_csv(index=False, header=has_names, date_format=form).encode()


def write_tables_file(tables: Iterable[pd.DataFrame], form: Format, path: Path) -> int:
    """Write tables to a file and return its rows; what was there stays until it is whole."""
    with written_whole(path) as stream:
        return write_tables(tables, form, stream)


def _write_csv(tables: Iterable[pd.DataFrame], stream: BinaryIO) -> int:
    rows = 0
    for number, table in enumerate(tables):
        stream.write(csv_of(table, has_names=number == 0))
        rows += len(table)
    return rows


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


def _textual(table: pd.DataFrame) -> pd.DataFrame:
    """Write dates and words as plain strings, missing ones empty: VOTable knows no others."""
    text = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: [_spell(value) for value in table[name]] for name in text})


def _spell(value: Any) -> str:
    if value is None or value is pd.NaT:
        return ""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
