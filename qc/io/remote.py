"""Remote storage: files in object stores and on servers, read through fsspec.

The listing is not trusted: names that leave the folder, endless listings and wrong sizes are
refused.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections import abc, deque
from itertools import islice
from pathlib import Path
from shutil import disk_usage
from typing import Any
from urllib.parse import unquote

from fsspec.core import url_to_fs

from qc import _files, errors
from qc.io import remote_options

_MAX_FILES = 1_000_000
_MAX_FOLDERS = 100_000
_MAX_LEVELS = 16
_MAX_NAME = 255  # bytes, in any file system
_MAX_PATH = 1024
_MAX_REASON = 300
_FREE_BYTES = 2**29  # copies must not fill a disk that may hold the database as well


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file in the listing of a remote folder.

    Attributes
    ----------
    address : str
        Name in the remote storage.
    relative : str
        Name relative to the inbox.
    size_bytes, modified_ns : int or None
        None if the listing lacks it. The time is in ns since 1970, rounded to whole seconds.
    """

    address: str
    relative: str
    size_bytes: int | None
    modified_ns: int | None

    @property
    def version(self) -> tuple[int, int] | None:
        """Return size and time of modification, if both are known."""
        if self.size_bytes is None or self.modified_ns is None:
            return None
        return self.size_bytes, self.modified_ns

    @property
    def is_safe(self) -> bool:
        """Return True if a local copy may have this name: inside its folder, on any disk."""
        parts = self.relative.split("/")
        return len(self.relative.encode("utf-8", "replace")) <= _MAX_PATH and all(
            part not in {"", ".", ".."}
            and part.isprintable()
            and "\\" not in part
            and len(part.encode("utf-8", "replace")) <= _MAX_NAME
            for part in parts
        )


class RemoteFolder:
    """A folder of a remote storage.

    Parameters
    ----------
    address : str
        For example ``s3://bucket/folder``.
    options : mapping of str to object
        Options of the fsspec file system.

    Attributes
    ----------
    name : str
        Address without credentials, for messages.
    folder_name : str
        Name of the folder of local copies; equal for equal addresses.
    is_object_store : bool
        True if files appear only when they are complete.

    Raises
    ------
    ConfigurationError
        If no installed package reads such addresses.
    """

    def __init__(self, address: str, options: abc.Mapping[str, Any]) -> None:
        protocol, _, _ = address.partition("://")
        self.name = remote_options.hide_credentials(address)
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        self.folder_name = f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.name)[:60].strip('-.')}-{digest}"
        self.is_object_store = protocol in remote_options.OBJECT_STORES
        remote_options.check_installed(protocol, self.name)
        self._is_web = protocol in remote_options.WEB
        self._address = address
        self._options = remote_options.complete(protocol, options)
        self._secrets = sorted(remote_options.find_secrets(options), key=len, reverse=True)
        self._connection: tuple[Any, str] | None = None

    def list_files(self) -> abc.Iterator[RemoteFile]:
        """Yield the FITS files below the address; hidden folders are left out.

        Raises
        ------
        InboxUnavailableError
            If the listing fails or is too long.
        """
        for count, (relative, info) in enumerate(islice(self.walk(), _MAX_FILES + 1)):
            if count == _MAX_FILES:
                raise errors.InboxUnavailableError(
                    f"{self.name}: more than {count} files; name a folder of it"
                )
            yield RemoteFile(
                str(info["name"]),
                relative,
                remote_options.read_size(info),
                remote_options.read_modified_ns(info),
            )

    def walk(self) -> abc.Iterator[tuple[str, abc.Mapping[str, Any]]]:
        """Yield relative name and fsspec information of every FITS file.

        Raises
        ------
        InboxUnavailableError
            If the listing fails or is too long.
        """
        _, root = self.connect()
        folders = deque([(root, "")])
        visited = {root.rstrip("/")}
        while folders:
            folder, prefix = folders.popleft()
            for info in self.list_folder(folder, is_root=not prefix):
                address = str(info["name"]).rstrip("/")
                name = address.removeprefix(f"{folder.rstrip('/')}/")
                if name in {address, ""} or name.startswith((".", "~")):
                    continue  # an index page may link to any address
                relative = prefix + (unquote(name) if self._is_web else name)
                if info["type"] == "directory":
                    if address not in visited and relative.count("/") < _MAX_LEVELS:
                        visited.add(address)
                        folders.append((str(info["name"]), f"{relative}/"))
                elif _files.is_fits_name(relative):
                    yield relative, info
            if len(visited) > _MAX_FOLDERS:
                raise errors.InboxUnavailableError(
                    f"{self.name}: more than {_MAX_FOLDERS} folders; name one of them"
                )

    def list_folder(self, folder: str, *, is_root: bool) -> list[abc.Mapping[str, Any]]:
        """Return the fsspec information of a folder's entries.

        Parameters
        ----------
        folder : str
            Address of the folder.
        is_root : bool
            True for the inbox itself: if it is missing, that is an error.

        Returns
        -------
        list of mapping
            Empty for a folder that was removed after its name was listed.

        Raises
        ------
        InboxUnavailableError
            If the folder cannot be listed.
        """
        with self.reporting_errors("cannot be listed") as (fs, _):
            try:
                fs.invalidate_cache()
                return [self.follow_link(fs, info) for info in fs.ls(folder, detail=True)]
            except FileNotFoundError:
                if not is_root:
                    return []
                if self.is_object_store and "/" in folder.strip("/"):
                    fs.info(folder.strip("/").split("/")[0])  # an existing bucket without files
                    return []
                raise

    def follow_link(self, fs: Any, info: abc.Mapping[str, Any]) -> abc.Mapping[str, Any]:
        """Return the information of a link's target if it is a file.

        A link to a folder is not followed: it may form a loop.

        Parameters
        ----------
        fs : fsspec file system
            Connected file system.
        info : mapping
            fsspec information of an entry.

        Returns
        -------
        mapping
        """
        if info.get("type") != "link":
            return info
        with contextlib.suppress(FileNotFoundError):
            target = fs.info(info["name"])
            if target["type"] == "file":
                return {**target, "name": info["name"]}
        return {**info, "type": "other", "name": ""}

    def read_version(self, file: RemoteFile) -> RemoteFile | None:
        """Request size and time of a file; None if it was removed.

        Raises
        ------
        InboxUnavailableError
            If the storage does not answer.
        """
        with self.reporting_errors("gives no information about its files") as (fs, _):
            try:
                info = fs.info(file.address)
            except FileNotFoundError:
                return None
        return dataclasses.replace(
            file,
            size_bytes=remote_options.read_size(info),
            modified_ns=remote_options.read_modified_ns(info) or 0,
        )

    def fetch(self, file: RemoteFile, target: Path) -> bool:
        """Copy a file with its time of modification; the copy is complete or absent.

        Parameters
        ----------
        file : RemoteFile
            File with known version.
        target : Path
            Local copy.

        Returns
        -------
        bool
            False if the file was removed from the storage.

        Raises
        ------
        InboxUnavailableError
            If the transfer fails or is incomplete, or the local disk is full.
        """
        assert file.version is not None
        size_bytes, modified_ns = file.version
        part = target.with_name(f".{hashlib.sha256(target.name.encode()).hexdigest()[:16]}.part")
        with self.reporting_errors(f"{file.relative} cannot be fetched") as (fs, _):
            target.parent.mkdir(parents=True, exist_ok=True)
            if disk_usage(target.parent).free - size_bytes < _FREE_BYTES:
                raise errors.InboxUnavailableError(
                    f"{self.name}: {file.relative} is not fetched: of this disk "
                    f"{_FREE_BYTES >> 20} MB are kept free"
                )
            try:
                fs.get_file(file.address, str(part))
                received = part.stat().st_size
                if received != size_bytes:
                    raise errors.InboxUnavailableError(
                        f"{self.name}: {file.relative}: expected {size_bytes} bytes, got {received}"
                    )
                os.utime(part, ns=(modified_ns, modified_ns))
                part.replace(target)
            except FileNotFoundError:
                return False
            finally:
                part.unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def reporting_errors(self, problem: str) -> abc.Iterator[tuple[Any, str]]:
        """Provide the connection; convert any error to a message without credentials.

        After an error a file system with a permanent connection is connected again. The others
        reconnect by themselves, and s3fs would leak 3 MB per discarded connection.
        """
        try:
            yield self.connect()
        except errors.QCError:
            raise
        except Exception as error:  # noqa: BLE001 - each library raises its own errors
            if not self.is_object_store and not self._is_web:
                self.close()
            raise errors.InboxUnavailableError(
                f"{self.name}: {problem}: {self.describe_error(error)}"
            ) from None

    def connect(self) -> tuple[Any, str]:
        """Return the connected file system and the folder's path in it.

        Raises
        ------
        InboxUnavailableError
            If the connection fails.
        """
        if self._connection is None:
            try:
                fs, root = url_to_fs(self._address, skip_instance_cache=True, **self._options)
            except Exception as error:  # noqa: BLE001 - each library raises its own errors
                raise errors.InboxUnavailableError(
                    f"{self.name}: {self.describe_error(error)}"
                ) from None
            channel = getattr(getattr(fs, "ftp", None), "get_channel", None)
            if channel is not None:  # SFTP has no timeout by default
                channel().settimeout(remote_options.READ_S)
            self._connection = (fs, root)
        return self._connection

    def describe_error(self, error: Exception) -> str:
        """Return an error in one line, without credentials of addresses and options."""
        text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(": ")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return remote_options.hide_credentials(text)[:_MAX_REASON]

    def close(self) -> None:
        """Close the connection; the next call connects again."""
        if self._connection is not None:
            fs, _ = self._connection
            self._connection = None
            client = getattr(fs, "client", None)
            if client is not None and hasattr(fs, "ftp"):
                client.close()
