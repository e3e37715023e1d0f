"""Backfill with processes, clusters and interruptions: rows equal those of one process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from sqlalchemy import func, select

from embeddings.encoder import WeightsError
from embeddings.residual import learn_expectation
from qc.core.enums import FrameState, LabelName
from qc.db.recording import count_pending
from qc.db.schema.models import FrameRow
from qc.errors import ClusterUnavailableError, ConfigurationError
from qc.pipeline.archive import find_archive
from qc.pipeline.backfill import measure_archive
from qc.pipeline.batch import process_frames
from qc.pipeline.dask_workers import open_cluster
from qc.pipeline.outcomes import ProcessingOutcome
from qc.pipeline.rejudge import judge_pending, rejudge_frames
from qc.project import ProjectContext
from tests.pipeline.test_readers import a_week
from tests.support.builders import write
from tests.support.databases import copied_project, write_settings
from tests.support.snapshots import snapshot_rows
from tests.support.tiny_spectrograph import (
    Floats,
    RoundedStandIn,
    light_leak,
    open_tiny,
    write_frame,
    write_history,
)
from tests.support.waiting import wait_until

distributed = pytest.importorskip("distributed")

STARTS_WITHIN_S = 60
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Dask's own sockets


@pytest.fixture(scope="module")
def week(empty_project, tmp_path_factory):
    """Files of a week, and the rows after processing in order of time."""
    folder = tmp_path_factory.mktemp("week")
    (folder / "archive").mkdir()
    paths = a_week(folder / "archive")
    with (
        copied_project(empty_project, folder / "serial") as project_folder,
        open_tiny(project_folder, RoundedStandIn()) as project,
    ):
        certify(project, paths)
        for _ in process_frames(paths, project):
            pass
        return folder / "archive", snapshot_rows(project)


def certify(project: ProjectContext, paths: list[Path]) -> None:
    """Process the first night as certified references."""
    for _ in process_frames(paths[:21], project, LabelName.GOOD):
        pass


@pytest.fixture
def empty(project_folder, week):
    """Project with the certified night of the week only."""
    with open_tiny(project_folder, RoundedStandIn()) as project:
        certify(project, sorted(week[0].iterdir()))
        yield project


@pytest.fixture(scope="module")
def cluster():
    """Cluster of two worker processes that are restarted after a crash."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as begun:
        yield begun


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as opened:
        yield opened


def measure(project: ProjectContext, folder: Path, client: Any = None) -> list[ProcessingOutcome]:
    return list(measure_archive(find_archive([str(folder)], project), project, client=client))


def judge(project: ProjectContext) -> int:
    return len(list(judge_pending(project)))


def test_archive_is_sorted_newest_first(project, inbox):
    paths = [write_frame(inbox, night) for night in (2, 5, 3)]
    files = find_archive([str(inbox), str(paths[0])], project)
    assert [file.path for file in files] == [paths[1], paths[2], paths[0]]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.once)])
def test_backfill_equals_processing_in_order_of_time(project_folder, week, monkeypatch, workers):
    monkeypatch.setenv("QC_WORKERS", workers)
    folder, expected = week
    with open_tiny(project_folder, RoundedStandIn()) as project:
        certify(project, sorted(folder.iterdir()))
        outcomes = measure(project, folder)
        assert len(outcomes) == len(list(folder.iterdir()))
        assert judge(project) > 0
        assert snapshot_rows(project) == expected


@pytest.mark.slow
@pytest.mark.once
def test_backfill_on_cluster_equals_one_process(empty, week, client):
    folder, expected = week
    measure(empty, folder, client)
    judge(empty)
    assert snapshot_rows(empty) == expected


@pytest.mark.once
def test_known_files_are_not_read_again(empty, week, client):
    folder, expected = week
    measure(empty, folder, client)
    again = [item.state for item in measure(empty, folder, client)]
    failed = [row for row in expected["frame"] if "state='failed'" in row]
    assert again.count(FrameState.KNOWN) == len(again) - len(failed)
    judge(empty)
    assert judge(empty) == 0


def test_residual_model_of_setup_is_fitted_once(empty, week, monkeypatch):
    learnt_from = []

    def noted(references, sensor):
        learnt_from.append(references.tobytes())
        return learn_expectation(references, sensor)

    monkeypatch.setattr("embeddings.residual.learn_expectation", noted)
    measure(empty, week[0])
    judge(empty)
    assert len(learnt_from) == len(set(learnt_from)) > 1


def test_interrupted_judging_continues(empty, week):
    folder, expected = week
    measure(empty, folder)
    next(judge_pending(empty))
    with empty.read_session() as session:
        assert count_pending(session) > 0
    judge(empty)
    assert snapshot_rows(empty) == expected


def test_pending_extension_is_no_reference_and_is_not_rejudged(project, inbox):
    write_history(inbox, frames=20)
    measure(project, inbox)
    [outcome] = process_frames([write_frame(inbox, 3)], project)
    assert outcome.judgements[0].evidence.reference_size == 0
    assert [item.name for item in rejudge_frames(project)] == [outcome.path.stem]


def test_anomaly_of_archive_creates_alert(empty, inbox):
    write_frame(inbox, 6, change=light_leak)
    measure(empty, inbox)
    assert snapshot_rows(empty)["alert"] == []
    judge(empty)
    assert len(snapshot_rows(empty)["alert"]) == 1


# --- interruptions --------------------------------------------------------------------------------


def in_batches(project: ProjectContext, frames: int) -> ProjectContext:
    """Limit the batch size, so that there are more batches to interrupt."""
    settings = project.settings.model_copy(update={"batch_frames": frames})
    return replace(project, settings=settings)


@pytest.mark.slow
@pytest.mark.once
def test_killed_worker_loses_no_frame(empty, week, client):
    empty = in_batches(empty, 4)
    folder, expected = week
    outcomes = measure_archive(find_archive([str(folder)], empty), empty, client=client)
    next(outcomes)
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)
        break
    for _ in outcomes:
        pass
    judge(empty)
    assert snapshot_rows(empty) == expected


@contextmanager
def own_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and a worker from the command line; yield address and processes."""
    place = folder / "scheduler.json"
    place.unlink(missing_ok=True)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(place), "--no-dashboard"]
    begun = []
    for arguments in (["scheduler", "--port", "0"], ["worker", "--nthreads", "1", "--no-nanny"]):
        begun.append(
            subprocess.Popen(
                [*dask, *arguments, *common],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        wait_until(place.exists)
    try:
        with distributed.Client(scheduler_file=str(place)) as client:
            client.wait_for_workers(1, timeout=STARTS_WITHIN_S)
            address = str(client.scheduler.address)
        yield address, begun
    finally:
        for process in begun:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.once
def test_killed_scheduler_stops_and_new_scheduler_continues(empty, week, tmp_path):
    empty = in_batches(empty, 2)
    folder, expected = week
    with own_cluster(tmp_path) as (address, processes), open_cluster(address) as client:
        outcomes = measure_archive(find_archive([str(folder)], empty), empty, client=client)
        next(outcomes)
        processes[0].kill()
        processes[0].wait()
        with pytest.raises(
            ClusterUnavailableError, match="what it sent back is kept: run it again"
        ):
            list(outcomes)
    with own_cluster(tmp_path) as (address, _), open_cluster(address) as client:
        measure(empty, folder, client)
    judge(empty)
    assert snapshot_rows(empty) == expected


CLIENT = """
import sys
from pathlib import Path
from qc.pipeline.archive import find_archive
from qc.pipeline.backfill import measure_archive
from qc.pipeline.dask_workers import open_cluster
from qc.pipeline.rejudge import judge_pending
from tests.support.tiny_spectrograph import RoundedStandIn, open_tiny

if __name__ == "__main__":
    folder, archive, address = sys.argv[1:]
    with open_tiny(Path(folder), RoundedStandIn()) as project, open_cluster(address) as client:
        for _ in measure_archive(find_archive([archive], project), project, client=client):
            print("measured", flush=True)
        for _ in judge_pending(project):
            print("judged", flush=True)
"""


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("lines", [3, 35])
def test_killed_client_loses_and_repeats_nothing(empty, week, cluster, client, tmp_path, lines):
    folder, expected = week
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "QC_BATCH_FRAMES": "2",
    }
    arguments = [sys.executable, script, empty.settings.project, folder, cluster.scheduler_address]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as begun:
        assert begun.stdout
        for _ in range(lines):
            assert begun.stdout.readline()
        begun.kill()
    with empty.read_session() as session:
        assert session.scalar(select(func.count()).select_from(FrameRow)) >= 21
    measure(empty, folder, client)
    judge(empty)
    assert snapshot_rows(empty) == expected


# --- remote storage--------------------------------------------------------------------------------


@pytest.fixture
def stored(bucket, inbox):
    """Bucket with a night of biases, a light leak of the next night, and a broken file."""
    paths = [*write_history(inbox, frames=20), write_frame(inbox, 2, change=light_leak)]
    paths.append(write(inbox / "TINY.2026-01-02T20:40:00.fits", b"no FITS at all"))
    for path in paths:
        bucket.put(f"raw/2026/{path.name}", path.read_bytes())
    return bucket


def assert_all_taken_in(project: ProjectContext, address: str, client: Any = None) -> None:
    """Measure the stored files twice; only the broken file is read again."""
    files = find_archive([address], project)
    assert files[0].path.name == "TINY.2026-01-02T20:40:00.fits"
    for expected in ([FrameState.PROCESSED] * 21, [FrameState.KNOWN] * 21):
        outcomes = measure_archive(files, project, client=client)
        states = [item.state for item in outcomes]
        assert sorted(states) == sorted([FrameState.FAILED, *expected])
    assert judge(project) == 21
    assert not project.settings.fetched_folder.exists()


@pytest.mark.slow
def test_archive_in_bucket_uses_options_of_inbox(project_folder, stored):
    remote = '[[inbox]]\npath = "s3://other/raw"\noptions.endpoint_url = "http://127.0.0.1:1"\n'
    write_settings(project_folder, f"{remote}[[inbox]]\n{stored.inbox}\n")
    with open_tiny(project_folder) as project:
        assert_all_taken_in(project, "s3://archive/raw/2026")


@pytest.mark.once
def test_archive_in_bucket_uses_environment(project, stored, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", stored.url)
    assert_all_taken_in(project, "s3://archive/raw")


@pytest.mark.slow
@pytest.mark.once
def test_workers_read_archive_in_bucket(project_folder, stored):
    write_settings(project_folder, f"[[inbox]]\n{stored.inbox}\n")
    with open_tiny(project_folder) as project, open_cluster("local") as client:
        assert_all_taken_in(project, "s3://archive/raw", client)


# --- roles of workers -----------------------------------------------------------------------------


class OnGPU(RoundedStandIn):
    """Encoder that needs a worker with a GPU."""

    def embed(self, inputs: Floats) -> Floats:
        if not distributed.get_worker().state.total_resources.get("GPU"):
            raise ValueError("no GPU here")
        return super().embed(inputs)


@pytest.mark.slow
@pytest.mark.once
def test_workers_with_gpu_alone_embed(project_folder, inbox, tmp_path):
    write_history(inbox, frames=12)
    with (
        own_cluster(tmp_path) as (address, _),
        open_cluster(address) as client,
        open_tiny(project_folder, OnGPU()) as project,
    ):
        root = str(Path(__file__).parents[2])
        arguments = [sys.executable, "-m", "dask", "worker", address, "--resources", "GPU=1"]
        with subprocess.Popen(
            [*arguments, "--no-dashboard", "--no-nanny"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as worker:
            client.wait_for_workers(2, timeout=STARTS_WITHIN_S)
            states = {item.state for item in measure(project, inbox, client)}
            worker.kill()
    assert states == {FrameState.PROCESSED}


class Differs(RoundedStandIn):
    """Encoder with another fingerprint in each process."""

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return f"process-{os.getpid()}"


@pytest.mark.once
def test_worker_with_another_encoder_is_refused(project_folder, inbox, client):
    write_history(inbox, frames=2)
    with (
        open_tiny(project_folder, Differs()) as project,
        pytest.raises(ConfigurationError, match="a worker's encoder is process-"),
    ):
        measure(project, inbox, client)


class Weightless(RoundedStandIn):
    """Encoder with weights that no worker can read."""

    def embed(self, _: Floats) -> Floats:
        raise WeightsError("/data/w.weights.h5: no such weights file")


@pytest.mark.once
def test_unreadable_weights_on_worker_end_the_run(project_folder, inbox, client):
    write_history(inbox, frames=20)
    with open_tiny(project_folder, Weightless()) as project:
        with pytest.raises(ConfigurationError) as raised:
            measure(project, inbox, client)
        with project.read_session() as session:
            assert session.scalar(select(func.count()).select_from(FrameRow)) == 0
    message = f"on the worker {gethostname()}: /data/w.weights.h5: no such weights file"
    assert str(raised.value) == message


def test_unreachable_cluster_error_names_address(monkeypatch):
    monkeypatch.setattr("qc.pipeline.dask_workers._WAIT_S", 1)
    with (
        pytest.raises(ConfigurationError, match=r"tcp://127\.0\.0\.1:1: expected the address"),
        open_cluster("tcp://127.0.0.1:1"),
    ):
        pass
