"""Pictures of each review page at both widths, from a demonstration project.

The project is copied without its frames and stays unchanged. To the copy are added people's
entries: labels from the list of faults, limits, an intervention, a notice, an account.

Run: ``python -m benchmarks.page_pictures --project demo --out docs/pictures/pages``; with
``--gallery docs/results/pages-gallery.md`` it writes the index too.
"""

import argparse
import csv
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Literal

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from qc import db
from qc.core.enums import FrameState, LabelName, Role, Topic
from qc.db.schema.models import AlertRow, FrameRow, NotificationRow
from qc.labels import epochs
from qc.project import ProjectContext, open_project
from qc.settings import read_settings
from qc.tuning.choice import TuningGoal
from qc.tuning.proposals import propose, write_proposals
from qc.web.app import create_app

WIDTHS = (1280, 390)
HEIGHTS = {1280: 900, 390: 844}
TALLEST = 1800  # pixels of a picture; the rest is cut off
LARGEST = 145_000  # bytes of a picture
CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 60_000
TYPE, FAINT = "UBB0", "UD1BDF0"
PASSWORD = "echelle-390"  # noqa: S105 - of an account in a copy that is thrown away


@dataclass(frozen=True)
class View:
    """A page to picture.

    Attributes
    ----------
    there : str
        Element of the completely loaded page.
    first : callable or None
        Action before the picture is taken.
    """

    name: str
    words: str
    address: str
    there: str = "h1"
    first: Callable[[Page], object] | None = None


@dataclass(frozen=True)
class PageSession:
    """Browser, server, time, and output folder of the pictures."""

    browser: Browser
    url: str
    now: datetime
    scheme: Literal["light", "dark"]
    out: Path


def main() -> None:
    """Copy, add, serve, take pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gallery", type=Path)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    parser.add_argument("--only", default="", help="names that begin so")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _opened(arguments.project, Path(folder)) as item:
        project, now = item
        views = [view for view in _views(project) if view.name.startswith(arguments.only)]
        with _served(project, now) as url, _chromium() as browser:
            session = PageSession(browser, url, now, arguments.scheme, arguments.out)
            for view in views:
                _picture(session, view)
            if "login".startswith(arguments.only):
                views.append(_login(project, now))
                _picture(session, views[-1])
    if arguments.gallery:
        arguments.gallery.write_text(_gallery(views, arguments.out, arguments.gallery))


# --- a project in which people have worked --------------------------------------------------------


@contextmanager
def _opened(source: Path, folder: Path) -> Iterator[tuple[ProjectContext, datetime]]:
    copy = folder / "uves"
    remaining = shutil.ignore_patterns("archive", "inbox", "reports", "*.db-*")
    shutil.copytree(source, copy, ignore=remaining)
    with open_project(read_settings(copy)) as project:
        now = _fill(project, _faults(source / "inbox" / "truth.csv"))
        _date_back(project, now)
        yield project.reload(), now


def _faults(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["fault"]]
    return {(row["file"].removesuffix(".fits"), row["extension"]): row["fault"] for row in rows}


def _fill(project: ProjectContext, faults: dict[tuple[str, str], str]) -> datetime:
    """Add people's entries; return the morning after the newest night."""
    with project.write_session.begin() as session:
        night = db.statistics.newest_night(session)
        assert night is not None
        now = datetime.combine(night + timedelta(days=1), time(12, 10), UTC)
        for number, item in enumerate(list(db.findings.findings(session, night))):
            fault = faults.get((str(item.frame.name), str(item.extension.number)))
            if fault and number % 3:  # some are left to be reviewed
                answer = db.labels.LabelAnswer(LabelName.BAD, "ana", fault, "seen in the report")
                db.labels.record_label(session, item.extension.id, answer)
        start = night - timedelta(days=5)
        epochs.add(
            session, TYPE, start, "a new deuterium lamp", who="ana", instruments=project.instruments
        )
        _tell(session, now)
    goal = TuningGoal(night + timedelta(days=1), night - timedelta(days=30), factor=0.8)
    write_proposals(project, [propose(project, TYPE, goal, "after the new lamp", "ana")])
    return now


def _date_back(project: ProjectContext, now: datetime) -> None:
    """Move alerts and job runs of the project to that morning."""
    at = now - timedelta(hours=1)
    with project.write_session.begin() as session:
        session.execute(update(AlertRow).values(owed_at=at))
        failed = select(FrameRow).where(FrameRow.state == FrameState.FAILED)
        for row in session.scalars(failed):
            row.processed_at, row.retry_at = at, at + timedelta(hours=2)
            row.reason = re.sub(r"/\S+?/(?=inbox/|archive/)", "/data/uves/", row.reason or "")


def _tell(session: Session, now: datetime) -> None:
    at = now - timedelta(minutes=40)
    notice = NotificationRow(
        topic=Topic.DAEMON, made_at=at, subject="[QC] the archive's disk is 91 % full"
    )
    session.add(notice)
    session.flush()
    owed = AlertRow(topic=Topic.DAEMON, owed_at=at, notification_id=notice.id, key="disk")
    session.add(owed)


# --- pages --------------------------------------------------------------------------------------


def _views(project: ProjectContext) -> list[View]:
    with project.read_session() as session:
        night = db.statistics.newest_night(session)
        assert night is not None
        result = list(db.findings.findings(session, night))
        worst = max((item for item in result if item.extension.image_type == TYPE), key=_score)
        best = min((item for item in result if item.extension.image_type == FAINT), key=_score)
        bad, good = str(worst.frame.name), str(best.frame.name)
        path = str(worst.frame.path)
    viewer, plot, ready = ".viewer[data-ready=yes]", "#plot[data-drawn=yes]", "body[data-ready]"
    chosen = f"/thresholds/{TYPE}"
    return [
        View("tonight", "Dashboard", "/"),
        View("frame", "A frame", f"/frames/{bad}", viewer),
        View(
            "frame_where",
            "A frame: residual map and cuts through a pixel",
            f"/frames/{bad}?where=1",
            ".viewer[data-ready=yes][data-residuals=shown]",
            lambda page: page.locator(".pane canvas").first.press("Enter"),
        ),
        View("why", "Why flagged", f"/frames/{bad}/explanation", "#cost table, #cost .trouble"),
        View(
            "why_not",
            "Why not flagged",
            f"/frames/{good}/explanation",
            "#cost table, #cost .trouble",
        ),
        View("header", "The header of its file", f"/frames/{bad}/header?q=exp", "table"),
        View("review", "Review queue", f"/review?labelled=any&from={night}&order=score", ready),
        View("wall", "Review queue: grid", "/review?view=grid&labelled=any&order=score", ready),
        View("keys", "Keyboard shortcuts", "/review", ready, _ask_for_keys),
        View("thresholds", "Thresholds", "/thresholds"),
        View("threshold", "Effect of other thresholds", chosen, ".figures", _slide),
        View("compare", "Thresholds: two entries", f"{chosen}/compare?one=1&other=2", ".differs"),
        View("trends", "Trends", "/trends"),
        View("trend", "A trend", f"/trends/{TYPE}?metric=bias_level", plot),
        View("similar", "Similar frames", f"/similar?frame={bad}", ".thumbnails"),
        View(
            "upload",
            "Similar frames of an uploaded file",
            "/similar",
            "h1",
            lambda p: _send(p, path),
        ),
        View("map", "Projection", f"/projection?type={TYPE}", plot),
        View("dendrogram", "A dendrogram", f"/dendrogram?type={TYPE}", "svg"),
        View("api", "REST API", "/api/docs"),
        View("error", "An error", "/frames/UVES.nothing"),
    ]


def _score(finding: db.findings.Finding) -> float:
    return float(finding.verdict.score)


def _ask_for_keys(page: Page) -> None:
    page.keyboard.press("?")
    page.locator("dialog[open] .examples").wait_for()


def _slide(page: Page) -> None:
    slider = page.get_by_role("slider")
    for _ in range(25):
        slider.press("ArrowLeft")
    page.wait_for_url("**factor=0.562")
    page.locator("#effects:not(.waiting) .figures").wait_for()


def _send(page: Page, path: str) -> None:
    page.get_by_label("or a FITS file").set_input_files(path)
    page.get_by_role("button", name="Search with file").click()
    page.get_by_text("is most like").first.wait_for()


def _login(project: ProjectContext, now: datetime) -> View:
    """Let nobody in without a name from now on."""
    with project.write_session.begin() as session:
        db.accounts.add_account(session, "ana", Role.TUNE, PASSWORD, now)
    return View("login", "Log in", "/")


# --- taken by a browser ---------------------------------------------------------------------------


@contextmanager
def _served(project: ProjectContext, now: datetime) -> Iterator[str]:
    app = create_app(project, lambda: now)
    config = uvicorn.Config(app, log_config=None, proxy_headers=False, port=0)
    with config.bind_socket() as listening:
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def _chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def _picture(session: PageSession, view: View) -> None:
    """Take a picture at each width."""
    for width in WIDTHS:
        size = ViewportSize(width=width, height=HEIGHTS[width])
        context = session.browser.new_context(
            base_url=session.url, viewport=size, color_scheme=session.scheme
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.clock.set_fixed_time(session.now)  # else each page is marked as old
        page.goto(view.address)
        page.locator(view.there).first.wait_for()
        if view.first:
            view.first(page)
        page.wait_for_load_state("networkidle")
        tall = min(TALLEST, page.evaluate("document.documentElement.scrollHeight"))
        page.set_viewport_size({"width": width, "height": max(tall, HEIGHTS[width])})
        _wait_for_pictures(page)
        _write(page.screenshot(), session.out / f"{view.name}_{width}.webp")
        context.close()


def _wait_for_pictures(page: Page) -> None:
    """Wait until those are there that come when they are scrolled to."""
    ends = monotonic() + PATIENCE_MS / 1000
    text = """[...document.images].every((one) => one.complete || !one.checkVisibility()
        || one.getBoundingClientRect().top > innerHeight)"""
    while not page.evaluate(text):
        if monotonic() > ends:
            raise RuntimeError(f"{page.url}: its pictures did not come")
        page.wait_for_timeout(100)
    page.wait_for_load_state("networkidle")


def _write(png: bytes, path: Path) -> None:
    """Write a picture as good as its bytes allow."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (85, 70, 55, 40, 25):
        picture.save(path, quality=quality, method=6)
        if path.stat().st_size <= LARGEST:
            return
    raise RuntimeError(f"{path}: expected {LARGEST} bytes at most, got {path.stat().st_size}")


# --- the index ------------------------------------------------------------------------------------


def _gallery(views: list[View], folder: Path, index: Path) -> str:
    """Return Markdown with all pictures, wide and narrow side by side."""
    where = Path(os.path.relpath(folder, index.parent)).as_posix()
    lines = [
        "# Pages in pictures",
        "",
        "Each page at 1280 and 390 pixels, reduced in size, from the project of `make demo` after",
        "an hour of work. Drawn by `python -m benchmarks.page_pictures --project demo --out",
        "docs/pictures/pages --gallery docs/results/pages-gallery.md`. Long pages are cut off.",
        "",
    ]
    for view in views:
        lines += [
            f"## {view.words}",
            "",
            *(
                f'<img src="{where}/{view.name}_{width}.webp" width="{displayed}" '
                f'alt="{view.words}, {width} pixels wide">'
                for width, displayed in zip(WIDTHS, (640, 195), strict=True)
            ),
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
