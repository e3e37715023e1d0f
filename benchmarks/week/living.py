"""Course of the week: events by time, and the result."""

import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as daytime
from functools import cached_property, partial
from pathlib import Path

from benchmarks.week.checking import Account, take_account
from benchmarks.week.making import HISTORY_NIGHTS, NIGHTS
from benchmarks.week.post import PostOffice
from benchmarks.week.trials import (
    DISK_FULL_DAY,
    DISK_FULL_S,
    KILL_DAYS,
    KILLS,
    LOCKED_DAY,
    LOCKED_S,
    MAIL_DOWN_DAY,
    RESTART_S,
    SEED,
)
from benchmarks.week.watching import DaemonProcess
from qc._files import time_in_name
from qc.core.enums import LabelName
from qc.db.statistics import count_pending_alerts
from qc.pipeline.batch import process_frames
from qc.project import create_project, open_project
from qc.service.maintenance import back_up
from qc.settings import read_settings

CALM_BEFORE_S, CALM_AFTER_S = 60, 120
PATIENCE_S = 900
_DAY_S = 86_400
_SETTINGS = """\
[[inbox]]
path = "{inbox}"
[schedule]
report = "*/{day_minutes} * * * *"
backup = "*/{day_minutes} * * * *"
absence = "*/5 * * * *"
self_test = "7 3 * * *"
[mail]
host = "127.0.0.1"
port = {port}
security = "none"
sender = "qc@observatory.example"
retry_first_s = 5
[alerts]
oldest_days = 60
{limits}[[subscription]]
to = ["astronomer@observatory.example"]
topics = ["verdict"]
[health]
port = 0
"""
_HURRIED = "most_at_once = 20\nmost_a_night = 1000\n"


@dataclass(frozen=True)
class Trial:
    """Something that goes wrong at a second of the week as it is lived here, for a while."""

    at_s: float
    lasts_s: float
    what: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Week:
    """Events by time, and the result.

    Parameters
    ----------
    pace_s : float
        One frame each so many seconds of this world, and nothing goes wrong; 0: at `speed`.
    """

    def __init__(
        self,
        work: Path,
        folder: Path,
        nights: Sequence[Sequence[Path]],
        last: date,
        speed: float,
        pace_s: float = 0,
    ) -> None:
        self.project, self.nights, self.speed, self.pace_s = folder, nights, speed, pace_s
        self.inbox = work / "inbox"
        self.learned = work / f"learned-{last}.db"
        self.post = PostOffice()
        self.log = work / "daemon.log"
        self.daemon = DaemonProcess(folder, self.log)
        self.arrived: dict[Path, float] = {}
        self.happened: list[tuple[float, str]] = []
        self.began = 0.0
        first = last - timedelta(days=NIGHTS - 1)
        self.begins = datetime.combine(first, daytime(22), UTC)

    @property
    def day_s(self) -> float:
        """Return how long a day lasts here."""
        return _DAY_S / self.speed

    def prepare(self, history: Sequence[Path]) -> None:
        """Make the project, and teach it the fortnight before."""
        shutil.rmtree(self.inbox, ignore_errors=True)
        self.inbox.mkdir()
        self.log.unlink(missing_ok=True)
        create_project(self.project)
        day_minutes = max(1, round(self.day_s / 60))
        text = _SETTINGS.format(
            inbox=self.inbox,
            port=self.post.port,
            day_minutes=day_minutes,
            limits="" if self.pace_s else _HURRIED,
        )
        (self.project / "qc.toml").write_text(text, encoding="utf-8")
        if self.learned.exists():
            shutil.copyfile(self.learned, self.project / "qc.db")
            return
        with open_project(read_settings(self.project)) as project:
            for done, _ in enumerate(process_frames(history, project, LabelName.GOOD), start=1):
                if done % 50 == 0:
                    print(f"learn {HISTORY_NIGHTS} nights: {done} of {len(history)}", flush=True)
            back_up(project.settings, datetime.now(UTC))
        [copy] = (self.project / "backups").iterdir()
        shutil.move(copy, self.learned)

    def live(self) -> Account:
        """Let everything happen at its time; wait until nothing is owed; take the account."""
        self.post.open()
        self.daemon.start()
        self.began = time.time()
        for at_s, title, act in sorted(self._events(), key=lambda event: event[0]):
            time.sleep(max(0.0, at_s - (time.time() - self.began)))
            if title:
                print(f"{datetime.now(UTC):%H:%M:%S} {title}", flush=True)
                self.happened.append((at_s / self.day_s, title))
            act()
        self._wait_until_told()
        print(f"the daemon ends with exit code {self.daemon.stop()}")
        self.post.close()
        with (
            open_project(read_settings(self.project)) as project,
            project.read_session() as session,
        ):
            return take_account(session, self.arrived, self.post.letters)

    def is_calm(self, at: float) -> bool:
        """Return True if no trial is active or near."""
        elapsed_s = at - self.began
        return not any(
            trial.at_s - CALM_BEFORE_S <= elapsed_s <= trial.at_s + trial.lasts_s + CALM_AFTER_S
            for trial in self.trials
        )

    @cached_property
    def trials(self) -> list[Trial]:
        """List the failures."""
        if self.pace_s:
            return []
        chance, days = random.Random(SEED), len(self.nights)  # noqa: S311 - not a secret
        moments = [chance.uniform(0, min(days, KILL_DAYS)) for _ in range(KILLS)]
        kill, revive = self.daemon.kill, self._revive
        kills = [Trial(day * self.day_s, RESTART_S, "kill -9", kill, revive) for day in moments]
        morning = 12 / 24  # of a day that begins at 22 UT: 10 UT, when the calibrations come
        post, full, locked = MAIL_DOWN_DAY, DISK_FULL_DAY + morning, LOCKED_DAY + morning
        rest = [
            Trial(post * self.day_s, self.day_s, "mail down", self.post.close, self.post.open),
            Trial(full * self.day_s, DISK_FULL_S, "disk full", self._fill, self._free),
            Trial(locked * self.day_s, LOCKED_S, "database locked", self._lock, lambda: None),
        ]
        return kills + [item for item in rest if item.at_s < days * self.day_s]

    def _events(self) -> Iterator[tuple[float, str, Callable[[], None]]]:
        """Yield the events with their second; in no order."""
        paths = [path for night in self.nights for path in night]
        for number, path in enumerate(paths):
            at_s = number * self.pace_s if self.pace_s else self._second_of(path)
            yield at_s, "", partial(self._deliver, path)
        for trial in self.trials:
            yield trial.at_s, trial.what, trial.begin
            yield trial.at_s + trial.lasts_s, f"{trial.what}: over", trial.end

    def _second_of(self, path: Path) -> float:
        chosen = time_in_name(path.name)
        assert chosen is not None
        return float((chosen - self.begins).total_seconds()) / self.speed

    def _deliver(self, path: Path) -> None:
        """Write a frame in three goes under its own name, as a slow link would."""
        content, target = path.read_bytes(), self.inbox / path.name
        third = len(content) // 3 + 1
        with target.open("wb") as stream:
            for start in range(0, len(content), third):
                stream.write(content[start : start + third])
                stream.flush()
                time.sleep(0.05)
        self.arrived[target.resolve()] = time.time()

    def _revive(self) -> None:
        if not self.daemon.is_alive:
            self.daemon.start()

    def _fill(self) -> None:
        with suppress(OSError), (self.project / "filler").open("wb") as stream:
            while True:
                stream.write(bytes(1 << 20))
                stream.flush()

    def _free(self) -> None:
        (self.project / "filler").unlink(missing_ok=True)

    def _lock(self) -> None:
        threading.Thread(target=self._hold_lock, daemon=True).start()

    def _hold_lock(self) -> None:
        with closing(sqlite3.connect(self.project / "qc.db", timeout=60)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED_S)
            connection.rollback()

    def _wait_until_told(self) -> None:
        """Wait until every frame is on record and nothing is owed, or patience ends."""
        ends = time.monotonic() + PATIENCE_S
        with open_project(read_settings(self.project)) as project:
            while time.monotonic() < ends:
                self._revive()
                with project.read_session() as session:
                    account = take_account(session, self.arrived, self.post.letters)
                    owed = count_pending_alerts(session)
                print(f"left: {account.lost} frames, {owed} alerts", flush=True)
                if account.lost == 0 and owed == 0:
                    return
                time.sleep(10)
