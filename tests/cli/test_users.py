import json
import sys
from io import StringIO

import pytest

from qc.cli.main import main
from qc.io.instruments import read_instruments
from tests.support.databases import write_settings
from tests.support.tiny import thresholds_text

UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
PASSWORD = "echelle-390"


@pytest.fixture
def qc(project_folder, monkeypatch, capfd):
    """Run the command in the project, with words on its standard input."""
    types = [
        n for one in read_instruments(project_folder / "instruments") for n in one.image_types()
    ]
    (project_folder / "thresholds.yaml").write_text(thresholds_text(types, UNTRAINED))
    write_settings(project_folder, 'instruments = "instruments"\nweights = "untrained"\n')
    monkeypatch.setenv("QC_PROJECT", str(project_folder))

    def run(*arguments: str, said: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qc", *arguments])
        monkeypatch.setattr(sys, "stdin", StringIO(said))
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capfd.readouterr()

    return run


def add(qc, name: str, role: str = "review") -> tuple[int, str, str]:
    said: tuple[int, str, str] = qc(
        "user", "add", name, "--role", role, "--password-file", "-", said=f"{PASSWORD}\n"
    )
    return said


def test_an_account_is_made_listed_and_removed(qc):
    assert "machine's alone" in qc("user", "list")[1]
    assert add(qc, "kim")[0] == 0
    assert add(qc, "ann", "tune")[0] == 0
    found = json.loads(qc("user", "list", "--json")[1])
    assert [(one["name"], one["role"]) for one in found] == [("ann", "tune"), ("kim", "review")]
    assert PASSWORD not in qc("user", "list", "--json")[1]
    assert qc("user", "remove", "ann")[0] == 0
    assert "this machine's alone now" in qc("user", "remove", "kim")[1]


def test_a_token_is_shown_once_and_counted(qc):
    add(qc, "kim")
    token = qc("user", "token", "kim")[1].strip()
    assert token.startswith("qc_")
    listed = qc("user", "list", "--json")[1]
    assert json.loads(listed)[0]["tokens"] == 1
    assert token not in listed
    assert "1 token of kim opens" in qc("user", "token", "kim", "--revoke")[1]


def test_a_mistake_is_said_in_a_line(qc):
    for arguments, words in (
        (("user", "token", "nobody"), "no account 'nobody'"),
        (("user", "add", "kim", "--role", "review", "--password-file", "/nowhere"), "/nowhere"),
        (("serve", "--host", "0.0.0.0"), "qc user add NAME"),
    ):
        code, _, told = qc(*arguments)
        assert (code, told.count("\n")) == (2, 1)
        assert words in told
