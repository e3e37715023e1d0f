"""Files that lie elsewhere: in an object store, or on a server, as fsspec reaches them.

Nothing of what a store says is trusted: a name that leads out of its folder, a listing without
end, a size that is not kept.
"""

import hashlib
import importlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from shutil import disk_usage
from typing import Any
from urllib.parse import unquote

import fsspec
from fsspec.core import url_to_fs

from qc._files import is_fits_name
from qc.errors import ConfigurationError, InboxUnavailableError, QCError

_OBJECT_STORES = {"s3", "s3a", "abfs", "abfss", "az", "gs", "gcs", "memory"}
_WEB = {"http", "https"}
_MOST_FILES = 1_000_000
_MOST_FOLDERS = 100_000
_MOST_LEVELS = 16
_LONGEST_NAME = 255  # bytes, of any file system's
_LONGEST_PATH = 1024
_LONGEST_REASON = 300
_KEPT_FREE_BYTES = 2**29  # the database may lie on the same disk: copies must not fill it
_DATES = (
    "LastModified",
    "last_modified",
    "Last-Modified",
    "mtime",
    "modified",
    "updated",
    "created",
)
_CONNECT_S, _READ_S = 10, 30
_SECRET = re.compile(
    r"key|secret|token|password|passphrase|credential|connection_string|auth", re.IGNORECASE
)


@dataclass(frozen=True)
class RemoteFile:
    """A file as a store lists it.

    Attributes
    ----------
    address : str
        What the store calls it.
    relative : str
        Its name below the inbox.
    size_bytes, modified_ns : int or None
        None where the listing does not tell; the date is of whole seconds, as stores give it.
    """

    address: str
    relative: str
    size_bytes: int | None
    modified_ns: int | None

    @property
    def version(self) -> tuple[int, int] | None:
        """Return size and date, if both are known."""
        if self.size_bytes is None or self.modified_ns is None:
            return None
        return self.size_bytes, self.modified_ns

    @property
    def is_safe(self) -> bool:
        """Say whether a copy may bear the name: below its folder, and in any file system."""
        parts = self.relative.split("/")
        return len(self.relative.encode("utf-8", "replace")) <= _LONGEST_PATH and all(
            part not in {"", ".", ".."}
            and part.isprintable()
            and "\\" not in part
            and len(part.encode("utf-8", "replace")) <= _LONGEST_NAME
            for part in parts
        )


class RemoteFolder:
    """One folder of one store.

    Attributes
    ----------
    name : str
        To be shown: without what lets anyone in.
    folder_name : str
        Of the folder of its copies; the same for the same address.
    is_object_store : bool
        Whether a file appears there only when it is whole.

    Raises
    ------
    ConfigurationError
        If nothing that is installed reads such addresses.
    """

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        protocol, _, _ = address.partition("://")
        self.name = _shown(address)
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        self.folder_name = f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.name)[:60].strip('-.')}-{digest}"
        self.is_object_store = protocol in _OBJECT_STORES
        _check_installed(protocol, self.name)
        self._is_web = protocol in _WEB
        self._address = address
        self._options = _merged(_time_outs(protocol), options)
        if protocol in {"sftp", "ssh"}:
            self._options = _with_known_hosts(self._options)
        self._secrets = sorted(_secrets(options), key=len, reverse=True)
        self._connected: tuple[Any, str] | None = None

    def objects(self) -> Iterator[RemoteFile]:
        """List the FITS files below the address, those of hidden folders left out.

        Raises
        ------
        InboxAway
            If it cannot be listed to its end.
        """
        files = islice(self._files(), _MOST_FILES + 1)
        for count, (relative, info) in enumerate(files):
            if count == _MOST_FILES:
                raise InboxUnavailableError(
                    f"{self.name}: more than {count} files; name a folder of it"
                )
            yield RemoteFile(str(info["name"]), relative, _size(info), _modified_ns(info))

    def _files(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        _, root = self._connect()
        folders = deque([(root, "")])
        entered = {root.rstrip("/")}
        while folders:
            folder, below = folders.popleft()
            for info in self._list(folder, is_root=not below):
                inner = str(info["name"]).rstrip("/")
                name = inner.removeprefix(f"{folder.rstrip('/')}/")
                if name in {inner, ""} or name.startswith((".", "~")):
                    continue  # an index page may lead anywhere
                relative = below + (unquote(name) if self._is_web else name)
                if info["type"] == "directory":
                    if inner not in entered and relative.count("/") < _MOST_LEVELS:
                        entered.add(inner)
                        folders.append((str(info["name"]), f"{relative}/"))
                elif is_fits_name(relative):
                    yield relative, info
            if len(entered) > _MOST_FOLDERS:
                raise InboxUnavailableError(
                    f"{self.name}: more than {_MOST_FOLDERS} folders; name one of them"
                )

    def _list(self, folder: str, *, is_root: bool) -> list[Mapping[str, Any]]:
        with self._asking("cannot be listed") as (fs, _):
            try:
                fs.invalidate_cache()
                return [self._followed(fs, info) for info in fs.ls(folder, detail=True)]
            except FileNotFoundError:
                if not is_root:
                    return []  # it went away after its name was read
                if self.is_object_store and "/" in folder.strip("/"):
                    fs.info(folder.strip("/").split("/")[0])  # the bucket is there, and this empty
                    return []
                raise

    def _followed(self, fs: Any, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a link leads to, if that is a file: one to a folder may be a loop."""
        if info.get("type") != "link":
            return info
        with suppress(FileNotFoundError):
            target = fs.info(info["name"])
            if target["type"] == "file":
                return {**target, "name": info["name"]}
        return {**info, "type": "other", "name": ""}

    def completed(self, one: RemoteFile) -> RemoteFile | None:
        """Ask for an object's size and date; None if it has gone.

        Raises
        ------
        InboxAway
            If there is no answer.
        """
        with self._asking("does not tell of its files") as (fs, _):
            try:
                info = fs.info(one.address)
            except FileNotFoundError:
                return None
        return replace(one, size_bytes=_size(info), modified_ns=_modified_ns(info) or 0)

    def fetch(self, one: RemoteFile, target: Path) -> bool:
        """Copy an object, whole and with its date, or not at all; False if it has gone.

        Raises
        ------
        InboxAway
            If it does not come whole, or this disk cannot hold it.
        """
        assert one.version is not None
        size_bytes, modified_ns = one.version
        part = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:16]}.part")
        with self._asking(f"{one.relative} cannot be fetched") as (fs, _):
            target.parent.mkdir(parents=True, exist_ok=True)
            free = disk_usage(target.parent).free - size_bytes
            if free < _KEPT_FREE_BYTES:
                raise InboxUnavailableError(
                    f"{self.name}: {one.relative} is not fetched: of this disk "
                    f"{_KEPT_FREE_BYTES >> 20} MB are kept free"
                )
            try:
                fs.get_file(one.address, str(part))
                got = part.stat().st_size
                if got != size_bytes:
                    raise InboxUnavailableError(
                        f"{self.name}: {one.relative}: expected {size_bytes} bytes, got {got}"
                    )
                _take_place(part, target, modified_ns)
            except FileNotFoundError:
                return False
            finally:
                part.unlink(missing_ok=True)
        return True

    @contextmanager
    def _asking(self, what: str) -> Iterator[tuple[Any, str]]:
        """Give the store; whatever goes wrong is said, without secrets.

        One that holds a connection is connected anew. Those that call for each request mend
        themselves, and s3fs would keep 3 MB of each connection that was thrown away.
        """
        try:
            yield self._connect()
        except QCError:
            raise
        except Exception as error:  # noqa: BLE001 - each store raises what its own library raises
            if not self.is_object_store and not self._is_web:
                self.close()
            raise InboxUnavailableError(f"{self.name}: {what}: {self._reason(error)}") from None

    def _connect(self) -> tuple[Any, str]:
        if self._connected is None:
            try:
                fs, root = url_to_fs(self._address, skip_instance_cache=True, **self._options)
            except Exception as error:  # noqa: BLE001 - as above
                raise InboxUnavailableError(f"{self.name}: {self._reason(error)}") from None
            channel = getattr(getattr(fs, "ftp", None), "get_channel", None)
            if channel is not None:  # of SFTP, which else waits for ever
                channel().settimeout(_READ_S)
            self._connected = (fs, root)
        return self._connected

    def _reason(self, error: Exception) -> str:
        """Say what went wrong on one line, without addresses' and options' secrets."""
        text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(": ")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _shown(text)[:_LONGEST_REASON]

    def close(self) -> None:
        """Leave the store; it is connected again when it is asked again."""
        if self._connected is not None:
            fs, _ = self._connected
            self._connected = None
            client = getattr(fs, "client", None)
            if client is not None and hasattr(fs, "ftp"):
                client.close()


def _check_installed(protocol: str, name: str) -> None:
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ConfigurationError(
            f"inbox {name}: {error}; pip install 'calibration-qc[remote]' brings what S3, Azure, "
            "SFTP and HTTP need"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"inbox {name}: expected a folder or an address like s3://bucket/folder; {error}"
        ) from error


def _shown(text: str) -> str:
    """Strip what lets anyone in: a password before the host, a signature after the path."""
    without_password = re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1@", text)
    return re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", without_password)


def _time_outs(protocol: str) -> dict[str, Any]:
    """Return what keeps a store that hangs from being waited for: by default some wait for ever."""
    if protocol in {"s3", "s3a"}:
        config = {"connect_timeout": _CONNECT_S, "read_timeout": _READ_S}
        return {"config_kwargs": {**config, "retries": {"max_attempts": 2}}}
    if protocol in {"abfs", "abfss", "az"}:
        return {"connection_timeout": _CONNECT_S, "read_timeout": _READ_S}
    if protocol in {"sftp", "ssh"}:
        names = ("timeout", "banner_timeout", "auth_timeout", "channel_timeout")
        return dict.fromkeys(names, _CONNECT_S)
    if protocol in _WEB:
        aiohttp = importlib.import_module("aiohttp")  # optional, and known to be installed
        limits = aiohttp.ClientTimeout(sock_connect=_CONNECT_S, sock_read=_READ_S)
        return {"client_kwargs": {"timeout": limits, "trust_env": True}}  # for ~/.netrc
    return {}


def _with_known_hosts(options: Mapping[str, Any]) -> dict[str, Any]:
    """Trust no SFTP server that ssh would not trust: fsspec's default is to trust any."""
    options = dict(options)
    known = Path(str(options.pop("known_hosts", "~/.ssh/known_hosts"))).expanduser()
    if "host_key_policy" in options:
        return options
    paramiko = importlib.import_module("paramiko")  # optional, and known to be installed

    def check(_policy: object, _client: object, host: str, key: Any) -> None:
        keys = paramiko.HostKeys(str(known) if known.exists() else None)
        if not keys.check(host, key):
            raise paramiko.SSHException(
                f"{host} has a {key.get_name()} key that is not in {known}; "
                f"'ssh-keyscan' shows it, and its administrator knows whether it is right"
            )

    policy = type("KnownHosts", (paramiko.MissingHostKeyPolicy,), {"missing_host_key": check})
    return {**options, "host_key_policy": policy()}


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return both; what a person says counts, within sections too."""
    merged = {**ours, **theirs}
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], Mapping) and isinstance(theirs[key], Mapping):
            merged[key] = _merged(ours[key], theirs[key])
    return merged


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Find what should not have been written into the options, to keep it out of messages."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and value and _SECRET.search(key):
            yield value


def _size(info: Mapping[str, Any]) -> int | None:
    size = info.get("size")
    return int(size) if isinstance(size, int | float) and size >= 0 else None


def _modified_ns(info: Mapping[str, Any]) -> int | None:
    """Return when an object was last changed, in whole seconds: not every disk keeps more."""
    for key in _DATES:
        when = _as_time(info.get(key))
        if when is not None:
            return int(when.timestamp()) * 10**9
    return None


def _as_time(value: object) -> datetime | None:
    """Read a date in any of the ways in which stores give it."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    with suppress(ValueError, OverflowError, OSError, TypeError):
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            when = parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
            return when if when.tzinfo else when.replace(tzinfo=UTC)
    return None


def _take_place(part: Path, target: Path, modified_ns: int) -> None:
    os.utime(part, ns=(modified_ns, modified_ns))
    part.replace(target)
