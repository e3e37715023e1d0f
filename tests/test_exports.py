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
from qc.db.models import VerdictRow
from qc.detection.decision import widening
from qc.detection.metrics import METRICS
from qc.errors import UnknownFrameError
from qc.exports import (
    frame_records,
    project_status,
    read_table,
    read_tables,
    text_of,
    write_table,
    write_tables,
    write_tables_file,
)
from tests.support.databases import copied
from tests.support.remembered import Past, remember
from tests.support.tiny import light_leak, open_tiny, process, write_frame, write_history

PROMISED = ["file", "extension", "image_type", "observed_at", "status", "merge_height"]
PROMISED += ["threshold", "score", "reasons", "predicted_type", "predicted_kind", "fingerprint"]
HOSTILE = '[red]=1+1, "x" <b>&amp;\';λ.fits'


@pytest.fixture(scope="module")
def made(empty_project, tmp_path_factory):
    """Twenty certified frames, and one with a leak under a name made to annoy."""
    folder = tmp_path_factory.mktemp("exported")
    (inbox := folder / "inbox").mkdir()
    with copied(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            process(project, *write_history(inbox), label=LabelName.GOOD)
            leak = write_frame(inbox, night=2, change=light_leak)
            process(project, leak.rename(inbox / HOSTILE))
        yield project_folder


@pytest.fixture
def judged(made, tmp_path):
    """What was made, in a project of the test's own."""
    with copied(made, tmp_path / "judged") as project_folder, open_tiny(project_folder) as project:
        yield project


def table_of(project, what, since=None) -> pd.DataFrame:
    with project.reads() as session:
        return read_table(session, what, since)


def written(table: pd.DataFrame, form: ExportFormat) -> io.BytesIO:
    stream = io.BytesIO()
    write_table(table, form, stream)
    stream.seek(0)
    return stream


def test_the_table_of_verdicts_begins_with_the_promised_columns(judged):
    table = table_of(judged, ExportTable.VERDICTS)
    assert list(table.columns)[: len(PROMISED)] == PROMISED
    assert len(table) == 21


def test_a_row_says_what_was_judged(judged):
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


def test_what_a_classifier_says_stands_beside_its_probability(judged):
    with judged.writes.begin() as session:
        verdict = session.scalars(select(VerdictRow)).all()[-1]
        verdict.predicted_type, verdict.type_probability = "TB0", 0.97
        verdict.predicted_kind, verdict.kind_probability = "light_leak", 0.8
    said = ["predicted_type", "type_probability", "predicted_kind", "kind_probability"]
    table = table_of(judged, ExportTable.VERDICTS)[said]
    assert list(table.iloc[-1]) == ["TB0", 0.97, "light_leak", 0.8]
    assert list(table.iloc[0][["predicted_type", "predicted_kind"]]) == ["", ""]
    assert table.iloc[0][["type_probability", "kind_probability"]].isna().all()


def test_csv_is_what_any_reader_of_csv_can_read(judged):
    table = table_of(judged, ExportTable.VERDICTS)
    stream = written(table, ExportFormat.CSV)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue().decode())))
    assert rows[-1]["file"] == HOSTILE
    assert rows[-1]["observed_at"] == "2026-01-02T20:00:00.000000Z"
    assert rows[0]["merge_height"] == ""  # no references then
    back = pd.read_csv(stream)
    assert back["score"].to_numpy() == pytest.approx(table["score"].to_numpy())


def test_votable_opens_in_astropy(judged):
    back = Table.read(
        written(table_of(judged, ExportTable.VERDICTS), ExportFormat.VOTABLE), format="votable"
    )
    assert back.colnames[: len(PROMISED)] == PROMISED
    assert str(back["file"][-1]) == HOSTILE
    assert str(back["observed_at"][-1]) == "2026-01-02T20:00:00+00:00"
    assert float(back["score"][-1]) > 1


def test_a_votable_holds_any_text_and_what_is_no_number():
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
    [one] = parse(written(table, ExportFormat.VOTABLE), verify="exception").iter_tables()
    assert [field.datatype for field in one.fields].count("unicodeChar") == 4
    back = one.to_table()
    assert back["note"].tolist() == [note.replace("\x00", " ").replace("\x1b", " "), ""]
    assert back["file"].tolist() == ["a", ""]
    assert back["at"].tolist() == ["", "2026-01-02T20:00:00+00:00"]
    assert back["night"].tolist() == ["2026-01-02", ""]
    assert np.isnan(back["score"].filled(np.nan)[0])
    assert back["score"][1] == -np.inf


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.VOTABLE])
def test_text_leaves_before_the_next_rows_are_asked_for(form):
    asked = []

    def tables():
        for number in range(2):
            asked.append(number)
            yield pd.DataFrame({"file": [f"f{number}"], "extension": [0]})

    parts = text_of(tables(), form)
    while b"f0" not in next(parts):
        pass
    assert asked == [0]
    assert b"f1" in b"".join(parts)


def test_parquet_keeps_times_and_lists(judged):
    verdicts = pd.read_parquet(
        written(table_of(judged, ExportTable.VERDICTS), ExportFormat.PARQUET)
    )
    assert verdicts["observed_at"].iloc[-1] == pd.Timestamp("2026-01-02T20:00:00Z")
    embeddings = pd.read_parquet(
        written(table_of(judged, ExportTable.EMBEDDINGS), ExportFormat.PARQUET)
    )
    with judged.reads() as session:
        stored = db.embeddings.embedding_of(session, 21, 1)
    assert np.array_equal(np.float32(embeddings["embedding"].iloc[-1]), stored)


@pytest.mark.parametrize("form", [ExportFormat.CSV, ExportFormat.VOTABLE])
def test_embeddings_are_json_where_a_cell_holds_only_text(judged, form):
    stream = written(table_of(judged, ExportTable.EMBEDDINGS), form)
    if form is ExportFormat.CSV:
        cell = pd.read_csv(stream)["embedding"].iloc[0]
    else:
        cell = str(Table.read(stream, format="votable")["embedding"][0])
    assert len(json.loads(cell)) == 13


@pytest.mark.parametrize("what", ExportTable)
@pytest.mark.parametrize("form", ExportFormat)
def test_nothing_stored_gives_a_table_without_rows(project, what, form):
    stream = written(table_of(project, what), form)
    if form is ExportFormat.CSV:
        assert len(pd.read_csv(stream)) == 0
    elif form is ExportFormat.PARQUET:
        assert len(pd.read_parquet(stream)) == 0
    else:
        assert len(Table.read(stream, format="votable")) == 0


def test_metrics_have_a_column_each_and_labels_a_row_each(judged):
    metrics = table_of(judged, ExportTable.METRICS)
    assert set(METRICS) <= set(metrics.columns)
    assert metrics["bias_level"].between(99, 101).all()
    labels = table_of(judged, ExportTable.LABELS)
    assert labels["label"].tolist() == ["good"] * 20


def test_since_is_the_first_night_wanted(judged):
    assert len(table_of(judged, ExportTable.VERDICTS, date(2026, 1, 2))) == 1
    assert len(table_of(judged, ExportTable.VERDICTS, date(2026, 1, 3))) == 0


def test_a_table_file_is_whole_or_not_there(judged, tmp_path):
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


@pytest.mark.parametrize("what", ExportTable)
@pytest.mark.parametrize("form", ExportFormat)
def test_a_table_in_parts_is_the_table(judged, what, form):
    whole = table_of(judged, what)
    stream = io.BytesIO()
    with judged.reads() as session:
        parts = list(read_tables(session, what, rows=6))
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


def test_a_part_without_a_value_does_not_change_its_columns_type(judged):
    """The first twenty have no merge height, and nobody predicts anything of them."""
    stream = io.BytesIO()
    with judged.reads() as session:
        write_tables(
            read_tables(session, ExportTable.VERDICTS, rows=1), ExportFormat.PARQUET, stream
        )
    stream.seek(0)
    back = pd.read_parquet(stream)
    assert back["merge_height"].iloc[0] != back["merge_height"].iloc[0]  # not a number
    assert str(back["merge_height"].dtype) == "float64"
    assert back["observed_at"].iloc[-1] == pd.Timestamp("2026-01-02T20:00:00Z")


def test_embeddings_are_exported_in_memory_of_a_part(project, tmp_path):
    """Two hundred of 64 KB are 13 MB; a part of 10 is 0.6 MB."""
    big = tuple(np.random.default_rng(0).normal(size=16_000))  # PostgreSQL's vectors hold no more
    remember(project, *[Past(vector=big)] * 200)
    tracemalloc.start()
    try:
        with project.reads() as session:
            tables = read_tables(session, ExportTable.EMBEDDINGS, rows=10)
            rows = write_tables_file(tables, ExportFormat.PARQUET, tmp_path / "e.parquet")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 200
    assert peak_bytes < 8e6


def test_a_frame_is_told_with_its_metrics_and_its_nearest_reference(judged):
    with judged.reads() as session:
        [record] = frame_records(session, HOSTILE)
    assert record["status"] == "ANOMALOUS"
    assert record["nearest_reference"].startswith("TINY.2026-01-01T20:")
    assert record["nearest_reference"].endswith("[0]")
    assert record["metrics"]["gradient_y"]["z"] > 100


def test_a_frame_that_was_never_processed_is_told(project):
    with (
        project.reads() as session,
        pytest.raises(UnknownFrameError, match="nothing: no processed frame"),
    ):
        frame_records(session, "nothing")


def test_the_status_counts_and_lists_failures(judged, inbox):
    (inbox / "broken.fits").write_bytes(b"?")
    process(judged, inbox / "broken.fits")
    with judged.reads() as session:
        status = project_status(session)
    assert status["files"] == {"processed": 21, "failed": 1}
    assert (status["alerts_owed"], status["newest_night"]) == (1, date(2026, 1, 2))
    [failure] = status["failed"]
    assert "expected a FITS file" in failure
