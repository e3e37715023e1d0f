"""The recipe and the notebook for the QC scientist's own questions do what they say."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sqlalchemy import select

from qc.core.enums import ExportFormat, ExportTable
from qc.core.verdict import Status
from qc.db.models import FrameRow
from qc.exports import read_tables, write_tables_file
from tests.support.remembered import Past, remember

DOCS = Path(__file__).parent.parent / "docs"


def ageing(n: int) -> list[Past]:
    """A lamp that ages slowly and is exchanged after two thirds; every tenth frame is odd."""
    random = np.random.default_rng(3)
    found = []
    for number in range(n):
        vector = np.ones(16) + 0.005 * random.normal(size=16)
        vector[0] += 0.1 * number / n + (0.3 if number > 2 * n / 3 else 0)
        odd = number % 10 == 9
        vector[5] += 0.5 * odd
        status = Status.ANOMALOUS if odd else Status.NOMINAL
        found.append(Past(vector=tuple(vector), status=status, bias_level_adu=100 + number / n))
    return found


@pytest.fixture
def exported(project, tmp_path, monkeypatch):
    """Tables of eighty frames of four years, in the current folder."""
    remember(project, *ageing(80))
    with project.writes.begin() as session:
        for number, row in enumerate(session.scalars(select(FrameRow).order_by(FrameRow.id))):
            row.observed_at = datetime(2016, 1, 1, 20, tzinfo=UTC) + timedelta(days=18 * number)
            row.night = row.observed_at.date()
    monkeypatch.chdir(tmp_path)
    for what in ExportTable:
        with project.reads() as session:
            write_tables_file(
                read_tables(session, what), ExportFormat.PARQUET, tmp_path / f"{what}.parquet"
            )


def run(cells: list[str], name: str) -> dict[str, Any]:
    """Execute pieces of code one after another, as a notebook does."""
    known: dict[str, Any] = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"{name}, piece {number}", "exec"), known)
    return known


def cells_of_notebook() -> list[str]:
    notebook = json.loads((DOCS / "analysis.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code), "commit it without what it printed"
    return ["".join(cell["source"]) for cell in code]


@pytest.mark.once
@pytest.mark.usefixtures("exported")
def test_the_notebook_answers_its_four_questions(monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plt, "show", lambda: drawn.append(plt.gcf()))
    plt.switch_backend("agg")
    try:
        known = run(cells_of_notebook(), "analysis.ipynb")
        titles = [figure.axes[0].get_title() for figure in drawn]
    finally:
        plt.close("all")
    assert "80 of TB0, 8 anomalous" in capsys.readouterr().out
    assert titles == ["TB0: PCA", "TB0: t-SNE", "TB0: spans of time", "TB0: drift"]
    assert list(known["middles"]) == ["2016", "2017", "2018", "2019"]
    assert known["merges"][-1, 2] > 3 * known["merges"][:-1, 2].max()  # the new lamp
    smooth = known["smooth"].to_numpy()
    assert smooth[-1] > 5 * smooth[: len(smooth) // 2].max()


@pytest.mark.usefixtures("exported")
def test_the_recipe_does_what_it_says(capsys):
    text = (DOCS / "analysis.md").read_text()
    pieces = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(pieces) == 3
    known = run(pieces, "analysis.md")
    assert known["count"] == 80
    assert known["slope"] == pytest.approx(1 / 80 / 18, rel=0.01)  # an ADU in 80 frames
    assert "the mean of 80 embeddings has the length" in capsys.readouterr().out
