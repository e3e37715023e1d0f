import functools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paramiko
import pytest
from azure.storage.blob import ContainerClient

from qc import db
from qc.core.enums import FrameState
from qc.errors import ConfigurationError
from qc.io.remote import RemoteFile, RemoteFolder
from qc.pipeline.batch import process_frames
from qc.service.inboxes import InboxSet, ScanResult, prune_fetched
from qc.settings import Settings, read_settings
from tests.service.test_inboxes import is_unknown, names
from tests.support.buckets import BUCKET
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import write_frame
from tests.support.waiting import wait_for_end

MINUTE = timedelta(minutes=1)


def later(minutes: float = 1) -> datetime:
    """Return a time at which a file written now is quiet."""
    return datetime.now(UTC) + minutes * MINUTE


def settings_with(project_folder: Path, *inboxes: str) -> Settings:
    write_settings(project_folder, "".join(f"[[inbox]]\n{lines}\n" for lines in inboxes))
    return read_settings(project_folder)


@contextmanager
def inboxes_of(project_folder, *lines, is_known=is_unknown):
    opened = InboxSet(settings_with(project_folder, *lines), is_known)
    yield opened
    opened.close()


def copies(project_folder: Path) -> list[Path]:
    return sorted(path for path in (project_folder / "fetched").rglob("*") if path.is_file())


# --- S3 -------------------------------------------------------------------------------------------


def test_new_objects_are_fetched_once(project, inbox, bucket):
    for number in range(3):
        path = write_frame(inbox, number=number)
        bucket.put(f"raw/2026-01-01/{path.name}", path.read_bytes())
    bucket.put("raw/readme.txt")
    bucket.put("other/a.fits")
    project_folder = project.settings.project

    def is_known(file):
        with project.read_session() as session:
            return db.frames.is_known(session, file)

    with inboxes_of(project_folder, bucket.inbox, is_known=is_known) as inboxes:
        scan = inboxes.scan(later())
        assert (len(scan.arrived), scan.pending, scan.problems, scan.total) == (3, 0, (), 3)
        outcomes = list(process_frames(scan.arrived, project))
        assert [outcome.state for outcome in outcomes] == [FrameState.PROCESSED] * 3
        assert inboxes.scan(later(2)) == ScanResult((), 0, (), 3)
    assert scan.arrived[0].parts[-2:] == ("2026-01-01", outcomes[0].path.name)

    assert prune_fetched(read_settings(project_folder), later()) == 0  # not old yet
    assert prune_fetched(read_settings(project_folder), later(31 * 24 * 60)) == 3
    with inboxes_of(project_folder, bucket.inbox, is_known=is_known) as next_daemon:
        assert next_daemon.scan(later(3)) == ScanResult((), 0, (), 3)
    assert copies(project_folder) == []


def test_copies_of_unknown_frames_are_not_pruned(project, bucket):
    bucket.put("raw/a.fits")
    project_folder = project.settings.project
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        inboxes.scan(later())
    part = project_folder / "fetched" / "killed.part"
    part.touch()
    assert prune_fetched(read_settings(project_folder), later(31 * 24 * 60)) == 0
    assert [path.name for path in copies(project_folder)] == ["a.fits"]


def test_copy_has_bytes_and_date_of_the_object(project_folder, bucket):
    bucket.put("raw/a.fits", b"frame")
    modified_at = bucket.client.head_object(Bucket=BUCKET, Key="raw/a.fits")["LastModified"]
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        [path] = inboxes.scan(later()).arrived
    assert path.read_bytes() == b"frame"
    assert path.stat().st_mtime == modified_at.timestamp()


def test_replaced_object_is_fetched_again(project_folder, bucket):
    bucket.put("raw/a.fits", b"old")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        inboxes.scan(later())
        bucket.put("raw/a.fits", b"newer")
        [path] = inboxes.scan(later(2)).arrived
    assert path.read_bytes() == b"newer"


def test_new_object_waits_for_the_quiet_period(project_folder, bucket):
    bucket.put("raw/a.fits")
    now = datetime.now(UTC)
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        assert inboxes.scan(now) == ScanResult((), 1, (), 1)
        assert names(inboxes.scan(now + timedelta(seconds=3))) == ["a.fits"]


def test_unread_copy_is_returned_by_the_next_daemon(project_folder, bucket):
    bucket.put("raw/a.fits")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        [path] = inboxes.scan(later()).arrived
    before = path.stat().st_ino
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        assert inboxes.scan(later(2)).arrived == (path,)
    assert path.stat().st_ino == before  # it is the same copy


def test_unreachable_server_is_reported_until_it_returns(project_folder, bucket):
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        assert inboxes.scan(later()) == ScanResult((), 0, (), 0)
        bucket.put("raw/a.fits")
        bucket.stop()
        [problem] = scan_to_end(inboxes, later(2)).problems
        bucket.start()
        assert problem.startswith("s3://archive/raw: cannot be listed: ")
        assert names(scan_to_end(inboxes, later(3))) == ["a.fits"]


def scan_to_end(inboxes: InboxSet, now: datetime) -> ScanResult:
    """Scan until the inbox has answered, however long it takes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        scan = inboxes.scan(now)
        if not scan.pending:
            return scan
    raise AssertionError("it never answered")


def test_missing_bucket_is_reported(project_folder, bucket):
    lines = bucket.inbox.replace("archive", "nowhere")
    with inboxes_of(project_folder, lines) as inboxes:
        [problem] = scan_to_end(inboxes, later()).problems
    assert problem.startswith("s3://nowhere/raw: cannot be listed: FileNotFoundError")


def test_fetching_starts_with_the_newest_night(project_folder, bucket):
    for day in range(1, 5):
        for number in range(10):
            bucket.put(f"raw/T.2026-11-{day:02}T12:00:{number:02}.fits")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        first = inboxes.scan(later())
        assert (len(first.arrived), first.pending) == (32, 8)
        second = inboxes.scan(later())
    assert {name[:12] for name in names(first)} == {f"T.2026-11-0{day}" for day in (4, 3, 2, 1)}
    assert {name[:12] for name in names(second)} == {"T.2026-11-01"}
    assert (len(second.arrived), second.pending) == (8, 0)


@pytest.mark.parametrize(
    "name", ["../../evil.fits", "a/../../../evil.fits", "a//b.fits", "n" * 300]
)
def test_object_name_stays_in_its_folder(project_folder, bucket, name):
    bucket.put(f"raw/{name.removesuffix('.fits')}.fits")
    bucket.put("raw/good.fits")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        scan = inboxes.scan(later())
    assert [path.name for path in copies(project_folder)] == ["good.fits"]
    assert names(scan) == ["good.fits"]
    assert all("names that a file can bear" in problem for problem in scan.problems)
    assert not list(project_folder.parent.rglob("evil*"))


@pytest.mark.parametrize(
    "name", ["", "/", "/etc/x.fits", "..", "a/./b", "a/", "nul\0.fits", "\\x.fits", "é" * 128]
)
def test_unsafe_name_is_detected(name):
    assert not RemoteFile("", name, 1, 1).is_safe


def test_conflicting_object_names_are_reported(project_folder, bucket):
    bucket.put("raw/a.fits")
    bucket.put("raw/a.fits/b.fits")
    bucket.put("raw/c.fits")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        scan = inboxes.scan(later())
    assert len(scan.arrived) == 2
    assert "cannot be fetched" in scan.problems[0]


def test_blocked_copy_is_reported_without_partial_file(project_folder, bucket):
    (project_folder / "fetched").write_text("in the way")
    bucket.put("raw/a.fits")
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        [problem] = inboxes.scan(later()).problems
        assert "a.fits cannot be fetched: " in problem
        (project_folder / "fetched").unlink()
        assert names(inboxes.scan(later(2))) == ["a.fits"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_full_disk_is_reported(project_folder, bucket):
    (project_folder / "fetched").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(project_folder / "fetched")]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    try:
        bucket.put("raw/a.fits")
        with inboxes_of(project_folder, bucket.inbox) as inboxes:
            [problem] = inboxes.scan(later()).problems
            assert problem == (
                "s3://archive/raw: a.fits is not fetched: of this disk 512 MB are kept free"
            )
            assert copies(project_folder) == []
    finally:
        subprocess.run(["umount", str(project_folder / "fetched")], check=True)
    with inboxes_of(project_folder, bucket.inbox) as inboxes:
        assert names(inboxes.scan(later(2))) == ["a.fits"]


def test_inboxes_of_one_bucket_have_separate_copies(project_folder, bucket):
    bucket.put("raw/a.fits", b"raw")
    bucket.put("old/a.fits", b"old")
    second_inbox = bucket.inbox.replace("/raw", "/old")
    with inboxes_of(project_folder, bucket.inbox, second_inbox) as inboxes:
        scan = inboxes.scan(later())
    assert {path.read_bytes() for path in scan.arrived} == {b"raw", b"old"}


# --- HTTP -----------------------------------------------------------------------------------------


class QuietFileHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments):
        """Log no request."""


@contextmanager
def served(handler) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        wait_for_end(thread)


def test_web_folder_is_an_inbox(project_folder, inbox):
    (inbox / "raw" / "2026-11-19").mkdir(parents=True)
    path = inbox / "raw" / "2026-11-19" / "UVES.2026-11-19T12:00:00.000 #1.fits"
    path.write_bytes(b"frame")
    os.utime(path, (1000, 1000))
    (inbox / "above.fits").write_bytes(b"not ours")
    with (
        served(functools.partial(QuietFileHandler, directory=str(inbox))) as url,
        inboxes_of(project_folder, f'path = "{url}/raw/"') as inboxes,
    ):
        scan = inboxes.scan(later())
        assert inboxes.scan(later(2)) == ScanResult((), 0, (), 1)
    [copy] = scan.arrived
    assert copy.name == path.name
    assert (copy.read_bytes(), copy.stat().st_mtime) == (b"frame", 1000)


def page(
    answers: dict[str, bytes], claimed_bytes: int | None = None
) -> type[BaseHTTPRequestHandler]:
    """Return a handler of pages; files may be shorter than their Content-Length."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self):
            content = answers.get(self.path)
            self.send_response(404 if content is None else 200)
            is_page = self.path.endswith("/")
            self.send_header("Content-Type", "text/html" if is_page else "image/fits")
            length = claimed_bytes if claimed_bytes and not is_page else len(content or b"")
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815 - the library names them

        def log_message(self, *_arguments):
            """Log no request."""

    return Pages


def test_links_to_other_hosts_are_not_followed(project_folder):
    links = (
        b'<a href="/etc/">up</a><a href="../../x.fits">out</a>'
        b'<a href="%2e%2e/%2e%2e/y.fits">out</a>'
        b'<a href="http://127.0.0.1:1/z.fits">away</a><a href="./">here</a><a href="a.fits">in</a>'
    )
    with (
        served(page({"/raw/": links, "/raw/a.fits": b"frame"})) as url,
        inboxes_of(project_folder, f'path = "{url}/raw/"') as inboxes,
    ):
        scan = inboxes.scan(later())
    assert names(scan) == ["a.fits"]
    assert [path.name for path in copies(project_folder)] == ["a.fits"]


def test_depth_of_folders_is_limited(project_folder):
    with (
        served(page({f"/raw/{'deeper/' * n}": b'<a href="deeper/">' for n in range(40)})) as url,
        inboxes_of(project_folder, f'path = "{url}/raw/"') as inboxes,
    ):
        assert inboxes.scan(later()) == ScanResult((), 0, (), 0)


@pytest.mark.parametrize(
    ("claimed_bytes", "expected"),
    [(10**15, "of this disk 512 MB are kept free"), (100, "a.fits cannot be fetched")],
)
def test_incomplete_transfer_leaves_no_file(project_folder, claimed_bytes, expected):
    pages = {"/raw/": b'<a href="a.fits">', "/raw/a.fits": b"frame"}
    with (
        served(page(pages, claimed_bytes)) as url,
        inboxes_of(project_folder, f'path = "{url}/raw/"') as inboxes,
    ):
        scan = inboxes.scan(later())
    assert scan.arrived == ()
    assert expected in scan.problems[0]
    assert copies(project_folder) == []


def test_credentials_are_not_in_messages(project_folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    inbox = (
        f'path = "http://kim:hunter2@127.0.0.1:{port}/raw/?sig=hunter2"\n'
        'options.client_kwargs.headers.Authorization = "hunter2"'
    )
    with inboxes_of(project_folder, inbox) as inboxes:
        [problem] = inboxes.scan(later()).problems
    assert problem.startswith(f"http://kim@127.0.0.1:{port}/raw/: cannot be listed: ")
    assert "hunter2" not in problem
    assert "hunter2" not in RemoteFolder("sftp://kim:hunter2@host/raw", {}).folder_name


# --- SFTP -----------------------------------------------------------------------------------------


class PasswordServer(paramiko.ServerInterface):  # type: ignore[misc]
    def check_auth_password(self, username, password):
        right = (username, password) == ("kim", "hunter2")
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, _kind, _channel_id):
        return paramiko.OPEN_SUCCEEDED


class SftpFolder(paramiko.SFTPServerInterface):  # type: ignore[misc]
    """SFTP view of a local folder."""

    def __init__(self, server, root):
        super().__init__(server)
        self.root = root

    def _path(self, path):
        return Path(f"{self.root}{self.canonicalize(path)}")

    def list_folder(self, path):
        return [
            paramiko.SFTPAttributes.from_stat(entry.lstat(), entry.name)
            for entry in self._path(path).iterdir()
        ]

    def stat(self, path):
        try:
            return paramiko.SFTPAttributes.from_stat(self._path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def lstat(self, path):
        return paramiko.SFTPAttributes.from_stat(self._path(path).lstat())

    def open(self, path, _flags, _attributes):
        handle = paramiko.SFTPHandle()
        handle.readfile = self._path(path).open("rb")
        return handle


@contextmanager
def sftp_server(
    root: Path, port: int = 0, key: paramiko.PKey | None = None
) -> Iterator[tuple[int, paramiko.PKey]]:
    """Serve a folder over SFTP to kim; give the port and the server's key."""
    key = key or paramiko.ECDSAKey.generate()
    served_to = []

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, SftpFolder, str(root))
            transport.start_server(server=PasswordServer())
            served_to.append(transport)

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1], key
        listener.shutdown(socket.SHUT_RDWR)
        wait_for_end(thread)
    for transport in served_to:
        transport.close()


def sftp_inbox(project_folder: Path, port: int, key: paramiko.PKey) -> str:
    path = project_folder / "known_hosts"
    path.write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
    return (
        f'path = "sftp://kim:hunter2@127.0.0.1:{port}/raw"\n'
        f'options = {{known_hosts = "{path}", look_for_keys = false, allow_agent = false}}'
    )


def test_sftp_folder_with_links_is_an_inbox(project_folder, inbox):
    (inbox / "raw" / "night").mkdir(parents=True)
    (inbox / "raw" / "night" / "a.fits").write_bytes(b"frame")
    (inbox / "raw" / "b.fits").symlink_to(inbox / "raw" / "night" / "a.fits")
    (inbox / "raw" / "loop").symlink_to(inbox / "raw")
    (inbox / "raw" / "broken.fits").symlink_to(inbox / "nowhere")
    with (
        sftp_server(inbox) as (port, key),
        inboxes_of(project_folder, sftp_inbox(project_folder, port, key)) as inboxes,
    ):
        scan = inboxes.scan(later(5))
        assert scan.problems == ()
        assert sorted(names(scan)) == ["a.fits", "b.fits"]
        assert all(path.read_bytes() == b"frame" for path in scan.arrived)
        assert inboxes.scan(later(6)) == ScanResult((), 0, (), 2)


def test_growing_remote_file_is_not_fetched(project_folder, inbox):
    (inbox / "raw").mkdir()
    now = datetime.now(UTC)
    with (
        sftp_server(inbox) as (port, key),
        inboxes_of(project_folder, sftp_inbox(project_folder, port, key)) as inboxes,
    ):
        for step in range(1, 4):
            (inbox / "raw" / "a.fits").write_bytes(bytes(step))
            assert inboxes.scan(now + timedelta(seconds=3 * step)).pending == 1
        assert names(inboxes.scan(now + timedelta(seconds=12))) == ["a.fits"]


def test_sftp_connection_is_restored(project_folder, inbox):
    (inbox / "raw").mkdir()
    with sftp_server(inbox) as (port, key):
        inboxes = InboxSet(
            settings_with(project_folder, sftp_inbox(project_folder, port, key)), is_unknown
        )
        assert inboxes.scan(later()) == ScanResult((), 0, (), 0)
    assert "cannot be listed" in scan_to_end(inboxes, later(2)).problems[0]
    (inbox / "raw" / "a.fits").write_bytes(b"frame")
    with sftp_server(inbox, port, key):
        assert names(inboxes.scan(later(5))) == ["a.fits"]
        inboxes.close()


def test_unknown_sftp_host_key_is_refused(project_folder, inbox):
    with sftp_server(inbox) as (port, _key):
        lines = sftp_inbox(project_folder, port, paramiko.ECDSAKey.generate())
        with inboxes_of(project_folder, lines) as inboxes:
            [problem] = inboxes.scan(later()).problems
    assert "is not in " in problem
    assert "hunter2" not in problem


# --- Azure ----------------------------------------------------------------------------------------

_AZURITE_KEY = (  # published, the same in every emulator
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@pytest.fixture
def azurite(tmp_path, monkeypatch) -> Iterator[str]:
    """Run the emulator of Azure's storage; give the connection string."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed: npm install azurite, and put it on the PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "--blobPort", str(port), "--location", str(tmp_path / "azurite")]
    server = subprocess.Popen([*command, "--skipApiVersionCheck", "--silent"])
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_AZURITE_KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    )
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    wait_for_port(port)
    yield connection
    server.terminate()
    server.wait(30)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
    raise AssertionError("the emulator never answered")


def test_azure_container_is_an_inbox(project_folder, azurite):
    container = ContainerClient.from_connection_string(azurite, "raw")
    container.create_container()
    container.upload_blob("2026-11-19/a.fits", b"frame")
    container.upload_blob("b.fits", b"old")
    with inboxes_of(project_folder, 'path = "abfs://raw"') as inboxes:
        scan = inboxes.scan(later())
        assert {path.name: path.read_bytes() for path in scan.arrived} == {
            "a.fits": b"frame",
            "b.fits": b"old",
        }
        assert scan.problems == ()
        container.upload_blob("b.fits", b"newer", overwrite=True)
        assert names(inboxes.scan(later(2))) == ["b.fits"]
        assert inboxes.scan(later(3)) == ScanResult((), 0, (), 2)
    container.close()


# --- missing packages ----------------------------------------------------------------------------


def test_missing_library_is_reported_with_remedy():
    code = (
        "import sys; sys.modules['s3fs'] = None\n"
        "from qc.io.remote import RemoteFolder\n"
        "from qc.errors import ConfigurationError\n"
        "try: RemoteFolder('s3://bucket/raw', {})\n"
        "except ConfigurationError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("inbox s3://bucket/raw: Install s3fs to access S3")
    assert "pip install 'calibration-qc[remote]'" in done.stdout


def test_misspelt_protocol_is_reported():
    with pytest.raises(ConfigurationError, match="Protocol not known: s4"):
        RemoteFolder("s4://bucket/raw", {})
