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
from qc.core import measurement
from qc.core.enums import FrameState
from qc.errors import ConfigurationError
from qc.pipeline.process import process_frames
from qc.service.inboxes import InboxSet, ScanResult
from qc.settings import Settings, read_settings
from tests.support.databases import write_settings
from tests.support.tiny import write_frame

NOW = datetime(2026, 11, 19, 12, tzinfo=UTC)
QUIET_S = 3


def settings_of(project_folder: Path, *paths: Path | str, **watch: float) -> Settings:
    """Settings as an operator writes them."""
    inboxes = "".join(f'[[inbox]]\npath = "{path}"\n' for path in paths)
    keys = "".join(f"{key} = {value}\n" for key, value in watch.items())
    project_folder.mkdir(exist_ok=True)
    write_settings(project_folder, f"{inboxes}[watch]\n{keys}")
    return read_settings(project_folder)


def nobody_knows(_file: measurement.FileInfo) -> bool:
    return False


@contextmanager
def inboxes_of(project_folder, *paths, is_known=nobody_knows):
    opened = InboxSet(settings_of(project_folder, *paths), is_known)
    yield opened
    opened.close()


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def put(path: Path, content: bytes = b"frame", age_s: float = 3600) -> Path:
    """Write a file as it looks when it was written so long before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    stamp = NOW.timestamp() - age_s
    os.utime(path, (stamp, stamp))
    return path


def names(scan: ScanResult) -> list[str]:
    return [path.name for path in scan.arrived]


def test_a_file_that_was_written_long_ago_has_arrived_and_is_handed_out_once(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((path,), 0, (), 1)
        assert inboxes.scan(at(60)) == ScanResult((), 0, (), 1)


def test_a_new_file_must_keep_still_between_two_looks(project_folder, inbox):
    put(inbox / "a.fits", age_s=1)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((), 1, (), 1)
        assert inboxes.scan(at(QUIET_S - 1)) == ScanResult((), 1, (), 1)
        assert names(inboxes.scan(at(QUIET_S))) == ["a.fits"]


def test_a_file_that_grows_waits_however_wrong_the_servers_clock(project_folder, inbox):
    with inboxes_of(project_folder, inbox) as inboxes:
        for step in range(5):
            put(inbox / "a.fits", bytes(step + 1), age_s=30 - QUIET_S * step)  # half a minute slow
            assert inboxes.scan(at(QUIET_S * step)).restless == 1
        assert names(inboxes.scan(at(QUIET_S * 5))) == ["a.fits"]


def test_a_date_in_the_future_blocks_no_file(project_folder, inbox):
    put(inbox / "a.fits", age_s=-1e6)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW).restless == 1
        assert names(inboxes.scan(at(QUIET_S))) == ["a.fits"]


def test_a_clock_that_is_set_back_delays_a_file_by_no_more_than_a_look(project_folder, inbox):
    put(inbox / "a.fits", age_s=0)
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        assert inboxes.scan(at(-7200)).restless == 1
        assert names(inboxes.scan(at(-7200 + QUIET_S))) == ["a.fits"]


def test_an_empty_file_waits_ten_minutes_and_is_not_chased(project_folder, inbox):
    put(inbox / "a.fits", b"", age_s=0)
    with inboxes_of(project_folder, inbox) as inboxes:
        assert inboxes.scan(NOW) == ScanResult((), 0, (), 1)
        assert inboxes.scan(at(599)).arrived == ()
        assert names(inboxes.scan(at(600))) == ["a.fits"]


def test_a_file_that_is_changed_is_handed_out_again_when_it_is_quiet(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        put(inbox / "a.fits", b"longer than before", age_s=-60)
        assert inboxes.scan(at(60)).restless == 1
        assert names(inboxes.scan(at(63))) == ["a.fits"]


def test_only_whole_fits_files_of_anyones_folders_count(project_folder, inbox):
    wanted = ["a.fits", "b.FIT", "c.fts.gz", "d.fits.Z", "night/e.fits", "night/deep/er/f.fits.fz"]
    others = [
        ".a.fits", "a.fits.part", "a.fits.tmp", "~a.fits", "#a.fits", "a.txt",
        ".snapshot/a.fits", ".~tmp~/a.fits",
    ]  # fmt: skip
    for name in wanted + others:
        put(inbox / name)
    (inbox / "folder.fits").mkdir()
    os.mkfifo(inbox / "pipe.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        scan = inboxes.scan(NOW)
    assert {str(path.relative_to(inbox)) for path in scan.arrived} == set(wanted)
    assert scan.seen == len(wanted)


def test_the_newest_night_comes_first_and_in_it_what_arrived_first(project_folder, inbox):
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
def test_a_name_with_a_strange_date_stops_nothing(project_folder, inbox, name):
    os.utime(put(inbox / name), ns=(0, -(10**18)))
    with inboxes_of(project_folder, inbox) as inboxes:
        assert names(inboxes.scan(NOW)) == [name]


def test_what_is_known_is_asked_about_once(project_folder, inbox):
    path = put(inbox / "a.fits")
    asked: list[measurement.FileInfo] = []

    def knows(file):
        asked.append(file)
        return True

    with inboxes_of(project_folder, inbox, is_known=knows) as inboxes:
        for minute in range(3):
            assert inboxes.scan(at(60 * minute)) == ScanResult((), 0, (), 1)
        assert asked == [measurement.FileInfo(path, 5, path.stat().st_mtime_ns)]
        inboxes.forget()
        inboxes.scan(at(240))
        assert len(asked) == 2


def test_nothing_is_lost_when_the_database_is_away(project_folder, inbox):
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


def test_links_are_followed_each_folder_once_and_loops_end(project_folder, inbox, tmp_path):
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


def test_names_that_are_not_utf8_are_handed_out_as_the_disk_has_them(project_folder, inbox):
    path = inbox / os.fsdecode(b"a\xff.fits")
    put(path)
    asked: list[measurement.FileInfo] = []
    with inboxes_of(project_folder, inbox, is_known=asked.append) as inboxes:
        assert inboxes.scan(NOW).arrived == (path,)
    assert asked[0].path.name == "a\\xff.fits"


def test_a_folder_that_cannot_be_listed_is_said_and_the_others_go_on(project_folder, inbox):
    put(inbox / "a.fits")
    put(inbox / "deep" / "b.fits")
    bury(inbox / "deep", 20)  # its path is longer than the system allows: no-one can list it
    with inboxes_of(project_folder, inbox) as inboxes:
        scan = inboxes.scan(NOW)
        assert names(scan) == ["a.fits", "b.fits"]
        [trouble] = scan.troubles
        assert trouble.startswith(f"{inbox}/deep/n")
        assert trouble.endswith("cannot be listed: File name too long")


def bury(folder: Path, levels: int) -> None:
    """Nest folders of long names deeper than a path can say."""
    code = (
        f"import os; os.chdir({str(folder)!r})\n"
        f"for _ in range({levels}): os.mkdir('n' * 250); os.chdir('n' * 250)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_two_inboxes_one_in_the_other_hand_a_file_out_once(project_folder, inbox):
    put(inbox / "uves" / "a.fits")
    with inboxes_of(project_folder, inbox, inbox / "uves") as inboxes:
        assert names(inboxes.scan(NOW)) == ["a.fits"]


def test_a_path_is_relative_to_the_project_or_a_url_of_this_machine(project_folder, inbox):
    put(project_folder / "raw" / "a.fits")
    put(inbox / "b.fits")
    with inboxes_of(project_folder, "raw", f"file://{inbox}") as inboxes:
        assert names(inboxes.scan(NOW)) == ["a.fits", "b.fits"]


def test_an_inbox_of_the_whole_project_leaves_the_fetched_copies_out(project_folder):
    put(project_folder / "fetched" / "s3-bucket" / "a.fits")
    put(project_folder / "b.fits")
    with inboxes_of(project_folder, project_folder) as inboxes:
        assert names(inboxes.scan(NOW)) == ["b.fits"]


# --- inboxes that go and come ---------------------------------------------------------------------


def test_an_inbox_that_is_away_is_said_and_caught_up_with_when_it_returns(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        away = inbox.rename(inbox.with_name("away"))
        put(away / "b.fits")
        scan = inboxes.scan(at(60))
        assert (scan.arrived, scan.seen) == ((), 1)
        [trouble] = scan.troubles
        assert trouble == (f"{inbox}: cannot be listed: No such file or directory; is it mounted?")
        away.rename(inbox)
        assert inboxes.scan(at(120)) == ScanResult((inbox / "b.fits",), 0, (), 2)


def test_an_inbox_that_is_a_file_is_said(project_folder, inbox):
    put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox / "a.fits") as inboxes:
        assert "Not a directory" in inboxes.scan(NOW).troubles[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_mount_point_with_nothing_mounted_is_no_empty_inbox(project_folder, inbox):
    if not mount(inbox):
        pytest.skip("this machine lets nobody mount a file system")
    try:
        put(inbox / "a.fits")
        with inboxes_of(project_folder, inbox) as inboxes:
            assert names(inboxes.scan(NOW)) == ["a.fits"]
            subprocess.run(["umount", str(inbox)], check=True)
            assert inboxes.scan(at(60)).troubles == (
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


def test_an_inbox_that_was_emptied_is_no_trouble(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.scan(NOW)
        path.unlink()
        assert inboxes.scan(at(60)) == ScanResult((), 0, (), 0)


def test_an_inbox_that_hangs_holds_up_no_other_and_is_named(project_folder, inbox):
    path = put(inbox / "a.fits")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/raw/"
        with inboxes_of(project_folder, inbox, address) as inboxes:
            assert inboxes.scan(NOW) == ScanResult((path,), 1, (), 1)
            assert inboxes.scan(at(121)).troubles == (
                f"{address}: has not answered since 2026-11-19 12:00:00 UT",
            )


# --- file events ----------------------------------------------------------------------------------


@dataclass
class Bell:
    """Counts the wakes, and waits for the next."""

    rung: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        self.rung.set()

    def rings(self, within_s: float = 10) -> bool:
        heard = self.rung.wait(within_s)
        self.rung.clear()
        return heard


def test_a_new_file_wakes_the_daemon(project_folder, inbox):
    bell = Bell()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(bell)
        put(inbox / "a.fits")
        assert bell.rings()
        put(inbox / "night" / "b.fits")
        assert bell.rings()


def test_reading_a_file_or_writing_a_log_wakes_nobody(project_folder, inbox):
    path = put(inbox / "a.fits")
    bell = Bell()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(bell)
        path.read_bytes()
        put(inbox / "night.log")
        assert not bell.rings(within_s=1)


def test_an_inbox_that_comes_late_is_watched_from_the_scan_that_finds_it(project_folder, tmp_path):
    late = tmp_path / "late"
    bell = Bell()
    with inboxes_of(project_folder, late) as inboxes:
        inboxes.watch(bell)
        assert inboxes.scan(NOW).troubles
        late.mkdir()
        assert not inboxes.scan(at(60)).troubles
        put(late / "a.fits")
        assert bell.rings()


def test_another_folder_in_the_inboxs_place_is_watched_in_its_turn(project_folder, inbox):
    bell = Bell()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(bell)
        inbox.rename(inbox.with_name("old"))
        inbox.mkdir()
        inboxes.scan(NOW)
        bell.rung.clear()
        put(inbox / "a.fits")
        assert bell.rings()


def test_a_closed_inbox_wakes_nobody(project_folder, inbox):
    bell = Bell()
    with inboxes_of(project_folder, inbox) as inboxes:
        inboxes.watch(bell)
    bell.rung.clear()
    put(inbox / "a.fits")
    assert not bell.rings(within_s=0.5)


def test_a_kernel_that_lets_nothing_be_watched_is_said_and_the_scans_go_on(project_folder, inbox):
    path = put(inbox / "a.fits")
    with inboxes_of(project_folder, inbox) as inboxes:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        try:
            held = exhaust_descriptors()
            inboxes.watch(Bell())
            for one in held:
                os.close(one)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        scan = inboxes.scan(NOW)
    assert scan.arrived == (path,)
    [trouble] = scan.troubles
    assert trouble == (
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
def test_more_folders_than_may_be_watched_are_said(project_folder, inbox, limit, why):
    (inbox / "night" / "deep").mkdir(parents=True)
    settings_of(project_folder, inbox)
    code = (
        "from datetime import UTC, datetime; from pathlib import Path\n"
        "from qc.service.inboxes import InboxSet; from qc.settings import read_settings\n"
        f"inboxes = InboxSet(read_settings(Path({str(project_folder)!r})), lambda file: False)\n"
        "inboxes.watch(print)\n"
        "for _ in range(2): print(inboxes.scan(datetime.now(UTC)).troubles)\n"
    )
    limited = f"echo {limit} > /proc/sys/user/max_inotify_watches && exec {sys.executable} -c"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", f"{limited} {shlex.quote(code)}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("this machine lets nobody limit what may be watched")
    said = (
        f"('{inbox}: new files are noticed by the scans only: {why}; "
        "raise fs.inotify.max_user_watches or max_user_instances',)"
    )
    assert done.stdout.splitlines() == [said] * 2


# --- with the pipeline ----------------------------------------------------------------------------


def test_what_arrives_is_judged_and_not_handed_out_by_the_next_daemon(project, inbox):
    told = settings_of(project.settings.project, inbox)
    put(inbox / "broken.fits")

    def is_known(file):
        with project.reads() as session:
            return db.frames.is_known(session, file)

    path = write_frame(inbox)
    os.utime(path, (0, 0))
    for expected in ([path.name, "broken.fits"], ["broken.fits"]):
        inboxes = InboxSet(told, is_known)
        scan = inboxes.scan(NOW)
        assert names(scan) == expected[::-1]
        states = {one.path.name: one.state for one in process_frames(scan.arrived, project)}
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
class Life:
    """An inbox, what happened in it, and what was handed out."""

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
        """Write more bytes than ever before, so that no two versions are alike."""
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
                other = path.rename(path.with_name(f"{self.bytes_written}-{path.name}"))
                self.changed_at[other] = self.changed_at[path]
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
def test_every_finished_file_is_handed_out_once_for_each_version_and_none_that_changes(
    tmp_path_factory, is_recorded, events, skew_s
):
    root = tmp_path_factory.mktemp("life")
    life = Life(root / "inbox", skew_s)
    life.folder.mkdir()
    known: set[tuple[Path, int, int]] = set()

    def is_known(file):
        return (file.path, file.size_bytes, file.modified_ns) in known

    told = settings_of(root / "project", life.folder)
    inboxes = InboxSet(told, is_known)
    for act, name, pause_s in [*events, ("return", "", 0), ("scan", "", QUIET_S), ("scan", "", 0)]:
        life.act(act, name)
        if act == "scan":
            life.scan(inboxes)
        elif act == "restart" and is_recorded:
            inboxes.close()
            inboxes = InboxSet(told, is_known)
        if is_recorded:
            known.update(life.handed)
        life.seconds += pause_s
    inboxes.close()
    assert len(life.handed) == len(set(life.handed))
    there = {
        (path, path.stat().st_size, path.stat().st_mtime_ns)
        for path in life.folder.rglob("*.fits*")
    }
    assert there <= set(life.handed)


def test_an_address_that_nothing_reads_is_a_mistake(project_folder):
    with pytest.raises(ConfigurationError, match="expected a folder or an address like s3://"):
        InboxSet(settings_of(project_folder, "gopher://host/raw"), nobody_knows)


def test_an_inbox_named_twice_is_a_mistake(project_folder, inbox):
    with pytest.raises(ConfigurationError, match="named more than once"):
        InboxSet(settings_of(project_folder, inbox, inbox), nobody_knows)
