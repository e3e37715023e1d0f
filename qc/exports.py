"""What is stored, as tables for people's own tools."""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date
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


def read_table(session: Session, what: What, since: date | None = None) -> pd.DataFrame:
    """Return one row for each extension that was judged (or labelled), oldest first.

    Parameters
    ----------
    since : date, optional
        The first night wanted.
    """
    return table_of(session, what, database.findings(session, since or date.min))


def table_of(session: Session, what: What, found: Iterable[Finding]) -> pd.DataFrame:
    """Return one row for each of these extensions, in this order; of labels, where there are."""
    records = [record for finding in found for record in _RECORDS[what](session, finding)]
    return pd.DataFrame.from_records(records, columns=list(_COLUMNS[what]))


def _identity(finding: Finding) -> dict[str, Any]:
    return {
        "file": Path(finding.frame.path).name,
        "extension": finding.extension.number,
        "image_type": finding.extension.image_type,
        "observed_at": finding.frame.observed_at,
    }


def _setup(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding.extension, name) for name in _SETUP}


def _verdict_records(_session: Session, finding: Finding) -> Iterator[dict[str, Any]]:
    verdict, label = finding.verdict, finding.label
    yield {
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


def _embedding_records(session: Session, finding: Finding) -> Iterator[dict[str, Any]]:
    vector = database.embedding_of(session, finding.extension.id, finding.verdict.encoder_id)
    yield {
        **_identity(finding),
        "fingerprint": finding.fingerprint,
        "embedding": vector.tolist(),
    }


def _label_records(_session: Session, finding: Finding) -> Iterator[dict[str, Any]]:
    if label := finding.label:
        names = ("label", "kind", "who", "at", "note")
        yield {**_identity(finding), **{name: getattr(label, name) for name in names}}


def _metric_records(_session: Session, finding: Finding) -> Iterator[dict[str, Any]]:
    yield {
        **_identity(finding),
        **_setup(finding),
        "exposure_s": finding.frame.exposure_s,
        **finding.extension.metrics,
    }


_RECORDS: dict[What, Callable[[Session, Finding], Iterator[dict[str, Any]]]] = {
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
    [record] = _verdict_records(session, finding)
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
    """Write a table as CSV, Parquet or VOTable.

    An embedding is a list of numbers in Parquet, and JSON where a cell holds only text.

    Raises
    ------
    ConfigurationError
        If the format needs a library that is not installed.
    """
    if form is Format.PARQUET:
        _write_parquet(table, stream)
    elif form is Format.CSV:
        stream.write(csv_of(table))
    else:
        Table.from_pandas(_textual(_flat(table))).write(stream, format="votable")


def csv_of(table: pd.DataFrame, *, has_names: bool = True) -> bytes:
    """Return a table as CSV, under the names of its columns or without them."""
    form = "%Y-%m-%dT%H:%M:%S.%fZ"
    return _flat(table).to_csv(index=False, header=has_names, date_format=form).encode()


def write_table_file(table: pd.DataFrame, form: Format, path: Path) -> None:
    """Write a table to a file; what was there stays until the new one is whole."""
    with written_whole(path) as stream:
        write_table(table, form, stream)


def _write_parquet(table: pd.DataFrame, stream: BinaryIO) -> None:
    try:
        table.to_parquet(stream, index=False)
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs pyarrow: pip install 'calibration-qc[parquet]', or use --format csv"
        ) from error


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Write lists as JSON: a cell of CSV or VOTable holds text or a number."""
    if "embedding" not in table:
        return table
    return table.assign(embedding=[json.dumps(vector) for vector in table["embedding"]])


def _textual(table: pd.DataFrame) -> pd.DataFrame:
    """Write dates and words as plain strings, missing ones empty: VOTable knows no others."""
    text = [str(name) for name in table.columns if not pd.api.types.is_numeric_dtype(table[name])]
    return table.assign(**{name: [_spell(value) for value in table[name]] for name in text})


def _spell(value: Any) -> str:
    if value is None or value is pd.NaT:
        return ""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
