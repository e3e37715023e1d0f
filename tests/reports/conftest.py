from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from qc import db
from qc.io.instrument_files import read_instruments
from qc.io.instruments import Instrument
from qc.settings import read_settings


@pytest.fixture
def session(project_folder: Path) -> Iterator[Session]:
    engine = db.schema.engine.connect(read_settings(project_folder).database_url)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture(scope="module")
def uves() -> Instrument:
    [uves] = [entry for entry in read_instruments() if entry.name == "UVES"]
    return uves
