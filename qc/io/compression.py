"""Bounded reading of plain and compressed files."""

import bz2
import gzip
import io
import os
import stat
import zlib
from pathlib import Path

import ncompress

from qc import errors

_CHUNK_BYTES = 2**20


def read_content(path: Path, max_bytes: int) -> bytes:
    """Return the uncompressed bytes of a file; its first bytes name the compression.

    Parameters
    ----------
    path : Path
        File, plain or compressed with compress, gzip or bzip2.
    max_bytes : int
        Largest accepted size, compressed and uncompressed.

    Returns
    -------
    bytes

    Raises
    ------
    UnreadableFrameError
        If the file cannot be read, changes while it is read, is damaged, or is too large.
    """
    return decompress(read_stable_bytes(path, max_bytes), max_bytes)


def read_stable_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file that does not change while it is read.

    Parameters
    ----------
    path : Path
        Regular file.
    max_bytes : int
        Largest accepted size.

    Returns
    -------
    bytes

    Raises
    ------
    UnreadableFrameError
        If the file cannot be read, is empty, too large, or still being written.
    """
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise errors.UnreadableFrameError("expected a file, got a directory or a device")
        if before.st_size > max_bytes:
            raise errors.UnreadableFrameError(
                f"expected at most {max_bytes} bytes, got {before.st_size}"
            )
        with path.open("rb") as file:
            content = file.read(before.st_size + 1)  # one byte more reveals a growing file
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise errors.UnreadableFrameError(f"cannot be read: {describe_error(error)}") from None
    if not content:
        raise errors.UnreadableFrameError("the file is empty: still being written, or lost")
    if (len(content), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise errors.UnreadableFrameError(
            f"expected {before.st_size} bytes, got {len(content)} that changed meanwhile: "
            "still being written"
        )
    return content


def describe_error(error: Exception) -> str:
    """Return the message of an error in one line."""
    message = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(message).split())


def decompress(content: bytes, max_bytes: int) -> bytes:
    """Uncompress bytes; bytes of no known compression are returned unchanged.

    Parameters
    ----------
    content : bytes
        Content of a file.
    max_bytes : int
        Largest accepted uncompressed size.

    Returns
    -------
    bytes

    Raises
    ------
    UnreadableFrameError
        If the content is damaged, incomplete or too large.
    """
    unpack = next((f for magic, f in _UNPACKERS.items() if content.startswith(magic)), None)
    if unpack is None:
        return content
    unpacked = io.BytesIO()
    try:
        unpack(content, unpacked, max_bytes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise errors.UnreadableFrameError(
            f"expected to uncompress to the end, got after {unpacked.tell()} bytes: "
            f"{describe_error(error)}; still being written, or damaged"
        ) from None
    if unpacked.tell() > max_bytes:
        raise errors.UnreadableFrameError(
            f"expected at most {max_bytes} bytes uncompressed, got more"
        )
    return unpacked.getvalue()


class _BoundedStream(io.BytesIO):
    """Compressed bytes that end as soon as too many bytes were uncompressed.

    The input has to stop a decompression bomb: ncompress flushes its output in a C++ destructor,
    where an exception of the writer would abort the process. It reads 1 KiB at a time, which LZW
    expands to 32 MiB at most.
    """

    def __init__(self, content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
        super().__init__(content)
        self.unpacked, self.max_bytes = unpacked, max_bytes

    def read(self, size: int | None = -1) -> bytes:
        return b"" if self.unpacked.tell() > self.max_bytes else super().read(size)


def unpack_lzw(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    """Uncompress the output of compress (``.Z``).

    Parameters
    ----------
    content : bytes
        Compressed bytes.
    unpacked : BytesIO
        Stream that receives the uncompressed bytes.
    max_bytes : int
        Uncompressing stops soon after this size.
    """
    ncompress.decompress(_BoundedStream(content, unpacked, max_bytes), unpacked)


def unpack_gzip(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    """Uncompress gzip (``.gz``).

    Parameters
    ----------
    content : bytes
        Compressed bytes.
    unpacked : BytesIO
        Stream that receives the uncompressed bytes.
    max_bytes : int
        Uncompressing stops with the first chunk beyond this size.
    """
    with gzip.open(io.BytesIO(content)) as file:
        _copy_bounded(file, unpacked, max_bytes)


def unpack_bzip2(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    """Uncompress bzip2 (``.bz2``).

    Parameters
    ----------
    content : bytes
        Compressed bytes.
    unpacked : BytesIO
        Stream that receives the uncompressed bytes.
    max_bytes : int
        Uncompressing stops with the first chunk beyond this size.
    """
    with bz2.open(io.BytesIO(content)) as file:
        _copy_bounded(file, unpacked, max_bytes)


def _copy_bounded(file: io.BufferedIOBase, unpacked: io.BytesIO, max_bytes: int) -> None:
    while unpacked.tell() <= max_bytes and (chunk := file.read(_CHUNK_BYTES)):
        unpacked.write(chunk)


_UNPACKERS = {b"\x1f\x9d": unpack_lzw, b"\x1f\x8b": unpack_gzip, b"BZh": unpack_bzip2}
