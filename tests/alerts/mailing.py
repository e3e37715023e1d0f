"""Projects with a mail server or webhook, and hostile notifications."""

import json
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import select

from qc._text import plain_line
from qc.alerts.content import ImageLine, NotificationContent, WorstImage
from qc.alerts.email import compose, render_message
from qc.alerts.gather import gather_alerts
from qc.alerts.subjects import LONGEST_SUBJECT
from qc.core.enums import NotificationKind, Topic
from qc.db.schema.models import DeliveryRow
from qc.io.instrument_files import read_instruments
from qc.project import ProjectContext
from qc.settings import MailSettings, Subscription
from tests.support.alert_rows import (
    JUDGED,
    Shot,
    add_alerts,
)

ROOT = Path(__file__).parents[2]


KIM, LEE, PAT = "kim@example.org", "lee@example.org", "pat@example.org"


SENDER = "qc@observatory.example.org"


LATER, DAY = JUDGED + timedelta(hours=1), timedelta(days=1)


INSTRUMENTS = read_instruments()


def served(project: ProjectContext, port: int, *to: Subscription, **mail: Any) -> ProjectContext:
    """Return a project with a mail server and subscribers."""
    local: dict[str, Any] = {"host": "127.0.0.1", "security": "none", "sender": SENDER}
    server = MailSettings.model_validate({**local, "timeout_s": 20, **mail, "port": port})
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"mail": server, "subscription": subscriptions}
    return replace(project, settings=project.settings.model_copy(update=changed))


def gather(project: ProjectContext, *shots: Shot) -> None:
    """Store anomalies and gather their alerts."""
    add_alerts(project, *shots)
    with project.write_session.begin() as session:
        instruments = (*INSTRUMENTS, *project.instruments)
        gather_alerts(session, project.settings, LATER, instruments, lambda after: after)


def deliveries(project: ProjectContext) -> list[DeliveryRow]:
    with project.read_session() as session:
        return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))


def unrelated(n: int) -> list[Shot]:
    return [Shot(minute, reasons=(f"{'x' * (minute + 1)} 5 ADU",)) for minute in range(n)]


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


SENDS = """
import sys
from datetime import datetime
from pathlib import Path
from qc.alerts.dispatch import send_unsent
from tests.support.tiny_spectrograph import open_tiny
with open_tiny(Path(sys.argv[1])) as project:
    print(send_unsent(project, datetime.fromisoformat(sys.argv[2])).sent)
"""
