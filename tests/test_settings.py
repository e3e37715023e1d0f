import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from embeddings.preprocess import STRETCHES
from qc.errors import ConfigurationError
from qc.project import create_project
from qc.service.job import check_schedule
from qc.settings import (
    SETTINGS_FILE,
    STRETCH_NAMES,
    InboxSettings,
    Settings,
    Subscription,
    matches_patterns,
    read_settings,
)

EXAMPLE = (Path(__file__).parent.parent / "qc" / "example.toml").read_text()
NOT_IN_THE_FILE = {"project", "mail.password"}  # the folder itself; and what is no file's to hold


def uncommented(text):
    """Return the example with its commented keys active."""
    lines = (re.sub(r"^# (?=\[\[|[a-z_]+ = )", "", line) for line in text.splitlines())
    return tomllib.loads("\n".join(lines))


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        kind = field.annotation
        inner = getattr(kind, "__args__", (kind,))[0]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def flat(table, prefix=""):
    for name, value in table.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield from flat(value[0], f"{prefix}{name}.")
        elif isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_example_has_every_key_and_no_other():
    assert set(flat(uncommented(EXAMPLE))) == set(keys_of(Settings)) - NOT_IN_THE_FILE


def test_example_shows_the_defaults(unmade):
    create_project(unmade)
    plain = read_settings(unmade)
    assert (unmade / SETTINGS_FILE).read_text() == EXAMPLE
    example = uncommented(EXAMPLE)
    for section in ("watch", "schedule", "keep", "mail", "alerts", "health", "web", "search"):
        values = getattr(plain, section).model_dump(mode="json")
        for name, value in example[section].items():
            assert value == ("" if values[name] is None else values[name]), (section, name)
    assert example["inbox"] == [
        {"path": "inbox", **InboxSettings(path="inbox").model_dump(exclude={"path"})}
    ]
    subscription = Subscription().model_dump(mode="json")
    assert example["subscription"] == [
        {k: v or type(v)() if v is not None else "" for k, v in subscription.items()}
    ]


def test_settings_merge_file_and_environment(tmp_path, monkeypatch):
    (tmp_path / SETTINGS_FILE).write_text(
        '[mail]\nhost = "a"\nsender = "qc@a"\nport = 25\n[[inbox]]\npath = "new"\n'
    )
    monkeypatch.setenv("QC_MAIL__PORT", "2525")
    settings = read_settings(tmp_path)
    assert (settings.mail.host, settings.mail.port) == ("a", 2525)
    assert [inbox.path for inbox in settings.inbox] == ["new"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[schedule]\nreport = "at eight"', "schedule.report"),
        ('[schedule]\ntime_zone = "Chile/Paranal"', "expected a name like America/Santiago"),
        ("[watch]\nquiet_s = 0", "watch.quiet_s"),
        ("[mail]\nhosts = 'a'", "mail.hosts"),
        ("[[subscription]]\ntopics = ['verdicts']", "subscription.0.topics"),
    ],
)
def test_settings_error_names_the_key(tmp_path, text, named):
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        read_settings(tmp_path)


def test_inbox_is_remote_by_its_scheme():
    assert [
        InboxSettings(path=path).is_remote
        for path in ("inbox", "/data", "file:///data", "s3://b/raw")
    ] == [
        False,
        False,
        False,
        True,
    ]


def test_matches_patterns_ignores_case():
    assert matches_patterns("UBB0", ())
    assert matches_patterns("UBB0", ("u?b*",))
    assert not matches_patterns("URB1", ("UBB0", "UBW*"))
    assert not matches_patterns(None, ("UVES",))


def test_stretch_names_are_those_of_the_encoder():
    """The settings repeat the names, so that they load without NumPy."""
    assert tuple(STRETCHES) == STRETCH_NAMES


def test_check_schedule_names_the_key_of_an_invalid_line(tmp_path):
    (tmp_path / SETTINGS_FILE).write_text('[schedule]\nprune = "0 25 * * *"\n')
    settings = read_settings(tmp_path)
    with pytest.raises(ConfigurationError, match=r"schedule\.prune: .*25.*got '0 25"):
        check_schedule(settings)
    assert set(settings.schedule.crontab_lines()) == {
        *("report", "absence", "self_test", "proposal", "monthly", "prune", "backup")
    }


def test_row_commands_import_no_numerical_library():
    """Opening a project and reading labels, alerts and findings needs rows only."""
    code = (
        "import sys, qc.project, qc.labels.store, qc.labels.epochs, qc.labels.selection\n"
        "import qc.exports, qc.db.accounts, qc.db.findings, qc.db.statistics\n"
        "slow = {'numpy', 'scipy', 'sklearn', 'keras', 'tensorflow', 'astropy', 'pandas',"
        " 'matplotlib', 'alembic', 'apscheduler'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
