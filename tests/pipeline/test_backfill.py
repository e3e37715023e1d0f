"""An archive taken in by many hands, some of which are cut off: the rows are those of one hand."""

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
from qc.db.models import FrameRow
from qc.db.recording import count_unjudged
from qc.errors import ClusterUnavailableError, ConfigurationError
from qc.pipeline.backfill import find_archive, measure_archive
from qc.pipeline.dask_workers import open_cluster
from qc.pipeline.process import ProcessingOutcome, judge_again, judge_waiting, process_frames
from qc.project import Project
from tests.pipeline.test_readers import a_week
from tests.support.builders import write
from tests.support.databases import copied, write_settings
from tests.support.learnt import learnt
from tests.support.tiny import Floats, Rounded, light_leak, open_tiny, write_frame, write_history
from tests.support.waiting import wait_until

distributed = pytest.importorskip("distributed")

STARTS_WITHIN_S = 60
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Dask's own sockets


@pytest.fixture(scope="module")
def week(empty_project, tmp_path_factory):
    """A week's files, and what is learnt when they are processed one by one in order of time."""
    folder = tmp_path_factory.mktemp("week")
    (folder / "archive").mkdir()
    paths = a_week(folder / "archive")
    with (
        copied(empty_project, folder / "serial") as project_folder,
        open_tiny(project_folder, Rounded()) as project,
    ):
        certify(project, paths)
        for _ in process_frames(paths, project):
            pass
        return folder / "archive", learnt(project)


def certify(project: Project, paths: list[Path]) -> None:
    """Let the first night be certified, so that what follows has references."""
    for _ in process_frames(paths[:21], project, LabelName.GOOD):
        pass


@pytest.fixture
def empty(project_folder, week):
    """A project that knows the week's certified night and nothing else."""
    with open_tiny(project_folder, Rounded()) as project:
        certify(project, sorted(week[0].iterdir()))
        yield project


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two worker processes, each with a nanny that starts it anew."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as begun:
        yield begun


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as opened:
        yield opened


def measure(project: Project, folder: Path, client: Any = None) -> list[ProcessingOutcome]:
    return list(measure_archive(find_archive([str(folder)], project), project, client=client))


def judge(project: Project) -> int:
    return len(list(judge_waiting(project)))


def test_an_archive_is_found_newest_first(project, inbox):
    paths = [write_frame(inbox, night) for night in (2, 5, 3)]
    found = find_archive([str(inbox), str(paths[0])], project)
    assert [file.path for file in found] == [paths[1], paths[2], paths[0]]


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.once)])
def test_measured_newest_first_and_judged_later_is_the_same_as_one_by_one(
    project_folder, week, monkeypatch, workers
):
    monkeypatch.setenv("QC_WORKERS", workers)
    folder, expected = week
    with open_tiny(project_folder, Rounded()) as project:
        certify(project, sorted(folder.iterdir()))
        outcomes = measure(project, folder)
        assert len(outcomes) == len(list(folder.iterdir()))
        assert judge(project) > 0
        assert learnt(project) == expected


@pytest.mark.once
def test_a_cluster_learns_what_one_process_learns(empty, week, client):
    folder, expected = week
    measure(empty, folder, client)
    judge(empty)
    assert learnt(empty) == expected


@pytest.mark.once
def test_what_is_known_is_not_read_again(empty, week, client):
    folder, expected = week
    measure(empty, folder, client)
    again = [one.state for one in measure(empty, folder, client)]
    failed = [row for row in expected["frame"] if "state='failed'" in row]
    assert again.count(FrameState.KNOWN) == len(again) - len(failed)
    judge(empty)
    assert judge(empty) == 0


def test_what_is_expected_of_a_setup_is_learnt_once(empty, week, monkeypatch):
    learnt_from = []

    def noted(references, sensor):
        learnt_from.append(references.tobytes())
        return learn_expectation(references, sensor)

    monkeypatch.setattr("qc.db.reference_models.learn_expectation", noted)
    measure(empty, week[0])
    judge(empty)
    assert len(learnt_from) == len(set(learnt_from)) > 1


def test_judging_that_was_stopped_goes_on_where_it_was(empty, week):
    folder, expected = week
    measure(empty, folder)
    next(judge_waiting(empty))
    with empty.reads() as session:
        assert count_unjudged(session) > 0
    judge(empty)
    assert learnt(empty) == expected


def test_what_awaits_its_verdict_is_no_reference_and_is_not_judged_again(project, inbox):
    write_history(inbox, frames=20)
    measure(project, inbox)
    [outcome] = process_frames([write_frame(inbox, 3)], project)
    assert outcome.judged[0].evidence.reference_size == 0
    assert [one.name for one in judge_again(project)] == [outcome.path.stem]


def test_an_anomaly_of_an_archive_owes_an_alert_as_any_other(empty, inbox):
    write_frame(inbox, 6, change=light_leak)
    measure(empty, inbox)
    assert learnt(empty)["alert"] == []
    judge(empty)
    assert len(learnt(empty)["alert"]) == 1


# --- cut off in the middle ------------------------------------------------------------------------


def in_batches(project: Project, frames: int) -> Project:
    """Let no more frames be read before the encoder is called: there is more to be cut off."""
    settings = project.settings.model_copy(update={"batch_frames": frames})
    return replace(project, settings=settings)


@pytest.mark.once
def test_a_worker_that_is_killed_costs_nothing(empty, week, client):
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
    assert learnt(empty) == expected


@contextmanager
def own_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Begin a scheduler and a worker as an administrator would; give address and processes."""
    place = folder / "scheduler.json"
    place.unlink(missing_ok=True)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    dask = [sys.executable, "-m", "dask"]
    common = ["--scheduler-file", str(place), "--no-dashboard"]
    begun = []
    for words in (["scheduler", "--port", "0"], ["worker", "--nthreads", "1", "--no-nanny"]):
        begun.append(
            subprocess.Popen(
                [*dask, *words, *common],
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


@pytest.mark.once
def test_a_scheduler_that_is_killed_stops_the_work_and_a_new_one_ends_it(empty, week, tmp_path):
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
    assert learnt(empty) == expected


CLIENT = """
import sys
from pathlib import Path
from qc.pipeline.backfill import find_archive, measure_archive
from qc.pipeline.dask_workers import open_cluster
from qc.pipeline.process import judge_waiting
from tests.support.tiny import Rounded, open_tiny

if __name__ == "__main__":
    folder, archive, address = sys.argv[1:]
    with open_tiny(Path(folder), Rounded()) as project, open_cluster(address) as client:
        for _ in measure_archive(find_archive([archive], project), project, client=client):
            print("measured", flush=True)
        for _ in judge_waiting(project):
            print("judged", flush=True)
"""


@pytest.mark.once
@pytest.mark.parametrize("lines", [3, 35])
def test_a_client_that_is_killed_loses_nothing_and_repeats_nothing(
    empty, week, cluster, client, tmp_path, lines
):
    folder, expected = week
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "QC_BATCH_FRAMES": "2",
    }
    words = [sys.executable, script, empty.settings.project, folder, cluster.scheduler_address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as begun:
        assert begun.stdout
        for _ in range(lines):
            assert begun.stdout.readline()
        begun.kill()
    with empty.reads() as session:
        assert session.scalar(select(func.count()).select_from(FrameRow)) >= 21
    measure(empty, folder, client)
    judge(empty)
    assert learnt(empty) == expected


# --- in a store -----------------------------------------------------------------------------------


@pytest.fixture
def stored(bucket, inbox):
    """A bucket with a night of biases, the next one's leak, and a broken file."""
    paths = [*write_history(inbox, frames=20), write_frame(inbox, 2, change=light_leak)]
    paths.append(write(inbox / "TINY.2026-01-02T20:40:00.fits", b"no FITS at all"))
    for path in paths:
        bucket.put(f"raw/2026/{path.name}", path.read_bytes())
    return bucket


def assert_all_taken_in(project: Project, address: str, client: Any = None) -> None:
    """Take in what is stored, twice; nothing but the broken file is read a second time."""
    found = find_archive([address], project)
    assert found[0].path.name == "TINY.2026-01-02T20:40:00.fits"
    for expected in ([FrameState.PROCESSED] * 21, [FrameState.KNOWN] * 21):
        outcomes = measure_archive(found, project, client=client)
        states = [one.state for one in outcomes]
        assert sorted(states) == sorted([FrameState.FAILED, *expected])
    assert judge(project) == 21
    assert not project.settings.fetched_folder.exists()


def test_an_archive_in_a_bucket_is_read_as_the_inbox_in_that_bucket_is(project_folder, stored):
    other = '[[inbox]]\npath = "s3://other/raw"\noptions.endpoint_url = "http://127.0.0.1:1"\n'
    write_settings(project_folder, f"{other}[[inbox]]\n{stored.inbox}\n")
    with open_tiny(project_folder) as project:
        assert_all_taken_in(project, "s3://archive/raw/2026")


@pytest.mark.once
def test_an_archive_in_a_bucket_is_read_where_the_environment_says(project, stored, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", stored.url)
    assert_all_taken_in(project, "s3://archive/raw")


@pytest.mark.once
def test_workers_read_an_archive_in_a_bucket_by_themselves(project_folder, stored):
    write_settings(project_folder, f"[[inbox]]\n{stored.inbox}\n")
    with open_tiny(project_folder) as project, open_cluster("local") as client:
        assert_all_taken_in(project, "s3://archive/raw", client)


# --- which worker does what -----------------------------------------------------------------------


class OnGPU(Rounded):
    """An encoder that works on workers with a GPU alone."""

    def embed(self, inputs: Floats) -> Floats:
        if not distributed.get_worker().state.total_resources.get("GPU"):
            raise ValueError("no GPU here")
        return super().embed(inputs)


@pytest.mark.once
def test_where_workers_have_a_gpu_they_alone_embed(project_folder, inbox, tmp_path):
    write_history(inbox, frames=12)
    with (
        own_cluster(tmp_path) as (address, _),
        open_cluster(address) as client,
        open_tiny(project_folder, OnGPU()) as project,
    ):
        root = str(Path(__file__).parents[2])
        words = [sys.executable, "-m", "dask", "worker", address, "--resources", "GPU=1"]
        with subprocess.Popen(
            [*words, "--no-dashboard", "--no-nanny"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": root},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as worker:
            client.wait_for_workers(2, timeout=STARTS_WITHIN_S)
            states = {one.state for one in measure(project, inbox, client)}
            worker.kill()
    assert states == {FrameState.PROCESSED}


class Differs(Rounded):
    """An encoder that is another one in every process."""

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return f"process-{os.getpid()}"


@pytest.mark.once
def test_a_worker_with_another_encoder_is_refused(project_folder, inbox, client):
    write_history(inbox, frames=2)
    with (
        open_tiny(project_folder, Differs()) as project,
        pytest.raises(ConfigurationError, match="a worker's encoder is process-"),
    ):
        measure(project, inbox, client)


class Weightless(Rounded):
    """An encoder whose weights no worker can read."""

    def embed(self, _: Floats) -> Floats:
        raise WeightsError("/data/w.weights.h5: no such weights file")


@pytest.mark.once
def test_weights_that_a_worker_cannot_read_end_the_run_and_no_file_is_called_broken(
    project_folder, inbox, client
):
    write_history(inbox, frames=20)
    with open_tiny(project_folder, Weightless()) as project:
        with pytest.raises(ConfigurationError) as told:
            measure(project, inbox, client)
        with project.reads() as session:
            assert session.scalar(select(func.count()).select_from(FrameRow)) == 0
    words = f"on the worker {gethostname()}: /data/w.weights.h5: no such weights file"
    assert str(told.value) == words


def test_where_nobody_answers_the_address_is_said(monkeypatch):
    monkeypatch.setattr("qc.pipeline.dask_workers._WAIT_S", 1)
    with (
        pytest.raises(ConfigurationError, match=r"tcp://127\.0\.0\.1:1: expected the address"),
        open_cluster("tcp://127.0.0.1:1"),
    ):
        pass
