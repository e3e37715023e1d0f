"""Fixture that runs the command line, and returns exit code and output."""

import sys
from typing import NamedTuple

import pytest

from qc.cli.main import main


class Run(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def qc(monkeypatch, capfd):
    """Run the command with arguments, as a shell would."""

    def run(*arguments) -> Run:
        monkeypatch.setattr(sys, "argv", ["qc", *map(str, arguments)])
        monkeypatch.setattr("qc.cli.options.out.width", 200)
        monkeypatch.setattr("qc.cli.options.err.width", 200)
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        return Run(int(exit_info.value.code or 0), *capfd.readouterr())

    return run
