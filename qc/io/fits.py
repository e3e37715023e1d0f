"""FITS reader: headers, header and data units, pixels."""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

from qc import core, errors
from qc.io.compression import describe_error

Pixels = np.typing.NDArray[np.uint16] | np.typing.NDArray[np.float32]

_LARGEST_SCALING = 1e12  # larger values of BSCALE and BZERO are refused
_BLOCK = 2880
_MAX_HEADER_BYTES = 2**20  # 13 000 cards; UVES has 500
_MAX_AXES = 999
_END = re.compile(rb"(?:.{80})*?END {77}", re.DOTALL)
_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


@dataclass(frozen=True)
class Unit:
    """One header and data unit (HDU).

    Attributes
    ----------
    index : int
        HDU number; 0 is the primary unit.
    header : Header
        Readable cards by keyword.
    shape : tuple of int
        Shape of the image, slowest axis first; empty for a unit without an image.
    bits : int
        BITPIX of the image.
    tiled : bool
        True for a tile-compressed image.
    data : memoryview
        Data as stored, without padding.
    """

    index: int
    header: core.Header
    shape: tuple[int, ...]
    bits: int
    tiled: bool
    data: memoryview


@dataclass(frozen=True)
class Card:
    """One header card as text; an unreadable value is empty.

    Attributes
    ----------
    unit : int
        HDU number.
    keyword, value, comment : str
        The three parts of the card.
    """

    unit: int
    keyword: str
    value: str
    comment: str


def read_units(content: bytes) -> Iterator[Unit]:
    """Yield the header and data units of a FITS file.

    Only the cards are parsed by astropy: it does not report the size of a missing part.

    Raises
    ------
    UnreadableFrameError
        If the content is not FITS, or a unit is incomplete or inconsistent.
    """
    if not content.startswith(b"SIMPLE  ="):
        raise errors.UnreadableFrameError(
            f"expected a FITS file, got one that begins with {content[:8]!r}"
        )
    start, index = 0, 0
    while index == 0 or content.startswith(b"XTENSION", start):
        end = find_header_end(content, start, index)
        data_start = start + padded_size(end - start)
        header = read_header_values(content[start:end])
        size = count_data_bytes(header)
        if data_start + padded_size(size) > len(content):
            raise _truncation(f"at least {data_start + padded_size(size)} bytes", len(content))
        yield make_unit(index, header, memoryview(content)[data_start : data_start + size])
        start, index = data_start + padded_size(size), index + 1


def find_header_end(content: bytes, start: int, index: int) -> int:
    """Return the offset just after the END card of a header.

    Parameters
    ----------
    content : bytes
        FITS file.
    start : int
        Offset of the header, bytes.
    index : int
        HDU number, for the message.

    Returns
    -------
    int
        Offset, bytes.

    Raises
    ------
    UnreadableFrameError
        If the header has no END card.
    """
    match = _END.match(content, start, start + _MAX_HEADER_BYTES)
    if match is None:
        raise _truncation(f"the end of header {index}", len(content))
    return match.end()


def _truncation(expected: str, size: int) -> errors.UnreadableFrameError:
    return errors.UnreadableFrameError(
        f"expected {expected}, got a file of {size} bytes: still being written, or truncated"
    )


def padded_size(size: int) -> int:
    """Round a size up to whole FITS blocks, bytes."""
    return -(-size // _BLOCK) * _BLOCK


def read_header_values(cards: bytes) -> dict[str, core.Value]:
    """Return the readable values of a header by keyword.

    A broken or blank card counts as absent; of a repeated keyword the first card counts.
    """
    values: dict[str, core.Value] = {}
    for card in fits.Header.fromstring(cards.decode("ascii", "replace")).cards:
        try:
            keyword, value = card.keyword, card.value
        except (fits.VerifyError, ValueError, ArithmeticError):
            continue
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, float):
            is_valid = math.isfinite(value)
        else:
            is_valid = isinstance(value, str | int) and value != ""
        if is_valid:
            values.setdefault(keyword.removeprefix("ESO "), value)
    return values


def read_cards(content: bytes) -> Iterator[Card]:
    """Yield every card of every header of a FITS file; blank cards are left out.

    Raises
    ------
    UnreadableFrameError
        If a header is incomplete or inconsistent; the cards before it are yielded.
    """
    start, index = 0, 0
    while content.startswith(b"XTENSION" if index else b"SIMPLE  =", start):
        cards = content[start : find_header_end(content, start, index)]
        for card in fits.Header.fromstring(cards.decode("ascii", "replace")).cards:
            try:
                parts = str(card.keyword), str(card.value), str(card.comment)
            except (fits.VerifyError, ValueError, ArithmeticError):
                parts = str(card.rawkeyword), "", "cannot be read"
            if any(parts):
                yield Card(index, *parts)
        start += padded_size(len(cards))
        start += padded_size(count_data_bytes(read_header_values(cards)))
        index += 1


def count_data_bytes(header: core.Header) -> int:
    """Return the size of a unit's data, bytes, by its header."""
    axes = read_axes(header, "NAXIS")
    groups = _whole(header, "GCOUNT", 1) * (_whole(header, "PCOUNT", 0) + math.prod(axes))
    return abs(_bits(header, "BITPIX")) // 8 * groups if axes else 0


def read_axes(header: core.Header, keyword: str) -> tuple[int, ...]:
    """Return the lengths of the axes in FITS order, fastest first.

    Parameters
    ----------
    header : Header
        Header of the unit.
    keyword : str
        ``NAXIS``, or ``ZNAXIS`` of a tile-compressed image.

    Returns
    -------
    tuple of int

    Raises
    ------
    UnreadableFrameError
        If a length is missing or not a whole number.
    """
    count = _whole(header, keyword, None)
    if count > _MAX_AXES:
        raise errors.UnreadableFrameError(f"expected {keyword} up to {_MAX_AXES}, got {count}")
    return tuple(_whole(header, f"{keyword}{n}", None) for n in range(1, count + 1))


def _bits(header: core.Header, keyword: str) -> int:
    bits = header.get(keyword)
    if bits not in _DTYPES:
        raise errors.UnreadableFrameError(
            f"expected {keyword} of {', '.join(map(str, _DTYPES))}, got {bits!r}"
        )
    return int(bits)


def _whole(header: core.Header, keyword: str, default: int | None) -> int:
    value = header.get(keyword, default)
    if type(value) is not int or value < 0:
        raise errors.UnreadableFrameError(f"expected {keyword} to be a whole number, got {value!r}")
    return value


def make_unit(index: int, header: core.Header, data: memoryview) -> Unit:
    """Check a unit's header against the size of its data.

    Parameters
    ----------
    index : int
        HDU number.
    header : Header
        Readable cards.
    data : memoryview
        Data as stored, without padding.

    Returns
    -------
    Unit

    Raises
    ------
    UnreadableFrameError
        If the image does not fill the data exactly.
    """
    tiled = header.get("ZIMAGE") is True
    if not tiled and header.get("XTENSION", "IMAGE") != "IMAGE":
        return Unit(index, header, (), 8, tiled=False, data=data)
    prefix = "Z" if tiled else ""
    axes = read_axes(header, f"{prefix}NAXIS")
    shape = axes[::-1] if math.prod(axes) else ()
    bits = _bits(header, f"{prefix}BITPIX")
    image_bytes = math.prod(shape) * abs(bits) // 8 if shape else 0
    if not tiled and image_bytes != len(data):
        raise errors.UnreadableFrameError(
            f"expected {image_bytes} bytes of pixels in unit {index}, got PCOUNT and GCOUNT that "
            f"make it {len(data)}"
        )
    return Unit(index, header, shape, bits, tiled=tiled, data=data)


def read_pixels(unit: Unit, content: bytes, max_bytes: int) -> Pixels:
    """Return the pixels of an image, ADU.

    Parameters
    ----------
    unit : Unit
        Unit with an image.
    content : bytes
        The whole FITS file.
    max_bytes : int
        Largest accepted size of a tile-compressed image, uncompressed.

    Returns
    -------
    (ny, nx) array
        uint16 if the file stores 16 unsigned bits, else float32.

    Raises
    ------
    UnreadableFrameError
        If a tile-compressed image is damaged or too large.
    IncompleteHeaderError
        If BSCALE or BZERO is not a plausible number.
    """
    if unit.tiled:
        return read_tiles(unit, content, max_bytes)
    raw = np.frombuffer(unit.data, _DTYPES[unit.bits]).reshape(unit.shape)
    scale, zero = _scaling(unit.header, "BSCALE", 1.0), _scaling(unit.header, "BZERO", 0.0)
    if unit.bits in {16, 32} and (scale, zero) == (1.0, 2.0 ** (unit.bits - 1)):
        return convert_to_unsigned(raw)
    with np.errstate(all="ignore"):
        return (raw.astype(np.float64) * scale + zero).astype(np.float32)


def _scaling(header: core.Header, keyword: str, default: float) -> float:
    value = header.get(keyword)
    if value is None:
        return default
    if isinstance(value, bool | str) or not abs(value) <= _LARGEST_SCALING:
        raise errors.IncompleteHeaderError(
            f"{keyword} = {value!r}: expected a number that makes sense"
        )
    return float(value)


def convert_to_unsigned(raw: np.typing.NDArray[np.generic]) -> Pixels:
    """Convert FITS's signed storage of unsigned integers: flip the top bit, without floats."""
    native = raw.byteswap().view(f"u{raw.itemsize}")
    native ^= native.dtype.type(1 << (8 * raw.itemsize - 1))
    return native if native.dtype == np.uint16 else native.astype(np.float32)


def read_tiles(unit: Unit, content: bytes, max_bytes: int) -> Pixels:
    """Return the pixels of a tile-compressed image, ADU.

    Parameters
    ----------
    unit : Unit
        Tile-compressed unit.
    content : bytes
        The whole FITS file.
    max_bytes : int
        Largest accepted uncompressed size.

    Returns
    -------
    (ny, nx) array
        uint16 or float32.

    Raises
    ------
    UnreadableFrameError
        If the image is damaged or too large.
    """
    image_bytes = math.prod(unit.shape) * abs(unit.bits) // 8
    if image_bytes > max_bytes:
        raise errors.UnreadableFrameError(
            f"expected at most {max_bytes} bytes uncompressed, got {image_bytes}"
        )
    try:
        with fits.open(io.BytesIO(content)) as units:
            pixels = np.asarray(units[unit.index].data)
    except Exception as error:  # noqa: BLE001 - the decoder raises anything on damaged tiles
        raise errors.UnreadableFrameError(
            f"image {unit.index} cannot be unpacked: {describe_error(error)}"
        ) from None
    if pixels.shape != unit.shape:
        raise errors.UnreadableFrameError(
            f"expected tiles of {unit.shape} pixels, got {pixels.shape}"
        )
    return pixels if pixels.dtype == np.uint16 else pixels.astype(np.float32)
