import json
import sys
from io import StringIO

import pytest

from qc.cli.main import main
from qc.io.instrument_files import read_instruments
from tests.support.databases import write_settings
from tests.support.tiny_spectrograph import thresholds_text

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
PASSWORD = "echelle-390"


@pytest.fixture
def qc(project_folder, monkeypatch, capfd):
    """Run the command in the project, with text on its standard input."""
    types = [
        name
        for instrument in read_instruments(project_folder / "instruments")
        for name in instrument.image_types()
    ]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, UNTRAINED))
    write_settings(project_folder, 'instruments = "instruments"\nweights = "untrained"\n')
    monkeypatch.setenv("QC_PROJECT", str(project_folder))

    def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qc", *arguments])
        monkeypatch.setattr(sys, "stdin", StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        return int(exit_info.value.code or 0), *capfd.readouterr()

    return run


def add(qc, name: str, role: str = "review") -> tuple[int, str, str]:
    result: tuple[int, str, str] = qc(
        "users", "add", name, "--role", role, "--password-file", "-", stdin=f"{PASSWORD}\n"
    )
    return result


def test_add_list_and_remove_user(qc):
    assert "this machine only" in qc("users", "list")[1]
    assert add(qc, "kim")[0] == 0
    assert add(qc, "ann", "tune")[0] == 0
    users = json.loads(qc("users", "list", "--json")[1])
    assert [(user["name"], user["role"]) for user in users] == [("ann", "tune"), ("kim", "review")]
    assert PASSWORD not in qc("users", "list", "--json")[1]
    assert qc("users", "remove", "ann")[0] == 0
    assert "this machine only" in qc("users", "remove", "kim")[1]


def test_token_is_shown_once(qc):
    add(qc, "kim")
    token = qc("users", "token", "kim")[1].strip()
    assert token.startswith("qc_")
    listed = qc("users", "list", "--json")[1]
    assert json.loads(listed)[0]["tokens"] == 1
    assert token not in listed
    assert "1 token of kim revoked" in qc("users", "token", "kim", "--revoke")[1]


def test_error_is_one_line(qc):
    for arguments, message in (
        (("users", "token", "nobody"), "no account 'nobody'"),
        (("users", "add", "kim", "--role", "review", "--password-file", "/nowhere"), "/nowhere"),
        (("web", "serve", "--host", "0.0.0.0"), "qc users add NAME"),
    ):
        code, _, errors = qc(*arguments)
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors
