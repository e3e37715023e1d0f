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

from qc._files import read_secret
from qc._text import plain_line
from qc.alerts import dispatch
from qc.alerts.content import ImageLine, NotificationContent, WorstImage
from qc.alerts.dispatch import DispatchResult, send_test, send_unsent
from qc.alerts.email import Message, compose, render_message
from qc.alerts.gather import gather_alerts
from qc.alerts.report_mail import queue_report
from qc.alerts.subjects import LONGEST_SUBJECT
from qc.alerts.webhook import build_message
from qc.core.enums import LabelName, NotificationKind, Topic
from qc.db.schema.models import AlertRow, DeliveryRow, NotificationRow, VerdictRow
from qc.errors import (
    ConfigurationError,
    InvalidInputError,
    RecipientRefusedError,
    ServerUnreachableError,
)
from qc.io.instrument_files import read_instruments
from qc.project import ProjectContext
from qc.settings import MailSettings, Subscription, read_settings
from tests.support.alert_rows import (
    DIM,
    JUDGED,
    LEVEL,
    NIGHT,
    NOISE,
    Shot,
    add_alerts,
    template_set,
)
from tests.support.databases import write_settings
from tests.support.mailserver import OK, PASSWORD, USER, Handler, mail_server, write_certificate
from tests.support.tiny_spectrograph import (
    bias_jump,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
)
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


def served(project: ProjectContext, port: int, *to: Subscription, **mail: Any) -> ProjectContext:
    """Return a project with a mail server and subscribers."""
    local: dict[str, Any] = {"host": "127.0.0.1", "security": "none", "sender": SENDER}
    server = MailSettings.model_validate({**local, "timeout_s": 20, **mail, "port": port})
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"mail": server, "subscription": subscriptions}
    return replace(project, settings=project.settings.model_copy(update=changed))


def gather(project: ProjectContext, *shots: Shot) -> None:
    """Owe anomalies, and put them into notices."""
    add_alerts(project, *shots)
    with project.write_session.begin() as session:
        instruments = (*INSTRUMENTS, *project.instruments)
        gather_alerts(session, project.settings, LATER, instruments, lambda after: after)


def deliveries(project: ProjectContext) -> list[DeliveryRow]:
    with project.read_session() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def unrelated(n: int) -> list[Shot]:
    return [Shot(minute, reasons=(f"{'x' * (minute + 1)} 5 ADU",)) for minute in range(n)]


# --- a server that takes them ---------------------------------------------------------------------


def test_mail_is_sent_once(project, handler, port):
    mailing = served(project, port)
    gather(mailing, *template_set(5))
    assert send_unsent(mailing, LATER) == DispatchResult(sent=1)
    [row] = deliveries(mailing)
    assert row.sent_at is not None
    assert LATER <= row.sent_at < LATER + timedelta(minutes=1)
    assert (row.due_at, row.gave_up_at, row.trouble, row.tries) == (None, None, "", 1)
    assert send_unsent(mailing, LATER + DAY) == DispatchResult()
    [mail] = handler.taken
    assert (mail.to, mail.message["To"]) == (KIM, KIM)
    assert mail.message["From"] == f"Calibration QC <{SENDER}>"
    assert mail.message["Subject"].startswith("[QC] URB1 2026-11-19: 5 of 5 biases anomalous, REDU")
    assert mail.message["Auto-Submitted"] == "auto-generated"


def test_mails_share_one_connection(project, handler, port):
    mailing = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(mailing, *unrelated(4))
    assert send_unsent(mailing, LATER).sent == 8
    assert handler.connections == 1
    assert len({mail.message["Message-ID"] for mail in handler.taken}) == 8


def test_mail_has_text_version(project, handler, port):
    mailing = served(project, port)
    gather(mailing, *template_set(3, reasons=(LEVEL, NOISE)))
    send_unsent(mailing, LATER)
    text = handler.taken[0].text
    assert LEVEL in text
    assert "qc alerts ack 1" in text
    assert "ALL 3 IMAGES, WORST FIRST" in text
    assert max(map(len, text.splitlines())) <= 100


def test_mail_has_worst_frame_residual_map_and_nearest_nominal(inbox, project, handler, port):
    process(project, *write_history(inbox, 24), label=LabelName.GOOD)
    process(project, write_frame(inbox, night=2, change=light_leak))
    mailing = served(project, port)
    with mailing.write_session.begin() as session:
        [alert] = session.scalars(select(AlertRow))
        now = alert.owed_at + timedelta(minutes=1)
        archive = {"alerts": mailing.settings.alerts.model_copy(update={"oldest_days": 1e5})}
        settings_ = mailing.settings.model_copy(update=archive)
        gather_alerts(session, settings_, now, mailing.instruments, lambda after: after)
    assert send_unsent(mailing, now) == DispatchResult(sent=1)
    message = handler.taken[0].message
    html = handler.taken[0].html
    pictures = [part for part in message.walk() if part.get_content_type() == "image/png"]
    ids = re.findall(r'src="cid:([^"]+)"', html)
    assert [part["Content-ID"] for part in pictures] == [f"<{name}>" for name in ids]
    assert len(pictures) == 4
    assert all(part.get_content().startswith(b"\x89PNG") for part in pictures)
    for words in ("Nearest nominal", "Residual map", "TB0"):
        assert words in html
    assert "src=" not in html.replace('src="cid:', "")  # nothing is fetched from outside


def test_mail_and_subject_have_deviation_of_metric(inbox, project, handler, port):
    process(project, *write_history(inbox, 24), label=LabelName.GOOD)
    process(project, write_frame(inbox, night=2, change=bias_jump))
    mailing = served(project, port)
    with mailing.write_session.begin() as session:
        row = session.scalars(select(AlertRow)).one()
        row.owed_at = LATER
        limits = mailing.settings.alerts.model_copy(update={"oldest_days": 1e5})
        settings_ = mailing.settings.model_copy(update={"alerts": limits})
        later = LATER + timedelta(minutes=1)
        gather_alerts(session, settings_, later, mailing.instruments, lambda after: after)
    assert send_unsent(mailing, LATER + DAY) == DispatchResult(sent=1)
    [mail] = handler.taken
    assert (
        mail.message["Subject"] == "[QC] TB0 2026-01-02: 1 of 1 bias anomalous, CCD, level +50 ADU"
    )
    assert re.search(
        r"^bias level +1(49|50)\.\d\d ADU +(99|100)\.\d\d ADU", mail.text, re.MULTILINE
    )
    assert "Metric" in mail.html


def test_notification_with_error_does_not_block_others(project, port, caplog):
    mailing = served(project, port)
    gather(mailing, *unrelated(2))
    with mailing.write_session.begin() as session:
        first = session.scalars(select(NotificationRow).order_by(NotificationRow.id)).first()
        assert first is not None
        broken = session.get_one(VerdictRow, first.alerts[0].verdict_id)
        broken.reasons = [5]  # type: ignore[list-item]
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    assert sent.problems[0].startswith("the notification cannot be composed: ")
    assert "Traceback" in caplog.text


def test_mail_links_review_page(project, handler, port):
    mailing = served(project, port)
    url = {"review_url": "https://qc.example.org/review/"}
    linked = mailing.settings.alerts.model_copy(update=url)
    mailing = replace(mailing, settings=mailing.settings.model_copy(update={"alerts": linked}))
    gather(mailing, Shot(frame="UVES.2026-11-20T11:00:00.000"))
    send_unsent(mailing, LATER)
    html = handler.taken[0].html
    assert 'href="https://qc.example.org/review/nights/2026-11-19"' in html
    assert 'href="https://qc.example.org/review/frames/UVES.2026-11-20T11%3A00%3A00.000"' in html


def test_digest_has_counts_by_type_and_chip_and_worst_event(project, handler, port):
    mailing = served(project, port)
    worst = Shot(9, image_type="UD1RF2", chip="REDL", reasons=(DIM,), score=70)
    gather(mailing, *unrelated(6), worst)
    send_unsent(mailing, LATER)
    message = handler.taken[0].message
    assert "7 frames anomalous in 7 events; worst UD1RF2 REDL" in message["Subject"]
    text = handler.taken[0].text
    assert re.search(r"^ +REDL +REDU$", text, re.MULTILINE)
    assert re.search(r"^UD1RF2 +1 +\.$", text, re.MULTILINE)
    assert re.search(r"^URB1 +\. +6$", text, re.MULTILINE)
    assert text.index("70  UD1RF2") < text.index("4.0  URB1")


def test_report_mail_has_html_and_pdf(project, handler, port, tmp_path):
    mailing = served(project, port, Subscription(to=(LEE,), topics=("report",)))
    page = tmp_path / "2026-11-19.html"
    page.write_text("<p>all is well</p>")
    page.with_suffix(".pdf").write_bytes(b"%PDF-1.7")
    with mailing.write_session.begin() as session:
        queue_report(
            session, mailing.settings, page, "[QC] UVES 2026-11-19: 2 events", NIGHT, LATER
        )
    assert send_unsent(mailing, LATER) == DispatchResult(sent=1)
    message = handler.taken[0].message
    attached = {part.get_filename(): part.get_content() for part in message.iter_attachments()}
    assert attached == {"2026-11-19.html": "<p>all is well</p>", "2026-11-19.pdf": b"%PDF-1.7"}
    assert message["Subject"] == "[QC] UVES 2026-11-19: 2 events"
    assert "qc alerts ack" not in handler.taken[0].text


def test_report_mail_without_file_names_it(project, handler, port, tmp_path):
    mailing = served(project, port, Subscription(to=(LEE,), topics=("report",)))
    with mailing.write_session.begin() as session:
        queue_report(
            session, mailing.settings, tmp_path / "none.html", "[QC] a night", NIGHT, LATER
        )
    send_unsent(mailing, LATER)
    text = handler.taken[0].text
    assert "Not attached: none.html: No such file or directory" in text


def test_escalated_mail_lists_earlier_recipients(project, handler, port):
    mailing = served(project, port, Subscription(to=(KIM, LEE), escalate_h=4))
    gather(mailing, Shot())
    send_unsent(mailing, LATER)
    later = LATER + timedelta(hours=5)
    with mailing.write_session.begin() as session:
        gather_alerts(session, mailing.settings, later, INSTRUMENTS, lambda after: after)
    send_unsent(mailing, later)
    first, second = (mail.text for mail in handler.taken)
    assert "Earlier recipients" not in first
    assert "Not acknowledged. Earlier recipients:\n  kim@example.org, 2026-11-20 13:0" in second


# --- a server that does not -----------------------------------------------------------------------


def test_refused_address_is_given_up_without_blocking_others(project, handler, port):
    handler.on_recipient = lambda to: "550 no such user" if to == KIM else OK
    mailing = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(mailing, Shot())
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.gave_up) == (1, 1)
    assert sent.problems == ("kim@example.org was refused: 550 no such user",)
    first, second = deliveries(mailing)
    assert first.gave_up_at is not None
    assert (first.due_at, first.sent_at) == (None, None)
    assert "550 no such user" in first.trouble
    assert second.sent_at is not None


def test_refused_content_is_given_up(project, handler, port):
    handler.on_mail = lambda _: "554 looks like spam"
    mailing = served(project, port)
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER).gave_up == 1


def test_greylisting_is_retried(project, handler, port):
    attempts: list[str] = []

    def greylist(to: str) -> str:
        attempts.append(to)
        return "451 4.7.1 greylisted, come again" if len(attempts) == 1 else OK

    handler.on_recipient = greylist
    mailing = served(project, port, retry_first_s=300)
    gather(mailing, Shot())
    sent = send_unsent(mailing, LATER)
    assert (sent.deferred, sent.gave_up) == (1, 0)
    assert "greylisted, come again" in sent.problems[0]
    assert send_unsent(mailing, LATER + timedelta(seconds=290)) == DispatchResult()
    assert send_unsent(mailing, LATER + timedelta(seconds=360)) == DispatchResult(sent=1)
    assert len(handler.taken) == 1


def test_retry_interval_doubles_and_ends_after_days(project, handler, port):
    handler.on_recipient = lambda _: "450 mailbox busy"
    mailing = served(project, port, retry_first_s=60, retry_days=1)
    gather(mailing, Shot())
    now, waits = LATER, []
    while (due := deliveries(mailing)[0].due_at) is not None:
        now = max(now, due) + timedelta(seconds=1)
        before = now
        send_unsent(mailing, now)
        due = deliveries(mailing)[0].due_at
        waits += [round((due - before).total_seconds() / 60)] if due else []
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    [row] = deliveries(mailing)
    assert row.gave_up_at is not None
    assert row.gave_up_at - row.owed_at >= DAY
    assert row.trouble.startswith("given up after 1 day: kim@example.org was not accepted: 450")


def test_unreachable_server_defers_all_mails(project, handler, port):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = free.getsockname()[1]
    mailing = served(project, nobody)
    gather(mailing, *unrelated(3))
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.deferred) == (0, 3)
    assert sent.problems == (f"mail server 127.0.0.1:{nobody}: Connection refused",)
    assert send_unsent(served(project, port), LATER + DAY) == DispatchResult(sent=3)
    assert len(handler.taken) == 3


def test_missing_mail_server_is_reported(project):
    mailing = served(project, 25, host="")
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER).problems == (
        "no mail server is set: mail.host in the settings is empty",
    )


def test_stalled_server_times_out(project, handler, port):
    handler.stalls.add(KIM)
    mailing = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)), timeout_s=0.5)
    gather(mailing, Shot())
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    assert "timed out" in sent.problems[0]
    assert [mail.to for mail in handler.taken] == [LEE]


def test_lost_connection_does_not_block_other_mails(project, handler, port):
    handler.drops.add(KIM)
    mailing = served(project, port, Subscription(to=(KIM,)), Subscription(to=(LEE,)))
    gather(mailing, Shot())
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.deferred) == (1, 1)
    handler.drops.clear()
    assert send_unsent(mailing, LATER + DAY) == DispatchResult(sent=1)
    assert [mail.to for mail in handler.taken] == [LEE, KIM]


def test_repeated_connection_loss_ends_round_and_untried_come_first(project, handler, port):
    handler.drops.update({KIM, LEE})
    mailing = served(project, port, *(Subscription(to=(address,)) for address in (KIM, LEE, PAT)))
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER).deferred == 3
    assert [row.tries for row in deliveries(mailing)] == [1, 1, 0]
    assert send_unsent(mailing, LATER) == DispatchResult(sent=1)  # the third, at once


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
def test_mail_with_tls_and_login(project, handler, certificate, security):
    public, context = certificate
    with mail_server(handler, context, security=security) as port:
        mailing = served(project, port, **login(public, security))
        gather(mailing, Shot())
        assert send_unsent(mailing, LATER) == DispatchResult(sent=1)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_tls_self_signed_certificate_is_refused(project, handler, certificate, security):
    _, context = certificate
    with mail_server(handler, context, security=security) as port:
        mailing = served(project, port, **login(certificate[0], security, ca_file=None))
        gather(mailing, Shot())
        [problem] = send_unsent(mailing, LATER).problems
    assert "TLS failed: self-signed certificate" in problem
    assert handler.taken == []


def test_tls_certificate_of_other_host_is_refused(project, handler, tmp_path):
    public, context = write_certificate(tmp_path, "mail.example.org")
    with mail_server(handler, context, security="tls") as port:
        mailing = served(project, port, **login(public, "tls"))
        gather(mailing, Shot())
        [problem] = send_unsent(mailing, LATER).problems
    assert "certificate is not valid for '127.0.0.1'" in problem


def test_starttls_not_offered_sends_nothing(project, handler, port, certificate):
    mailing = served(project, port, **login(certificate[0], "starttls"))
    gather(mailing, Shot())
    [problem] = send_unsent(mailing, LATER).problems
    assert "STARTTLS extension not supported by server" in problem
    assert handler.taken == []


def test_starttls_demanded_defers_mail(project, handler, certificate):
    with mail_server(handler, certificate[1], security="starttls") as port:
        mailing = served(project, port)
        gather(mailing, Shot())
        sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.gave_up, sent.deferred) == (0, 0, 1)  # the settings can be mended
    assert "530 Must issue a STARTTLS command first" in sent.problems[0]


def test_wrong_password_defers_mails_without_leaking_it(project, handler, certificate, caplog):
    caplog.set_level(logging.DEBUG)
    public, context = certificate
    with mail_server(handler, context, security="tls") as port:
        mailing = served(project, port, **login(public, "tls", password="gu3ssed"))
        gather(mailing, Shot())
        sent = send_unsent(mailing, LATER)
    assert sent.deferred == 1
    assert "login refused: 535" in sent.problems[0]
    assert (
        "gu3ssed" not in f"{sent}{caplog.text}{mailing.settings!r}{deliveries(mailing)[0].trouble}"
    )


def test_password_from_private_file(project, handler, certificate):
    public, context = certificate
    file = project.settings.project / "mail.secret"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    with mail_server(handler, context, security="tls") as port:
        options = login(public, "tls", password="", password_file="mail.secret")
        mailing = served(project, port, **options)
        gather(mailing, Shot())
        assert send_unsent(mailing, LATER) == DispatchResult(sent=1)


def test_test_mail_returns_server_answer(project, handler, port):
    mailing = served(project, port)
    assert send_test(mailing.settings.mail, ROOT, KIM, LATER) == "250 taken"
    assert handler.taken[0].message["Subject"] == "[QC] test mail"
    handler.on_recipient = lambda _: "550 who is that"
    with pytest.raises(
        RecipientRefusedError, match=r"kim@example.org was refused: 550 who is that"
    ):
        send_test(mailing.settings.mail, ROOT, KIM, LATER)


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_secret_file_readable_by_others_is_refused(tmp_path, mode):
    file = tmp_path / "secret"
    file.write_text("s3cret")
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read_secret(file)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "an empty file"), (b"\xff\xfe", "it is no text"), (None, "No such")],
)
def test_secret_file_invalid(tmp_path, content, words):
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
def test_settings_errors_never_contain_secrets(tmp_path, toml):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(tmp_path)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error}{error!r}"
        error = error.__cause__


def test_password_in_settings_file_is_refused(tmp_path):
    (tmp_path / "qc.toml").write_text('[mail]\npassword = "s3cret"\n')
    with pytest.raises(ConfigurationError, match=r"mail\.password: .*QC_MAIL__PASSWORD") as caught:
        read_settings(tmp_path)
    assert "s3cret" not in str(caught.value)


def test_password_from_environment_is_hidden(tmp_path, monkeypatch):
    (tmp_path / "qc.toml").write_text('[mail]\nhost = "mail.example.org"\nsender = "a@b.org"\n')
    monkeypatch.setenv("QC_MAIL__PASSWORD", "s3cret")
    loaded = read_settings(tmp_path)
    assert loaded.mail.password.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{loaded}{loaded!r}{loaded.model_dump()}{loaded.mail}"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[mail]\nhost = "x"', "sender: expected the address of the sender"),
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
def test_settings_invalid_mail(tmp_path, toml, words):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        read_settings(tmp_path)


# --- webhooks -------------------------------------------------------------------------------------


class Hooks(BaseHTTPRequestHandler):
    """A chat server that returns `answers` in turn, then 200."""

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
        """Log nothing."""


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


def hooked(project: ProjectContext, url: str) -> ProjectContext:
    return served(project, 1, Subscription(webhook=SecretStr(url)))


def test_webhook_message_has_text_and_facts(project, chat, caplog):
    caplog.set_level(logging.DEBUG)
    url, server = chat
    mailing = hooked(project, url)
    gather(mailing, *template_set(3))
    sent = send_unsent(mailing, LATER)
    assert sent == DispatchResult(sent=1)
    [(path, message)] = server.posted
    assert path == "/hooks/s3cret"
    assert message["text"].startswith("**URB1 2026-11-19: 3 of 3 biases anomalous, REDU, ")
    assert "`qc alerts ack 1`" in message["text"]
    assert {"title": "Chips", "value": "REDU", "short": True} in message["attachments"][0]["fields"]
    assert (message["qc"]["notice"], message["qc"]["total"]) == (1, 3)
    with project.read_session() as session:
        stored = session.execute(select(DeliveryRow.address, DeliveryRow.trouble)).all()
    assert "s3cret" not in f"{caplog.text}{stored}{sent}{mailing.settings!r}"


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_webhook_temporary_error_is_retried(project, chat, code):
    url, server = chat
    server.answers.append(code)
    mailing = hooked(project, url)
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER).problems == (f"webhook: not accepted: HTTP {code}",)
    assert send_unsent(mailing, LATER + DAY) == DispatchResult(sent=1)
    assert len(server.posted) == 2


@pytest.mark.parametrize("code", [302, 403, 404, 410])
def test_webhook_refusal_is_given_up(project, chat, code):
    url, server = chat
    server.answers.append(code)
    mailing = hooked(project, url)
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER) == DispatchResult(
        gave_up=1, problems=(f"webhook: refused: HTTP {code}",)
    )
    assert send_unsent(mailing, LATER + DAY) == DispatchResult()


def test_webhook_unreachable_does_not_leak_url(project, caplog):
    mailing = hooked(project, "http://127.0.0.1:1/hooks/s3cret")
    gather(mailing, Shot())
    assert send_unsent(mailing, LATER).problems == ("webhook: unreachable: ConnectError",)
    assert "s3cret" not in caplog.text


def test_webhook_url_from_private_file(project, chat):
    url, server = chat
    file = project.settings.project / "chat.secret"
    file.write_text(url)
    mailing = served(project, 1, Subscription(webhook_file=Path("chat.secret")))
    gather(mailing, Shot())
    file.chmod(0o644)
    [problem] = send_unsent(mailing, LATER).problems
    assert "chmod 600" in problem
    file.chmod(0o600)
    assert send_unsent(mailing, LATER + DAY) == DispatchResult(sent=1)
    assert len(server.posted) == 1


def test_webhook_removed_from_settings_is_given_up(project, chat):
    mailing = hooked(project, chat[0])
    gather(mailing, Shot())
    assert send_unsent(hooked(project, "http://127.0.0.1/other"), LATER).gave_up == 1


# --- what a header can hold -----------------------------------------------------------------------


class Tags(HTMLParser):
    """The HTML elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))


def content_of(text: str) -> NotificationContent:
    """Return a notification with the same external text in each field."""
    field = plain_line(text) or "empty"
    line = ImageLine(field, field, "", "4.0", field, "")
    worst = WorstImage(line, field, (field,), field, (), (), field)
    return NotificationContent(
        number=1,
        topic=Topic.VERDICT,
        form=NotificationKind.EVENT,
        subject=plain_line(f"[QC] {text}", LONGEST_SUBJECT),
        headline=field,
        facts={"Sets": field},
        messages=(field,),
        total=1,
        worst=worst,
        lines=(line,),
    )


MAIL = MailSettings(host="x", sender=SENDER)
PLAIN_MESSAGE = render_message(content_of("a quiet night"))
HEADERS = [name for name, _ in compose(PLAIN_MESSAGE, MAIL, KIM, "id", LATER).items()]
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


def assert_harmless(text: str) -> None:
    """Assert that external text adds neither headers nor HTML elements to a mail."""
    rendered = render_message(content_of(text))
    content = compose(rendered, MAIL, KIM, "id", LATER).as_bytes()
    head, _, _ = content.partition(b"\r\n\r\n")
    names = [line.split(b":")[0].decode() for line in head.split(b"\r\n") if line[:1].strip()]
    assert sorted(names) == sorted([*HEADERS, "MIME-Version"]) or sorted(names) == sorted(HEADERS)
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert Tags(rendered.html).elements == Tags(PLAIN_MESSAGE.html).elements
    assert len(rendered.subject) <= LONGEST_SUBJECT
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f\u2028\u2029\u202e]", rendered.text + rendered.html
    )
    posted = build_message(content_of(text), "project")["text"]
    assert not re.search(r"@[a-z]|<!|\]\(", posted)


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_text_adds_no_header_or_element(words):
    assert_harmless(words)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec=None), max_size=200) | st.sampled_from(HOSTILE))
def test_arbitrary_text_adds_no_header_or_element(words):
    assert_harmless(words)


def test_hostile_frame_name_is_sent_as_text(project, handler, port):
    mailing = served(project, port)
    name = "x\r\nBcc: evil@example.org\r\n\r\n<script>alert(1)</script>"
    gather(mailing, Shot(frame=name, reasons=(name,), template=name, kind=name, image_type=name))
    assert send_unsent(mailing, LATER) == DispatchResult(sent=1)
    [mail] = handler.taken
    assert mail.message["Bcc"] is None
    assert "<script" not in mail.html


# --- killed ---------------------------------------------------------------------------------------

SENDS = """
import sys
from datetime import datetime
from pathlib import Path
from qc.alerts.dispatch import send_unsent
from tests.support.tiny_spectrograph import open_tiny
with open_tiny(Path(sys.argv[1])) as project:
    print(send_unsent(project, datetime.fromisoformat(sys.argv[2])).sent)
"""


def run_sender(project_folder: Path, now: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SENDS, str(project_folder), now]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("killed_at", [1, 3])
def test_kill_before_commit_repeats_one_mail_and_loses_none(
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
            os.kill(senders[0].pid, signal.SIGKILL)  # the mail is accepted, but not recorded
        return OK

    handler.on_mail = kill_once
    senders.append(run_sender(project_folder, LATER.isoformat()))
    assert senders[0].wait(120) == -signal.SIGKILL
    assert len(handler.taken) == killed_at
    senders[0].communicate()
    again = run_sender(project_folder, (LATER + DAY).isoformat())
    output, _ = again.communicate(timeout=120)
    assert int(output) == 4 - killed_at + 1
    ids = [mail.message["Message-ID"] for mail in handler.taken]
    assert len(ids) == 5
    assert len(set(ids)) == 4
    assert ids.count(ids[killed_at - 1]) == 2


def test_database_unavailable_after_sending_does_not_repeat_mail(
    project, handler, port, monkeypatch
):
    monkeypatch.setattr(dispatch, "_RECORD_PAUSE_S", 0.01)
    mailing = served(project, port)
    gather(mailing, Shot())
    failures = iter([True, True, False])

    def fail(_session: object) -> None:
        if handler.taken and next(failures, False):
            raise OperationalError("UPDATE", {}, Exception("database is locked"))

    event.listen(mailing.write_session, "before_commit", fail)
    try:
        assert send_unsent(mailing, LATER) == DispatchResult(sent=1)
    finally:
        event.remove(mailing.write_session, "before_commit", fail)
    assert send_unsent(mailing, LATER + DAY) == DispatchResult()
    assert len(handler.taken) == 1


def test_concurrent_dispatch_sends_once(project, handler, port):
    mailing = served(project, port)
    gather(mailing, *unrelated(5))
    threads = [threading.Thread(target=send_unsent, args=(mailing, LATER)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for_end(*threads)
    assert len(handler.taken) == 5


@pytest.mark.parametrize("to", ["kim", "a@b.org\r\nBcc: c@d.org", "Kim <kim@example.org>", ""])
def test_test_mail_to_invalid_address_is_refused(to):
    with pytest.raises(InvalidInputError, match="expected a mail address"):
        send_test(MAIL, ROOT, to, LATER)


def test_compose_without_pictures():
    message = compose(Message("[QC] a", "b\n", "<p>b</p>"), MAIL, KIM, "id", LATER)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


def test_test_mail_without_server():
    with pytest.raises(ServerUnreachableError, match="no mail server is set"):
        send_test(MailSettings(), ROOT, KIM, LATER)
