"""The benchmark on real frames: generated images and figures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from benchmarks.real.__main__ import main
from benchmarks.real.analysis import by_kind, by_series, false_alarms, misses
from benchmarks.real.archive import ABSENT, BIAS, MANIFEST, SPRAT_ARC, RealFrame, read_real
from benchmarks.real.folds import ANOTHER, NO_FIRST, REALLY, REFERENCES, bias_folds
from benchmarks.real.judging import Verdict
from benchmarks.real.making import (
    Hits,
    Wander,
    displacement,
    dissect,
    find_fixed,
    find_hits,
    rearrange,
    split,
)
from benchmarks.real.work import folds_of
from qc.core.frame import DetectorProperties, Extension, Setup

FOLDER = Path(__file__).parents[3] / "shared" / "real"
needs_real_frames = pytest.mark.skipif(
    not (FOLDER / MANIFEST).exists(), reason=f"no real frames in {FOLDER}"
)
NY, NX = 240, 240
NO_HITS, STILL = Hits([], 0.0), Wander()
PICTURE = np.zeros((2, 2), np.float32)


def frame_of(pixels: np.ndarray, *, noise_adu: float = 3, gain: float = 1) -> RealFrame:
    """A frame whose zero is 100 ADU."""
    extension = Extension(
        number=0,
        setup=Setup("TB0", "CCD", "1x1", "only"),
        pixels=pixels.astype(np.float32),
        light=(slice(None), slice(None)),
        prescan=None,
        overscan=None,
        detector=DetectorProperties(gain, noise_adu, 100, 65535),
        promised_light=0,
        stretch_adu=10,
    )
    return RealFrame(
        "t/a.fits", fits.Header(), extension, pixels.astype(np.float32), 40.0, 100, noise_adu
    )


def bias(seed: int) -> RealFrame:
    """A bias of 3 ADU of noise, with a hot pixel of 200 ADU and a column of 10 ADU."""
    pixels = np.random.default_rng(seed).normal(100, 3, (NY, NX))
    pixels[50, 60] += 200
    pixels[:, 90] += 10
    return frame_of(pixels)


def verdict(score: float, kind: str = "", strength: str = "", question: str = ANOTHER) -> Verdict:
    return Verdict(
        "one", question, "t/a.fits", 0, False, kind, strength, score, score > 1, "why", PICTURE
    )


def test_the_parts_of_an_exposure_have_independent_noise_of_the_right_size():
    rng = np.random.default_rng(1)
    frame = frame_of(100 + rng.poisson(1000, (NY, NX)) + rng.normal(0, 3, (NY, NX)))
    parts = np.array([part.pixels for part in split(frame, 4, STILL, NO_HITS, rng)], float) - 100
    assert sum(part.exposure_s for part in split(frame, 4, STILL, NO_HITS, rng)) == pytest.approx(
        40
    )
    assert parts.mean(axis=(1, 2)).sum() == pytest.approx(1000, abs=1)
    correlation = np.corrcoef(parts.reshape(4, -1))[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 0.02  # 5 sigma for 57 600 pixels
    photons_and_read_out = np.sqrt(parts.mean(axis=(1, 2)) + 9 + 1 / 12)  # rounding to integers
    assert parts.std(axis=(1, 2)) == pytest.approx(photons_and_read_out, rel=0.02)


def test_a_displacement_of_a_tenth_of_a_pixel_is_measured():
    y, x = np.mgrid[:60, :60]
    item, second = (
        1000 * np.exp(-((y - 30 - dy) ** 2 + (x - 30 - dx) ** 2) / 18)
        for dy, dx in ((0, 0), (0.1, -0.2))
    )
    assert displacement(item, 2 * second + 5) == pytest.approx((0.1, -0.2), abs=0.01)


def test_what_is_fixed_stays_and_the_noise_moves():
    frames, rng = [bias(seed) for seed in range(4)], np.random.default_rng(9)
    fixed = find_fixed(frames)
    assert fixed[50, 60]
    assert fixed[:, 90].mean() > 0.9
    assert fixed.mean() < 0.01
    anatomy = dissect(frames[0], fixed, rng)
    created = rearrange(anatomy, anatomy.drift, anatomy.columns, 1, rng).pixels.astype(float)
    real = frames[0].pixels
    assert created[50, 60] == pytest.approx(300, abs=15)
    assert created[:, 90].mean() == pytest.approx(110, abs=1)
    free = ~fixed
    assert abs(np.corrcoef(created[free], real[free])[0, 1]) < 0.05
    assert created[free].std() == pytest.approx(real[free].std(), rel=0.02)


def test_a_cosmic_ray_is_cut_out_whole_and_a_hot_pixel_is_not():
    frames = [bias(seed) for seed in range(4)]
    frames[2].pixels[20, 30:32] += (90, 60)
    fixed = find_fixed(frames)
    hits = find_hits([dissect(frame, fixed, np.random.default_rng(0)) for frame in frames])
    assert len(hits.stamps) == 1
    assert hits.stamps[0].sum() == pytest.approx(150, abs=20)
    assert hits.per_pixel == 1 / (4 * NY * NX)


def test_injected_frames_are_held_against_the_good_ones_of_their_series():
    some = [verdict(0.5), verdict(0.7), verdict(1.5), *(
        verdict(score, "hot_column", "faint") for score in (0.6, 3.0)
    )]  # fmt: skip
    row = by_series(some)["one"]
    assert (row.good, row.bad) == (3, 2)
    assert row.auroc.value == 4 / 6  # 0.6 is above one of three, 3.0 above all
    assert row.false_alarms.value == 1 / 3
    assert row.recall == {"faint": (1, 2)}
    result, rank = by_kind(some)["hot_column"]
    assert result == {"faint": (1, 2)}
    assert rank == pytest.approx(4 / 6)
    assert [item.score for item in misses(some)] == [0.6]
    assert [item.score for item in false_alarms(some)] == [1.5]


def test_real_faults_and_references_that_lack_something_are_counted_apart():
    some = [verdict(0.5), verdict(2, "dust", "gross"), verdict(9, REALLY, "0029"),
            verdict(5, question=NO_FIRST)]  # fmt: skip
    row = by_series(some)["all"]
    assert (row.good, row.bad) == (1, 1)
    assert false_alarms(some) == []


def test_without_real_frames_it_stops_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["real", "--real", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == ABSENT.format(folder=tmp_path)


@needs_real_frames
def test_no_test_of_a_bias_comes_from_a_frame_of_its_references():
    frames = [read_real(FOLDER, BIAS, file) for file in BIAS.nominal]
    fold, without_firsts = list(zip(range(2), bias_folds(frames), strict=False))
    for _, item in (fold, without_firsts):
        assert len(item.references) == REFERENCES
        assert {reference.source.file for reference in item.references} == set(BIAS.nominal[1:])
        assert {test.made.source.file for test in item.tests} == {BIAS.nominal[0]}
    assert not any(test.is_bad for test in without_firsts[1].tests)


@pytest.mark.slow
@needs_real_frames
def test_an_arc_is_tested_on_the_other_exposure_and_gets_a_pedestal():
    for fold in folds_of([SPRAT_ARC], FOLDER):
        sources = {reference.source.file for reference in fold.references}
        assert sources.isdisjoint(test.made.source.file for test in fold.tests)
        assert "L1DATE" not in fold.references[0].source.header
        assert np.median(fold.references[0].pixels) > SPRAT_ARC.pedestal_adu
