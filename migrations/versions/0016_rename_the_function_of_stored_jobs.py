"""rename the function that the stored schedule refers to

APScheduler stores the state of a job as a pickle, with the function's module and name.

Revision ID: 0016
Revises: 0015
"""

import pickle

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_BEFORE, _AFTER = "qc.watch:run_job", "qc.service.scheduler:run_job"

_JOBS = sa.table("scheduled_job", sa.column("id"), sa.column("job_state", sa.LargeBinary()))


def upgrade() -> None:
    _rename(_BEFORE, _AFTER)


def downgrade() -> None:
    _rename(_AFTER, _BEFORE)


def _rename(old: str, new: str) -> None:
    connection = op.get_bind()
    for row in connection.execute(sa.select(_JOBS.c.id, _JOBS.c.job_state)).all():
        state = pickle.loads(row.job_state)  # noqa: S301 - the daemon reads it likewise
        if state["func"] == old:
            content = pickle.dumps(state | {"func": new}, pickle.HIGHEST_PROTOCOL)
            query = sa.update(_JOBS).where(_JOBS.c.id == row.id)
            connection.execute(query.values(job_state=content))
