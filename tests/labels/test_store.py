from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from qc import db, exports
from qc.core.enums import ExportFormat, ExportTable, LabelName
from qc.db.labels import LabelAnswer
from qc.db.schema.models import EpochRow, FrameRow, LabelRow
from qc.errors import InvalidInputError, UnknownFrameError
from qc.labels import epochs, import_file, selection, store, taxonomy
from qc.pipeline.rejudge import rejudge_frames
from tests.support.tiny_spectrograph import light_leak, process, write_frame, write_history

FIRST, SECOND = "TINY.2026-01-01T20:00:00", "TINY.2026-01-01T20:01:00"
FLAT = "TINY.2026-01-02T20:00:00"
SEP = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture
def labelled_project(project, inbox):
    """Project with two biases of one night and a flat of the next."""
    process(project, *write_history(inbox, frames=2), write_frame(inbox, 2, kind="FLAT"))
    return project


def add_label(project, name, label, kind="", note="", who="kim"):
    with project.write_session.begin() as session:
        results = selection.select_named(session, [name])
        answer = store.parse_answer(label, kind, note, who=who)
        return store.add_labels(session, results, answer, project.instruments)


def undo(project, name, who="kim"):
    with project.write_session.begin() as session:
        return store.undo(session, selection.select_named(session, [name]), who)


def take(project, path, content, who="kim"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with project.write_session.begin() as session:
        return import_file.import_labels(session, path, project.instruments, who)


def current_labels(project):
    """Return the current label of every extension."""
    with project.read_session() as session:
        results = db.findings.findings(session, date.min)
        return [(item.label.label, item.label.kind) if item.label else None for item in results]


def label_rows(project):
    with project.read_session() as session:
        return session.scalars(select(LabelRow).order_by(LabelRow.id)).all()


def exported(project, path):
    with project.read_session() as session:
        table = exports.read_table(session, ExportTable.LABELS)
    exports.write_tables_file([table], ExportFormat.CSV, path)
    return path.read_text()


# --- current labels ------------------------------------------------------------------------------


def test_bad_label_removes_a_reference_until_undone(project, inbox):
    process(project, *write_history(inbox, frames=21), label=LabelName.GOOD)
    sizes = []
    for night, change in [(2, None), (3, add_label), (4, undo)]:
        if change is add_label:
            add_label(project, FIRST, "bad", "light_leak")
        elif change is undo:
            undo(project, FIRST)
        [outcome] = process(project, write_frame(inbox, night, change=light_leak))
        sizes.append(outcome.judgements[0].evidence.reference_size)
    assert sizes == [21, 20, 21]


def test_good_label_adds_a_reference(project, inbox):
    process(project, *write_history(inbox, frames=20), label=LabelName.GOOD)
    [leak] = process(project, write_frame(inbox, 2, change=light_leak))
    add_label(project, str(leak.path), "good")
    [outcome] = process(project, write_frame(inbox, 3))
    assert outcome.judgements[0].evidence.reference_size == 21


def test_label_file_ignores_undone_labels(labelled_project, inbox):
    add_label(labelled_project, FIRST, "bad", "other")
    add_label(labelled_project, SECOND, "bad", "other")
    undo(labelled_project, FIRST)
    process(labelled_project, *inbox.iterdir(), label=LabelName.GOOD)
    assert current_labels(labelled_project) == [("good", ""), ("bad", "other"), ("good", "")]


def test_undo_restores_the_previous_label(labelled_project):
    add_label(labelled_project, FIRST, "good")
    add_label(labelled_project, FIRST, "bad", "light-leak", note="at dusk")
    [change] = undo(labelled_project, FIRST)
    assert change.before.startswith("bad, light_leak, by kim on ")
    assert change.before.endswith(": at dusk")
    assert change.after.startswith("good, by kim on ")
    [change] = undo(labelled_project, FIRST)
    assert change.after == "no label"
    assert current_labels(labelled_project)[0] is None
    assert [(row.label, row.undoes_id) for row in label_rows(labelled_project)] == [
        ("good", None),
        ("bad", None),
        ("bad", 2),
        ("good", 1),
    ]
    with pytest.raises(InvalidInputError, match=r"nothing to undo: TINY.*00\[0\] has no label"):
        undo(labelled_project, FIRST)
    add_label(labelled_project, FIRST, "good")
    assert current_labels(labelled_project)[0] == ("good", "")
    with labelled_project.read_session() as session:
        [record] = exports.frame_records(session, FIRST)
    good, bad, newest = record["labels"]
    assert good.startswith("good, by kim on ")
    assert ": at dusk; undone by kim on " in bad
    assert "undone" in good
    assert "undone" not in newest


def test_add_labels_repeated_answer_adds_nothing(labelled_project):
    assert [add_label(labelled_project, FIRST, "good")[0].is_new for _ in range(2)] == [True, False]
    assert add_label(labelled_project, FIRST, "good", who="lee")[0].is_new
    assert [row.who for row in label_rows(labelled_project)] == ["kim", "lee"]


# --- which extensions ----------------------------------------------------------------------------


def test_selection_by_name_number_set_type_night_and_status(labelled_project):
    with labelled_project.read_session() as session:

        def by_name(*names, **how):
            return [item.name for item in selection.select_named(session, names, **how)]

        def by(image_type=None, night=None, status=None):
            results = selection.select_where(
                session, labelled_project.instruments, image_type, night, status
            )
            return [item.name for item in results]

        assert by_name(FIRST) == by_name(f"{FIRST}[0]") == by_name(FIRST, number=0)
        assert by_name(FIRST, FIRST, SECOND) == [f"{FIRST}[0]", f"{SECOND}[0]"]
        assert by_name(FIRST, whole_set=True) == [f"{FIRST}[0]"]  # it is of no template
        assert by(image_type="tb0") == [f"{FIRST}[0]", f"{SECOND}[0]"]
        assert by(night=date(2026, 1, 2)) == [f"{FLAT}[0]"]
        assert by("TB0", date(2026, 1, 2)) == []
        assert by(status="undecided") == [f"{FIRST}[0]", f"{SECOND}[0]", f"{FLAT}[0]"]
        with pytest.raises(InvalidInputError, match="has extension 0, not 1"):
            by_name(f"{FIRST}[1]")
        with pytest.raises(UnknownFrameError):
            by_name("TINY.never[0]")
        with pytest.raises(InvalidInputError, match="'TB1' is no image type; did you mean TB0"):
            by("TB1")
        with pytest.raises(InvalidInputError, match="is no status; there are: NOMINAL, ANOM"):
            by(status="x")


def test_select_named_whole_set_has_one_image_type(labelled_project):
    with labelled_project.write_session.begin() as session:
        for row in session.scalars(select(FrameRow)):
            row.template = "2026-01-01T20:00:00"
    with labelled_project.read_session() as session:
        results = selection.select_named(session, [SECOND], whole_set=True)
    assert [item.name for item in results] == [f"{FIRST}[0]", f"{SECOND}[0]"]  # not the flat


# --- valid answers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "kind", "message"),
    [
        ("bda", "", "'bda' is no label; did you mean bad?"),
        ("bad", "", "bad needs a kind, of which 'other' is one"),
        ("good", "light_leak", "good has no kind of fault, got 'light_leak'"),
        ("bad", "light_lek", "no kind of fault of TINY; did you mean light_leak?"),
        ("bad", "zzz", "there are: light_leak, lamp_off, other, needs_discussion"),
        (
            "bad",
            "lamp_off",
            "cannot occur in a bias such as TINY.2026-01-01T20:00:00[0], TB0; possible",
        ),
    ],
)
def test_add_labels_invalid_answer_stores_nothing(labelled_project, label, kind, message):
    with pytest.raises(InvalidInputError) as error_info:
        add_label(labelled_project, FIRST, label, kind)
    assert message in str(error_info.value)
    assert label_rows(labelled_project) == []


def test_add_labels_impossible_kind_refuses_all(labelled_project):
    with labelled_project.write_session.begin() as session:
        results = selection.select_named(session, [FIRST, FLAT])
        answer = store.parse_answer("bad", "light_leak", who="kim")
        with pytest.raises(InvalidInputError, match="cannot occur in a flat"):
            store.add_labels(session, results, answer, labelled_project.instruments)
    assert label_rows(labelled_project) == []


@pytest.mark.parametrize(
    ("note", "message"),
    [("n" * 1001, "1001 characters, at most 1000"), ("\x1b[2J", "control char")],
)
def test_parse_answer_invalid_note_is_refused(note, message):
    with pytest.raises(InvalidInputError, match=message):
        store.parse_answer("good", note=note, who="kim")


def test_parse_answer_cleans_note_and_author():
    assert store.parse_answer("good", note=" a\n b\udcff ", who="kim").note == "a b\\udcff"
    with pytest.raises(InvalidInputError, match="author's name is empty"):
        store.parse_answer("good", who=" ")


def test_suggest_commands_one_epoch_per_image_type(labelled_project):
    with labelled_project.read_session() as session:
        results = selection.select_named(session, [FLAT, SECOND, FIRST])
    assert epochs.suggest_commands(results, "it's new") == [
        "qc epochs add TF0 --from 2026-01-02 --reason 'it'\"'\"'s new'",
        "qc epochs add TB0 --from 2026-01-01 --reason 'it'\"'\"'s new'",
    ]


def test_list_kinds_all_or_of_one_image_type(project):
    def names(image_type=None):
        return [kind.name for _, kind in taxonomy.list_kinds(project.instruments, image_type)]

    assert names() == ["light_leak", "lamp_off", "other", "needs_discussion"]
    assert names("TF0") == ["lamp_off", "other", "needs_discussion"]


# --- from a file ---------------------------------------------------------------------------------


def test_import_labels_of_an_export_adds_each_once(labelled_project, tmp_path):
    add_label(labelled_project, FIRST, "bad", "light_leak", note='a "note", with; 雪')
    add_label(labelled_project, FLAT, "valid-outlier")
    file = tmp_path / "labels.csv"
    first = exported(labelled_project, file)
    assert first.splitlines()[0] == ",".join(import_file.COLUMNS)
    again = take(labelled_project, file, first, who="lee")
    assert (again.lines, again.added, again.known, again.refused) == (2, 0, 2, ())
    with labelled_project.write_session.begin() as session:
        for row in session.scalars(select(LabelRow)):
            session.delete(row)
    assert take(labelled_project, file, first, who="lee").added == 2
    assert exported(labelled_project, tmp_path / "again.csv") == first


def test_import_labels_reports_each_refused_line(labelled_project, tmp_path):
    content = (
        "\ufeffFile,label,kind,extension,image_type,observed_at,at,note\r\n"
        f"{FIRST}.fits,bad,light_leak,0,TB0,2026-01-01T20:00:00Z,2026-02-01T00:00:00,seen\r\n"
        "\r\n"
        "TINY.never.fits,good,,,,,,\r\n"
        f"{SECOND},bad,lamp_off,,,,,\r\n"
        f"{SECOND},splendid,,,,,,\r\n"
        f"{SECOND},good,,1,,,,\r\n"
        f"{SECOND},good,,x,,,,\r\n"
        f"{SECOND},good,,,TF0,,,\r\n"
        f"{SECOND},good,,,,2026-01-01T20:00:00Z,,\r\n"
        f"{SECOND},good,,,,,yesterday,\r\n"
        f"{SECOND},good,,,,,9999-01-01,\r\n"
        f"{SECOND},good\r\n"
        f'{SECOND},good,,,,,,"\r\n'
        f"{SECOND},good,,,,,,{'n' * 1001}\r\n"
        ",good,,,,,,\r\n"
    )
    lines = content.encode() + b"\xff,good,,,,,,\n" + b"n" * 9000
    result = take(labelled_project, tmp_path / "labels.csv", lines)
    told = {item.line: item.why for item in result.refused}
    assert (result.lines, result.added, result.known) == (16, 1, 0)
    for line, message in {
        4: "TINY.never.fits: no processed frame of that name",
        5: "lamp_off cannot occur in a bias",
        6: "'splendid' is no label; there are: good, bad, valid-outlier",
        7: "has extension 0, not 1",
        8: "extension: expected a number, got 'x'",
        9: "is TB0, the line has 'TF0'",
        10: "was observed at 2026-01-01T20:01:00+00:00, the line has",
        11: "at: expected a time like 2026-01-31T12:00:00Z, got 'yesterday'",
        12: "at: 9999-01-01 is in the future",
        13: "expected 8 cells, got 2",
        14: "is not CSV: unexpected end of data",
        15: "the note has 1001 characters, at most 1000 are stored",
        16: "names no file",
        17: "is not UTF-8: byte 0xff at 0",
        18: "9000 bytes, expected at most 8000",
    }.items():
        assert message in told.pop(line)
    assert told == {}
    [row] = label_rows(labelled_project)
    assert (row.kind, row.who, row.note, row.at) == (
        "light_leak",
        "kim",
        "seen",
        datetime(2026, 2, 1, tzinfo=UTC),
    )


def test_import_labels_refuses_contradicting_lines(labelled_project, tmp_path):
    content = f"file,label,kind\n{FIRST},good,\n{SECOND},good,\n{FIRST}.fits,bad,other\n"
    result = take(labelled_project, tmp_path / "labels.csv", content)
    assert [(item.line, item.why) for item in result.refused] == [
        (2, f"{FIRST}[0]: lines 2, 4 contradict each other"),
        (4, f"{FIRST}[0]: lines 2, 4 contradict each other"),
    ]
    assert current_labels(labelled_project) == [None, ("good", ""), None]


def test_import_labels_orders_lines_by_time(labelled_project, tmp_path):
    content = f"file,label,kind,at\n{FIRST},bad,other,2026-03-02\n{FIRST},good,,2026-03-01\n"
    assert take(labelled_project, tmp_path / "labels.csv", content).added == 2
    assert current_labels(labelled_project)[0] == ("bad", "other")


def test_import_labels_refuses_lines_older_than_the_label(labelled_project, tmp_path):
    add_label(labelled_project, FIRST, "good")
    content = f"file,label,kind,at\n{FIRST},bad,other,2026-03-02\n"
    [refused] = take(labelled_project, tmp_path / "labels.csv", content).refused
    assert "a later label counts: good, by kim on" in refused.why
    assert (
        take(labelled_project, tmp_path / "new.csv", content.replace(",2026-03-02", ",")).added == 1
    )


def test_import_labels_keeps_undone_labels_undone(labelled_project, tmp_path):
    content = f"file,label,kind\n{FIRST},bad,other\n"
    take(labelled_project, tmp_path / "labels.csv", content)
    undo(labelled_project, FIRST)
    assert take(labelled_project, tmp_path / "labels.csv", content).known == 1
    assert current_labels(labelled_project)[0] is None


def test_import_labels_list_of_names_is_bad(labelled_project, tmp_path):
    content = f"# corrupted\n{FIRST}_b.fits\n{SECOND}\n\nTINY.never_b.fits\n"
    result = take(labelled_project, tmp_path / "list.txt", content)
    assert (result.lines, result.added) == (3, 2)
    assert [(item.line, item.why[:16]) for item in result.refused] == [(5, "TINY.never_b.fit")]
    assert current_labels(labelled_project) == [("bad", "other"), ("bad", "other"), None]
    assert label_rows(labelled_project)[0].note == "listed in list.txt"
    assert take(labelled_project, tmp_path / "list.txt", content).known == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a line with the columns file,"),
        (b"\n \n", "is empty"),
        (b"file,kind\nx,y\n", "line 1: missing columns: label; expected file,extension"),
        (b"file,label,label\nx,good,bad\n", "a column stands twice"),
        ("file,label".encode("utf-16"), "line 1: is not UTF-8: byte 0xff at 0"),
        (b'file,"label\nx,good\n', "line 1: is not CSV"),
        (b"x\n" * 100_001, "expected at most 100000 lines, got 100001"),
        (b"x" * (32 * 2**20 + 1), "expected at most 32 MB"),
    ],
)
def test_import_labels_invalid_file_is_refused(project, tmp_path, content, message):
    with pytest.raises(InvalidInputError, match=message):
        take(project, tmp_path / "labels.csv", content)


CELLS = st.one_of(
    st.sampled_from(["", FIRST, SECOND, FLAT, "good", "bad", "valid-outlier", "other", "0", "TB0"]),
    st.sampled_from(["light_leak", "2026-02-01T10:00:00Z", '"', "0001-01-01T00:00:00+14:00", "#"]),
    st.text(max_size=20),
)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=9).map(",".join), max_size=8).map("\n".join)
HEADERS = st.permutations(import_file.COLUMNS).map(lambda names: f"{','.join(names)}\n".encode())


@settings(
    deadline=None,
    max_examples=80,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from([b"", b"file,label,kind\n"]) | HEADERS, LINES | st.binary(max_size=200))
def test_import_labels_any_content_is_idempotent(labelled_project, tmp_path, header, lines):
    content = header + (lines if isinstance(lines, bytes) else lines.encode("utf-8", "replace"))
    try:
        first = take(labelled_project, tmp_path / "labels.csv", content)
    except InvalidInputError as error:
        told = [str(error)]
    else:
        told = [item.why for item in first.refused]
        assert take(labelled_project, tmp_path / "labels.csv", content).added == 0
    assert all(len(why) < 1000 and why.isprintable() for why in told)


# --- epochs --------------------------------------------------------------------------------------


def enter(project, scope, since, why="a new lamp"):
    with project.write_session.begin() as session:
        return epochs.add(session, scope, since, why, who="kim", instruments=project.instruments)


def undo_epoch(project, number, why="a slip"):
    with project.write_session.begin() as session:
        return epochs.undo(session, number, why, who="lee")


def test_epoch_restarts_references_until_undone(project, inbox):
    process(project, *write_history(inbox, frames=20), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2), write_frame(inbox, 3))
    entered = enter(project, "tb0", date(2026, 1, 2))
    assert (entered.number, entered.scope, entered.frames, entered.last) == (1, "TB0", 2, date.max)
    assert [item.judgement.evidence.reference_size for item in rejudge_frames(project)][-2:] == [
        0,
        0,
    ]
    undone = undo_epoch(project, 1)
    assert (undone.number, undone.since, undone.frames) == (1, date(2026, 1, 2), 2)
    assert [item.judgement.evidence.reference_size for item in rejudge_frames(project)][-1] == 21
    with project.read_session() as session:
        [entry] = epochs.read_log(session)
        assert entry.undone_by is not None
        assert (entry.epoch.why, entry.undone_by.who) == ("a new lamp", "lee")
        assert list(db.labels.epochs_between(session, date.min, date.max)) == []
        assert len(session.scalars(select(EpochRow)).all()) == 2
    assert enter(project, "TB0", date(2026, 1, 2)).number == 3


def test_epoch_ends_before_the_next_of_its_scope(project):
    enter(project, "TINY", date(2026, 3, 1))
    enter(project, "TB0", date(2026, 2, 1))
    assert enter(project, "TINY", date(2026, 1, 1)).last == date(2026, 2, 28)


def test_epoch_invalid_entry_is_refused(project):
    enter(project, "TINY", date(2026, 1, 1))
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for scope, since, why, message in [
        ("TINI", date(2026, 1, 1), "w", "'TINI' is no image type or instrument; did you mean TINY"),
        ("UVES", date(2026, 1, 1), "w", "there are: TINY, TB0, TF0"),
        (
            "TINY",
            date(2026, 1, 1),
            "w",
            "TINY has an epoch from 2026-01-01 already: No. 1, a new l",
        ),
        ("TINY", tomorrow, "w", "is in the future"),
        ("TINY", date(2026, 1, 2), " ", "the reason is empty"),
        ("TINY", date(2026, 1, 2), "w" * 1001, "at most 1000"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            enter(project, scope, since, why)
    with pytest.raises(InvalidInputError, match=r"no epoch No\. 7; there are: 1"):
        undo_epoch(project, 7)
    undo_epoch(project, 1)
    with pytest.raises(InvalidInputError, match=r"epoch No\. 1 is undone already, by lee"):
        undo_epoch(project, 1)


def test_labels_of_reads_thousands_in_chunks(labelled_project):
    with labelled_project.write_session.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim", at=SEP))
        assert list(db.labels.labels_of(session, list(range(1, 3000)))) == [1]
