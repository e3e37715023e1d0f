import logging
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from qc.alerts.dispatch import DispatchResult, send_unsent
from qc.alerts.email import Message, compose, render_message
from qc.alerts.gather import gather_alerts
from qc.alerts.report_mail import queue_report
from qc.alerts.subjects import LONGEST_SUBJECT
from qc.alerts.webhook import build_message
from qc.core.enums import LabelName
from qc.db.schema.models import AlertRow
from qc.settings import Subscription
from tests.alerts.mailing import (
    DAY,
    HEADERS,
    INSTRUMENTS,
    KIM,
    LATER,
    LEE,
    MAIL,
    PLAIN_MESSAGE,
    Tags,
    content_of,
    deliveries,
    gather,
    served,
    unrelated,
)
from tests.support.alert_rows import (
    DIM,
    LEVEL,
    NIGHT,
    NOISE,
    Shot,
    template_set,
)
from tests.support.mailserver import PASSWORD, USER, mail_server, write_certificate
from tests.support.tiny_spectrograph import (
    bias_jump,
    light_leak,
    process,
    write_frame,
    write_history,
)


def login(certificate: Path, security: str, **options: Any) -> dict[str, Any]:
    return {
        "security": security,
        "user": USER,
        "password": PASSWORD,
        "ca_file": certificate,
    } | options


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
    for phrase in ("Nearest nominal", "Residual map", "TB0"):
        assert phrase in html
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


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_header_or_element(text):
    assert_harmless(text)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec=None), max_size=200) | st.sampled_from(HOSTILE))
def test_arbitrary_text_adds_no_header_or_element(text):
    assert_harmless(text)


def test_hostile_frame_name_is_sent_as_text(project, handler, port):
    mailing = served(project, port)
    name = "x\r\nBcc: evil@example.org\r\n\r\n<script>alert(1)</script>"
    gather(mailing, Shot(frame=name, reasons=(name,), template=name, kind=name, image_type=name))
    assert send_unsent(mailing, LATER) == DispatchResult(sent=1)
    [mail] = handler.taken
    assert mail.message["Bcc"] is None
    assert "<script" not in mail.html


def test_compose_without_pictures():
    message = compose(Message("[QC] a", "b\n", "<p>b</p>"), MAIL, KIM, "id", LATER)
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
