import gc
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from qc.db.schema.engine import connect
from qc.io.instruments import Instrument
from qc.project import create_project
from qc.settings import read_settings
from tests.support import databases
from tests.support.databases import (
    copied_project,
    drop_database,
    new_database,
    write_database_setting,
)
from tests.support.tiny_spectrograph import (
    add_training_frames,
    open_tiny,
    thresholds_text,
    write_instrument,
)

pytest_plugins = ["tests.support.browser", "tests.support.buckets", "tests.support.terminal"]


DATABASE_FOLDERS = {"db", "labels"}  # mostly queries and transactions


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory):
    """Empty project folder, shared: tests must not write to it."""
    folder = tmp_path_factory.mktemp("empty") / "project"
    instrument = write_instrument_of(folder)
    (folder / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    database = new_database()
    write_database_setting(folder, database)
    create_project(folder)
    yield folder
    drop_database(database)


def write_instrument_of(folder: Path) -> Instrument:
    folder.mkdir()
    return write_instrument(folder / "instruments")


@pytest.fixture
def project_folder(empty_project, tmp_path):
    """Project folder of one test."""
    with copied_project(empty_project, tmp_path / "project") as folder:
        yield folder


@pytest.fixture
def unmade(tmp_path, monkeypatch):
    """Folder without a project, with an empty database."""
    url = new_database()
    if url is not None:
        monkeypatch.setenv("QC_DATABASE", url.render_as_string(hide_password=False))
    yield tmp_path / "project"
    drop_database(url)


@pytest.fixture(autouse=True)
def _no_database_of_its_own(request):
    """Fail a test that opens a database without a fixture, as it would run on one only."""
    with databases.record_connections() as opened:
        yield
    assert databases.is_on_right_database(request.node, opened), (
        f"opened {', '.join(sorted(opened))} by itself: take the fixture project, unmade or blank, "
        "and it is run on both databases; or mark it sqlite, and say why"
    )


@pytest.fixture
def blank():
    """Address of an empty PostgreSQL database."""
    url = new_database()
    yield url
    drop_database(url)


@pytest.fixture
def inbox(tmp_path):
    """Folder for frames."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def session(project_folder):
    """Session of the project's database."""
    engine = connect(read_settings(project_folder).database_url)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


@pytest.fixture
def project(project_folder):
    """Open project, with a stand-in for the encoder."""
    with open_tiny(project_folder) as opened:
        yield opened


@pytest.fixture(scope="session")
def taught(empty_project, tmp_path_factory):
    """Project folder with a training set, shared: tests must not write to it."""
    folder = tmp_path_factory.mktemp("taught")
    with copied_project(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            add_training_frames(project, folder)
        yield project_folder


def pytest_addoption(parser):
    parser.addoption("--database", default="sqlite", help="sqlite, postgresql, or a server's URL")


def pytest_configure(config):
    databases.start(config.getoption("--database"))


def pytest_unconfigure():
    databases.stop()


def pytest_collection_modifyitems(config, items):
    """Mark tests of the browser and of the database; deselect those for another database.

    'make test' runs the tests of the database on PostgreSQL too, 'make test-rest' all others.
    """
    for item in items:
        if item.path.parent.name in DATABASE_FOLDERS:
            item.add_marker(pytest.mark.database)
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    database = config.getoption("--database")
    deselected = [item for item in items if not databases.is_selected(item, database)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if databases.is_selected(item, database)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Disable garbage collection while a failure is reported.

    CPython 3.11 has one recursion counter for all threads that parse source. A finalizer lets
    another thread run; if that one logs an error, both parse, and pytest fails with
    "AST constructor recursion depth mismatch".
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
