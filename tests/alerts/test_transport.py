import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from qc.alerts import dispatch
from qc.alerts.content import LONGEST_SUBJECT, ImageLine, NotificationContent, WorstImage, plain
from qc.alerts.dispatch import DispatchResult, gather_alerts, owe_report, send_test, send_unsent
from qc.alerts.transport import Message, compose, write_letter, write_message
from qc.core.enums import LabelName, NotificationKind, Topic
from qc.db.models import AlertRow, DeliveryRow, NotificationRow, VerdictRow
from qc.errors import (
    ConfigurationError,
    InvalidInputError,
    RecipientRefusedError,
    ServerUnreachableError,
)
from qc.io.instruments import read_instruments
from qc.project import Project
from qc.settings import MailSettings, Subscription, read_secret, read_settings
from tests.support.databases import write_settings
from tests.support.mailserver import OK, PASSWORD, USER, Handler, mail_server, write_certificate
from tests.support.owed import DIM, JUDGED, LEVEL, NIGHT, NOISE, Shot, a_set, owe
from tests.support.tiny import bias_jump, light_leak, open_tiny, process, write_frame, write_history
from tests.support.waiting import wait_for_end

ROOT = Path(__file__).parents[2]
KIM, LEE, PAT = "kim@example.org", "lee@example.org", "pat@example.org"
SENDER = "qc@observatory.example.org"
LATER, DAY = JUDGED + timedelta(hours=1), timedelta(days=1)
INSTRUMENTS = read_instruments()


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture
def port(handler) -> Iterator[int]:
    with mail_server(handler) as port:
        yield port


def served(project: Project, port: int, *to: Subscription, **mail: Any) -> Project:
    """Let a project have a mail server and subscribers."""
    told: dict[str, Any] = {"host": "127.0.0.1", "security": "none", "sender": SENDER}
    server = MailSettings.model_validate({**told, "timeout_s": 20, **mail, "port": port})
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"mail": server, "subscription": subscriptions}
    return replace(project, settings=project.settings.model_copy(update=changed))


def gather(project: Project, *shots: Shot) -> None:
    """Owe anomalies, and put them into notices."""
    owe(project, *shots)
    with project.writes.begin() as session:
        gather_alerts(session, project.settings, LATER, (*INSTRUMENTS, *project.instruments))


def deliveries(project: Project) -> list[DeliveryRow]:
    with project.reads() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def unrelated(n: int) -> list[Shot]:
    return [Shot(minute, reasons=(f"{'x' * (minute + 1)} 5 ADU",)) for minute in range(n)]


# --- a server that takes them ---------------------------------------------------------------------


def test_a_notice_is_sent_and_committed_and_never_sent_again(project, handler, port):
    watch = served(project, port)
    gather(watch, *a_set(5))
    assert send_unsent(watch, LATER) == DispatchResult(sent=1)
    [row] = deliveries(watch)
    assert row.sent_at is not None
    assert LATER <= row.sent_at < LATER + timedelta(minutes=1)
    assert (row.due_at, row.gave_up_at, row.trouble, row.tries) == (None, None, "", 1)
    assert send_unsent(watch, LATER + DAY) == DispatchResult()
    [mail] = handler.taken
    assert (mail.to, mail.message["To"]) == (KIM, KIM)
    assert mail.message["From"] == f"Calibration QC <{SENDER}>"
    assert mail.message["Subject"].startswith("[QC] URB1 2026-11-19: 5 of 5 biases anomalous, REDU")
    assert mail.message["Auto-Submitted"] == "auto-generated"


def test_many_mails_go_through_one_connection(project, handler, port):
    watch = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(watch, *unrelated(4))
    assert send_unsent(watch, LATER).sent == 8
    assert handler.connections == 1
    assert len({mail.message["Message-ID"] for mail in handler.taken}) == 8


def test_a_mail_can_be_read_without_html(project, handler, port):
    watch = served(project, port)
    gather(watch, *a_set(3, reasons=(LEVEL, NOISE)))
    send_unsent(watch, LATER)
    text = handler.taken[0].text
    assert LEVEL in text
    assert "qc ack 1" in text
    assert "ALL 3, THE WORST FIRST" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_mail_shows_the_worst_frame_its_map_and_the_nearest_nominal(
    inbox, project, handler, port
):
    process(project, *write_history(inbox, 24), label=LabelName.GOOD)
    process(project, write_frame(inbox, night=2, change=light_leak))
    watch = served(project, port)
    with watch.writes.begin() as session:
        [found] = session.scalars(select(AlertRow))
        now = found.owed_at + timedelta(minutes=1)
        archive = {"alerts": watch.settings.alerts.model_copy(update={"oldest_days": 1e5})}
        told = watch.settings.model_copy(update=archive)
        gather_alerts(session, told, now, watch.instruments)
    assert send_unsent(watch, now) == DispatchResult(sent=1)
    message = handler.taken[0].message
    html = handler.taken[0].html
    pictures = [part for part in message.walk() if part.get_content_type() == "image/png"]
    shown = re.findall(r'src="cid:([^"]+)"', html)
    assert [part["Content-ID"] for part in pictures] == [f"<{name}>" for name in shown]
    assert len(pictures) == 4
    assert all(part.get_content().startswith(b"\x89PNG") for part in pictures)
    for words in ("Nearest nominal", "Where it differs", "TB0"):
        assert words in html
    assert "src=" not in html.replace('src="cid:', "")  # nothing is fetched from outside


def test_the_subject_and_the_mail_tell_how_far_a_number_has_moved(inbox, project, handler, port):
    process(project, *write_history(inbox, 24), label=LabelName.GOOD)
    process(project, write_frame(inbox, night=2, change=bias_jump))
    watch = served(project, port)
    with watch.writes.begin() as session:
        row = session.scalars(select(AlertRow)).one()
        row.owed_at = LATER
        limits = watch.settings.alerts.model_copy(update={"oldest_days": 1e5})
        told = watch.settings.model_copy(update={"alerts": limits})
        gather_alerts(session, told, LATER + timedelta(minutes=1), watch.instruments)
    assert send_unsent(watch, LATER + DAY) == DispatchResult(sent=1)
    [mail] = handler.taken
    assert (
        mail.message["Subject"] == "[QC] TB0 2026-01-02: 1 of 1 bias anomalous, CCD, level +50 ADU"
    )
    assert re.search(
        r"^bias level +1(49|50)\.\d\d ADU +(99|100)\.\d\d ADU", mail.text, re.MULTILINE
    )
    assert "Detector number" in mail.html


def test_a_notice_that_cannot_be_written_holds_up_no_other(project, port, caplog):
    watch = served(project, port)
    gather(watch, *unrelated(2))
    with watch.writes.begin() as session:
        first = session.scalars(select(NotificationRow).order_by(NotificationRow.id)).first()
        assert first is not None
        broken = session.get_one(VerdictRow, first.alerts[0].verdict_id)
        broken.reasons = [5]  # type: ignore[list-item]
    sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    assert sent.troubles[0].startswith("the notice cannot be written: ")
    assert "Traceback" in caplog.text


def test_the_review_page_is_linked_when_there_is_one(project, handler, port):
    watch = served(project, port)
    url = {"review_url": "https://qc.example.org/review/"}
    linked = watch.settings.alerts.model_copy(update=url)
    watch = replace(watch, settings=watch.settings.model_copy(update={"alerts": linked}))
    gather(watch, Shot(frame="UVES.2026-11-20T11:00:00.000"))
    send_unsent(watch, LATER)
    html = handler.taken[0].html
    assert 'href="https://qc.example.org/review/nights/2026-11-19"' in html
    assert 'href="https://qc.example.org/review/frames/UVES.2026-11-20T11%3A00%3A00.000"' in html


def test_a_digest_counts_by_image_type_and_chip_and_names_the_worst(project, handler, port):
    watch = served(project, port)
    worst = Shot(9, image_type="UD1RF2", chip="REDL", reasons=(DIM,), score=70)
    gather(watch, *unrelated(6), worst)
    send_unsent(watch, LATER)
    message = handler.taken[0].message
    assert "7 frames anomalous in 7 events; worst UD1RF2 REDL" in message["Subject"]
    text = handler.taken[0].text
    assert re.search(r"^ +REDL +REDU$", text, re.MULTILINE)
    assert re.search(r"^UD1RF2 +1 +\.$", text, re.MULTILINE)
    assert re.search(r"^URB1 +\. +6$", text, re.MULTILINE)
    assert text.index("70  UD1RF2") < text.index("4.0  URB1")


def test_a_report_travels_with_its_page_and_its_pdf(project, handler, port, tmp_path):
    watch = served(project, port, Subscription(to=(LEE,), topics=("report",)))
    page = tmp_path / "2026-11-19.html"
    page.write_text("<p>all is well</p>")
    page.with_suffix(".pdf").write_bytes(b"%PDF-1.7")
    with watch.writes.begin() as session:
        owe_report(session, watch.settings, page, "[QC] UVES 2026-11-19: 2 events", NIGHT, LATER)
    assert send_unsent(watch, LATER) == DispatchResult(sent=1)
    message = handler.taken[0].message
    attached = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    assert attached == {"2026-11-19.html": "<p>all is well</p>", "2026-11-19.pdf": b"%PDF-1.7"}
    assert message["Subject"] == "[QC] UVES 2026-11-19: 2 events"
    assert "qc ack" not in handler.taken[0].text


def test_a_report_whose_page_is_gone_is_told_all_the_same(project, handler, port, tmp_path):
    watch = served(project, port, Subscription(to=(LEE,), topics=("report",)))
    with watch.writes.begin() as session:
        owe_report(session, watch.settings, tmp_path / "none.html", "[QC] a night", NIGHT, LATER)
    send_unsent(watch, LATER)
    text = handler.taken[0].text
    assert "Not attached: none.html: No such file or directory" in text


def test_the_next_address_reads_who_was_told_before(project, handler, port):
    watch = served(project, port, Subscription(to=(KIM, LEE), escalate_h=4))
    gather(watch, Shot())
    send_unsent(watch, LATER)
    later = LATER + timedelta(hours=5)
    with watch.writes.begin() as session:
        gather_alerts(session, watch.settings, later, INSTRUMENTS)
    send_unsent(watch, later)
    first, second = (mail.text for mail in handler.taken)
    assert "Told before" not in first
    assert (
        "Nobody has acknowledged this. Told before:\n  kim@example.org, 2026-11-20 13:0" in second
    )


# --- a server that does not -----------------------------------------------------------------------


def test_an_address_that_is_refused_is_given_up_at_once_and_holds_up_no_other(
    project, handler, port
):
    handler.on_recipient = lambda to: "550 no such user" if to == KIM else OK
    watch = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(watch, Shot())
    sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.gave_up) == (1, 1)
    assert sent.troubles == ("kim@example.org was refused: 550 no such user",)
    first, second = deliveries(watch)
    assert first.gave_up_at is not None
    assert (first.due_at, first.sent_at) == (None, None)
    assert "550 no such user" in first.trouble
    assert second.sent_at is not None


def test_a_mail_that_is_refused_for_what_it_holds_is_given_up(project, handler, port):
    handler.on_mail = lambda _: "554 looks like spam"
    watch = served(project, port)
    gather(watch, Shot())
    assert send_unsent(watch, LATER).gave_up == 1


def test_greylisting_is_waited_out(project, handler, port):
    seen: list[str] = []

    def greylist(to: str) -> str:
        seen.append(to)
        return "451 4.7.1 greylisted, come again" if len(seen) == 1 else OK

    handler.on_recipient = greylist
    watch = served(project, port, retry_first_s=300)
    gather(watch, Shot())
    sent = send_unsent(watch, LATER)
    assert (sent.deferred, sent.gave_up) == (1, 0)
    assert "greylisted, come again" in sent.troubles[0]
    assert send_unsent(watch, LATER + timedelta(seconds=290)) == DispatchResult()
    assert send_unsent(watch, LATER + timedelta(seconds=360)) == DispatchResult(sent=1)
    assert len(handler.taken) == 1


def test_the_tries_of_a_mail_get_rarer_and_end_after_days(project, handler, port):
    handler.on_recipient = lambda _: "450 mailbox busy"
    watch = served(project, port, retry_first_s=60, retry_days=1)
    gather(watch, Shot())
    now, waits = LATER, []
    while (due := deliveries(watch)[0].due_at) is not None:
        now = max(now, due) + timedelta(seconds=1)
        before = now
        send_unsent(watch, now)
        due = deliveries(watch)[0].due_at
        waits += [round((due - before).total_seconds() / 60)] if due else []
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    [row] = deliveries(watch)
    assert row.gave_up_at is not None
    assert row.gave_up_at - row.owed_at >= DAY
    assert row.trouble.startswith("given up after 1 day: kim@example.org was not taken: 450")


def test_a_server_that_is_not_there_defers_all_and_loses_none(project, handler, port):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    watch = served(project, nobody)
    gather(watch, *unrelated(3))
    sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.deferred) == (0, 3)
    assert sent.troubles == (f"mail server 127.0.0.1:{nobody}: Connection refused",)
    assert send_unsent(served(project, port), LATER + DAY) == DispatchResult(sent=3)
    assert len(handler.taken) == 3


def test_a_project_without_a_mail_server_says_so(project):
    watch = served(project, 25, host="")
    gather(watch, Shot())
    assert send_unsent(watch, LATER).troubles == (
        "no mail server is set: mail.host in the settings is empty",
    )


def test_a_server_that_stalls_is_left_after_the_time_out(project, handler, port):
    handler.stalls.add(KIM)
    watch = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)), timeout_s=0.5)
    gather(watch, Shot())
    sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    assert "timed out" in sent.troubles[0]
    assert [mail.to for mail in handler.taken] == [LEE]


def test_a_connection_that_breaks_in_the_midst_of_a_mail_holds_up_no_other(project, handler, port):
    handler.drops.add(KIM)
    watch = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(watch, Shot())
    sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    handler.drops.clear()
    assert send_unsent(watch, LATER + DAY) == DispatchResult(sent=1)
    assert [mail.to for mail in handler.taken] == [LEE, KIM]


def test_a_server_that_breaks_every_time_is_left_alone_and_the_untried_come_first(
    project, handler, port
):
    handler.drops.update({KIM, LEE})
    watch = served(project, port, *(Subscription(to=(one,)) for one in (KIM, LEE, PAT)))
    gather(watch, Shot())
    assert send_unsent(watch, LATER).deferred == 3
    assert [row.tries for row in deliveries(watch)] == [1, 1, 0]
    assert send_unsent(watch, LATER) == DispatchResult(sent=1)  # the third, at once


# --- TLS and login --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_certificate(tmp_path_factory.mktemp("certificate"))


def login(certificate: Path, security: str, **others: Any) -> dict[str, Any]:
    return {
        "security": security,
        "user": USER,
        "password": PASSWORD,
        "ca_file": certificate,
    } | others


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_mails_leave_encrypted_and_after_a_login(project, handler, certificate, security):
    public, context = certificate
    with mail_server(handler, context, security=security) as port:
        watch = served(project, port, **login(public, security))
        gather(watch, Shot())
        assert send_unsent(watch, LATER) == DispatchResult(sent=1)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    project, handler, certificate, security
):
    _, context = certificate
    with mail_server(handler, context, security=security) as port:
        watch = served(project, port, **login(certificate[0], security, ca_file=None))
        gather(watch, Shot())
        [trouble] = send_unsent(watch, LATER).troubles
    assert "TLS could not be agreed on: self-signed certificate" in trouble
    assert handler.taken == []


def test_a_certificate_of_another_host_is_not_trusted(project, handler, tmp_path):
    public, context = write_certificate(tmp_path, "mail.example.org")
    with mail_server(handler, context, security="tls") as port:
        watch = served(project, port, **login(public, "tls"))
        gather(watch, Shot())
        [trouble] = send_unsent(watch, LATER).troubles
    assert "certificate is not valid for '127.0.0.1'" in trouble


def test_nothing_is_sent_in_the_clear_where_starttls_is_asked_and_not_offered(
    project, handler, port, certificate
):
    watch = served(project, port, **login(certificate[0], "starttls"))
    gather(watch, Shot())
    [trouble] = send_unsent(watch, LATER).troubles
    assert "STARTTLS extension not supported by server" in trouble
    assert handler.taken == []


def test_a_server_that_demands_starttls_is_not_persuaded_without(project, handler, certificate):
    with mail_server(handler, certificate[1], security="starttls") as port:
        watch = served(project, port)
        gather(watch, Shot())
        sent = send_unsent(watch, LATER)
    assert (sent.sent, sent.gave_up, sent.deferred) == (0, 0, 1)  # the settings can be mended
    assert "530 Must issue a STARTTLS command first" in sent.troubles[0]


def test_a_wrong_password_is_told_without_it_and_the_mails_wait(
    project, handler, certificate, caplog
):
    caplog.set_level(logging.DEBUG)
    public, context = certificate
    with mail_server(handler, context, security="tls") as port:
        watch = served(project, port, **login(public, "tls", password="gu3ssed"))
        gather(watch, Shot())
        sent = send_unsent(watch, LATER)
    assert sent.deferred == 1
    assert "the login was refused: 535" in sent.troubles[0]
    assert "gu3ssed" not in f"{sent}{caplog.text}{watch.settings!r}{deliveries(watch)[0].trouble}"


def test_a_password_is_read_from_a_file_of_its_owner(project, handler, certificate):
    public, context = certificate
    file = project.settings.project / "mail.secret"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    with mail_server(handler, context, security="tls") as port:
        told = login(public, "tls", password="", password_file="mail.secret")
        watch = served(project, port, **told)
        gather(watch, Shot())
        assert send_unsent(watch, LATER) == DispatchResult(sent=1)


def test_a_test_mail_tells_what_the_server_answered(project, handler, port):
    watch = served(project, port)
    assert send_test(watch.settings.mail, ROOT, KIM, LATER) == "250 taken"
    assert handler.taken[0].message["Subject"] == "[QC] a test: mails arrive"
    handler.on_recipient = lambda _: "550 who is that"
    with pytest.raises(
        RecipientRefusedError, match=r"kim@example.org was refused: 550 who is that"
    ):
        send_test(watch.settings.mail, ROOT, KIM, LATER)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_may_read_is_none(tmp_path, mode):
    file = tmp_path / "secret"
    file.write_text("s3cret")
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as told:
        read_secret(file)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "an empty file"), (b"\xff\xfe", "it is no text"), (None, "No such")],
)
def test_a_file_that_holds_no_secret_is_told(tmp_path, content, words):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=words):
        read_secret(file)


@pytest.mark.parametrize(
    "toml",
    [
        '[mail]\npassword = "s3cret"',
        '[mail]\npassword = ["s3cret"]',
        '[mail]\npasswort = "s3cret"',
        '[mail]\nhost = "s3cret@x"\nport = "s3cret"\npassword = 1',
        'mail_password = "s3cret"',
        'mail = "s3cret"',
        'subscription = "s3cret"',
        '[[subscription]]\nwebhook = "s3cret"',
        '[[subscription]]\nweb_hook = "https://s3cret"',
        '[[subscription]]\nwebhook = "https://x/s3cret y"',
    ],
)
def test_no_mistake_in_the_settings_repeats_a_secret(tmp_path, toml):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as told:
        read_settings(tmp_path)
    error: BaseException | None = told.value
    while error is not None:
        assert "s3cret" not in f"{error}{error!r}"
        error = error.__cause__


def test_a_password_in_the_settings_file_is_refused_with_where_it_belongs(tmp_path):
    (tmp_path / "qc.toml").write_text('[mail]\npassword = "s3cret"\n')
    with pytest.raises(ConfigurationError, match=r"mail\.password: .*QC_MAIL__PASSWORD") as told:
        read_settings(tmp_path)
    assert "s3cret" not in str(told.value)


def test_a_password_comes_from_the_environment_and_is_shown_nowhere(tmp_path, monkeypatch):
    (tmp_path / "qc.toml").write_text('[mail]\nhost = "mail.example.org"\nsender = "a@b.org"\n')
    monkeypatch.setenv("QC_MAIL__PASSWORD", "s3cret")
    found = read_settings(tmp_path)
    assert found.mail.password.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{found}{found!r}{found.model_dump()}{found.mail}"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[mail]\nhost = "x"', "sender: expected the address that mails come from"),
        ('[mail]\nsender = "Me <me@x.org>"', "expected a mail address like name@example.org"),
        ('[[subscription]]\nto = ["a@b.org\\nBcc: c@d.org"]', "expected a mail address"),
        ('[[subscription]]\nto = ["kim"]', "expected a mail address"),
        ('[alerts]\nreview_url = "javascript:alert(1)"', "begins with https:// or http://"),
        (
            '[mail]\nhost = "x.org"\nsender = "a@b.org"\nuser = "u"\nsecurity = "none"',
            "would travel in the clear",
        ),
    ],
)
def test_settings_that_cannot_work_are_told(tmp_path, toml, words):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        read_settings(tmp_path)


# --- webhooks -------------------------------------------------------------------------------------


class Hooks(BaseHTTPRequestHandler):
    """A chat server: `answers` are given in turn, then 200."""

    answers: ClassVar[list[int]]
    posted: ClassVar[list[tuple[str, dict[str, Any]]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, json.loads(body)))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def chat() -> Iterator[tuple[str, type[Hooks]]]:
    class Own(Hooks):
        answers: ClassVar[list[int]] = []
        posted: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    server = HTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hooks/s3cret", Own
    server.shutdown()
    wait_for_end(thread)
    server.server_close()


def hooked(project: Project, url: str) -> Project:
    return served(project, 1, Subscription(webhook=SecretStr(url)))


def test_a_webhook_gets_text_for_people_and_facts_for_programs(project, chat, caplog):
    caplog.set_level(logging.DEBUG)
    url, server = chat
    watch = hooked(project, url)
    gather(watch, *a_set(3))
    sent = send_unsent(watch, LATER)
    assert sent == DispatchResult(sent=1)
    [(path, message)] = server.posted
    assert path == "/hooks/s3cret"
    assert message["text"].startswith("**URB1 2026-11-19: 3 of 3 biases anomalous, REDU, ")
    assert "`qc ack 1`" in message["text"]
    assert {"title": "Chips", "value": "REDU", "short": True} in message["attachments"][0]["fields"]
    assert (message["qc"]["notice"], message["qc"]["total"]) == (1, 3)
    with project.reads() as session:
        kept = session.execute(select(DeliveryRow.address, DeliveryRow.trouble)).all()
    assert "s3cret" not in f"{caplog.text}{kept}{sent}{watch.settings!r}"


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_a_webhook_that_cannot_now_is_asked_again(project, chat, code):
    url, server = chat
    server.answers.append(code)
    watch = hooked(project, url)
    gather(watch, Shot())
    assert send_unsent(watch, LATER).troubles == (f"webhook: not taken: HTTP {code}",)
    assert send_unsent(watch, LATER + DAY) == DispatchResult(sent=1)
    assert len(server.posted) == 2


@pytest.mark.parametrize("code", [302, 403, 404, 410])
def test_a_webhook_that_refuses_is_given_up(project, chat, code):
    url, server = chat
    server.answers.append(code)
    watch = hooked(project, url)
    gather(watch, Shot())
    assert send_unsent(watch, LATER) == DispatchResult(
        gave_up=1, troubles=(f"webhook: refused: HTTP {code}",)
    )
    assert send_unsent(watch, LATER + DAY) == DispatchResult()


def test_a_webhook_that_is_not_there_is_told_without_its_address(project, caplog):
    watch = hooked(project, "http://127.0.0.1:1/hooks/s3cret")
    gather(watch, Shot())
    assert send_unsent(watch, LATER).troubles == ("webhook: not to be had: ConnectError",)
    assert "s3cret" not in caplog.text


def test_a_webhook_may_stand_in_a_file_of_its_owner(project, chat):
    url, server = chat
    file = project.settings.project / "chat.secret"
    file.write_text(url)
    watch = served(project, 1, Subscription(webhook_file=Path("chat.secret")))
    gather(watch, Shot())
    file.chmod(0o644)
    [trouble] = send_unsent(watch, LATER).troubles
    assert "chmod 600" in trouble
    file.chmod(0o600)
    assert send_unsent(watch, LATER + DAY) == DispatchResult(sent=1)
    assert len(server.posted) == 1


def test_a_webhook_that_the_settings_name_no_more_is_given_up(project, chat):
    watch = hooked(project, chat[0])
    gather(watch, Shot())
    assert send_unsent(hooked(project, "http://127.0.0.1/other"), LATER).gave_up == 1


# --- what a header can hold -----------------------------------------------------------------------


class Tags(HTMLParser):
    """Counts what a browser would make an element of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def story_of(words: str) -> NotificationContent:
    """A notice in which everything that comes from outside is the same text."""
    seen = plain(words) or "nothing to be seen"
    line = ImageLine(seen, seen, "", "4.0", seen, "")
    shown = WorstImage(line, seen, (seen,), seen, (), (), seen)
    return NotificationContent(
        number=1,
        topic=Topic.VERDICT,
        form=NotificationKind.EVENT,
        subject=plain(f"[QC] {words}", LONGEST_SUBJECT),
        headline=seen,
        facts={"Sets": seen},
        words=(seen,),
        total=1,
        shown=shown,
        lines=(line,),
    )


MAIL = MailSettings(host="x", sender=SENDER)
PLAIN_LETTER = write_letter(story_of("a quiet night"))
HEADERS = [name for name, _ in compose(PLAIN_LETTER, MAIL, KIM, "id", LATER).items()]
HOSTILE = [
    "x\r\nBcc: evil@example.org",
    "x\nSubject: other",
    "x\u2028Bcc: evil@example.org\u2029",
    "x\x85Bcc: a@b.c\x0b\x0c\x1c\x1d\x1e",
    "</title><script>alert(1)</script><img src=x onerror=alert(1)>",
    '"><a href="javascript:alert(1)">click</a>',
    "=?utf-8?q?Bcc=3A_evil=40example=2Eorg?=",
    "\r\n\r\n--===============0==\r\nContent-Type: text/html\r\n\r\n<b>",
    "\r\n.\r\nMAIL FROM:<evil@example.org>",
    "\u202egnp.exe \ufeff\ud800",
    "@channel <!channel> [click](https://evil.example.org)",
    "{{ 7 * 7 }} {% include 'style.css' %}",
    "x" * 5000,
    "é" * 500,
]


def assert_harmless(words: str) -> None:
    """Nothing that a header or a file's name holds is anything but words in a mail."""
    letter = write_letter(story_of(words))
    content = compose(letter, MAIL, KIM, "id", LATER).as_bytes()
    head, _, _ = content.partition(b"\r\n\r\n")
    names = [line.split(b":")[0].decode() for line in head.split(b"\r\n") if line[:1].strip()]
    assert sorted(names) == sorted([*HEADERS, "MIME-Version"]) or sorted(names) == sorted(HEADERS)
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert Tags(letter.html).found == Tags(PLAIN_LETTER.html).found
    assert len(letter.subject) <= LONGEST_SUBJECT
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202e]", letter.text + letter.html)
    text = write_message(story_of(words), "project")["text"]
    assert not re.search(r"@[a-z]|<!|\]\(", text)


@pytest.mark.parametrize("words", HOSTILE)
def test_nothing_in_a_header_keyword_is_more_than_words_in_a_mail(words):
    assert_harmless(words)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec=None), max_size=200) | st.sampled_from(HOSTILE))
def test_no_text_whatever_can_inject_a_header_or_a_tag(words):
    assert_harmless(words)


def test_a_hostile_name_travels_from_the_database_to_the_server_as_words(project, handler, port):
    watch = served(project, port)
    name = "x\r\nBcc: evil@example.org\r\n\r\n<script>alert(1)</script>"
    gather(watch, Shot(frame=name, reasons=(name,), template=name, kind=name, image_type=name))
    assert send_unsent(watch, LATER) == DispatchResult(sent=1)
    [mail] = handler.taken
    assert mail.message["Bcc"] is None
    assert "<script" not in mail.html


# --- killed ---------------------------------------------------------------------------------------

SENDS = """
import sys
from datetime import datetime
from pathlib import Path
from qc.alerts.dispatch import send_unsent
from tests.support.tiny import open_tiny
with open_tiny(Path(sys.argv[1])) as project:
    print(send_unsent(project, datetime.fromisoformat(sys.argv[2])).sent)
"""


def run_sender(project_folder: Path, now: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SENDS, str(project_folder), now]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_kill_between_the_servers_taking_and_the_commit_repeats_one_mail_and_loses_none(
    project_folder, handler, port, killed_at
):
    write_settings(
        project_folder,
        f'[mail]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nsender = "{SENDER}"\n'
        f'[[subscription]]\nto = ["{KIM}"]\n',
    )
    with open_tiny(project_folder) as project:
        gather(project, *unrelated(4))
    senders: list[subprocess.Popen[str]] = []
    killed = threading.Event()

    def kill_once(_: object) -> str:
        if len(handler.taken) == killed_at - 1 and not killed.is_set():
            killed.set()
            os.kill(senders[0].pid, signal.SIGKILL)  # the mail is taken; nobody will hear of it
        return OK

    handler.on_mail = kill_once
    senders.append(run_sender(project_folder, LATER.isoformat()))
    assert senders[0].wait(120) == -signal.SIGKILL
    assert len(handler.taken) == killed_at
    senders[0].communicate()
    again = run_sender(project_folder, (LATER + DAY).isoformat())
    told, _ = again.communicate(timeout=120)
    assert int(told) == 4 - killed_at + 1
    ids = [mail.message["Message-ID"] for mail in handler.taken]
    assert len(ids) == 5
    assert len(set(ids)) == 4
    assert ids.count(ids[killed_at - 1]) == 2


def test_a_database_that_is_away_when_a_mail_has_left_does_not_repeat_it(
    project, handler, port, monkeypatch
):
    monkeypatch.setattr(dispatch, "_RECORD_PAUSE_S", 0.01)
    watch = served(project, port)
    gather(watch, Shot())
    failures = iter([True, True, False])

    def fail(_session: object) -> None:
        if handler.taken and next(failures, False):
            raise OperationalError("UPDATE", {}, Exception("database is locked"))

    event.listen(watch.writes, "before_commit", fail)
    try:
        assert send_unsent(watch, LATER) == DispatchResult(sent=1)
    finally:
        event.remove(watch.writes, "before_commit", fail)
    assert send_unsent(watch, LATER + DAY) == DispatchResult()
    assert len(handler.taken) == 1


def test_two_that_send_at_once_do_not_send_twice(project, handler, port):
    watch = served(project, port)
    gather(watch, *unrelated(5))
    threads = [threading.Thread(target=send_unsent, args=(watch, LATER)) for _ in range(2)]
    for one in threads:
        one.start()
    wait_for_end(*threads)
    assert len(handler.taken) == 5


@pytest.mark.parametrize("to", ["kim", "a@b.org\r\nBcc: c@d.org", "Kim <kim@example.org>", ""])
def test_a_test_mail_to_what_is_no_address_is_refused(to):
    with pytest.raises(InvalidInputError, match="expected a mail address"):
        send_test(MAIL, ROOT, to, LATER)


def test_a_letter_without_pictures_is_a_mail():
    message = compose(Message("[QC] a", "b\n", "<p>b</p>"), MAIL, KIM, "id", LATER)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_a_server_that_is_none_is_out_of_reach():
    with pytest.raises(ServerUnreachableError, match="no mail server is set"):
        send_test(MailSettings(), ROOT, KIM, LATER)
