import logging
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from qc.alerts.dispatch import DispatchResult, send_unsent
from qc.db.schema.models import DeliveryRow
from qc.project import ProjectContext
from qc.settings import Subscription
from tests.alerts.mailing import DAY, LATER, gather, served
from tests.support.alert_rows import (
    Shot,
    template_set,
)


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
