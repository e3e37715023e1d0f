"""Search index as a file: short codes of one encoder's embeddings, with their extensions.

The file is memory-mapped. A footer holds the positions of the sections; digests detect damage.
"""

import dataclasses
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embeddings.index import Codes, PrincipalAxes
from qc._files import atomic_writer

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_MAGIC = b"qcindex1"
_TAIL_BYTES = 32 + 8 + len(_MAGIC)  # the footer's digest, its length, and the magic bytes
_ALIGNMENT = 64  # bytes
_HASH_CHUNK = 1 << 22  # bytes


class DamagedIndexError(Exception):
    """A file is not an index, or was changed since it was written; a new index is needed."""


@dataclasses.dataclass(frozen=True)
class IndexHeader:
    """Origin of an index.

    Attributes
    ----------
    fingerprint : str
        Of the encoder.
    last_id : int
        Id of the newest embedding in the index.
    learnt_from : int
        Number of embeddings when the axes were learnt.
    image_types : tuple of str
        Image types that the rows refer to by number.
    samples : tuple of (int, str)
        Ids of some embeddings and digests of their vectors; they detect another database.
    """

    fingerprint: str
    last_id: int
    learnt_from: int
    image_types: tuple[str, ...]
    samples: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True)
class EmbeddingIndex:
    """Codes of n embeddings, with extension, image type and night.

    Attributes
    ----------
    extension_ids : (n,) int64 array
    types : (n,) uint16 array
        Positions in `header.image_types`.
    nights : (n,) int32 array
        As `date.toordinal`; 0 if unknown.
    """

    header: IndexHeader
    axes: PrincipalAxes
    extension_ids: Integers
    types: NDArray[np.uint16]
    nights: NDArray[np.int32]
    codes: Codes


def vector_digest(vector: Floats) -> str:
    """Return a digest of an embedding: (d,), as stored."""
    return sha256(vector.astype("<f2").tobytes()).hexdigest()[:16]


def write_index(index: EmbeddingIndex, path: Path) -> None:
    """Write an index to a file; an existing file is replaced when the new one is complete.

    Parameters
    ----------
    index : EmbeddingIndex
    path : Path
    """
    with atomic_writer(path) as stream:
        body = _HashingWriter(stream)
        body.write(_MAGIC)
        sections = {
            "mean": body.write_array(index.axes.mean),
            "directions": body.write_array(index.axes.directions),
            "extension_ids": body.write_array(index.extension_ids),
            "types": body.write_array(index.types),
            "nights": body.write_array(index.nights),
        }
        codes = body.write_section(index.codes.write)
        footer = {
            "facts": dataclasses.asdict(index.header),
            "sections": sections,
            "codes": codes,
            "sha256": body.digest.hexdigest(),
            "bytes": body.length,
        }
        content = json.dumps(footer).encode()
        tail = sha256(content).digest() + len(content).to_bytes(8, "little") + _MAGIC
        stream.write(content + tail)


class _HashingWriter:
    """Stream wrapper that counts and hashes the written bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.length, self.digest = stream, 0, sha256()

    def write(self, content: bytes) -> int:
        self.stream.write(content)
        self.digest.update(content)
        self.length += len(content)
        return len(content)

    def write_section(self, write: Callable[[Any], None]) -> dict[str, Any]:
        self.write(bytes(-self.length % _ALIGNMENT))
        start = self.length
        write(self)
        return {"start": start, "bytes": self.length - start}

    def write_array(self, values: NDArray[Any]) -> dict[str, Any]:
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        section = self.write_section(lambda stream: stream.write(little.tobytes()))
        return {**section, "dtype": little.dtype.str, "shape": list(little.shape)}


def read_index(path: Path) -> EmbeddingIndex:
    """Open an index file and verify its digest.

    Raises
    ------
    DamagedIndexError
        If the file is damaged; with the expected and the actual value.
    FileNotFoundError
        If there is no file.
    """
    size = path.stat().st_size
    if size < _TAIL_BYTES + len(_MAGIC):
        raise DamagedIndexError(f"{path}: expected an index, got {size} bytes")
    content = np.memmap(path, np.uint8, mode="r")
    footer = read_footer(path, content)
    body = content[: footer["bytes"]]
    digest = sha256()
    for start in range(0, len(body), _HASH_CHUNK):
        digest.update(body[start : start + _HASH_CHUNK].data)
    if digest.hexdigest() != footer["sha256"]:
        raise DamagedIndexError(f"{path}: content differs from the digest")
    arrays = {name: read_array(body, section) for name, section in footer["sections"].items()}
    header, section = footer["facts"], footer["codes"]
    samples = tuple((number, text) for number, text in header["samples"])
    return EmbeddingIndex(
        header=IndexHeader(
            **header | {"image_types": tuple(header["image_types"]), "samples": samples}
        ),
        axes=PrincipalAxes(arrays.pop("mean"), arrays.pop("directions")),
        codes=Codes.view(body[section["start"] : section["start"] + section["bytes"]]),
        **arrays,
    )


def read_footer(path: Path, content: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the footer of an index.

    Parameters
    ----------
    path : Path
        Of the file, for messages.
    content : (n,) uint8 array
        Bytes of the file.

    Returns
    -------
    dict

    Raises
    ------
    DamagedIndexError
        If the footer is damaged, or the file has another length.
    """
    tail = content[-_TAIL_BYTES:].tobytes()
    digest, length, magic = tail[:32], int.from_bytes(tail[32:40], "little"), tail[40:]
    if magic != _MAGIC or length > len(content) - _TAIL_BYTES:
        raise DamagedIndexError(f"{path}: cut short, or not an index of this version")
    text = content[-_TAIL_BYTES - length : -_TAIL_BYTES].tobytes()
    if sha256(text).digest() != digest:
        raise DamagedIndexError(f"{path}: footer differs from its digest")
    footer: dict[str, Any] = json.loads(text)
    expected = footer["bytes"] + length + _TAIL_BYTES
    if len(content) != expected:
        raise DamagedIndexError(f"{path}: expected {expected} bytes, got {len(content)}")
    return footer


def read_array(body: NDArray[np.uint8], section: dict[str, Any]) -> NDArray[Any]:
    """Return an array of an index.

    Parameters
    ----------
    body : (n,) uint8 array
        Bytes of the file.
    section : dict
        Position, dtype and shape.

    Returns
    -------
    array
        A view of the body.
    """
    part = body[section["start"] : section["start"] + section["bytes"]]
    array: NDArray[Any] = part.view(section["dtype"]).reshape(section["shape"])
    return array
