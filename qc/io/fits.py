"""The bytes of a FITS file, compressed or not, as header and data units; it knows no instrument."""

import bz2
import gzip
import io
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ncompress
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from qc.core.frame import Header, Value
from qc.errors import IncompleteHeaderError, UnreadableFrameError

Pixels = NDArray[np.uint16] | NDArray[np.float32]

_HUGE = 1e12  # beyond any scale of pixels


def read_content(path: Path, max_bytes: int) -> bytes:
    """Return the uncompressed bytes of a file; the compression is told by the content.

    Raises
    ------
    UnreadableFrame
        If the file cannot be read, changes meanwhile, is damaged, or grows beyond `max_bytes`.
    """
    return _decompress(_read_bytes(path, max_bytes), max_bytes)


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        before = path.stat()
        if not stat.S_ISREG(before.st_mode):
            raise UnreadableFrameError("expected a file, got a directory or a device")
        if before.st_size > max_bytes:
            raise UnreadableFrameError(f"expected at most {max_bytes} bytes, got {before.st_size}")
        with path.open("rb") as file:
            content = file.read(before.st_size + 1)  # one more: it may be growing
            after = os.fstat(file.fileno())
    except (OSError, ValueError) as error:
        raise UnreadableFrameError(f"cannot be read: {_reason(error)}") from None
    if not content:
        raise UnreadableFrameError("the file is empty: still being written, or lost")
    if (len(content), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnreadableFrameError(
            f"expected {before.st_size} bytes, got {len(content)} that changed meanwhile: "
            "still being written"
        )
    return content


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(told).split())


def _decompress(content: bytes, max_bytes: int) -> bytes:
    unpack = next((f for magic, f in _UNPACKERS.items() if content.startswith(magic)), None)
    if unpack is None:
        return content
    unpacked = io.BytesIO()
    try:
        unpack(content, unpacked, max_bytes)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UnreadableFrameError(
            f"expected to uncompress to the end, got after {unpacked.tell()} bytes: "
            f"{_reason(error)}; still being written, or damaged"
        ) from None
    if unpacked.tell() > max_bytes:
        raise UnreadableFrameError(f"expected at most {max_bytes} bytes uncompressed, got more")
    return unpacked.getvalue()


class _BoundedStream(io.BytesIO):
    """Packed bytes that seem to end once too much has come out of them.

    A decompression bomb must be stopped from this end: ncompress flushes its output in a C++
    destructor, where an exception of the writer would abort the whole process. It asks for 1 KiB
    at a time, from which LZW can make 32 MiB at most.
    """

    def __init__(self, content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
        super().__init__(content)
        self.unpacked, self.max_bytes = unpacked, max_bytes

    def read(self, size: int | None = -1) -> bytes:
        return b"" if self.unpacked.tell() > self.max_bytes else super().read(size)


def _unpack_lzw(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    ncompress.decompress(_BoundedStream(content, unpacked, max_bytes), unpacked)


def _unpack_gzip(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    with gzip.open(io.BytesIO(content)) as file:
        _copy(file, unpacked, max_bytes)


def _unpack_bzip2(content: bytes, unpacked: io.BytesIO, max_bytes: int) -> None:
    with bz2.open(io.BytesIO(content)) as file:
        _copy(file, unpacked, max_bytes)


def _copy(file: io.BufferedIOBase, unpacked: io.BytesIO, max_bytes: int) -> None:
    """Copy up to the first piece beyond the limit."""
    while unpacked.tell() <= max_bytes and (piece := file.read(_PIECE_BYTES)):
        unpacked.write(piece)


_PIECE_BYTES = 2**20
_UNPACKERS: Mapping[bytes, Callable[[bytes, io.BytesIO, int], None]] = {
    b"\x1f\x9d": _unpack_lzw,
    b"\x1f\x8b": _unpack_gzip,
    b"BZh": _unpack_bzip2,
}


# --- FITS units ----------------------------------------------------------------------------------

_BLOCK = 2880
_MAX_HEADER_BYTES = 2**20  # 13 000 cards; UVES has 500
_MAX_AXES = 999
_END = re.compile(rb"(?:.{80})*?END {77}", re.DOTALL)
_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Unit:
    """One header and data unit.

    Attributes
    ----------
    shape : tuple of int
        Of its image, slowest axis first; empty where it has none.
    data : memoryview
        Its data as stored, without the padding.
    """

    index: int
    header: Header
    shape: tuple[int, ...]
    bits: int
    tiled: bool
    data: memoryview


def read_units(content: bytes) -> Iterator[Unit]:
    """Walk over the units; astropy reads the cards, but not how much of a file is missing."""
    if not content.startswith(b"SIMPLE  ="):
        raise UnreadableFrameError(
            f"expected a FITS file, got one that begins with {content[:8]!r}"
        )
    start, index = 0, 0
    while index == 0 or content.startswith(b"XTENSION", start):
        found = _END.match(content, start, start + _MAX_HEADER_BYTES)
        if found is None:
            raise _truncated(f"the end of header {index}", len(content))
        data_start = start + _padded(found.end() - start)
        header = _header_values(content[start : found.end()])
        size = _data_bytes(header)
        if data_start + _padded(size) > len(content):
            raise _truncated(f"at least {data_start + _padded(size)} bytes", len(content))
        yield _unit(index, header, memoryview(content)[data_start : data_start + size])
        start, index = data_start + _padded(size), index + 1


def _truncated(expected: str, size: int) -> UnreadableFrameError:
    return UnreadableFrameError(
        f"expected {expected}, got a file of {size} bytes: still being written, or truncated"
    )


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _header_values(cards: bytes) -> dict[str, Value]:
    """Read the cards that can be read; a broken card is an absent one, a repeated one counts once.

    An absent card that matters is missed later, by name.
    """
    values: dict[str, Value] = {}
    for card in fits.Header.fromstring(cards.decode("ascii", "replace")).cards:
        try:
            keyword, value = card.keyword, card.value
        except (fits.VerifyError, ValueError, ArithmeticError):
            continue
        value = value.strip() if isinstance(value, str) else value
        if _is_told(value):
            values.setdefault(keyword.removeprefix("ESO "), value)
    return values


@dataclass(frozen=True)
class Card:
    """One card of a header as people read it; a value that cannot be read is empty.

    Attributes
    ----------
    unit : int
        HDU number.
    """

    unit: int
    keyword: str
    value: str
    comment: str


def read_cards(content: bytes) -> Iterator[Card]:
    """Yield every card of every header of a FITS file, blank ones left out."""
    for unit, cards in _headers(content):
        for card in fits.Header.fromstring(cards.decode("ascii", "replace")).cards:
            try:
                told = str(card.keyword), str(card.value), str(card.comment)
            except (fits.VerifyError, ValueError, ArithmeticError):
                told = str(card.rawkeyword), "", "cannot be read"
            if any(told):
                yield Card(unit, *told)


def _headers(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the headers of the units that are there whole; what is wrong with the rest is told."""
    start, index = 0, 0
    while content.startswith(b"XTENSION" if index else b"SIMPLE  =", start):
        found = _END.match(content, start, start + _MAX_HEADER_BYTES)
        if found is None:
            raise _truncated(f"the end of header {index}", len(content))
        cards = content[start : found.end()]
        yield index, cards
        start += _padded(len(cards)) + _padded(_data_bytes(_header_values(cards)))
        index += 1


def _is_told(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | int) and value != ""


def _data_bytes(header: Header) -> int:
    axes = _axes(header, "NAXIS")
    groups = _whole(header, "GCOUNT", 1) * (_whole(header, "PCOUNT", 0) + math.prod(axes))
    return abs(_bits(header, "BITPIX")) // 8 * groups if axes else 0


def _axes(header: Header, keyword: str) -> tuple[int, ...]:
    """Give the lengths of the axes as FITS orders them, fastest first."""
    count = _whole(header, keyword, None)
    if count > _MAX_AXES:
        raise UnreadableFrameError(f"expected {keyword} up to {_MAX_AXES}, got {count}")
    return tuple(_whole(header, f"{keyword}{n}", None) for n in range(1, count + 1))


def _bits(header: Header, keyword: str) -> int:
    bits = header.get(keyword)
    if bits not in _DTYPES:
        raise UnreadableFrameError(
            f"expected {keyword} of {', '.join(map(str, _DTYPES))}, got {bits!r}"
        )
    return int(bits)


def _whole(header: Header, keyword: str, default: int | None) -> int:
    value = header.get(keyword, default)
    if type(value) is not int or value < 0:
        raise UnreadableFrameError(f"expected {keyword} to be a whole number, got {value!r}")
    return value


def _unit(index: int, header: Header, data: memoryview) -> Unit:
    tiled = header.get("ZIMAGE") is True
    if not tiled and header.get("XTENSION", "IMAGE") != "IMAGE":
        return Unit(index, header, (), 8, tiled=False, data=data)
    prefix = "Z" if tiled else ""
    axes = _axes(header, f"{prefix}NAXIS")
    shape = axes[::-1] if math.prod(axes) else ()
    bits = _bits(header, f"{prefix}BITPIX")
    promised = math.prod(shape) * abs(bits) // 8 if shape else 0
    if not tiled and promised != len(data):
        raise UnreadableFrameError(
            f"expected {promised} bytes of pixels in unit {index}, got PCOUNT and GCOUNT that make "
            f"it {len(data)}"
        )
    return Unit(index, header, shape, bits, tiled=tiled, data=data)


def read_pixels(unit: Unit, content: bytes, max_bytes: int) -> Pixels:
    """Read one image: (ny, nx), uint16 where the file has no more, or else float32, in ADU."""
    if unit.tiled:
        return _read_tiles(unit, content, max_bytes)
    raw = np.frombuffer(unit.data, _DTYPES[unit.bits]).reshape(unit.shape)
    scale, zero = _scaling(unit.header, "BSCALE", 1.0), _scaling(unit.header, "BZERO", 0.0)
    if unit.bits in {16, 32} and (scale, zero) == (1.0, 2.0 ** (unit.bits - 1)):
        return _unsigned(raw)
    with np.errstate(all="ignore"):
        return (raw.astype(np.float64) * scale + zero).astype(np.float32)


def _scaling(header: Header, keyword: str, default: float) -> float:
    value = header.get(keyword)
    if value is None:
        return default
    if isinstance(value, bool | str) or not abs(value) <= _HUGE:
        raise IncompleteHeaderError(f"{keyword} = {value!r}: expected a number that makes sense")
    return float(value)


def _unsigned(raw: NDArray[Any]) -> Pixels:
    """Undo FITS's way to store unsigned numbers: flip the top bit; no copy to float in between."""
    native = raw.byteswap().view(f"u{raw.itemsize}")
    native ^= native.dtype.type(1 << (8 * raw.itemsize - 1))
    return native if native.dtype == np.uint16 else native.astype(np.float32)


def _read_tiles(unit: Unit, content: bytes, max_bytes: int) -> Pixels:
    promised = math.prod(unit.shape) * abs(unit.bits) // 8
    if promised > max_bytes:
        raise UnreadableFrameError(
            f"expected at most {max_bytes} bytes uncompressed, got {promised}"
        )
    try:
        with fits.open(io.BytesIO(content)) as units:
            pixels = np.asarray(units[unit.index].data)
    except Exception as error:  # noqa: BLE001 - on damaged tiles the decoder raises anything
        raise UnreadableFrameError(
            f"image {unit.index} cannot be unpacked: {_reason(error)}"
        ) from None
    if pixels.shape != unit.shape:
        raise UnreadableFrameError(f"expected tiles of {unit.shape} pixels, got {pixels.shape}")
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32)
