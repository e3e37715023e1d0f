"""The recipe and the notebook of the documentation run on exported tables."""

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
from qc.db.schema.models import FrameRow
from qc.exports import read_tables, write_tables_file
from tests.support.verdict_rows import StoredExtension, add_extensions

GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def frames_of_an_ageing_lamp(n: int) -> list[StoredExtension]:
    """Frames of a lamp that ages and is exchanged after two thirds; every tenth is anomalous."""
    random = np.random.default_rng(3)
    frames = []
    for number in range(n):
        vector = np.ones(16) + 0.005 * random.normal(size=16)
        vector[0] += 0.1 * number / n + (0.3 if number > 2 * n / 3 else 0)
        is_anomalous = number % 10 == 9
        vector[5] += 0.5 * is_anomalous
        status = Status.ANOMALOUS if is_anomalous else Status.NOMINAL
        frames.append(
            StoredExtension(vector=tuple(vector), status=status, bias_level_adu=100 + number / n)
        )
    return frames


@pytest.fixture
def exported(project, tmp_path, monkeypatch):
    """Tables of eighty frames of four years, in the current folder."""
    add_extensions(project, *frames_of_an_ageing_lamp(80))
    with project.write_session.begin() as session:
        for number, row in enumerate(session.scalars(select(FrameRow).order_by(FrameRow.id))):
            row.observed_at = datetime(2016, 1, 1, 20, tzinfo=UTC) + timedelta(days=18 * number)
            row.night = row.observed_at.date()
    monkeypatch.chdir(tmp_path)
    for table in ExportTable:
        with project.read_session() as session:
            write_tables_file(
                read_tables(session, table), ExportFormat.PARQUET, tmp_path / f"{table}.parquet"
            )


def run(cells: list[str], name: str) -> dict[str, Any]:
    """Execute pieces of code one after another in one namespace, as a notebook does."""
    namespace: dict[str, Any] = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"{name}, piece {number}", "exec"), namespace)
    return namespace


def cells_of_notebook() -> list[str]:
    notebook = json.loads((GUIDES / "notebook.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code), "the notebook is committed without output"
    return ["".join(cell["source"]) for cell in code]


@pytest.mark.once
@pytest.mark.usefixtures("exported")
def test_notebook_on_an_ageing_lamp(project, monkeypatch, capsys):
    monkeypatch.chdir(project.settings.project)
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    plt.switch_backend("agg")
    try:
        namespace = run(cells_of_notebook(), "notebook.ipynb")
        titles = [figure.axes[0].get_title() for figure in figures]
    finally:
        plt.close("all")
    assert "80 of TB0, 8 anomalous" in capsys.readouterr().out
    assert titles == ["TB0: PCA", "TB0: t-SNE", "TB0: spans of time", "TB0: drift"]
    assert list(namespace["middles"]) == ["2016", "2017", "2018", "2019"]
    assert namespace["merges"][-1, 2] > 3 * namespace["merges"][:-1, 2].max()  # the new lamp
    smooth = namespace["smooth"].to_numpy()
    assert smooth[-1] > 5 * smooth[: len(smooth) // 2].max()


@pytest.mark.usefixtures("exported")
def test_recipes_on_an_ageing_lamp(capsys):
    text = (GUIDES / "notebook.md").read_text()
    pieces = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(pieces) == 3
    namespace = run(pieces, "notebook.md")
    assert namespace["count"] == 80
    assert namespace["slope"] == pytest.approx(1 / 80 / 18, rel=0.01)  # an ADU in 80 frames
    assert "the mean of 80 embeddings has the length" in capsys.readouterr().out
