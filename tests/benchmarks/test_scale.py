"""The cost model of an archive, on numbers for mental arithmetic."""

from dataclasses import replace

import pytest

from benchmarks.scale import Host, Load, Stages, model

STAGES = Stages(read=1.0, embed=0.5, record=0.001, judge=0.01, learn=0.0)
LOAD = Load(
    frames=36_000,
    gigabytes=360,
    uncompressed_gigabytes=36 * 35.5,  # each as large as those that were measured
    images=72_000,
    weeks=0,
    setups=0,
)
HOST = Host(cores=10, images_per_s=100, network_mb_s=1000, store_mb_s=1e6, price=3.0)


def test_the_slowest_stage_sets_the_pace():
    answer = model(LOAD, HOST, 1, STAGES)
    assert answer["cores"] == pytest.approx(1.0)  # 36 000 s over ten cores
    assert answer["GPU"] == pytest.approx(0.2)
    assert answer["network"] == pytest.approx(0.1)
    assert answer["measuring"] == pytest.approx(1.0)
    assert answer["judging"] == pytest.approx(0.1)
    assert answer["cost"] == pytest.approx(3.0 * 1.1)


def test_without_a_gpu_the_cores_embed_too():
    answer = model(LOAD, replace(HOST, images_per_s=0), 1, STAGES)
    assert answer["measuring"] == pytest.approx(1.5)
    assert answer["GPU"] == 0


def test_what_one_client_records_does_not_go_faster_on_more_hosts():
    slow = replace(STAGES, record=0.05)
    assert model(LOAD, HOST, 16, slow)["measuring"] == pytest.approx(0.5)


def test_what_is_expected_of_setups_is_learnt_four_at_once_each_week():
    answer = model(replace(LOAD, weeks=520, setups=60), HOST, 1, replace(STAGES, learn=1.0))
    assert answer["judging"] == pytest.approx(0.1 + 520 * 60 / 4 / 3600)


def test_of_several_hosts_only_one_is_paid_for_while_verdicts_are_reached():
    answer = model(LOAD, HOST, 4, STAGES)
    assert answer["measuring"] == pytest.approx(0.25)
    assert answer["cost"] == pytest.approx(3.0 * (4 * 0.25 + 0.1))
