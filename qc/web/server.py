"""The web server process."""

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
from qc.project import ProjectContext
from qc.web.app import create_app
from qc.web.auth import is_loopback

logger = logging.getLogger(__name__)

SHUTDOWN_S = 10  # time that running requests have to finish


def serve(project: ProjectContext, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the pages until a signal stops the process.

    Parameters
    ----------
    project : ProjectContext
    host : str
        Name or address of an interface of this machine.
    port : int
        0 for a free port.
    announce : callable
        Receives the address of the server.

    Raises
    ------
    ConfigurationError
        If other machines could reach the pages and no account exists, or the port is in use.
    """
    check_reach(project, host)
    project.load_files()
    web = project.settings.web
    is_secure = web.certificate is not None
    config = uvicorn.Config(
        create_app(project),
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # qc.web.security reads them, from trusted proxies only
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        ssl_certfile=_file(project, web.certificate),
        ssl_keyfile=_file(project, web.certificate_key),
    )
    if not is_loopback(host) and not is_secure and not web.trusted_proxies:
        logger.warning("passwords are sent unencrypted: set web.certificate, or use a proxy")
    try:
        listener = config.bind_socket()
    except SystemExit:  # uvicorn has logged the reason
        raise ConfigurationError(
            f"{host}:{port}: cannot listen there; expected an address of this machine and a free "
            "port. Choose another port with 'qc web serve --port'."
        ) from None
    disable_nagle(listener)
    listener.listen(config.backlog)  # clients may connect as soon as the address is printed
    displayed = f"[{host}]" if ":" in host else host
    announce(f"{'https' if is_secure else 'http'}://{displayed}:{listener.getsockname()[1]}/")
    gc.collect()
    gc.freeze()  # imported modules are never garbage; this shortens collections during requests
    server = uvicorn.Server(config)
    with stop_on_signal(server):
        server.run(sockets=[listener])


def disable_nagle(listener: socket.socket) -> None:
    """Send responses without delay; Nagle's algorithm adds 40 ms to each.

    asyncio sets TCP_NODELAY on sockets of its own only.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def stop_on_signal(server: uvicorn.Server) -> Iterator[None]:
    """Stop the server on SIGTERM and SIGINT; uvicorn would raise the signal again."""

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_reach(project: ProjectContext, host: str) -> None:
    """Refuse to serve other machines without an account.

    Parameters
    ----------
    project : ProjectContext
    host : str

    Raises
    ------
    ConfigurationError
        If the host is not a loopback address and no account exists.
    """
    with project.read_session() as session:
        if is_loopback(host) or db.accounts.has_accounts(session):
            return
    raise ConfigurationError(
        f"{host}: other machines could reach the pages, but there is no account. "
        "Create one with 'qc users add NAME --role review', or serve on 127.0.0.1."
    )


def _file(project: ProjectContext, name: Path | None) -> str | None:
    return None if name is None else str(project.settings.project / name)
