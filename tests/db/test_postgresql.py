"""What is PostgreSQL's own: its migrations, and the server that the tests bring along."""

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

from qc._files import shipped
from qc.db.migrate import check_integrity, upgrade_schema
from qc.db.models import EmbeddingRow
from tests.support.remembered import Past, remember
from tests.support.tiny import open_tiny

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def downgrade(engine, revision):
    config = Config()
    config.set_main_option("script_location", str(shipped("migrations")))
    config.attributes["engine"] = engine
    command.downgrade(config, revision)


@pytest.mark.postgresql
def test_vectors_kept_as_bytes_become_vectors_and_go_back(project_folder):
    with open_tiny(project_folder) as project:
        remember(project, Past(vector=(0.5, -0.25, 1e-4)), Past(vector=(1.0, 65504.0, 0.0)))
        downgrade(project.engine, "0010")
        with project.engine.connect() as connection:
            stored = connection.scalar(text("SELECT vector FROM embedding WHERE id = 1"))
            assert stored == np.array([0.5, -0.25, 1e-4], "<f2").tobytes()
        upgrade_schema(project.engine)
        check_integrity(project.engine)
        with Session(project.engine) as session:
            found = session.scalars(select(EmbeddingRow.vector).order_by(EmbeddingRow.id)).all()
    assert found[0].tolist() == np.array([0.5, -0.25, 1e-4], np.float16).tolist()
    assert found[1].tolist() == [1.0, 65504.0, 0.0]


@pytest.mark.postgresql
def test_texts_are_sorted_by_their_characters_numbers_whatever_the_servers_language(project):
    query = text(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type = 'character varying' AND collation_name IS DISTINCT FROM 'C'"
        " AND table_name != 'alembic_version'"
    )
    with project.reads() as session:
        assert session.scalar(query) == 0


@pytest.mark.postgresql
@pytest.mark.usefixtures("project_folder")
def test_a_server_goes_with_whoever_started_it_even_if_that_one_is_killed():
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
