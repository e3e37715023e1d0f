"""Projects as the command line opens them."""

from dataclasses import replace
from pathlib import Path

import pytest

from qc.core.enums import LabelName
from qc.io.instrument_files import read_instruments
from tests.support.databases import write_settings
from tests.support.terminal import Run
from tests.support.tiny_spectrograph import (
    MERGE_HEIGHT,
    light_leak,
    open_tiny,
    process,
    thresholds_text,
    write_frame,
    write_history,
)
from tests.support.verdict_rows import StoredExtension, add_extensions, nominal_frames

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"


def install(project_folder: Path, encoder: str = UNTRAINED) -> None:
    """Give the project all instruments and thresholds for the encoder."""
    types = [
        name
        for instrument in read_instruments(project_folder / "instruments")
        for name in instrument.image_types()
    ]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, encoder))
    weights = encoder.split("-")[1]
    write_settings(project_folder, f'instruments = "instruments"\nweights = "{weights}"\n')


@pytest.fixture
def installed(project_folder, monkeypatch):
    """An empty project with all instruments and thresholds for the untrained network."""
    install(project_folder)
    monkeypatch.setenv("QC_PROJECT", str(project_folder))
    return project_folder


@pytest.fixture
def judged(project_folder, inbox, installed):
    """The installed project with twenty certified frames and one light leak."""
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        process(project, *write_history(inbox), label=LabelName.GOOD)
        process(project, write_frame(inbox, night=2, change=light_leak))
    (installed / "thresholds.yaml").write_text(complete)
    return installed


@pytest.fixture
def remembered(project_folder, installed):
    """A hundred and one frames judged long ago with the network; two lie beyond the limit."""
    odd = [StoredExtension(1.5 * MERGE_HEIGHT, label=LabelName.GOOD)] * 30
    bad = StoredExtension(9 * MERGE_HEIGHT, label=LabelName.BAD, kind="lamp_dead", note="at last")
    complete = (installed / "thresholds.yaml").read_text()
    (installed / "thresholds.yaml").write_text(thresholds_text(["TB0", "TF0"]))
    with open_tiny(project_folder) as project:
        past = [*nominal_frames(70), *odd, bad]
        add_extensions(project, *(replace(frame, encoder=UNTRAINED) for frame in past))
    (installed / "thresholds.yaml").write_text(complete)
    return installed


@pytest.fixture
def remembering(project_folder, monkeypatch):
    """A project that remembers forty ordinary frames of four nights, ready for the command."""
    with open_tiny(project_folder) as project:
        add_extensions(project, *[StoredExtension() for _ in range(40)])
    install(project_folder)
    monkeypatch.setenv("QC_PROJECT", str(project_folder))
    return project_folder


def assert_error(run: Run, message: str) -> None:
    """Assert exit code 2, an empty stdout and one line with the message on stderr."""
    assert (run.code, run.out) == (2, "")
    *progress, line = run.err.splitlines()
    assert line.startswith("qc: ")
    assert message in line
    assert len(progress) <= 1  # "process (1)"
