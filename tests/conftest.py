import gc
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from qc.db.engine import connect
from qc.io.instruments import Instrument
from qc.project import create_project
from qc.settings import read_settings
from tests.support import databases
from tests.support.databases import copied, drop_database, new_database, settle
from tests.support.tiny import open_tiny, teach, thresholds_text, write_instrument

pytest_plugins = ["tests.support.browser", "tests.support.buckets", "tests.support.terminal"]


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory):
    """A project folder that nothing has been processed in; not to be written to."""
    folder = tmp_path_factory.mktemp("empty") / "project"
    instrument = write_instrument_of(folder)
    (folder / "thresholds.yaml").write_text(thresholds_text(instrument.image_types()))
    database = new_database()
    settle(folder, database)
    create_project(folder)
    yield folder
    drop_database(database)


def write_instrument_of(folder: Path) -> Instrument:
    folder.mkdir()
    return write_instrument(folder / "instruments")


@pytest.fixture
def project_folder(empty_project, tmp_path):
    """A project folder of the test's own."""
    with copied(empty_project, tmp_path / "project") as one:
        yield one


@pytest.fixture
def unmade(tmp_path, monkeypatch):
    """A folder that is still to become a project, whose database is there and empty."""
    url = new_database()
    if url is not None:
        monkeypatch.setenv("QC_DATABASE", url.render_as_string(hide_password=False))
    yield tmp_path / "project"
    drop_database(url)


@pytest.fixture(autouse=True)
def _no_database_of_its_own(request):
    """Let no test be forgotten that should run on both databases."""
    with databases.watched() as opened:
        yield
    assert databases.is_at_home(request.node, opened), (
        f"opened {', '.join(sorted(opened))} by itself: take the fixture project, unmade or blank, "
        "and it is run on both databases; or mark it sqlite, and say why"
    )


@pytest.fixture
def blank():
    """The address of a PostgreSQL database in which there is nothing."""
    url = new_database()
    yield url
    drop_database(url)


@pytest.fixture
def inbox(tmp_path):
    """A folder for frames."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def session(project_folder):
    """A session of the project's database, for what nobody else need see."""
    engine = connect(read_settings(project_folder).database_url)
    with Session(engine) as opened:
        yield opened
    engine.dispose()


@pytest.fixture
def project(project_folder):
    """The project, open, with a stand-in for the network."""
    with open_tiny(project_folder) as opened:
        yield opened


@pytest.fixture(scope="session")
def taught(empty_project, tmp_path_factory):
    """A project with labels enough to train a classifier; not to be written to."""
    folder = tmp_path_factory.mktemp("taught")
    with copied(empty_project, folder / "project") as project_folder:
        with open_tiny(project_folder) as project:
            teach(project, folder)
        yield project_folder


def pytest_addoption(parser):
    parser.addoption("--database", default="sqlite", help="sqlite, postgresql, or a server's URL")


def pytest_configure(config):
    databases.start(config.getoption("--database"))


def pytest_unconfigure():
    databases.stop()


def pytest_collection_modifyitems(config, items):
    """Call what needs a real browser so, and leave out what is not about the database asked for.

    'make test' leaves the browser's to 'make browser'.
    """
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    asked = config.getoption("--database")
    left_out = [one for one in items if not databases.is_wanted(one, asked)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [one for one in items if databases.is_wanted(one, asked)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let no garbage be collected while a failure is written down.

    CPython 3.11 keeps one count of recursion for all threads that parse source to a tree. A
    finalizer in the middle lets another thread run: where a server logs an error just then,
    both parse, and pytest dies of "AST constructor recursion depth mismatch".
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
