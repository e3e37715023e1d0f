"""Features of PostgreSQL: migrations, text order and the tests' server."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from qc._files import packaged_path
from qc.db.schema.migrate import check_integrity, upgrade_schema
from qc.db.schema.models import EmbeddingRow
from tests.support.tiny_spectrograph import open_tiny
from tests.support.verdict_rows import StoredExtension, add_extensions

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def downgrade(engine, revision):
    config = Config()
    config.set_main_option("script_location", str(packaged_path("migrations")))
    config.attributes["engine"] = engine
    command.downgrade(config, revision)


@pytest.mark.postgresql
def test_migration_of_vectors_round_trips(project_folder):
    with open_tiny(project_folder) as project:
        add_extensions(
            project,
            StoredExtension(vector=(0.5, -0.25, 1e-4)),
            StoredExtension(vector=(1.0, 65504.0, 0.0)),
        )
        downgrade(project.engine, "0010")
        with project.engine.connect() as connection:
            stored = connection.scalar(text("SELECT vector FROM embedding WHERE id = 1"))
            assert stored == np.array([0.5, -0.25, 1e-4], "<f2").tobytes()
        upgrade_schema(project.engine)
        check_integrity(project.engine)
        with Session(project.engine) as session:
            results = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).all()
    assert results[0].tolist() == np.array([0.5, -0.25, 1e-4], np.float16).tolist()
    assert results[1].tolist() == [1.0, 65504.0, 0.0]


@pytest.mark.postgresql
def test_text_order_is_by_code_point(project):
    query = text(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type = 'character varying' AND collation_name IS DISTINCT FROM 'C'"
        " AND table_name != 'alembic_version'"
    )
    with project.read_session() as session:
        assert session.scalar(query) == 0


@pytest.mark.postgresql
@pytest.mark.usefixtures("project_folder")
def test_server_ends_with_its_parent_process():
    code = (
        "from benchmarks.postgresql import running\n"
        "with running() as url: print(url.query['host'], flush=True); input()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    data = Path(starter.stdout.readline().decode().strip())
    assert (data / "postmaster.pid").exists()
    starter.kill()
    starter.communicate()
    ends = time.monotonic() + PATIENCE_S
    while data.parent.exists():
        assert time.monotonic() < ends, "waited in vain"
        threading.Event().wait(0.05)
