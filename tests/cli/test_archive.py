"""Commands of `qc archive`."""

import json

import pytest

from tests.support.buckets import BUCKET
from tests.support.tiny_spectrograph import bias_jump, write_frame, write_history


@pytest.mark.once
def test_reprocess_prints_changed_verdicts(qc, installed, inbox):
    write_frame(inbox, 1, 1, change=bias_jump)
    write_frame(inbox, 1, 2)
    assert qc("frames", "process", inbox).code == 1
    assert qc("archive", "reprocess") == (
        0,
        "2 extensions judged again: 0 changed status\n",
        "judge again (2)\n",
    )
    file = installed / "instruments" / "tiny.yaml"
    file.write_text(file.read_text().replace("[80, 120]", "[80, 200]"))
    run = qc("archive", "reprocess", "--until", "2026-01-02", "--thresholds", "newest")
    assert run.code == 0
    assert "ANOMALOUS │ UNDECIDED" in run.out
    assert run.out.splitlines()[-1] == "2 extensions judged again: 1 changed status"
    file.write_text(file.read_text().replace("[80, 200]", "[80, 120]"))
    run = qc("archive", "reprocess", "--json")
    result = json.loads(run.out)
    assert (run.code, result["judged"], result["left_out"]) == (1, 2, 0)
    [flip] = result["changed"]
    assert (flip["before"], flip["status"]) == ("UNDECIDED", "ANOMALOUS")
    assert qc("archive", "reprocess", "--since", "2026-01-02").out.startswith("0 extensions judged")


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.usefixtures("installed")
def test_backfill_reads_bucket_and_resumes(qc, inbox, bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    for path in write_history(inbox, frames=3):
        bucket.put(f"raw/2026/{path.name}", path.read_bytes())
    bucket.put("raw/2026/broken.fits", b"no FITS at all")
    results = []
    for _ in range(2):
        done = qc("archive", "backfill", f"s3://{BUCKET}/raw", "--json")
        assert done.code == 1  # a file is broken
        results.append(json.loads(done.out))
    assert [result["files"] for result in results] == [
        {"processed": 3, "failed": 1},
        {"known": 3, "failed": 1},
    ]
    assert [result["verdicts"] for result in results] == [{"UNDECIDED": 3}, {}]
    assert results[1]["failures"][0]["file"].endswith("/2026/broken.fits")
