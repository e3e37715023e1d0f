"""Cross-validation folds: references of some real frames, tests of others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.real.archive import BIAS, DEVENY_ARC, RealFrame, Series
from benchmarks.real.making import (
    Hits,
    MadeImage,
    Wander,
    as_taken,
    dissect,
    drift_between,
    find_fixed,
    rearrange,
    split,
)
from qc.simulator import FAULTS, INJECTABLE, inject

Card = tuple[str, str]  # a kind of fault, and its strength

SEED = 131  # of no tuning, and no other benchmark
REFERENCES = 25
GOOD_TESTS = 20  # of a lamp, in each fold; of biases, all folds together, somewhat more
_BIAS_TESTS = 5  # modified copies of each bias that is held out
_BIAS_ROUNDS = 2  # times that every fault is injected into biases


@dataclass(frozen=True)
class Test:
    """An image to be judged.

    Attributes
    ----------
    kind, strength : str
        The fault that was injected; empty for none. ``real`` for a frame that is really faulty.
    """

    made: MadeImage
    kind: str = ""
    strength: str = ""

    @property
    def is_bad(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.kind)


@dataclass(frozen=True)
class Fold:
    """References and tests that have no pixel in common, or no photon.

    Attributes
    ----------
    question : str
        ``another exposure``: the tests are of a real frame of which the references have nothing.
        ``other photons``: of the same frames, but of other photons. ``no first of a set``,
        ``another focus``: a state that the references lack; not counted.
    """

    series: Series
    question: str
    references: Sequence[MadeImage]
    tests: Sequence[Test]


ANOTHER, PHOTONS = "another exposure", "other photons"
NO_FIRST, FOCUS = "no first of a set", "another focus"
COUNTED = (ANOTHER, PHOTONS)


def bias_folds(frames: Sequence[RealFrame]) -> Iterator[Fold]:
    """Hold each bias out in turn; then the first one, against a reference without firsts."""
    for number, held_out in enumerate(frames):
        rng = np.random.default_rng([SEED, number])
        results = [frame for frame in frames if frame is not held_out]
        fixed = find_fixed(results)
        references = _bias_references(results, fixed, frames[0], rng)
        dissected = dissect(held_out, fixed, rng)
        cards = (_cards("bias") * _BIAS_ROUNDS)[number :: len(frames)]
        again = [
            rearrange(dissected, dissected.drift, dissected.columns, part, rng)
            for part in range(1, _BIAS_TESTS + len(cards) + 1)
        ]
        good = [as_taken(held_out), *again[:_BIAS_TESTS]]
        bad = _spoil(again[_BIAS_TESTS:], cards, rng)
        yield Fold(BIAS, ANOTHER, references, [*map(Test, good), *bad])
        if number == 0:
            settled = _bias_references(results, fixed, None, rng)
            yield Fold(BIAS, NO_FIRST, settled, [Test(image) for image in good])


def _bias_references(
    frames: Sequence[RealFrame],
    fixed: NDArray[np.bool_],
    first: RealFrame | None,
    rng: np.random.Generator,
) -> list[MadeImage]:
    """Return the real frames, and others made of them; of `first`, only its drift is used."""
    anatomies = [dissect(frame, fixed, rng) for frame in frames]
    start = None if first is None else dissect(first, fixed, rng).drift
    drifts = [item.drift for item in anatomies if item.frame is not first]
    columns = np.mean([item.columns for item in anatomies], axis=0)
    results = [as_taken(frame) for frame in frames]
    for part in range(1, REFERENCES - len(frames) + 1):
        anatomy = anatomies[part % len(anatomies)]
        drift = drift_between(drifts, start, part, rng)
        results.append(rearrange(anatomy, drift, columns, part, rng))
    return results


def lit_folds(
    series: Series, frames: Sequence[RealFrame], wander: Wander, hits: Hits
) -> Iterator[Fold]:
    """Hold out each exposure of a lamp in turn; or, of a lone one, some of its photons."""
    rng = np.random.default_rng([SEED, *series.title.encode()])
    cards = _cards(frames[0].extension.frame_class)
    if len(frames) == 1:
        parts = split(frames[0], REFERENCES + GOOD_TESTS, wander, hits, rng)
        yield _fold(series, PHOTONS, parts[:REFERENCES], parts[REFERENCES:], cards, rng)
        return
    parts_of = [split(frame, REFERENCES, wander, hits, rng) for frame in frames]
    for number, (references, tests) in enumerate((parts_of, parts_of[::-1])):
        fold_cards = cards[number::2]
        yield _fold(series, ANOTHER, references, tests[:GOOD_TESTS], fold_cards, rng)


def focus_folds(
    nominal: Sequence[RealFrame],
    defocused: Sequence[RealFrame],
    wander: Wander,
    hits: Hits,
) -> Iterator[Fold]:
    """Of a focus sequence both good positions are nominal, so references need photons of both."""
    rng = np.random.default_rng([SEED, 99])
    half, more = (REFERENCES + 1) // 2, GOOD_TESTS // 2
    parts_of = [split(frame, REFERENCES, wander, hits, rng) for frame in nominal]
    references = [part for parts in parts_of for part in parts[:half]]
    tests = [part for parts in parts_of for part in parts[half : half + more]]
    fold = _fold(DEVENY_ARC, PHOTONS, references, tests, _cards("arc"), rng)
    really = [
        Test(part, REALLY, frame.file.split(".")[1])
        for frame in defocused
        for part in split(frame, REFERENCES, wander, hits, rng)[:_REAL_PARTS]
    ]
    yield replace(fold, tests=[*fold.tests, *really])
    first, second = parts_of
    yield Fold(DEVENY_ARC, FOCUS, first, [Test(part) for part in second[:_REAL_PARTS]])


REALLY = "real"
_REAL_PARTS = 5


def _fold(
    series: Series,
    question: str,
    references: Sequence[MadeImage],
    good: Sequence[MadeImage],
    cards: Sequence[Card],
    rng: np.random.Generator,
) -> Fold:
    return Fold(series, question, references, [*map(Test, good), *_spoil(good, cards, rng)])


def _cards(frame_class: str) -> list[Card]:
    """Return every injectable kind of fault that such frames can have, at each strength."""
    return [
        (kind, strength)
        for kind in INJECTABLE
        for strength in FAULTS[kind].classes.get(frame_class, ())
    ]


def _spoil(
    good: Sequence[MadeImage], cards: Sequence[Card], rng: np.random.Generator
) -> list[Test]:
    """Inject each fault into the next image."""
    return [Test(_injected(good[i % len(good)], *card, rng), *card) for i, card in enumerate(cards)]


def _injected(image: MadeImage, kind: str, strength: str, rng: np.random.Generator) -> MadeImage:
    source = image.source
    injection = inject(
        image.pixels,
        light=source.extension.light,
        gain_e_per_adu=source.extension.detector.gain_e_per_adu,
        read_noise_adu=source.noise_adu,
        bias_adu=source.zero_adu,
        kind=kind,
        strength=strength,
        rng=rng,
    )
    return replace(image, pixels=injection.pixels, is_real=False)
