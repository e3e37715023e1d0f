import os
import resource
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from qc import db
from qc.core import file
from qc.core.enums import FrameState
from qc.errors import ConfigurationError
from qc.pipeline.batch import process_frames
from qc.service.inboxes import InboxSet, ScanResult
from qc.settings import Settings, read_settings
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import write_frame

NOW = datetime(2026, 11, 19, 12, tzinfo=UTC)
QUIET_S = 3


def settings_of(project_folder: Path, *paths: Path | str, **watch: float) -> Settings:
    """Settings as an operator writes them."""
    inboxes = "".join(f'[[inbox]]\npath = "{path}"\n' for path in paths)
    keys = "".join(f"{key} = {value}\n" for key, value in watch.items())
    project_folder.mkdir(exist_ok=True)
    write_settings(project_folder, f"{inboxes}[watch]\n{keys}")
    return read_settings(project_folder)


def is_unknown(_file: file.FileInfo) -> bool:
    return False


@contextmanager
def inboxes_of(project_folder, *paths, is_known=is_unknown):
    opened = InboxSet(settings_of(project_folder, *paths), is_known)
    yield opened
    opened.close()


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def put(path: Path, content: bytes = b"frame", age_s: float = 3600) -> Path:
    """Write a file with a date before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    stamp = NOW.timestamp() - age_s
    os.utime(path, (stamp, stamp))
    return path


def names(scan: ScanResult) -> list[str]:
    return [path.name for path in scan.arrived]


def test_old_file_is_returned_once(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((path,), 0, (), 1)
        assert inboxes.scan(at(60)) == ScanResult((), 0, (), 1)


def test_new_file_waits_for_two_equal_observations(project_folder, inbox):
    put(inbox / "a.fits", age_s=1)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((), 1, (), 1)
        assert inboxes.scan(at(QUIET_S - 1)) == ScanResult((), 1, (), 1)
        assert names(inboxes.scan(at(QUIET_S))) == ["a.fits"]


def test_growing_file_waits_with_a_wrong_server_clock(project_folder, inbox):
    with inboxes_of(project_folder, inbox) as inboxes:
        for step in range(5):
            put(
                inbox / "a.fits", bytes(step + 1), age_s=30 - QUIET_S * step
            )  # clock half a minute slow
            assert inboxes.scan(at(QUIET_S * step)).pending == 1
        assert names(inboxes.scan(at(QUIET_S * 5))) == ["a.fits"]


def test_file_with_future_date_is_returned(project_folder, inbox):
    put(inbox / "a.fits", age_s=-1e6)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW).pending == 1
        assert names(inboxes.scan(at(QUIET_S))) == ["a.fits"]


def test_clock_set_back_delays_file_by_one_observation(project_folder, inbox):
    put(inbox / "a.fits", age_s=0)
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        assert inboxes.scan(at(-7200)).pending == 1
        assert names(inboxes.scan(at(-7200 + QUIET_S))) == ["a.fits"]


def test_empty_file_waits_ten_minutes_without_early_scans(project_folder, inbox):
    put(inbox / "a.fits", b"", age_s=0)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((), 0, (), 1)
        assert inboxes.scan(at(599)).arrived == ()
        assert names(inboxes.scan(at(600))) == ["a.fits"]


def test_changed_file_is_returned_again(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        put(inbox / "a.fits", b"longer than before", age_s=-60)
        assert inboxes.scan(at(60)).pending == 1
        assert names(inboxes.scan(at(63))) == ["a.fits"]


def test_scan_ignores_hidden_partial_and_other_files(project_folder, inbox):
    valid = ["a.fits", "b.FIT", "c.fts.gz", "d.fits.Z", "night/e.fits", "night/deep/er/f.fits.fz"]
    ignored = [
        ".a.fits", "a.fits.part", "a.fits.tmp", "~a.fits", "#a.fits", "a.txt",
        ".snapshot/a.fits", ".~tmp~/a.fits",
    ]  # fmt: skip
    for name in valid + ignored:
        put(inbox / name)
    (inbox / "folder.fits").mkdir()
    os.mkfifo(inbox / "pipe.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        scan = inboxes.scan(NOW)
    assert {str(path.relative_to(inbox)) for path in scan.arrived} == set(valid)
    assert scan.total == len(valid)


def test_scan_orders_by_newest_night_then_arrival(project_folder, inbox):
    put(inbox / "UVES.2026-11-17T03:00:00.000.fits", age_s=100)
    put(inbox / "UVES.2026-11-18T03:00:00.000.fits", age_s=90_000)
    put(inbox / "UVES.2026-11-17T23:00:00.000.fits", age_s=200_000)
    put(inbox / "b.fits", age_s=3 * 86_400)  # of the night of its date
    put(inbox / "a.fits", age_s=3 * 86_400)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert [name[:18] for name in names(inboxes.scan(NOW))] == [
            "UVES.2026-11-17T23",
            "UVES.2026-11-18T03",
            "UVES.2026-11-17T03",
            "a.fits",
            "b.fits",
        ]


@pytest.mark.parametrize("name", ["X.9999-12-31T23:59:59.fits", "X.2026-02-31T00:00:00.fits"])
def test_name_with_impossible_date_is_returned(project_folder, inbox, name):
    os.utime(put(inbox / name), ns=(0, -(10**18)))
    with inboxes_of(project_folder, inbox) as inboxes:
        assert names(inboxes.scan(NOW)) == [name]


def test_known_file_is_queried_once(project_folder, inbox):
    path = put(inbox / "a.fits")
    queried: list[file.FileInfo] = []

    def is_known_file(file):
        queried.append(file)
        return True

    with inboxes_of(project_folder, inbox, is_known=is_known_file) as inboxes:
        for minute in range(3):
            assert inboxes.scan(at(60 * minute)) == ScanResult((), 0, (), 1)
        assert queried == [file.FileInfo(path, 5, path.stat().st_mtime_ns)]
        inboxes.reset()
        inboxes.scan(at(240))
        assert len(queried) == 2


def test_database_error_loses_no_file(project_folder, inbox):
    put(inbox / "a.fits")
    put(inbox / "b.fits")
    answers = iter([False, OperationalError("select", {}, Exception("locked")), False, False])

    def is_known(_file):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with inboxes_of(project_folder, inbox, is_known=is_known) as inboxes:
        with pytest.raises(OperationalError):
            inboxes.scan(NOW)
        assert names(inboxes.scan(at(60))) == ["a.fits", "b.fits"]


def test_links_are_followed_without_repetition(project_folder, inbox, tmp_path):
    put(tmp_path / "other disk" / "a.fits")
    put(tmp_path / "elsewhere" / "b.fits")
    (inbox / "one").symlink_to(tmp_path / "other disk")
    (inbox / "two").symlink_to(tmp_path / "other disk")
    (inbox / "one" / "loop").symlink_to(inbox)
    (inbox / "b-linked.fits").symlink_to(tmp_path / "elsewhere" / "b.fits")
    (inbox / "broken.fits").symlink_to(tmp_path / "nowhere")
    (inbox / "self.fits").symlink_to(inbox / "self.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        scan = inboxes.scan(NOW)
    assert set(scan.arrived) == {
        tmp_path / "other disk" / "a.fits",
        tmp_path / "elsewhere" / "b.fits",
    }


def test_non_utf8_name_is_returned_unchanged(project_folder, inbox):
    path = inbox / os.fsdecode(b"a\xff.fits")
    put(path)
    queried: list[file.FileInfo] = []
    with inboxes_of(project_folder, inbox, is_known=queried.append) as inboxes:
        assert inboxes.scan(NOW).arrived == (path,)
    assert queried[0].path.name == "a\\xff.fits"


def test_unlistable_folder_is_reported(project_folder, inbox):
    put(inbox / "a.fits")
    put(inbox / "deep" / "b.fits")
    bury(inbox / "deep", 20)  # its path exceeds the system's limit
    with inboxes_of(project_folder, inbox) as inboxes:
        scan = inboxes.scan(NOW)
        assert names(scan) == ["a.fits", "b.fits"]
        [problem] = scan.problems
        assert problem.startswith(f"{inbox}/deep/n")
        assert problem.endswith("cannot be listed: File name too long")


def bury(folder: Path, levels: int) -> None:
    """Nest folders deeper than the longest path."""
    code = (
        f"import os; os.chdir({str(folder)!r})\n"
        f"for _ in range({levels}): os.mkdir('n' * 250); os.chdir('n' * 250)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nested_inboxes_return_a_file_once(project_folder, inbox):
    put(inbox / "uves" / "a.fits")
    with inboxes_of(project_folder, inbox, inbox / "uves") as inboxes:
        assert names(inboxes.scan(NOW)) == ["a.fits"]


def test_inbox_path_may_be_relative_or_a_file_url(project_folder, inbox):
    put(project_folder / "raw" / "a.fits")
    put(inbox / "b.fits")
    with inboxes_of(project_folder, "raw", f"file://{inbox}") as inboxes:
        assert names(inboxes.scan(NOW)) == ["a.fits", "b.fits"]


def test_project_folder_as_inbox_skips_fetched_copies(project_folder):
    put(project_folder / "fetched" / "s3-bucket" / "a.fits")
    put(project_folder / "b.fits")
    with inboxes_of(project_folder, project_folder) as inboxes:
        assert names(inboxes.scan(NOW)) == ["b.fits"]


# --- inboxes that go and come ---------------------------------------------------------------------


def test_missing_inbox_is_reported_until_it_returns(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        away = inbox.rename(inbox.with_name("away"))
        put(away / "b.fits")
        scan = inboxes.scan(at(60))
        assert (scan.arrived, scan.total) == ((), 1)
        [problem] = scan.problems
        assert problem == (f"{inbox}: cannot be listed: No such file or directory; is it mounted?")
        away.rename(inbox)
        assert inboxes.scan(at(120)) == ScanResult((inbox / "b.fits",), 0, (), 2)


def test_file_as_inbox_is_reported(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox / "a.fits") as inboxes:
        assert "Not a directory" in inboxes.scan(NOW).problems[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_unmounted_inbox_is_reported(project_folder, inbox):
    if not mount(inbox):
        pytest.skip("this machine lets nobody mount a file system")
    try:
        put(inbox / "a.fits")
        with inboxes_of(project_folder, inbox) as inboxes:
            assert names(inboxes.scan(NOW)) == ["a.fits"]
            subprocess.run(["umount", str(inbox)], check=True)
            assert inboxes.scan(at(60)).problems == (
                f"{inbox}: is empty and no longer the file system it was; is it mounted?",
            )
            assert mount(inbox)
            put(inbox / "a.fits")  # as it was
            assert inboxes.scan(at(120)) == ScanResult((), 0, (), 1)
    finally:
        subprocess.run(["umount", str(inbox)], check=False, capture_output=True)


def mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_emptied_inbox_is_not_reported(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        path.unlink()
        assert inboxes.scan(at(60)) == ScanResult((), 0, (), 0)


def test_hanging_inbox_is_reported_and_delays_no_other(project_folder, inbox):
    path = put(inbox / "a.fits")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/raw/"
        with inboxes_of(project_folder, inbox, address) as inboxes:
            assert inboxes.scan(NOW) == ScanResult((path,), 1, (), 1)
            assert inboxes.scan(at(121)).problems == (
                f"{address}: has not answered since 2026-11-19 12:00:00 UT",
            )


# --- file events ----------------------------------------------------------------------------------


@dataclass
class EventCounter:
    """Waits for calls of `wake`."""

    called: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        self.called.set()

    def is_called(self, within_s: float = 10) -> bool:
        was_called = self.called.wait(within_s)
        self.called.clear()
        return was_called


def test_new_file_calls_wake(project_folder, inbox):
    events = EventCounter()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(events)
        put(inbox / "a.fits")
        assert events.is_called()
        put(inbox / "night" / "b.fits")
        assert events.is_called()


def test_read_file_or_log_does_not_call_wake(project_folder, inbox):
    path = put(inbox / "a.fits")
    events = EventCounter()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(events)
        path.read_bytes()
        put(inbox / "night.log")
        assert not events.is_called(within_s=1)


def test_late_inbox_is_watched_after_a_scan(project_folder, tmp_path):
    late = tmp_path / "late"
    events = EventCounter()
    with inboxes_of(project_folder, late) as inboxes:
        inboxes.watch(events)
        assert inboxes.scan(NOW).problems
        late.mkdir()
        assert not inboxes.scan(at(60)).problems
        put(late / "a.fits")
        assert events.is_called()


def test_replaced_inbox_folder_is_watched(project_folder, inbox):
    events = EventCounter()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(events)
        inbox.rename(inbox.with_name("old"))
        inbox.mkdir()
        inboxes.scan(NOW)
        events.called.clear()
        put(inbox / "a.fits")
        assert events.is_called()


def test_closed_inbox_does_not_call_wake(project_folder, inbox):
    events = EventCounter()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(events)
    events.called.clear()
    put(inbox / "a.fits")
    assert not events.is_called(within_s=0.5)


def test_refused_watch_is_reported(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        try:
            held = exhaust_descriptors()
            inboxes.watch(EventCounter())
            for descriptor in held:
                os.close(descriptor)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        scan = inboxes.scan(NOW)
    assert scan.arrived == (path,)
    [problem] = scan.problems
    assert problem == (
        f"{inbox}: new files are noticed by the scans only: inotify instance limit reached; "
        "raise fs.inotify.max_user_watches or max_user_instances"
    )


def exhaust_descriptors() -> list[int]:
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return held


@pytest.mark.parametrize(
    ("limit", "why"),
    [(0, "inotify watch limit reached"), (2, "3 folders, and the kernel lets 2 be watched")],
)
def test_exceeded_watch_limit_is_reported(project_folder, inbox, limit, why):
    (inbox / "night" / "deep").mkdir(parents=True)
    settings_of(project_folder, inbox)
    code = (
        "from datetime import UTC, datetime; from pathlib import Path\n"
        "from qc.service.inboxes import InboxSet; from qc.settings import read_settings\n"
        f"inboxes = InboxSet(read_settings(Path({str(project_folder)!r})), lambda file: False)\n"
        "inboxes.watch(print)\n"
        "for _ in range(2): print(inboxes.scan(datetime.now(UTC)).problems)\n"
    )
    limited = f"echo {limit} > /proc/sys/user/max_inotify_watches && exec {sys.executable} -c"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", f"{limited} {shlex.quote(code)}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("this machine lets nobody limit what may be watched")
    expected = (
        f"('{inbox}: new files are noticed by the scans only: {why}; "
        "raise fs.inotify.max_user_watches or max_user_instances',)"
    )
    assert done.stdout.splitlines() == [expected] * 2


# --- with the pipeline ----------------------------------------------------------------------------


def test_processed_file_is_not_returned_by_the_next_daemon(project, inbox):
    config = settings_of(project.settings.project, inbox)
    put(inbox / "broken.fits")

    def is_known(file):
        with project.read_session() as session:
            return db.frames.is_known(session, file)

    path = write_frame(inbox)
    os.utime(path, (0, 0))
    for expected in ([path.name, "broken.fits"], ["broken.fits"]):
        inboxes = InboxSet(config, is_known)
        scan = inboxes.scan(NOW)
        assert names(scan) == expected[::-1]
        states = {
            outcome.path.name: outcome.state for outcome in process_frames(scan.arrived, project)
        }
        assert states["broken.fits"] is FrameState.FAILED
        inboxes.close()


# --- any sequence of events -----------------------------------------------------------------------

NAMES = ("a.fits", "night/b.fits.Z")
OFTEN = ("create", "append", "scan")
ACTS = (*OFTEN, *OFTEN, "touch", "rename", "delete", "vanish", "return", "restart")
DAYS = st.lists(
    st.tuples(st.sampled_from(ACTS), st.sampled_from(NAMES), st.sampled_from([0, 1, 2, 4])),
    max_size=40,
)


@dataclass
class InboxSimulation:
    """An inbox, its events, and the files that scans returned."""

    folder: Path
    skew_s: float
    seconds: float = 0
    bytes_written: int = 0
    changed_at: dict[Path, float] = field(default_factory=dict)
    handed: list[tuple[Path, int, int]] = field(default_factory=list)

    @property
    def away(self) -> Path:
        return self.folder.with_name("away")

    def write(self, name: str, mode: str) -> None:
        """Write more bytes than before, so that all versions differ."""
        path = self.folder / name
        if not self.folder.exists() or (mode == "ab" and not path.exists()):
            return
        path.parent.mkdir(exist_ok=True)
        self.bytes_written += 1
        with path.open(mode) as stream:
            stream.write(bytes(self.bytes_written))
        self.stamp(path)

    def stamp(self, path: Path) -> None:
        stamp = NOW.timestamp() + self.seconds + self.skew_s
        os.utime(path, (stamp, stamp))
        self.changed_at[path] = self.seconds

    def act(self, act: str, name: str) -> None:
        path = self.folder / name
        match act:
            case "create":
                self.write(name, "wb")
            case "append":
                self.write(name, "ab")
            case "touch" if path.exists():
                self.stamp(path)
            case "rename" if path.exists():
                renamed = path.rename(path.with_name(f"{self.bytes_written}-{path.name}"))
                self.changed_at[renamed] = self.changed_at[path]
            case "delete":
                path.unlink(missing_ok=True)
            case "vanish" if self.folder.exists():
                self.folder.rename(self.away)
            case "return" if self.away.exists():
                self.away.rename(self.folder)

    def scan(self, inboxes: InboxSet) -> None:
        for path in inboxes.scan(at(self.seconds)).arrived:
            assert self.seconds - self.changed_at[path] >= QUIET_S - 1e-5, "it still changes"
            status = path.stat()
            self.handed.append((path, status.st_size, status.st_mtime_ns))


@pytest.mark.parametrize("is_recorded", [True, False])
@given(events=DAYS, skew_s=st.sampled_from([0, -50, 50, 1e5]))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_complete_version_is_returned_once(tmp_path_factory, is_recorded, events, skew_s):
    root = tmp_path_factory.mktemp("simulation")
    simulation = InboxSimulation(root / "inbox", skew_s)
    simulation.folder.mkdir()
    recorded: set[tuple[Path, int, int]] = set()

    def is_known(file):
        return (file.path, file.size_bytes, file.modified_ns) in recorded

    config = settings_of(root / "project", simulation.folder)
    inboxes = InboxSet(config, is_known)
    for act, name, pause_s in [*events, ("return", "", 0), ("scan", "", QUIET_S), ("scan", "", 0)]:
        simulation.act(act, name)
        if act == "scan":
            simulation.scan(inboxes)
        elif act == "restart" and is_recorded:
            inboxes.close()
            inboxes = InboxSet(config, is_known)
        if is_recorded:
            recorded.update(simulation.handed)
        simulation.seconds += pause_s
    inboxes.close()
    assert len(simulation.handed) == len(set(simulation.handed))
    there = {
        (path, path.stat().st_size, path.stat().st_mtime_ns)
        for path in simulation.folder.rglob("*.fits*")
    }
    assert there <= set(simulation.handed)


def test_unknown_protocol_is_an_error(project_folder):
    with pytest.raises(ConfigurationError, match="expected a folder or an address like s3://"):
        InboxSet(settings_of(project_folder, "gopher://host/raw"), is_unknown)


def test_duplicate_inbox_is_an_error(project_folder, inbox):
    with pytest.raises(ConfigurationError, match="named more than once"):
        InboxSet(settings_of(project_folder, inbox, inbox), is_unknown)
