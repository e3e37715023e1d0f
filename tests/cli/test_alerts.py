import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from qc import db
from qc.alerts.gather import gather_alerts
from qc.core.enums import Topic
from qc.db.schema.models import AcknowledgementRow, SilenceRow
from qc.io.instrument_files import read_instruments
from qc.settings import read_settings
from tests.support.databases import write_settings
from tests.support.mailserver import Handler, mail_server
from tests.support.tiny_spectrograph import thresholds_text

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
KIM = "kim@example.org"


@contextmanager
def opened(project_folder) -> Iterator[Session]:
    engine = db.schema.engine.connect(read_settings(project_folder).database_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def notified(project_folder):
    """A project with one open notification."""
    types = [name for instrument in read_instruments() for name in instrument.image_types()]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, UNTRAINED))
    write_settings(project_folder, f'[[subscription]]\nto = ["{KIM}"]\n')
    with opened(project_folder) as session, session.begin():
        message = "No URB1 for a week."
        db.operations.add_alert(
            session, Topic.ABSENCE, "URB1", message, instrument="UVES", image_type="URB1"
        )
        session.flush()
        later = datetime.now(UTC) + timedelta(minutes=1)
        settings = read_settings(project_folder)
        instruments = read_instruments()
        assert gather_alerts(session, settings, later, instruments, lambda after: after) == 1
    return project_folder


def test_list_open_alerts_has_exit_code_1(qc, notified):
    run = qc("alerts", "list", "--project", notified)
    assert run.code == 1
    assert "UVES: No URB1 for a week." in run.out
    assert f"{KIM}: pending" in run.out
    assert "1 open, 0 alerts pending" in run.out


def test_list_json_holds_deliveries(qc, notified):
    run = qc("alerts", "list", "--project", notified, "--json")
    record = json.loads(run.out)
    assert (run.code, record["open"]) == (1, 1)
    assert record["notices"][0]["subject"] == "[QC] UVES: No URB1 for a week."
    assert record["notices"][0]["deliveries"][0]["address"] == KIM


def test_acknowledged_alert_is_closed(qc, notified):
    options = ["--note", "the lamp is out", "--by", "kim", "--project", notified]
    run = qc("alerts", "ack", 1, *options)
    assert (run.code, run.out) == (0, "Acknowledged: 1.\n")
    assert qc("alerts", "list", "--project", notified).code == 0
    full = qc("alerts", "list", "--all", "--project", notified)
    assert (full.code, "kim: the lamp is out" in full.out) == (0, True)
    with opened(notified) as session:
        assert session.scalars(select(AcknowledgementRow.note)).all() == ["the lamp is out"]
        assert session.scalars(select(SilenceRow)).all() == []


def test_ack_with_duration_silences_similar_alerts(qc, notified):
    run = qc(
        "alerts", "ack", 1, "--for", "7d", "--until-nominal", "--by", "kim", "--project", notified
    )
    assert "similar alerts are silenced until" in run.out
    assert "or until the next nominal frame" in run.out
    with opened(notified) as session:
        row = session.scalars(select(SilenceRow)).one()
        assert (row.image_types, row.until_nominal) == (["URB1"], True)
        assert row.until is not None
        assert row.until - row.since == timedelta(days=7)
    listed = qc("alerts", "list", "--project", notified)
    assert "Silence 1: absence UVES URB1 until " in listed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "there is no notification 7; 'qc alerts list --all' lists them"),
        ((1, "--for", "soon"), "'soon': expected a time like 30m, 12h or 7d, a year at most"),
    ],
)
def test_ack_invalid_arguments_store_nothing(qc, notified, arguments, message):
    run = qc("alerts", "ack", *arguments, "--project", notified)
    assert (run.code, run.err) == (2, f"qc: {message}\n")
    with opened(notified) as session:
        assert session.scalars(select(AcknowledgementRow)).all() == []


def test_ack_several_numbers_is_atomic(qc, notified):
    assert qc("alerts", "ack", 1, 7, "--project", notified).code == 2
    with opened(notified) as session:
        assert session.scalars(select(AcknowledgementRow)).all() == []


def test_test_mail_prints_reply_of_server(qc, notified):
    handler = Handler()
    with mail_server(handler) as port:
        write_settings(
            notified,
            f'[mail]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "qc@x.org"\n',
        )
        run = qc("alerts", "test", KIM, "--project", notified)
        assert run.code == 0
        assert run.out == f"127.0.0.1 accepted the mail for {KIM}: 250 taken\n"
        handler.on_recipient = lambda _: "550 no such user"
        run = qc("alerts", "test", KIM, "--project", notified)
    assert (run.code, run.err) == (2, f"qc: {KIM} was refused: 550 no such user\n")
    assert len(handler.taken) == 1


def test_test_mail_without_server_is_error(qc, notified):
    run = qc("alerts", "test", KIM, "--project", notified)
    assert (run.code, "mail.host in the settings is empty" in run.err) == (2, True)
