import os
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from qc.alerts import dispatch
from qc.alerts.dispatch import DispatchResult, send_test, send_unsent
from qc.db.schema.models import NotificationRow, VerdictRow
from qc.errors import (
    InvalidInputError,
    RecipientRefusedError,
    ServerUnreachableError,
)
from qc.settings import MailSettings, Subscription
from tests.alerts.mailing import (
    DAY,
    KIM,
    LATER,
    LEE,
    MAIL,
    PAT,
    ROOT,
    SENDER,
    SENDS,
    deliveries,
    gather,
    served,
    unrelated,
)
from tests.support.alert_rows import (
    Shot,
    template_set,
)
from tests.support.databases import write_settings
from tests.support.mailserver import OK
from tests.support.tiny_spectrograph import (
    open_tiny,
)
from tests.support.waiting import wait_for_end


def run_sender(project_folder: Path, now: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SENDS, str(project_folder), now]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


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
        closed_port = free.getsockname()[1]
    mailing = served(project, closed_port)
    gather(mailing, *unrelated(3))
    sent = send_unsent(mailing, LATER)
    assert (sent.sent, sent.deferred) == (0, 3)
    assert sent.problems == (f"mail server 127.0.0.1:{closed_port}: Connection refused",)
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


def test_test_mail_returns_server_answer(project, handler, port):
    mailing = served(project, port)
    assert send_test(mailing.settings.mail, ROOT, KIM, LATER) == "250 taken"
    assert handler.taken[0].message["Subject"] == "[QC] test mail"
    handler.on_recipient = lambda _: "550 who is that"
    with pytest.raises(
        RecipientRefusedError, match=r"kim@example.org was refused: 550 who is that"
    ):
        send_test(mailing.settings.mail, ROOT, KIM, LATER)


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


def test_test_mail_without_server():
    with pytest.raises(ServerUnreachableError, match="no mail server is set"):
        send_test(MailSettings(), ROOT, KIM, LATER)
