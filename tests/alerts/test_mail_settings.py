import re

import pytest

from qc._files import read_secret
from qc.errors import (
    ConfigurationError,
)
from qc.settings import read_settings


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_secret_file_readable_by_others_is_refused(tmp_path, mode):
    file = tmp_path / "secret"
    file.write_text("s3cret")
    file.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read_secret(file)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"\xff\xfe", "it is no text"), (None, "No such")],
)
def test_secret_file_invalid(tmp_path, content, message):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=message):
        read_secret(file)


@pytest.mark.parametrize(
    "toml",
    [
        '[mail]\npassword = "s3cret"',
        '[mail]\npassword = ["s3cret"]',
        '[mail]\npasswort = "s3cret"',
        '[mail]\nhost = "s3cret@x"\nport = "s3cret"\npassword = 1',
        'mail_password = "s3cret"',
        'mail = "s3cret"',
        'subscription = "s3cret"',
        '[[subscription]]\nwebhook = "s3cret"',
        '[[subscription]]\nweb_hook = "https://s3cret"',
        '[[subscription]]\nwebhook = "https://x/s3cret y"',
    ],
)
def test_settings_errors_never_contain_secrets(tmp_path, toml):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(tmp_path)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cret" not in f"{error}{error!r}"
        error = error.__cause__


def test_password_in_settings_file_is_refused(tmp_path):
    (tmp_path / "qc.toml").write_text('[mail]\npassword = "s3cret"\n')
    with pytest.raises(ConfigurationError, match=r"mail\.password: .*QC_MAIL__PASSWORD") as caught:
        read_settings(tmp_path)
    assert "s3cret" not in str(caught.value)


def test_password_from_environment_is_hidden(tmp_path, monkeypatch):
    (tmp_path / "qc.toml").write_text('[mail]\nhost = "mail.example.org"\nsender = "a@b.org"\n')
    monkeypatch.setenv("QC_MAIL__PASSWORD", "s3cret")
    loaded = read_settings(tmp_path)
    assert loaded.mail.password.get_secret_value() == "s3cret"
    assert "s3cret" not in f"{loaded}{loaded!r}{loaded.model_dump()}{loaded.mail}"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[mail]\nhost = "x"', "sender: expected the address of the sender"),
        ('[mail]\nsender = "Me <me@x.org>"', "expected a mail address like name@example.org"),
        ('[[subscription]]\nto = ["a@b.org\\nBcc: c@d.org"]', "expected a mail address"),
        ('[[subscription]]\nto = ["kim"]', "expected a mail address"),
        ('[alerts]\nreview_url = "javascript:alert(1)"', "begins with https:// or http://"),
        (
            '[mail]\nhost = "x.org"\nsender = "a@b.org"\nuser = "u"\nsecurity = "none"',
            "would travel in the clear",
        ),
    ],
)
def test_settings_invalid_mail(tmp_path, toml, message):
    (tmp_path / "qc.toml").write_text(toml)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_settings(tmp_path)
