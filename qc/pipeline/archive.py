"""Files of an archive, on disk and in remote storage."""

import datetime as dt
from collections.abc import Iterable, Iterator
from os.path import commonpath
from pathlib import Path
from typing import Any

from qc import _files, core
from qc.io.remote import RemoteFolder
from qc.pipeline.batch import find_frames
from qc.pipeline.readers import RemoteFileInfo
from qc.project import ProjectContext
from qc.settings import InboxSettings


def find_archive(places: Iterable[str], project: ProjectContext) -> list[core.FileInfo]:
    """Return the FITS files at some paths and addresses, newest first.

    The time is part of the file name, or else the modification time.

    Parameters
    ----------
    places : iterable of str
        Files, folders, or addresses of fsspec, like ``s3://bucket/raw``. An address in the bucket
        or on the host of an inbox is read with the options of that inbox.
    project : ProjectContext

    Returns
    -------
    list of FileInfo

    Raises
    ------
    UnreadableFrameError
        If a path does not exist.
    InboxUnavailableError
        If a remote storage does not respond.
    """
    files: list[core.FileInfo] = []
    for place in places:
        if "://" in place:
            files += list_remote_files(place, project)
        else:
            files += [inspect_local_file(path) for path in find_frames([Path(place)])]
    return sorted({file.path: file for file in files}.values(), key=observation_time, reverse=True)


def inspect_local_file(path: Path) -> core.FileInfo:
    """Return size and modification time of a file; 0 if it is not accessible."""
    path = _files.resolve_path(path)
    try:
        status = path.stat()
    except OSError:  # reading the file reports the reason
        return core.FileInfo(path, 0, 0)
    return core.FileInfo(path, status.st_size, status.st_mtime_ns)


def list_remote_files(address: str, project: ProjectContext) -> Iterator[core.FileInfo]:
    """List the files of a remote storage.

    Parameters
    ----------
    address : str
        Address of fsspec.
    project : ProjectContext

    Yields
    ------
    RemoteFileInfo
    """
    options = select_options(address, project.settings.inbox)
    store = RemoteFolder(address, options)
    folder = project.settings.fetched_folder / store.folder_name
    try:
        for listed in store.list_files():
            file = listed if listed.version else store.read_version(listed)
            if file is not None and file.is_safe:
                assert file.version is not None  # was read
                path = folder / file.relative
                yield RemoteFileInfo(path, *file.version, address, options, file)
    finally:
        store.close()


def select_options(address: str, inboxes: Iterable[InboxSettings]) -> dict[str, Any]:
    """Return the options of the inbox with the longest common address.

    Parameters
    ----------
    address : str
    inboxes : iterable of InboxSettings

    Returns
    -------
    dict
        Options of fsspec; empty without an inbox in the bucket or on the host.
    """

    def root(location: str) -> str:
        return "/".join(location.split("/")[:3])  # protocol and bucket or host

    candidates = [inbox for inbox in inboxes if root(inbox.path) == root(address)]
    nearest = max(
        candidates, key=lambda inbox: len(commonpath([inbox.path, address])), default=None
    )
    return nearest.options if nearest else {}


def observation_time(file: core.FileInfo) -> tuple[dt.datetime, str]:
    """Return the time in the file name, else the modification time; and the file name."""
    modified = dt.datetime.fromtimestamp(file.modified_ns // 10**9, dt.UTC)
    return _files.time_in_name(file.path.name) or modified, file.path.name
