"""Column types. NumPy is imported on first use, as commands without arrays need none."""

import datetime as dt
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement, FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType

from qc import core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HALFVEC_HEADER = 4  # bytes before the values that halfvec_send returns: their number


class UTCDateTime(TypeDecorator[dt.datetime]):
    """Aware UTC datetime, stored without a zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(
        self, value: dt.datetime | None, dialect: sa.Dialect
    ) -> dt.datetime | None:
        """Convert an aware datetime to naive UTC.

        Parameters
        ----------
        value : datetime or None
        dialect : Dialect

        Returns
        -------
        datetime or None

        Raises
        ------
        ValueError
            If the datetime has no zone.
        """
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value}: expected a datetime with a time zone")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: dt.datetime | None, dialect: sa.Dialect
    ) -> dt.datetime | None:
        """Add the zone UTC to a stored datetime.

        Parameters
        ----------
        value : datetime or None
        dialect : Dialect

        Returns
        -------
        datetime or None
        """
        del dialect
        return value.replace(tzinfo=dt.UTC) if value else None


class Halfvec(UserDefinedType[Any]):
    """Type "halfvec" of PostgreSQL's extension "vector", of any length."""

    cache_ok = True

    def __init__(self, *_size: int) -> None:
        """Accept the length that reflection passes, and ignore it."""

    def get_col_spec(self, **_options: Any) -> str:
        """Return the name of the type in a column definition."""
        return "HALFVEC"


class _BinaryVector(FunctionElement[Any]):
    """Column of vectors, selected as bytes: ten times faster than text of 2048 numbers."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], kind: TypeEngine[Any]) -> None:
        super().__init__(column)
        self.type = kind


@compiles(_BinaryVector)
def _compile_binary_vector(element: _BinaryVector, compiler: Any, **options: Any) -> str:
    return str(compiler.process(element.clauses, **options))


@compiles(_BinaryVector, "postgresql")
def _compile_binary_vector_postgresql(element: _BinaryVector, compiler: Any, **options: Any) -> str:
    return f"halfvec_send({compiler.process(element.clauses, **options)})"


class Vector(TypeDecorator["NDArray[np.float32]"]):
    """Array (d,) of float32 within the range of float16, stored as float16.

    Little-endian bytes in SQLite, a halfvec in PostgreSQL. Rounding to float16 (2e-4 of each
    value) moves a cosine distance by about 4e-8: a hundredth of the smallest thresholds in use.
    """

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        """Return the type of the column in a database of this dialect."""
        is_server = dialect.name == "postgresql"
        return dialect.type_descriptor(Halfvec() if is_server else sa.LargeBinary())

    def process_bind_param(
        self, value: "NDArray[np.float32] | None", dialect: sa.Dialect
    ) -> bytes | str | None:
        """Convert a vector to bytes, or to text for PostgreSQL.

        Parameters
        ----------
        value : (d,) float32 array or None
        dialect : Dialect

        Returns
        -------
        bytes or str or None
        """
        if value is None:
            return None
        halves = value.astype("<f2")
        return halfvec_text(halves) if dialect.name == "postgresql" else halves.tobytes()

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Select the column as bytes."""
        return _BinaryVector(column, self)

    def process_result_value(
        self, value: bytes | None, dialect: sa.Dialect
    ) -> "NDArray[np.float32] | None":
        """Convert stored bytes to a vector.

        Parameters
        ----------
        value : bytes or None
        dialect : Dialect

        Returns
        -------
        (d,) float32 array or None
        """
        import numpy as np

        if value is None:
            return None
        if dialect.name == "postgresql":
            return np.frombuffer(value, ">f2", offset=_HALFVEC_HEADER).astype(np.float32)
        return np.frombuffer(value, "<f2").astype(np.float32)


def halfvec_text(vector: "NDArray[np.float16]") -> str:
    """Return a (d,) float16 vector as the text of a halfvec of PostgreSQL."""
    import numpy as np

    return f"[{','.join(_half_texts()[vector.view(np.uint16)])}]"


@cache
def _half_texts() -> "NDArray[np.object_]":
    """Return the text of each of the 65536 halves: a look-up is ten times faster than str."""
    import numpy as np

    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return np.array([str(half) for half in halves], object)


class BlockArray(TypeDecorator["NDArray[np.float32]"]):
    """Array (h, w, 3) of ADU above zero level, stored as deflated float16 with its shape."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(
        self, value: "NDArray[np.float32] | None", dialect: sa.Dialect
    ) -> bytes | None:
        """Convert an array to bytes: h and w as little-endian 16-bit numbers, then the values.

        Parameters
        ----------
        value : (h, w, 3) float32 array or None
            ADU.
        dialect : Dialect

        Returns
        -------
        bytes or None
        """
        import numpy as np

        del dialect
        if value is None:
            return None
        shape = np.array(value.shape[:2], "<u2").tobytes()
        return shape + zlib.compress(core.to_float16(value).tobytes(), 1)

    def process_result_value(
        self, value: bytes | None, dialect: sa.Dialect
    ) -> "NDArray[np.float32] | None":
        """Convert stored bytes to an array.

        Parameters
        ----------
        value : bytes or None
        dialect : Dialect

        Returns
        -------
        (h, w, 3) float32 array or None
            ADU.
        """
        import numpy as np

        del dialect
        if value is None:
            return None
        h, w = np.frombuffer(value[:4], "<u2")
        halves = np.frombuffer(zlib.decompress(value[4:]), "<f2")
        return halves.reshape(int(h), int(w), -1).astype(np.float32)
