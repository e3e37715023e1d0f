"""API of the package `qc.io`."""

import importlib

import pytest

from qc import io


@pytest.mark.parametrize("name", io.__all__)
def test_name_is_exported(name):
    assert getattr(io, name) is not None


def test_functions_are_not_hidden_by_modules():
    """No module has the name of an exported function, whatever is imported first."""
    for name in ("compression", "fits", "frame_reader", "instrument_files", "instruments"):
        importlib.import_module(f"qc.io.{name}")
    assert callable(io.read_frame)
    assert callable(io.read_instruments)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'read_nothing'"):
        io.read_nothing  # noqa: B018
