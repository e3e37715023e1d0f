"""Doctests run in a folder with a small simulated project."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qc import simulator
from qc.api.frames import simulate
from qc.core import LabelName
from qc.pipeline.batch import process_frames
from qc.project import create_project, open_project
from qc.settings import read_settings

NIGHTS = 5  # of five biases: 20 references for the last night


@pytest.fixture(scope="session")
def example_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the project ``demo``, its ``archive`` and a new frame ``bias.fits``."""
    folder = tmp_path_factory.mktemp("examples")
    stream = simulator.CalibrationStream("bias", "blue", "BLUE")
    plan = simulator.ObservingPlan((stream,), aborted=0)
    paths = simulate(folder / "archive", nights=NIGHTS, plan=plan)
    shutil.move(paths[-1], folder / "bias.fits")
    create_project(folder / "demo")
    with open_project(read_settings(folder / "demo")) as project:
        outcomes = list(process_frames(paths[:-1], project, LabelName.GOOD))
    assert len(outcomes) == len(paths) - 1
    return folder


@pytest.fixture(autouse=True)
def _example_namespace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Run a doctest in a copy of the example folder; other tests are left alone."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    namespace: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    namespace["Path"] = Path
    copy = tmp_path_factory.mktemp("doctest") / "examples"
    shutil.copytree(request.getfixturevalue("example_folder"), copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        yield
