import csv
import io
import json
import tracemalloc
from datetime import date

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse
from astropy.table import Table
from sqlalchemy import select

from qc import db
from qc.core.enums import ExportFormat, ExportTable, LabelName
from qc.db.schema.models import VerdictRow
from qc.detection.decision import widening
from qc.detection.metrics import METRICS
from qc.errors import UnknownFrameError
from qc.exports import (
    encode_tables,
    frame_records,
    project_status,
    read_table,
    read_tables,
    write_table,
    write_tables,
    write_tables_file,
)
from tests.support.databases import copied_project
from tests.support.tiny_spectrograph import (
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions

PROMISED = ["file", "extension", "image_type", "observed_at", "status", "merge_height"]
PROMISED += ["threshold", "score", "reasons", "predicted_type", "predicted_kind", "fingerprint"]
HOSTILE = '[red]=1+1, "x" <b>&amp;\';λ.fits'


@pytest.fixture(scope="module")
def exported_folder(empty_project, tmp_path_factory):
    """Project with twenty certified frames, and one with a leak and a hostile name."""
    folder = tmp_path_factory.mktemp("exported")
    (inbox := folder / "inbox").mkdir()
    with copied_project(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            leak = write_frame(inbox, night=2, change=light_leak)
            process(project, leak.rename(inbox / HOSTILE))
        yield project_folder


@pytest.fixture
def judged(exported_folder, tmp_path):
    """Copy of the exported project for one test."""
    with (
        copied_project(exported_folder, tmp_path / "judged") as project_folder,
        open_tiny(project_folder) as project,
    ):
        yield project


def table_of(project, table_name, since=None) -> pd.DataFrame:
    with project.read_session() as session:
        return read_table(session, table_name, since)


def written(table: pd.DataFrame, form: ExportFormat) -> io.BytesIO:
    stream = io.BytesIO()
    write_table(table, form, stream)
    stream.seek(0)
    return stream


def test_verdict_table_begins_with_the_documented_columns(judged):
    table = table_of(judged, ExportTable.VERDICTS)
    assert list(table.columns)[: len(PROMISED)] == PROMISED
    assert len(table) == 21


def test_verdict_table_row_describes_the_extension(judged):
    row = table_of(judged, ExportTable.VERDICTS).iloc[-1]
    assert (row["file"], row["extension"], row["image_type"]) == (HOSTILE, 0, "TB0")
    assert (row["status"], row["threshold"], row["fingerprint"]) == (
        "ANOMALOUS",
        pytest.approx(0.001 * widening(20)),
        "stand-in-1",
    )
    far = row["merge_height"] / row["threshold"]  # the score: nine tenths of it, and a tenth
    assert row["score"] == pytest.approx(1 + 0.9 * (far - 1), rel=0.05)
    assert row["observed_at"] == pd.Timestamp("2026-01-02T20:00:00Z")
    assert row["label"] == ""
    assert set(table_of(judged, ExportTable.VERDICTS)["label"][:20]) == {"good"}


def test_verdict_table_has_predictions_with_probabilities(judged):
    with judged.write_session.begin() as session:
        verdict = session.scalars(select(VerdictRow)).all()[-1]
        verdict.predicted_type, verdict.type_probability = "TB0", 0.97
        verdict.predicted_kind, verdict.kind_probability = "light_leak", 0.8
    said = ["predicted_type", "type_probability", "predicted_kind", "kind_probability"]
    table = table_of(judged, ExportTable.VERDICTS)[said]
    assert list(table.iloc[-1]) == ["TB0", 0.97, "light_leak", 0.8]
    assert list(table.iloc[0][["predicted_type", "predicted_kind"]]) == ["", ""]
    assert table.iloc[0][["type_probability", "kind_probability"]].isna().all()


def test_csv_is_read_by_a_standard_reader(judged):
    table = table_of(judged, ExportTable.VERDICTS)
    stream = written(table, ExportFormat.CSV)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    assert rows[-1]["file"] == HOSTILE
    assert rows[-1]["observed_at"] == "2026-01-02T20:00:00.000000Z"
    assert rows[0]["merge_height"] == ""  # no references then
    back = pd.read_csv(stream)
    assert back["score"].to_numpy() == pytest.approx(table["score"].to_numpy())


def test_votable_is_read_by_astropy(judged):
    back = Table.read(
        written(table_of(judged, ExportTable.VERDICTS), ExportFormat.VOTABLE), format="votable"
    )
    assert back.colnames[: len(PROMISED)] == PROMISED
    assert str(back["file"][-1]) == HOSTILE
    assert str(back["observed_at"][-1]) == "2026-01-02T20:00:00+00:00"
    assert float(back["score"][-1]) > 1


def test_votable_holds_any_text_and_missing_numbers():
    note = "<b> & ]]> \x00\x1b é"
    table = pd.DataFrame(
        {
            "file": ["a", None],
            "extension": [0, 1],
            "at": [pd.NaT, pd.Timestamp("2026-01-02T20:00:00Z")],
            "night": [date(2026, 1, 2), None],
            "score": [np.nan, -np.inf],
            "note": [note, np.nan],
        }
    )
    [item] = parse(written(table, ExportFormat.VOTABLE), verify="exception").iter_tables()
    assert [field.datatype for field in item.fields].count("unicodeChar") == 4
    back = item.to_table()
    assert back["note"].tolist() == [note.replace("\x00", " ").replace("\x1b", " "), ""]
    assert back["file"].tolist() == ["a", ""]
    assert back["at"].tolist() == ["", "2026-01-02T20:00:00+00:00"]
    assert back["night"].tolist() == ["2026-01-02", ""]
    assert np.isnan(back["score"].filled(np.nan)[0])
    assert back["score"][1] == -np.inf


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.VOTABLE])
def test_encode_tables_yields_before_reading_the_next_part(form):
    requested = []

    def tables():
        for number in range(2):
            requested.append(number)
            yield pd.DataFrame({"file": [f"f{number}"], "extension": [0]})

    parts = encode_tables(tables(), form)
    while b"f0" not in next(parts):
        pass
    assert requested == [0]
    assert b"f1" in b"".join(parts)


def test_parquet_has_times_and_lists(judged):
    verdicts = pd.read_parquet(
        written(table_of(judged, ExportTable.VERDICTS), ExportFormat.PARQUET)
    )
    assert verdicts["observed_at"].iloc[-1] == pd.Timestamp("2026-01-02T20:00:00Z")
    embeddings = pd.read_parquet(
        written(table_of(judged, ExportTable.EMBEDDINGS), ExportFormat.PARQUET)
    )
    with judged.read_session() as session:
        stored = db.embeddings.embedding_of(session, 21, 1)
    assert np.array_equal(np.float32(embeddings["embedding"].iloc[-1]), stored)


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.VOTABLE])
def test_embeddings_are_json_in_csv(judged, form):
    stream = written(table_of(judged, ExportTable.EMBEDDINGS), form)
    if form is ExportFormat.CSV:
        cell = pd.read_csv(stream)["embedding"].iloc[0]
    else:
        cell = str(Table.read(stream, format="votable")["embedding"][0])
    assert len(json.loads(cell)) == 13


@pytest.mark.parametrize("table_name", ExportTable)
@pytest.mark.parametrize("form", ExportFormat)
def test_read_table_empty_project_has_no_rows(project, table_name, form):
    stream = written(table_of(project, table_name), form)
    if form is ExportFormat.CSV:
        assert len(pd.read_csv(stream)) == 0
    elif form is ExportFormat.PARQUET:
        assert len(pd.read_parquet(stream)) == 0
    else:
        assert len(Table.read(stream, format="votable")) == 0


def test_metrics_have_columns_and_labels_have_rows(judged):
    metrics = table_of(judged, ExportTable.METRICS)
    assert set(METRICS) <= set(metrics.columns)
    assert metrics["bias_level"].between(99, 101).all()
    labels = table_of(judged, ExportTable.LABELS)
    assert labels["label"].tolist() == ["good"] * 20


def test_read_table_since_is_the_first_night(judged):
    assert len(table_of(judged, ExportTable.VERDICTS, date(2026, 1, 2))) == 1
    assert len(table_of(judged, ExportTable.VERDICTS, date(2026, 1, 3))) == 0


def test_write_tables_file_is_complete_or_absent(judged, tmp_path):
    def full():
        yield table_of(judged, ExportTable.LABELS)
        raise OSError("No space left on device")

    target = tmp_path / "t.csv"
    assert write_tables_file([table_of(judged, ExportTable.LABELS)], ExportFormat.CSV, target) == 20
    before = target.read_bytes()
    for form in (ExportFormat.CSV, ExportFormat.PARQUET, ExportFormat.VOTABLE):
        with pytest.raises(OSError, match="No space"):
            write_tables_file(full(), form, target)
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*t.csv*")] == ["t.csv"]


@pytest.mark.parametrize("table_name", ExportTable)
@pytest.mark.parametrize("form", ExportFormat)
def test_read_tables_parts_equal_the_table(judged, table_name, form):
    whole = table_of(judged, table_name)
    stream = io.BytesIO()
    with judged.read_session() as session:
        parts = list(read_tables(session, table_name, rows=6))
    assert [len(part) for part in parts][:3] == [6, 6, 6]
    assert write_tables(parts, form, stream) == len(whole)
    if form is ExportFormat.PARQUET:
        stream.seek(0)
        assert pq.ParquetFile(stream).num_row_groups == len(parts)
        stream.seek(0)
        pd.testing.assert_frame_equal(
            pd.read_parquet(stream), pd.read_parquet(written(whole, form))
        )
    else:
        assert stream.getvalue() == written(whole, form).getvalue()


def test_table_of_empty_column_keeps_its_type(judged):
    """The first twenty frames have neither merge height nor prediction."""
    stream = io.BytesIO()
    with judged.read_session() as session:
        write_tables(
            read_tables(session, ExportTable.VERDICTS, rows=1), ExportFormat.PARQUET, stream
        )
    stream.seek(0)
    back = pd.read_parquet(stream)
    assert back["merge_height"].iloc[0] != back["merge_height"].iloc[0]  # not a number
    assert str(back["merge_height"].dtype) == "float64"
    assert back["observed_at"].iloc[-1] == pd.Timestamp("2026-01-02T20:00:00Z")


def test_write_tables_memory_is_bounded(project, tmp_path):
    """Two hundred of 64 KB are 13 MB; a part of 10 is 0.6 MB."""
    big = tuple(np.random.default_rng(0).normal(size=16_000))  # PostgreSQL's vectors hold no more
    add_extensions(project, *[StoredExtension(vector=big)] * 200)
    tracemalloc.start()
    try:
        with project.read_session() as session:
            tables = read_tables(session, ExportTable.EMBEDDINGS, rows=10)
            rows = write_tables_file(tables, ExportFormat.PARQUET, tmp_path / "e.parquet")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 200
    assert peak_bytes < 8e6


def test_frame_records_have_metrics_and_nearest_reference(judged):
    with judged.read_session() as session:
        [record] = frame_records(session, HOSTILE)
    assert record["status"] == "ANOMALOUS"
    assert record["nearest_reference"].startswith("TINY.2026-01-01T20:")
    assert record["nearest_reference"].endswith("[0]")
    assert record["metrics"]["gradient_y"]["z"] > 100


def test_frame_records_unknown_frame_is_refused(project):
    with (
        project.read_session() as session,
        pytest.raises(UnknownFrameError, match="nothing: no processed frame"),
    ):
        frame_records(session, "nothing")


def test_project_status_counts_and_lists_failures(judged, inbox):
    (inbox / "broken.fits").write_bytes(b"?")
    process(judged, inbox / "broken.fits")
    with judged.read_session() as session:
        status = project_status(session)
    assert status["files"] == {"processed": 21, "failed": 1}
    assert (status["alerts_owed"], status["newest_night"]) == (1, date(2026, 1, 2))
    [failure] = status["failed"]
    assert "expected a FITS file" in failure
