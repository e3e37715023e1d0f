from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from qc import db, exports
from qc.core.enums import ExportFormat, ExportTable, LabelName
from qc.db.labels import LabelAnswer
from qc.db.models import EpochRow, FrameRow, LabelRow
from qc.errors import InvalidInputError, UnknownFrameError
from qc.labels import epochs, store
from qc.pipeline.process import judge_again
from tests.support.tiny import light_leak, process, write_frame, write_history

FIRST, SECOND = "TINY.2026-01-01T20:00:00", "TINY.2026-01-01T20:01:00"
FLAT = "TINY.2026-01-02T20:00:00"
SEP = datetime(2026, 9, 1, tzinfo=UTC)


@pytest.fixture
def taken(project, inbox):
    """A runtime with two biases of one night and a flat of the next."""
    process(project, *write_history(inbox, frames=2), write_frame(inbox, 2, kind="FLAT"))
    return project


def say(project, name, label, kind="", note="", who="kim"):
    with project.writes.begin() as session:
        found = store.choose_named(session, [name])
        answer = store.read_answer(label, kind, note, who=who)
        return store.answer_for(session, found, answer, project.instruments)


def undo(project, name, who="kim"):
    with project.writes.begin() as session:
        return store.undo(session, store.choose_named(session, [name]), who)


def take(project, path, content, who="kim"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with project.writes.begin() as session:
        return store.import_labels(session, path, project.instruments, who)


def standing(project):
    """The labels that count, of every extension."""
    with project.reads() as session:
        found = db.findings.findings(session, date.min)
        return [(one.label.label, one.label.kind) if one.label else None for one in found]


def said(project):
    with project.reads() as session:
        return session.scalars(select(LabelRow).order_by(LabelRow.id)).all()


def exported(project, path):
    with project.reads() as session:
        table = exports.read_table(session, ExportTable.LABELS)
    exports.write_tables_file([table], ExportFormat.CSV, path)
    return path.read_text()


# --- what binds ----------------------------------------------------------------------------------


def test_a_bad_label_leaves_the_next_nights_reference_and_its_undoing_brings_it_back(
    project, inbox
):
    process(project, *write_history(inbox, frames=21), label=LabelName.GOOD)
    sizes = []
    for night, change in [(2, None), (3, say), (4, undo)]:
        if change is say:
            say(project, FIRST, "bad", "light_leak")
        elif change is undo:
            undo(project, FIRST)
        [outcome] = process(project, write_frame(inbox, night, change=light_leak))
        sizes.append(outcome.judged[0].evidence.reference_size)
    assert sizes == [21, 20, 21]


def test_a_good_label_joins_the_reference(project, inbox):
    process(project, *write_history(inbox, frames=20), label=LabelName.GOOD)
    [leak] = process(project, write_frame(inbox, 2, change=light_leak))
    say(project, str(leak.path), "good")
    [outcome] = process(project, write_frame(inbox, 3))
    assert outcome.judged[0].evidence.reference_size == 21


def test_what_was_undone_counts_as_never_said_when_an_archive_is_certified(taken, inbox):
    say(taken, FIRST, "bad", "other")
    say(taken, SECOND, "bad", "other")
    undo(taken, FIRST)
    process(taken, *inbox.iterdir(), label=LabelName.GOOD)
    assert standing(taken) == [("good", ""), ("bad", "other"), ("good", "")]


def test_undoing_goes_back_one_label_at_a_time_and_keeps_all(taken):
    say(taken, FIRST, "good")
    say(taken, FIRST, "bad", "light-leak", note="at dusk")
    [change] = undo(taken, FIRST)
    assert change.before.startswith("bad, light_leak, says kim on ")
    assert change.before.endswith(": at dusk")
    assert change.after.startswith("good, says kim on ")
    [change] = undo(taken, FIRST)
    assert change.after == "no label"
    assert standing(taken)[0] is None
    assert [(row.label, row.undoes_id) for row in said(taken)] == [
        ("good", None),
        ("bad", None),
        ("bad", 2),
        ("good", 1),
    ]
    with pytest.raises(InvalidInputError, match=r"nothing to undo: TINY.*00\[0\] has no label"):
        undo(taken, FIRST)
    say(taken, FIRST, "good")
    assert standing(taken)[0] == ("good", "")
    with taken.reads() as session:
        [record] = exports.frame_records(session, FIRST)
    good, bad, newest = record["labels"]
    assert good.startswith("good, says kim on ")
    assert ": at dusk; undone by kim on " in bad
    assert "undone" in good
    assert "undone" not in newest


def test_saying_the_same_again_adds_nothing_but_another_persons_word_is_kept(taken):
    assert [say(taken, FIRST, "good")[0].is_new for _ in range(2)] == [True, False]
    assert say(taken, FIRST, "good", who="lee")[0].is_new
    assert [row.who for row in said(taken)] == ["kim", "lee"]


# --- which extensions ----------------------------------------------------------------------------


def test_frames_are_chosen_by_name_number_set_type_night_and_status(taken):
    with taken.reads() as session:

        def by_name(*names, **how):
            return [one.name for one in store.choose_named(session, names, **how)]

        def by(image_type=None, night=None, status=None):
            found = store.choose_where(session, taken.instruments, image_type, night, status)
            return [one.name for one in found]

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


def test_a_set_is_the_same_image_type_of_one_template(taken):
    with taken.writes.begin() as session:
        for row in session.scalars(select(FrameRow)):
            row.template = "2026-01-01T20:00:00"
    with taken.reads() as session:
        found = store.choose_named(session, [SECOND], whole_set=True)
    assert [one.name for one in found] == [f"{FIRST}[0]", f"{SECOND}[0]"]  # not the flat


# --- what may be said ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "kind", "words"),
    [
        ("bda", "", "'bda' is no label; did you mean bad?"),
        ("bad", "", "bad needs a kind, of which 'other' is one"),
        ("good", "light_leak", "good has no kind of fault, got 'light_leak'"),
        ("bad", "light_lek", "no kind of fault of TINY; did you mean light_leak?"),
        ("bad", "zzz", "there are: light_leak, lamp_off, other, needs_discussion"),
        (
            "bad",
            "lamp_off",
            "cannot occur in a bias such as TINY.2026-01-01T20:00:00[0], TB0; what",
        ),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_is_kept(taken, label, kind, words):
    with pytest.raises(InvalidInputError) as told:
        say(taken, FIRST, label, kind)
    assert words in str(told.value)
    assert said(taken) == []


def test_one_that_cannot_have_the_fault_keeps_it_from_all(taken):
    with taken.writes.begin() as session:
        found = store.choose_named(session, [FIRST, FLAT])
        answer = store.read_answer("bad", "light_leak", who="kim")
        with pytest.raises(InvalidInputError, match="cannot occur in a flat"):
            store.answer_for(session, found, answer, taken.instruments)
    assert said(taken) == []


@pytest.mark.parametrize(
    ("note", "words"), [("n" * 1001, "1001 characters, at most 1000"), ("\x1b[2J", "control char")]
)
def test_a_note_is_bounded_and_can_be_seen(note, words):
    with pytest.raises(InvalidInputError, match=words):
        store.read_answer("good", note=note, who="kim")


def test_a_note_is_one_line_that_a_database_can_hold():
    assert store.read_answer("good", note=" a\n b\udcff ", who="kim").note == "a b\\udcff"
    with pytest.raises(InvalidInputError, match="name of who says it is empty"):
        store.read_answer("good", who=" ")


def test_a_valid_outlier_proposes_an_epoch_for_each_image_type_from_its_first_night(taken):
    with taken.reads() as session:
        found = store.choose_named(session, [FLAT, SECOND, FIRST])
    assert store.epoch_commands(found, "it's new") == [
        "qc epoch TF0 --from 2026-01-02 --why 'it'\"'\"'s new'",
        "qc epoch TB0 --from 2026-01-01 --why 'it'\"'\"'s new'",
    ]


def test_the_taxonomy_is_listed_whole_or_of_an_image_type(project):
    def names(image_type=None):
        return [kind.name for _, kind in store.taxonomy(project.instruments, image_type)]

    assert names() == ["light_leak", "lamp_off", "other", "needs_discussion"]
    assert names("TF0") == ["lamp_off", "other", "needs_discussion"]


# --- from a file ---------------------------------------------------------------------------------


def test_what_was_exported_can_be_imported_once(taken, tmp_path):
    say(taken, FIRST, "bad", "light_leak", note='a "note", with; 雪')
    say(taken, FLAT, "valid-outlier")
    file = tmp_path / "labels.csv"
    first = exported(taken, file)
    assert first.splitlines()[0] == ",".join(store.COLUMNS)
    again = take(taken, file, first, who="lee")
    assert (again.lines, again.added, again.known, again.refused) == (2, 0, 2, ())
    with taken.writes.begin() as session:
        for row in session.scalars(select(LabelRow)):
            session.delete(row)
    assert take(taken, file, first, who="lee").added == 2
    assert exported(taken, tmp_path / "again.csv") == first


def test_a_good_line_is_taken_and_a_bad_one_told(taken, tmp_path):
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
    result = take(taken, tmp_path / "labels.csv", lines)
    told = {one.line: one.why for one in result.refused}
    assert (result.lines, result.added, result.known) == (16, 1, 0)
    for line, words in {
        4: "TINY.never.fits: no processed frame of that name",
        5: "lamp_off cannot occur in a bias",
        6: "'splendid' is no label; there are: good, bad, valid-outlier",
        7: "has extension 0, not 1",
        8: "extension: expected a number, got 'x'",
        9: "is TB0, the line says 'TF0'",
        10: "was observed at 2026-01-01T20:01:00+00:00, the line says",
        11: "at: expected a time like 2026-01-31T12:00:00Z, got 'yesterday'",
        12: "at: 9999-01-01 is still to come",
        13: "expected 8 cells, got 2",
        14: "is not CSV: unexpected end of data",
        15: "the note has 1001 characters, at most 1000 are kept",
        16: "names no file",
        17: "is not UTF-8: byte 0xff at 0",
        18: "9000 bytes, expected at most 8000",
    }.items():
        assert words in told.pop(line)
    assert told == {}
    [row] = said(taken)
    assert (row.kind, row.who, row.note, row.at) == (
        "light_leak",
        "kim",
        "seen",
        datetime(2026, 2, 1, tzinfo=UTC),
    )


def test_lines_that_contradict_each_other_are_refused_together(taken, tmp_path):
    content = f"file,label,kind\n{FIRST},good,\n{SECOND},good,\n{FIRST}.fits,bad,other\n"
    result = take(taken, tmp_path / "labels.csv", content)
    assert [(one.line, one.why) for one in result.refused] == [
        (2, f"{FIRST}[0]: lines 2, 4 contradict each other"),
        (4, f"{FIRST}[0]: lines 2, 4 contradict each other"),
    ]
    assert standing(taken) == [None, ("good", ""), None]


def test_a_log_is_taken_in_the_order_in_which_it_was_said(taken, tmp_path):
    content = f"file,label,kind,at\n{FIRST},bad,other,2026-03-02\n{FIRST},good,,2026-03-01\n"
    assert take(taken, tmp_path / "labels.csv", content).added == 2
    assert standing(taken)[0] == ("bad", "other")


def test_an_old_line_does_not_overrule_what_was_said_since(taken, tmp_path):
    say(taken, FIRST, "good")
    content = f"file,label,kind,at\n{FIRST},bad,other,2026-03-02\n"
    [refused] = take(taken, tmp_path / "labels.csv", content).refused
    assert "a later label counts: good, says kim on" in refused.why
    assert take(taken, tmp_path / "new.csv", content.replace(",2026-03-02", ",")).added == 1


def test_a_label_that_was_undone_stays_so_when_its_file_is_imported_again(taken, tmp_path):
    content = f"file,label,kind\n{FIRST},bad,other\n"
    take(taken, tmp_path / "labels.csv", content)
    undo(taken, FIRST)
    assert take(taken, tmp_path / "labels.csv", content).known == 1
    assert standing(taken)[0] is None


def test_a_list_of_corrupted_files_is_taken_as_bad(taken, tmp_path):
    content = f"# corrupted\n{FIRST}_b.fits\n{SECOND}\n\nTINY.never_b.fits\n"
    result = take(taken, tmp_path / "list.txt", content)
    assert (result.lines, result.added) == (3, 2)
    assert [(one.line, one.why[:16]) for one in result.refused] == [(5, "TINY.never_b.fit")]
    assert standing(taken) == [("bad", "other"), ("bad", "other"), None]
    assert said(taken)[0].note == "listed in list.txt"
    assert take(taken, tmp_path / "list.txt", content).known == 2


@pytest.mark.parametrize(
    ("content", "words"),
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
def test_a_file_that_makes_no_sense_is_refused_as_a_whole(project, tmp_path, content, words):
    with pytest.raises(InvalidInputError, match=words):
        take(project, tmp_path / "labels.csv", content)


CELLS = st.one_of(
    st.sampled_from(["", FIRST, SECOND, FLAT, "good", "bad", "valid-outlier", "other", "0", "TB0"]),
    st.sampled_from(["light_leak", "2026-02-01T10:00:00Z", '"', "0001-01-01T00:00:00+14:00", "#"]),
    st.text(max_size=20),
)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=9).map(",".join), max_size=8).map("\n".join)
HEADERS = st.permutations(store.COLUMNS).map(lambda names: f"{','.join(names)}\n".encode())


@settings(
    deadline=None,
    max_examples=80,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from([b"", b"file,label,kind\n"]) | HEADERS, LINES | st.binary(max_size=200))
def test_whatever_is_in_a_file_is_taken_or_refused_and_a_second_time_adds_nothing(
    taken, tmp_path, header, lines
):
    content = header + (lines if isinstance(lines, bytes) else lines.encode("utf-8", "replace"))
    try:
        first = take(taken, tmp_path / "labels.csv", content)
    except InvalidInputError as error:
        told = [str(error)]
    else:
        told = [one.why for one in first.refused]
        assert take(taken, tmp_path / "labels.csv", content).added == 0
    assert all(len(why) < 1000 and why.isprintable() for why in told)


# --- epochs --------------------------------------------------------------------------------------


def enter(project, scope, since, why="a new lamp"):
    with project.writes.begin() as session:
        return epochs.enter(session, scope, since, why, who="kim", instruments=project.instruments)


def undo_epoch(project, number, why="a slip"):
    with project.writes.begin() as session:
        return epochs.undo(session, number, why, who="lee")


def test_an_epoch_starts_references_anew_until_it_is_undone(project, inbox):
    process(project, *write_history(inbox, frames=20), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2), write_frame(inbox, 3))
    entered = enter(project, "tb0", date(2026, 1, 2))
    assert (entered.number, entered.scope, entered.frames, entered.last) == (1, "TB0", 2, date.max)
    assert [one.judged.evidence.reference_size for one in judge_again(project)][-2:] == [0, 0]
    undone = undo_epoch(project, 1)
    assert (undone.number, undone.since, undone.frames) == (1, date(2026, 1, 2), 2)
    assert [one.judged.evidence.reference_size for one in judge_again(project)][-1] == 21
    with project.reads() as session:
        [entry] = epochs.read_log(session)
        assert entry.undone_by is not None
        assert (entry.epoch.why, entry.undone_by.who) == ("a new lamp", "lee")
        assert list(db.epochs.epochs_between(session, date.min, date.max)) == []
        assert len(session.scalars(select(EpochRow)).all()) == 2
    assert enter(project, "TB0", date(2026, 1, 2)).number == 3


def test_an_epoch_reaches_to_the_next_of_its_scope(project):
    enter(project, "TINY", date(2026, 3, 1))
    enter(project, "TB0", date(2026, 2, 1))
    assert enter(project, "TINY", date(2026, 1, 1)).last == date(2026, 2, 28)


def test_an_epoch_that_cannot_be_is_refused(project):
    enter(project, "TINY", date(2026, 1, 1))
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    for scope, since, why, words in [
        ("TINI", date(2026, 1, 1), "w", "'TINI' is no image type or instrument; did you mean TINY"),
        ("UVES", date(2026, 1, 1), "w", "there are: TINY, TB0, TF0"),
        (
            "TINY",
            date(2026, 1, 1),
            "w",
            "TINY has an epoch from 2026-01-01 already: No. 1, a new l",
        ),
        ("TINY", tomorrow, "w", "is still to come"),
        ("TINY", date(2026, 1, 2), " ", "the reason is empty"),
        ("TINY", date(2026, 1, 2), "w" * 1001, "at most 1000"),
    ]:
        with pytest.raises(InvalidInputError, match=words):
            enter(project, scope, since, why)
    with pytest.raises(InvalidInputError, match=r"no epoch No\. 7; there are: 1"):
        undo_epoch(project, 7)
    undo_epoch(project, 1)
    with pytest.raises(InvalidInputError, match=r"epoch No\. 1 is undone already, by lee"):
        undo_epoch(project, 1)


def test_labels_of_thousands_are_read_in_parts(taken):
    with taken.writes.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.GOOD, "kim", at=SEP))
        assert list(db.labels.labels_of(session, list(range(1, 3000)))) == [1]
