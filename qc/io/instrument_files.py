"""Instrument files: YAML to Instrument, with file, line and key in each error."""

from collections import Counter, abc
from importlib import resources
from pathlib import Path
from typing import Any

import pydantic
from ruamel import yaml

from qc import errors
from qc.io.instruments import Instrument


def read_instruments(folder: Path | None = None) -> tuple[Instrument, ...]:
    """Read all instrument files: those of a folder, then the packaged ones.

    A file of the folder replaces the packaged file of the same name.

    Raises
    ------
    ConfigurationError
        If the folder or one of its files cannot be read, or a file is invalid.
    """
    packaged = {
        file.name: file for file in list_yaml_files(resources.files("qc.io") / "instruments")
    }
    custom = {file.name: file for file in list_yaml_files(folder)} if folder else {}
    files = custom | {name: file for name, file in packaged.items() if name not in custom}
    return tuple(read_instrument(file) for file in files.values())


def list_yaml_files(folder: resources.abc.Traversable) -> abc.Sequence[resources.abc.Traversable]:
    """Return the YAML files of a folder, sorted by name.

    Raises
    ------
    ConfigurationError
        If the folder cannot be listed.
    """
    try:
        files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    except OSError as failure:
        raise errors.ConfigurationError(
            f"{folder}: cannot list instrument files: {failure}"
        ) from None
    return sorted(files, key=lambda file: file.name)


def read_instrument(path: resources.abc.Traversable) -> Instrument:
    """Read one instrument file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or a key is missing, unknown or invalid. The message names
        file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.YAML(typ="safe").load(text)
    except yaml.error.MarkedYAMLError as failure:
        line = failure.problem_mark.line + 1 if failure.problem_mark else 1
        raise errors.ConfigurationError(f"{path}, line {line}: {failure.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.error.YAMLError) as failure:
        raise errors.ConfigurationError(f"{path}: cannot be read: {failure}") from None
    try:
        instrument = pydantic.TypeAdapter(Instrument).validate_python(content)
    except pydantic.ValidationError as failure:
        document = yaml.YAML(typ="rt").load(text)
        raise errors.ConfigurationError(
            "; ".join(
                f"{path}, line {find_line(document, mistake['loc'])}: "
                f"{'.'.join(str(part) for part in mistake['loc']) or 'the file'}: {mistake['msg']}"
                for mistake in failure.errors()
            )
        ) from None
    check_names(path, instrument)
    return instrument


def find_line(node: Any, location: tuple[int | str, ...]) -> int:
    """Return the line of the deepest part of a location that the document contains.

    Parameters
    ----------
    node : ruamel.yaml node
        Document loaded in round-trip mode.
    location : tuple of int or str
        Keys and list positions from the root, as pydantic reports them.

    Returns
    -------
    int
        Line number, from 1.
    """
    line = 1
    for part in location:
        if isinstance(node, yaml.comments.CommentedMap) and part in node:
            line = node.lc.key(part)[0] + 1
        elif (
            isinstance(node, yaml.comments.CommentedSeq)
            and isinstance(part, int)
            and part < len(node)
        ):
            line = node.lc.item(part)[0] + 1
        else:
            break
        node = node[part]
    return line


def check_names(path: resources.abc.Traversable, instrument: Instrument) -> None:
    """Check that every name used in an instrument file is described in it.

    Parameters
    ----------
    path : resources.abc.Traversable
        File, for the message.
    instrument : Instrument
        Content of the file.

    Raises
    ------
    ConfigurationError
        If a name has no description, or a fault has two.
    """
    read_modes = {mode.name for mode in instrument.read_modes}
    _check("layouts", (layout.arm for layout in instrument.layouts), instrument.arms, path)
    chips = (section.chip for layout in instrument.layouts for section in layout.sections)
    _check("layouts", chips, instrument.chips, path)
    for name, chip in instrument.chips.items():
        _check(f"chips.{name}.read_modes", chip.read_modes, read_modes, path)
    _check("speeds", (speed.read_mode for speed in instrument.speeds), read_modes, path)
    lamps = (calibration.lamp for calibration in instrument.calibrations if calibration.lamp)
    _check("calibrations", lamps, instrument.standard_exposures, path)
    classes = {calibration.frame_class for calibration in instrument.calibrations}
    fault_classes = (name for fault in instrument.faults for name in fault.classes)
    _check("faults", fault_classes, classes, path)
    counts = Counter(fault.name for fault in instrument.faults)
    for name in [name for name, count in counts.items() if count > 1]:
        raise errors.ConfigurationError(f"{path}: faults: {name!r} is described more than once")


def _check(
    key: str, used: abc.Iterable[str], described: abc.Iterable[str], path: resources.abc.Traversable
) -> None:
    names = tuple(described)
    for name in used:
        if name not in names:
            expected = ", ".join(sorted(names)) or "none is described"
            raise errors.ConfigurationError(
                f"{path}: {key}: unknown name {name!r}; expected: {expected}"
            )
