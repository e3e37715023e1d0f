"""A search index as a file: short codes of one encoder's embeddings, and what they are of.

The file is read where it lies (memory-mapped). A footer says what is where, and digests tell
whether all of it is as it was written.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from embeddings.index import Codes, PrincipalAxes
from qc._files import written_whole

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_MAGIC = b"qcindex1"
_TAIL_BYTES = 32 + 8 + len(_MAGIC)  # the footer's digest, its length, and the end
_ALIGNED = 64
_HASHED_AT_ONCE = 1 << 22


class DamagedIndexError(Exception):
    """A file is not, or not any more, what was written: make it anew."""


@dataclass(frozen=True)
class IndexHeader:
    """What an index was made of.

    Attributes
    ----------
    fingerprint : str
        Of the encoder.
    last_id : int
        Of the newest embedding in it.
    learnt_from : int
        How many embeddings there were when its axes were learnt.
    image_types : tuple of str
        Which its rows count by.
    samples : tuple of (int, str)
        Some embeddings' ids, and digests of their vectors: another database would differ.
    """

    fingerprint: str
    last_id: int
    learnt_from: int
    image_types: tuple[str, ...]
    samples: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class EmbeddingIndex:
    """Codes of n embeddings, and of each its extension, image type and night.

    Attributes
    ----------
    extension_ids : (n,) int64 array
    types : (n,) uint16 array
        Places in `facts.image_types`.
    nights : (n,) int32 array
        As `date.toordinal`; 0: not known.
    """

    facts: IndexHeader
    axes: PrincipalAxes
    extension_ids: Integers
    types: NDArray[np.uint16]
    nights: NDArray[np.int32]
    codes: Codes


def digest_of(vector: Floats) -> str:
    """Return what tells a stored embedding, (d,), from another."""
    return sha256(vector.astype("<f2").tobytes()).hexdigest()[:16]


def write_index(index: EmbeddingIndex, path: Path) -> None:
    """Write an index; what was there stays until the new one is whole."""
    with written_whole(path) as stream:
        body = _HashingWriter(stream)
        body.write(_MAGIC)
        sections = {
            "mean": body.array(index.axes.mean),
            "directions": body.array(index.axes.directions),
            "extension_ids": body.array(index.extension_ids),
            "types": body.array(index.types),
            "nights": body.array(index.nights),
        }
        codes = body.section(index.codes.write)
        footer = {
            "facts": asdict(index.facts),
            "sections": sections,
            "codes": codes,
            "sha256": body.digest.hexdigest(),
            "bytes": body.length,
        }
        said = json.dumps(footer).encode()
        stream.write(said + sha256(said).digest() + len(said).to_bytes(8, "little") + _MAGIC)


class _HashingWriter:
    """A stream that knows how much has been written to it, and its digest."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.length, self.digest = stream, 0, sha256()

    def write(self, content: bytes) -> int:
        self.stream.write(content)
        self.digest.update(content)
        self.length += len(content)
        return len(content)

    def section(self, write: Callable[[Any], None]) -> dict[str, Any]:
        self.write(bytes(-self.length % _ALIGNED))
        start = self.length
        write(self)
        return {"start": start, "bytes": self.length - start}

    def array(self, values: NDArray[Any]) -> dict[str, Any]:
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        place = self.section(lambda stream: stream.write(little.tobytes()))
        return {**place, "dtype": little.dtype.str, "shape": list(little.shape)}


def read_index(path: Path) -> EmbeddingIndex:
    """Open an index; all of it is read once, to see that it is whole.

    Raises
    ------
    DamagedIndexError
        If it is not; with what was expected and what was found.
    FileNotFoundError
        If there is none.
    """
    size = path.stat().st_size
    if size < _TAIL_BYTES + len(_MAGIC):
        raise DamagedIndexError(f"{path}: expected an index, got {size} bytes")
    content = np.memmap(path, np.uint8, mode="r")
    footer = _read_footer(path, content)
    body = content[: footer["bytes"]]
    digest = sha256()
    for start in range(0, len(body), _HASHED_AT_ONCE):
        digest.update(body[start : start + _HASHED_AT_ONCE].data)
    if digest.hexdigest() != footer["sha256"]:
        raise DamagedIndexError(f"{path}: its content is not what was written")
    arrays = {name: _array(body, place) for name, place in footer["sections"].items()}
    facts, place = footer["facts"], footer["codes"]
    return EmbeddingIndex(
        facts=IndexHeader(
            **facts
            | {
                "image_types": tuple(facts["image_types"]),
                "samples": tuple((number, said) for number, said in facts["samples"]),
            }
        ),
        axes=PrincipalAxes(arrays.pop("mean"), arrays.pop("directions")),
        codes=Codes.view(body[place["start"] : place["start"] + place["bytes"]]),
        **arrays,
    )


def _read_footer(path: Path, content: NDArray[np.uint8]) -> dict[str, Any]:
    tail = content[-_TAIL_BYTES:].tobytes()
    digest, length, end = tail[:32], int.from_bytes(tail[32:40], "little"), tail[40:]
    if end != _MAGIC or length > len(content) - _TAIL_BYTES:
        raise DamagedIndexError(f"{path}: cut short, or not an index of this version")
    said = content[-_TAIL_BYTES - length : -_TAIL_BYTES].tobytes()
    if sha256(said).digest() != digest:
        raise DamagedIndexError(f"{path}: its footer is not what was written")
    footer: dict[str, Any] = json.loads(said)
    expected = footer["bytes"] + length + _TAIL_BYTES
    if len(content) != expected:
        raise DamagedIndexError(f"{path}: expected {expected} bytes, got {len(content)}")
    return footer


def _array(body: NDArray[np.uint8], place: dict[str, Any]) -> NDArray[Any]:
    part = body[place["start"] : place["start"] + place["bytes"]]
    found: NDArray[Any] = part.view(place["dtype"]).reshape(place["shape"])
    return found
