"""Commands of `qc service` and `qc status`."""

import json
from datetime import UTC, date, datetime

import pytest
from sqlalchemy.orm import Session

from qc.db.schema.engine import connect
from qc.db.schema.models import SelfTestRow
from qc.settings import read_settings


@pytest.mark.usefixtures("judged")
def test_status_prints_table_or_json(qc):
    run = qc("status", "--json")
    status = json.loads(run.out)
    assert (run.code, status["alerts_owed"], status["newest_night"]) == (
        0,
        1,
        "2026-01-02",
    )
    table = qc("status")
    assert table.code == 0
    assert "alerts owed" in table.out


def test_self_test_without_frames_prints_reason(qc, judged):
    for path in judged.parent.joinpath("inbox").glob("*.fits"):
        path.unlink()
    done = qc("service", "self-test", "--json")
    assert done.code == 0
    assert json.loads(done.out)["trials"] == []
    assert "nothing could be tried" in qc("service", "self-test").out


def test_self_test_below_limit_has_exit_code_1(qc, judged):
    engine = connect(read_settings(judged).database_url)
    with Session(engine) as session, session.begin():
        for number in range(20):
            row = SelfTestRow(
                night=date(2026, 1, 1), at=datetime.now(UTC), instrument="TINY", image_type="TB0",
                kind="light_leak", strength="gross", is_found=number < 5, score=1, frame="a",
                reason="",
            )  # fmt: skip
            session.add(row)
    engine.dispose()
    done = qc("service", "self-test", "--night", "2026-01-02")
    assert done.code == 1
    assert "TINY: 5 of 20 injected faults were found in the last night (25 %)" in done.out
