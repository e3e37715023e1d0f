"""Options of remote file systems: timeouts, host keys, credentials; metadata of listings."""

import datetime as dt
import importlib
import re
from collections import abc
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import fsspec

from qc import errors

OBJECT_STORES = {"s3", "s3a", "abfs", "abfss", "az", "gs", "gcs", "memory"}
WEB = {"http", "https"}
CONNECT_S, READ_S = 10, 30  # timeouts

_DATES = (
    "LastModified",
    "last_modified",
    "Last-Modified",
    "mtime",
    "modified",
    "updated",
    "created",
)
_SECRET = re.compile(
    r"key|secret|token|password|passphrase|credential|connection_string|auth", re.IGNORECASE
)


def check_installed(protocol: str, name: str) -> None:
    """Check that a package for a protocol is installed.

    Parameters
    ----------
    protocol : str
        For example ``s3``.
    name : str
        Address without credentials, for the message.

    Raises
    ------
    ConfigurationError
        If the package is missing or the protocol is unknown.
    """
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise errors.ConfigurationError(
            f"inbox {name}: {error}; pip install 'calibration-qc[remote]' installs the packages "
            "for S3, Azure, SFTP and HTTP"
        ) from error
    except ValueError as error:
        raise errors.ConfigurationError(
            f"inbox {name}: expected a folder or an address like s3://bucket/folder; {error}"
        ) from error


def hide_credentials(text: str) -> str:
    """Remove the password before a host and the signature after a path."""
    without_password = re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1@", text)
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", without_password)


def complete(protocol: str, options: abc.Mapping[str, Any]) -> dict[str, Any]:
    """Add timeouts and host key verification to the options of an inbox.

    Parameters
    ----------
    protocol : str
        For example ``sftp``.
    options : mapping of str to object
        Options of the settings; they take precedence.

    Returns
    -------
    dict of str to object
    """
    completed = merge(default_timeouts(protocol), options)
    return require_known_host(completed) if protocol in {"sftp", "ssh"} else completed


def default_timeouts(protocol: str) -> dict[str, Any]:
    """Return the timeout options of a protocol: some libraries wait without limit by default."""
    if protocol in {"s3", "s3a"}:
        config = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
        return {"config_kwargs": {**config, "retries": {"max_attempts": 2}}}
    if protocol in {"abfs", "abfss", "az"}:
        return {"connection_timeout": CONNECT_S, "read_timeout": READ_S}
    if protocol in {"sftp", "ssh"}:
        names = ("timeout", "banner_timeout", "auth_timeout", "channel_timeout")
        return dict.fromkeys(names, CONNECT_S)
    if protocol in WEB:
        aiohttp = importlib.import_module("aiohttp")  # optional; fsspec's HTTP needs it
        limits = aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=READ_S)
        return {"client_kwargs": {"timeout": limits, "trust_env": True}}  # for ~/.netrc
    return {}


def merge(defaults: abc.Mapping[str, Any], options: abc.Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested options.

    Parameters
    ----------
    defaults : mapping of str to object
        Options of the program.
    options : mapping of str to object
        Options of the settings; they take precedence, within sections too.

    Returns
    -------
    dict of str to object
    """
    merged = {**defaults, **options}
    for key in defaults.keys() & options.keys():
        if isinstance(defaults[key], abc.Mapping) and isinstance(options[key], abc.Mapping):
            merged[key] = merge(defaults[key], options[key])
    return merged


def require_known_host(options: abc.Mapping[str, Any]) -> dict[str, Any]:
    """Refuse SFTP servers that are not in ``known_hosts``: fsspec accepts any by default."""
    options = dict(options)
    path = Path(str(options.pop("known_hosts", "~/.ssh/known_hosts"))).expanduser()
    if "host_key_policy" in options:
        return options
    paramiko = importlib.import_module("paramiko")  # optional; fsspec's SFTP needs it

    def check(_policy: object, _client: object, host: str, key: Any) -> None:
        keys = paramiko.HostKeys(str(path) if path.exists() else None)
        if not keys.check(host, key):
            raise paramiko.SSHException(
                f"{host} has a {key.get_name()} key that is not in {path}; "
                f"'ssh-keyscan' shows it; ask its administrator whether it is right"
            )

    policy = type("KnownHosts", (paramiko.MissingHostKeyPolicy,), {"missing_host_key": check})
    return {**options, "host_key_policy": policy()}


def find_secrets(options: abc.Mapping[str, Any]) -> abc.Iterator[str]:
    """Yield the credentials among options, to keep them out of messages."""
    for key, value in options.items():
        if isinstance(value, abc.Mapping):
            yield from find_secrets(value)
        elif isinstance(value, str) and value and _SECRET.search(key):
            yield value


def read_size(info: abc.Mapping[str, Any]) -> int | None:
    """Return the size of a listed file, bytes; None if it is missing."""
    size = info.get("size")
    return int(size) if isinstance(size, int | float) and size >= 0 else None


def read_modified_ns(info: abc.Mapping[str, Any]) -> int | None:
    """Return the time of modification, ns since 1970; None if it is missing.

    It is rounded down to whole seconds, as some file systems store no more.
    """
    for key in _DATES:
        modified_at = parse_time(info.get(key))
        if modified_at is not None:
            return int(modified_at.timestamp()) * 10**9
    return None


def parse_time(value: object) -> dt.datetime | None:
    """Return a time in any form that remote storages use; None for another value."""
    if isinstance(value, dt.datetime):
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    with suppress(ValueError, OverflowError, OSError, TypeError):
        if isinstance(value, int | float):
            return dt.datetime.fromtimestamp(value, dt.UTC)
        if isinstance(value, str):
            time = (
                parsedate_to_datetime(value) if "," in value else dt.datetime.fromisoformat(value)
            )
            return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    return None
