import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc import db
from qc.alerts.dispatch import gather_alerts
from qc.core.enums import Topic
from qc.db.models import AcknowledgementRow, SilenceRow
from qc.io.instruments import read_instruments
from qc.settings import read_settings
from tests.support.databases import write_settings
from tests.support.mailserver import Handler, mail_server
from tests.support.tiny import thresholds_text

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
KIM = "kim@example.org"


@contextmanager
def opened(project_folder) -> Iterator[Session]:
    engine = db.engine.connect(read_settings(project_folder).database_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def noticed(project_folder):
    """A project with one notice that nobody has answered."""
    types = [name for one in read_instruments() for name in one.image_types()]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, UNTRAINED))
    write_settings(project_folder, f'[[subscription]]\nto = ["{KIM}"]\n')
    with opened(project_folder) as session, session.begin():
        words = "No URB1 for a week."
        db.alerts.owe_alert(
            session, Topic.ABSENCE, "URB1", words, instrument="UVES", image_type="URB1"
        )
        session.flush()
        later = datetime.now(UTC) + timedelta(minutes=1)
        assert gather_alerts(session, read_settings(project_folder), later) == 1
    return project_folder


def test_what_is_open_is_listed_with_exit_code_1(qc, noticed):
    run = qc("alerts", "--project", noticed)
    assert run.code == 1
    assert "UVES: No URB1 for a week." in run.out
    assert f"{KIM}: owed" in run.out
    assert "1 open, 0 alerts waiting to be told" in run.out


def test_the_same_as_json(qc, noticed):
    run = qc("alerts", "--project", noticed, "--json")
    told = json.loads(run.out)
    assert (run.code, told["open"]) == (1, 1)
    assert told["notices"][0]["subject"] == "[QC] UVES: No URB1 for a week."
    assert told["notices"][0]["deliveries"][0]["address"] == KIM


def test_what_was_acknowledged_is_closed(qc, noticed):
    told = ["--note", "the lamp is out", "--who", "kim", "--project", noticed]
    run = qc("ack", 1, *told)
    assert (run.code, run.out) == (0, "Acknowledged: 1.\n")
    assert qc("alerts", "--project", noticed).code == 0
    every = qc("alerts", "--all", "--project", noticed)
    assert (every.code, "kim: the lamp is out" in every.out) == (0, True)
    with opened(noticed) as session:
        assert session.scalars(select(AcknowledgementRow.note)).all() == ["the lamp is out"]
        assert session.scalars(select(SilenceRow)).all() == []


def test_an_acknowledgement_may_silence_its_like(qc, noticed):
    run = qc("ack", 1, "--for", "7d", "--until-nominal", "--who", "kim", "--project", noticed)
    assert "no mail of the like until" in run.out
    assert "or until the next nominal frame" in run.out
    with opened(noticed) as session:
        row = session.scalars(select(SilenceRow)).one()
        assert (row.image_types, row.until_nominal) == (["URB1"], True)
        assert row.until is not None
        assert row.until - row.since == timedelta(days=7)
    listed = qc("alerts", "--project", noticed)
    assert "Silence 1: absence UVES URB1 until " in listed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((7,), "there is no notice 7; 'qc alerts --all' lists them"),
        ((1, "--for", "soon"), "'soon': expected a time like 30m, 12h or 7d, a year at most"),
    ],
)
def test_a_slip_is_told_in_one_line_and_nothing_is_kept(qc, noticed, arguments, words):
    run = qc("ack", *arguments, "--project", noticed)
    assert (run.code, run.err) == (2, f"qc: {words}\n")
    with opened(noticed) as session:
        assert session.scalars(select(AcknowledgementRow)).all() == []


def test_of_several_numbers_all_are_kept_or_none(qc, noticed):
    assert qc("ack", 1, 7, "--project", noticed).code == 2
    with opened(noticed) as session:
        assert session.scalars(select(AcknowledgementRow)).all() == []


def test_a_test_mail_is_sent_now_and_the_answer_told(qc, noticed):
    handler = Handler()
    with mail_server(handler) as port:
        write_settings(
            noticed,
            f'[mail]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "qc@x.org"\n',
        )
        run = qc("alerts", "--test-mail", KIM, "--project", noticed)
        assert run.code == 0
        assert run.out == f"127.0.0.1 took the mail for {KIM}: 250 taken\n"
        handler.on_recipient = lambda _: "550 no such user"
        run = qc("alerts", "--test-mail", KIM, "--project", noticed)
    assert (run.code, run.err) == (2, f"qc: {KIM} was refused: 550 no such user\n")
    assert len(handler.taken) == 1


def test_without_a_server_a_test_mail_says_what_is_missing(qc, noticed):
    run = qc("alerts", "--test-mail", KIM, "--project", noticed)
    assert (run.code, "mail.host in the settings is empty" in run.err) == (2, True)
