"""Fixture that runs the command line, and returns exit code and output."""

import logging
import sys
from typing import NamedTuple

import pytest

from qc.cli.main import main


class Run(NamedTuple):
    code: int
    out: str
    err: str


def remove_stream_handlers() -> None:
    """Remove log handlers that write to the closed stderr of an earlier test."""
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture
def qc(monkeypatch, capfd):
    """Run the command with arguments, as a shell would."""

    def run(*arguments) -> Run:
        monkeypatch.setattr(sys, "argv", ["qc", *map(str, arguments)])
        monkeypatch.setattr("qc.cli.options.out.width", 200)
        monkeypatch.setattr("qc.cli.options.err.width", 200)
        remove_stream_handlers()
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        return Run(int(exit_info.value.code or 0), *capfd.readouterr())

    return run
