"""The pages in the air: where they are reachable, and until when."""

import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from qc import db
from qc.errors import ConfigurationError
from qc.project import Project
from qc.web.app import create_app
from qc.web.auth import is_loopback

logger = logging.getLogger(__name__)

GRACE_S = 10  # for answers that are on their way when the server is told to end


def serve(project: Project, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the pages until the process is told to end.

    Parameters
    ----------
    say : callable
        Is told the address.

    Raises
    ------
    ConfigurationError
        If others could reach the pages and nobody has an account, or the port is taken.
    """
    check_reach(project, host)
    web = project.settings.web
    is_secure = web.certificate is not None
    config = uvicorn.Config(
        create_app(project),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # the door reads them itself, from those it trusts
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=_file(project, web.certificate),
        ssl_keyfile=_file(project, web.certificate_key),
    )
    if not is_loopback(host) and not is_secure and not web.trusted_proxies:
        logger.warning("passwords travel in the clear: set web.certificate, or use a proxy")
    try:
        listening = config.bind_socket()
    except SystemExit:  # uvicorn has told why
        raise ConfigurationError(
            f"{host}:{port}: cannot be listened at; expected an address of this machine and a "
            "free port: 'qc serve --port'"
        ) from None
    send_at_once(listening)
    listening.listen(config.backlog)  # who reads the address may call at once
    shown = f"[{host}]" if ":" in host else host
    say(f"{'https' if is_secure else 'http'}://{shown}:{listening.getsockname()[1]}/")
    gc.collect()
    gc.freeze()  # what was imported stays: not to be looked through in the middle of an answer
    server = uvicorn.Server(config)
    with _ending(server):
        server.run(sockets=[listening])


def send_at_once(listening: socket.socket) -> None:
    """Let answers leave as they are written; each took 40 ms longer.

    The system keeps the second part of an answer back until the first is acknowledged, which the
    other side puts off. asyncio turns that off for its own sockets, not for one that is given.
    """
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def _ending(server: uvicorn.Server) -> Iterator[None]:
    """Let what asks the process to end do just that: uvicorn sends on what it has heard."""

    def end(_number: int, _frame: object) -> None:
        server.should_exit = True

    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_reach(project: Project, host: str) -> None:
    """Refuse to be reachable by others while nobody has an account.

    Raises
    ------
    ConfigurationError
        If it would be so.
    """
    with project.reads() as session:
        if is_loopback(host) or db.accounts.has_accounts(session):
            return
    raise ConfigurationError(
        f"{host}: others could reach the pages, and nobody has an account; "
        "add one with 'qc user add NAME --role review', or serve on 127.0.0.1"
    )


def _file(project: Project, name: Path | None) -> str | None:
    return None if name is None else str(project.settings.project / name)
