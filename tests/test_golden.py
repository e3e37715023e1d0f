"""Interfaces and verdicts of version 0.1, recorded by `tools/golden.py`: nothing may be lost."""

import json
from pathlib import Path

import pandas as pd
import pytest

from qc.web.app import create_app
from tests.support.tiny_spectrograph import open_tiny
from tools import golden

FOLDER = Path(__file__).parent / "golden"
RELATIVE_TOLERANCE = 1e-3  # other CPUs round the network's sums differently


def test_commands_and_options_remain():
    recorded = golden.read_golden(FOLDER, "commands")
    assert list(golden.compare_commands(recorded, golden.read_commands())) == []


def test_openapi_remains_compatible(project_folder):
    """Former addresses are hidden aliases, with the parameters and fields of version 0.1."""
    recorded = golden.read_golden(FOLDER, "openapi")
    with open_tiny(project_folder) as project:
        document = json.loads(json.dumps(create_app(project).openapi()))
    assert list(golden.compare_openapi(recorded, document)) == []


def test_missing_field_is_reported():
    """The comparison fails where a field, a parameter or a path disappears."""
    recorded = golden.read_golden(FOLDER, "openapi")
    changed = json.loads(json.dumps(recorded))
    path = next(iter(changed["paths"]))
    del changed["paths"][golden.FORMER_ADDRESSES.get(path, path)]
    assert any(path in line for line in golden.compare_openapi(recorded, changed))


def test_different_cell_is_reported():
    table = pd.DataFrame({"file": ["a"], "extension": ["0"], "score": ["1.0"]})
    [line] = golden.compare_tables("verdicts", table, table.assign(score=["1.1"]))
    assert "expected 1.0, found 1.1" in line


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(900)
def test_demonstration_has_the_recorded_verdicts(tmp_path):
    """`qc demo` gives the verdicts, metrics and exit codes of version 0.1."""
    project = tmp_path / "demo"
    golden.run("-m", "qc", "demo", "--out", str(project))
    for table in ("verdicts", "metrics"):
        recorded = golden.read_golden_table(FOLDER, table)
        found = golden.read_table(project, table)
        assert list(golden.compare_tables(table, recorded, found, RELATIVE_TOLERANCE)) == []
    assert golden.read_exit_codes(project) == golden.read_golden(FOLDER, "exit_codes")
