"""The week's account as a page and a picture."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from benchmarks.paths import PAGES, PICTURES, RESULTS
from benchmarks.week.checking import Account, percentile
from benchmarks.week.trials import DISK_FULL_S, LOCKED_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.week.living import Week

_PAGE = """\
# A week of failures

`python -m benchmarks.week --work DIR --speed {speed:g}`

{nights} nights of a busy observatory through `qc service run`, {speed:g} times as fast as real
time: {files} files written slowly into a folder, a tenth of them faulty; the daemon killed with
`kill -9` {kills} times at random moments of the first five days and restarted after 5 s; the mail
server down for a day; the disk full for {disk_s} s and the database locked for {lock_s} s while
frames arrive. The settings are the defaults except for addresses, hours, earlier mail retries, and
single mails where a real night, at its normal speed, would not need a digest.

| | goal | result |
|---|---|---|
| frames delivered, judged, refused as broken | | {files}, {processed}, {failed} |
| frames lost | 0 | **{lost}** |
| frames stored twice | 0 | **{twice}** |
| verdicts per extension: extensions | one each | {verdicts} |
| alerts for anomalous extensions, number of notifications | | {alerts}, {notices} |
| alerts that were never sent | 0 | **{untold}** |
| mails received | | {letters} |
| of these, mails received before | at most 1 a kill | **{repeated}** |
| file's arrival to verdict, median, p95 | | {verdict_50:.0f} s, {verdict_95:.0f} s |
| file's arrival to mail in the server's hands, median, p95 | | {mail_50:.0f} s, {mail_95:.0f} s |
| the same, away from failures | p95 under 60 s | **{calm_50:.0f} s, {calm_95:.0f} s** of {calm_n} |
| memory, first and last tenth of a run | flat | {memory_begin:.0f} MB, {memory_end:.0f} MB |

![Timeline of the week](../pictures/week.png)

{machine}. The load of five hours arrives in {night_s:.0f} s here: the times are those of a daemon
under pressure.
"""


def write(account: Account, week: Week) -> None:
    """Write the page, the figures and the picture of the week."""
    longest = _longest_life(week)
    calm = [span for at, span in account.to_mail if week.is_calm(at)]
    spans = [span for _, span in account.to_mail]
    page = _PAGE.format(
        **{**asdict(account), "verdicts": _spelt(account.verdicts)},
        speed=week.speed,
        nights=len(week.nights),
        kills=sum(event == "kill -9" for _, event in week.happened),
        disk_s=DISK_FULL_S,
        lock_s=LOCKED_S,
        verdict_50=percentile(account.to_verdict_s, 50),
        verdict_95=percentile(account.to_verdict_s, 95),
        mail_50=percentile(spans, 50),
        mail_95=percentile(spans, 95),
        calm_50=percentile(calm, 50),
        calm_95=percentile(calm, 95),
        calm_n=len(calm),
        memory_begin=float(np.median(longest[: max(len(longest) // 10, 1)])),
        memory_end=float(np.median(longest[-max(len(longest) // 10, 1) :])),
        night_s=5 * 3600 / week.speed,
        machine=f"{platform.machine()}, Python {platform.python_version()}",
    )
    (PAGES / "week.md").write_text(page, encoding="utf-8")
    (RESULTS / "week.json").write_text(json.dumps(_record(account, week)), encoding="utf-8")
    _draw(PICTURES / "week.png", week)
    print(page)


_LATENCY = """\
# Latency

`python -m benchmarks.week --work DIR --pace {pace:g} --frames {files}`

{files} frames of a night, one every {pace:g} s, a tenth of them faulty, through `qc service run`
with the default settings: a scan a minute, file events, a file is complete after 3 s without a
change, events collect frames for 20 s. Frames are binned 2x2, of all three chips; two cores.

| from the file's arrival | median | p95 | longest | of |
|---|---|---|---|---|
{verdict}
{mail}

The goal is a p95 of 60 s. An event is counted from its first anomalous frame.
"""


def write_latency(account: Account, week: Week) -> None:
    """Write the page of the latency."""
    spans = [span for _, span in account.to_mail]
    page = _LATENCY.format(
        pace=week.pace_s,
        files=account.files,
        verdict=_summary("verdict", account.to_verdict_s, "frames"),
        mail=_summary("mail in the server's hands", spans, "events"),
    )
    (PAGES / "latency.md").write_text(page, encoding="utf-8")
    print(page)


def _summary(name: str, values: Sequence[float], of: str) -> str:
    figures = (percentile(values, part) for part in (50, 95, 100))
    cells = " | ".join(f"{figure:.1f} s" for figure in figures)
    return f"| to the {name} | {cells} | {len(values)} {of} |"


def _spelt(verdicts: dict[int, int]) -> str:
    return ", ".join(f"{n}: {count}" for n, count in verdicts.items())


def _longest_life(week: Week) -> list[float]:
    lives: dict[int, list[float]] = {}
    for item in week.daemon.memory:
        lives.setdefault(item.life, []).append(item.mb)
    return max(lives.values(), key=len, default=[float("nan")])


def _record(account: Account, week: Week) -> dict[str, Any]:
    memory = [asdict(item) for item in week.daemon.memory]
    return {**asdict(account), "happened": week.happened, "memory": memory, "speed": week.speed}


def _draw(file: Path, week: Week) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of a backend

    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for item in week.daemon.memory:
        axes.plot((item.at - week.began) / week.day_s, item.mb, ".", color="#1f4e79", markersize=2)
    for day, event in week.happened:
        if "kill -9: over" in event:
            continue
        is_kill = event == "kill -9"
        axes.axvline(day, color="#b3261e" if is_kill else "#8a6d00", lw=0.6 if is_kill else 1.2)
        if not is_kill:
            axes.annotate(event, (day, 0), rotation=90, fontsize=7, va="bottom", ha="right")
    axes.set(xlabel="day of the week", ylabel="resident memory of the daemon, MB", ylim=(0, None))
    axes.set_title("Red: kill -9. Each dot is a moment of the daemon's life", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
