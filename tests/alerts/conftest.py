import threading
from collections.abc import Iterator
from http.server import HTTPServer
from typing import Any, ClassVar

import pytest

from tests.alerts.gathering import CHAIN, Dispatcher
from tests.alerts.mailing import Hooks
from tests.support.alert_rows import (
    Shot,
    add_alerts,
)
from tests.support.mailserver import Handler, mail_server, write_certificate
from tests.support.waiting import wait_for_end


@pytest.fixture
def dispatcher(project):
    return Dispatcher(project)


@pytest.fixture
def escalating(project):
    """A notification that was sent to the first of three addresses, an hour after the verdict."""
    dispatcher = Dispatcher(project, CHAIN)
    add_alerts(project, Shot())
    dispatcher.gather(1)
    dispatcher.mark_sent(60)
    return dispatcher


@pytest.fixture
def notified(project, dispatcher):
    """A notification of a bad bias of the upper red chip, an hour after its verdict."""
    add_alerts(project, Shot())
    dispatcher.gather(60)
    dispatcher.mark_sent(60)
    return dispatcher


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture
def port(handler) -> Iterator[int]:
    with mail_server(handler) as port:
        yield port


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return write_certificate(tmp_path_factory.mktemp("certificate"))


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
