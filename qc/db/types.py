"""Column types."""

import zlib
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    DateTime,
    Dialect,
    LargeBinary,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement, FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType


@cache
def _words() -> NDArray[np.object_]:
    """Return how each of the 65536 halves is spelt: looking up is ten times as fast as spelling."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return np.array([str(one) for one in halves], object)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, on databases that forget the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store naive UTC."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value}: a time without a zone could be any of 24")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Load aware UTC."""
        del dialect
        return value.replace(tzinfo=UTC) if value else None


class Halfvec(UserDefinedType[Any]):
    """PostgreSQL's halfvec, of the extension "vector", of whatever length the encoder's are."""

    cache_ok = True

    def __init__(self, *_size: int) -> None:
        """Take the length that a column declares, for what is read from a database."""

    def get_col_spec(self, **_options: Any) -> str:
        """Return how a column of it is declared."""
        return "HALFVEC"


class _Packed(FunctionElement[Any]):
    """A vector as bytes: to spell 2048 numbers out and read them again takes ten times longer."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> None:
        super().__init__(column)
        self.type = kind


@compiles(_Packed)
def _compile_packed(element: _Packed, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_Packed, "postgresql")
def _compile_packed_postgresql(element: _Packed, compiler: Any, **options: Any) -> str:
    return f"halfvec_send({compiler.process(element.clauses, **options)})"


_HALFVEC_HEADER = 4  # bytes before the numbers in what halfvec_send returns: how many there are


class Vector(TypeDecorator[NDArray[np.float32]]):
    """A (d,) float32 array, each value within float16's range, kept as float16.

    Little-endian bytes in SQLite, a halfvec in PostgreSQL. Rounding to float16 (2e-4 of each
    value) moves a cosine distance by about 4e-8: a hundredth of the smallest thresholds in use.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return what a column is declared as."""
        is_server = dialect.name == "postgresql"
        return dialect.type_descriptor(Halfvec() if is_server else LargeBinary())

    def process_bind_param(
        self, value: NDArray[np.float32] | None, dialect: Dialect
    ) -> bytes | str | None:
        """Pack; PostgreSQL takes text alone."""
        if value is None:
            return None
        halves = value.astype("<f2")
        return spelt(halves) if dialect.name == "postgresql" else halves.tobytes()

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Ask for bytes."""
        return _Packed(column, self)

    def process_result_value(
        self, value: bytes | None, dialect: Dialect
    ) -> NDArray[np.float32] | None:
        """Unpack."""
        if value is None:
            return None
        if dialect.name == "postgresql":
            return np.frombuffer(value, ">f2", offset=_HALFVEC_HEADER).astype(np.float32)
        return np.frombuffer(value, "<f2").astype(np.float32)


def spelt(vector: NDArray[np.float16]) -> str:
    """Return a vector of halves as PostgreSQL reads it."""
    return f"[{','.join(_words()[vector.view(np.uint16)])}]"


def rounded_to_keep(above_zero_adu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return block statistics as they will be read back: float16, within its range."""
    return _halves(above_zero_adu).astype(np.float32)


def _halves(values: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = np.finfo(np.float16).max
    return values.clip(-largest, largest).astype("<f2")


class BlockArray(TypeDecorator[NDArray[np.float32]]):
    """An (h, w, 3) float32 array of ADU above zero level, as deflated float16 with its shape."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(
        self, value: NDArray[np.float32] | None, dialect: Dialect
    ) -> bytes | None:
        """Pack: height and width as two little-endian 16-bit numbers, then the values."""
        del dialect
        if value is None:
            return None
        shape = np.array(value.shape[:2], "<u2").tobytes()
        return shape + zlib.compress(_halves(value).tobytes(), 1)

    def process_result_value(
        self, value: bytes | None, dialect: Dialect
    ) -> NDArray[np.float32] | None:
        """Unpack."""
        del dialect
        if value is None:
            return None
        h, w = np.frombuffer(value[:4], "<u2")
        halves = np.frombuffer(zlib.decompress(value[4:]), "<f2")
        return halves.reshape(int(h), int(w), -1).astype(np.float32)
