"""Kinds of fault that a label may name, as the instrument files define them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from qc._text import match_name
from qc.core.enums import LabelName
from qc.db.extensions import ExtensionRef
from qc.db.labels import LabelAnswer
from qc.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qc.io.instrument_parts import FaultKind
    from qc.io.instruments import Instrument


def list_kinds(
    instruments: "Sequence[Instrument]", image_type: str | None = None
) -> "list[tuple[Instrument, FaultKind]]":
    """Return the kinds of fault of one image type or of all.

    Parameters
    ----------
    instruments : sequence of Instrument
    image_type : str, optional

    Returns
    -------
    list of (Instrument, FaultKind)

    Raises
    ------
    InvalidInputError
        If the image type does not exist.
    """
    if image_type is None:
        return [
            (instrument, kind) for instrument in instruments for kind in instrument.fault_kinds()
        ]
    types = [name for instrument in instruments for name in instrument.image_types()]
    name = match_name(image_type, types, "image type")
    return [
        (instrument, kind)
        for instrument in instruments
        if (calibration := instrument.calibration_of(name))
        for kind in instrument.fault_kinds(calibration.frame_class)
    ]


def match_kind(
    answer: LabelAnswer, extension: ExtensionRef, instruments: "Sequence[Instrument]"
) -> LabelAnswer:
    """Return an answer with its kind of fault spelt as in the instrument file.

    Parameters
    ----------
    answer : LabelAnswer
    extension : ExtensionRef
        Labelled extension.
    instruments : sequence of Instrument

    Returns
    -------
    LabelAnswer

    Raises
    ------
    InvalidInputError
        If the kind does not exist, or cannot occur in such an image.
    """
    if answer.label is not LabelName.BAD:
        return answer
    by_name = {instrument.name: instrument for instrument in instruments}
    if extension.instrument not in by_name:
        raise InvalidInputError(
            f"{extension.name}: no instrument file describes {extension.instrument} any more"
        )
    instrument = by_name[extension.instrument]
    all_kinds = [kind.name for kind in instrument.fault_kinds()]
    name = match_name(answer.kind, all_kinds, f"kind of fault of {instrument.name}")
    possible = [kind.name for kind in instrument.fault_kinds(extension.frame_class)]
    if name not in possible:
        raise InvalidInputError(
            f"{name} cannot occur in a {extension.frame_class} such as {extension.name}, "
            f"{extension.image_type}; possible kinds: {', '.join(possible)}"
        )
    return replace(answer, kind=name)
