import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from qc.errors import ConfigurationError
from qc.project import create_project
from qc.settings import SETTINGS_FILE, InboxSettings, Settings, Subscription, matches, read_settings

EXAMPLE = (Path(__file__).parent.parent / "qc" / "example.toml").read_text()
NOT_IN_THE_FILE = {"project", "mail.password"}  # the folder itself; and what is no file's to hold


def uncommented(text):
    """The example with each key set to the value that it shows, up to the remark after it."""
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


def test_the_example_has_every_key_and_no_other():
    assert set(flat(uncommented(EXAMPLE))) == set(keys_of(Settings)) - NOT_IN_THE_FILE


def test_the_example_shows_the_values_that_hold_without_it(unmade):
    create_project(unmade)
    plain = read_settings(unmade)
    assert (unmade / SETTINGS_FILE).read_text() == EXAMPLE
    shown = uncommented(EXAMPLE)
    for section in ("watch", "schedule", "keep", "mail", "alerts", "health", "web", "search"):
        values = getattr(plain, section).model_dump(mode="json")
        for name, value in shown[section].items():
            assert value == ("" if values[name] is None else values[name]), (section, name)
    assert shown["inbox"] == [
        {"path": "inbox", **InboxSettings(path="inbox").model_dump(exclude={"path"})}
    ]
    subscription = Subscription().model_dump(mode="json")
    assert shown["subscription"] == [
        {k: v or type(v)() if v is not None else "" for k, v in subscription.items()}
    ]


def test_a_section_of_the_file_and_a_key_of_the_environment_are_taken(tmp_path, monkeypatch):
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
def test_a_wrong_key_or_value_is_named(tmp_path, text, named):
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(named)):
        read_settings(tmp_path)


def test_only_an_address_with_a_scheme_of_its_own_is_remote():
    assert [
        InboxSettings(path=path).is_remote
        for path in ("inbox", "/data", "file:///data", "s3://b/raw")
    ] == [
        False,
        False,
        False,
        True,
    ]


def test_patterns_choose_names_whatever_their_case():
    assert matches("UBB0", ())
    assert matches("UBB0", ("u?b*",))
    assert not matches("URB1", ("UBB0", "UBW*"))
    assert not matches(None, ("UVES",))


def test_the_page_of_settings_shows_the_example():
    page = (Path(__file__).parent.parent / "docs" / "settings.md").read_text()
    assert page.count(EXAMPLE) == 1
