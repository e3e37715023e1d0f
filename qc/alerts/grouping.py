"""Which anomalies are one event: of one set, of one cause on a chip, or nearly the same picture.

A link too many hides a fault that people should hear of; one too few costs them a second mail. So
every link needs evidence that two anomalies have something in common *that good frames have not*.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances

LEADING = 3  # reasons of which another anomaly's first must be one
NEAR = 0.03  # of the image's side: places that are the same, within a block or two
A_CHIP_GONE = 6  # images in a row, of more than one type, that say it is the chip
_ALONE = 0.1  # of its frames, those that may be anomalous on another chip too


@dataclass(frozen=True)
class Cause:
    """What a reason says is wrong, apart from how much.

    Attributes
    ----------
    words : str
        ``bias level +``: the number and the direction in which it went.
    x, y : float or None
        Where, as parts of the image; None where it has no place, or lies along the axis.
    """

    words: str
    x: float | None = None
    y: float | None = None

    def is_like(self, other: "Cause") -> bool:
        """Say whether both are the same thing at the same place."""
        return self.words == other.words and _is_near(self.x, other.x) and _is_near(self.y, other.y)


@dataclass(frozen=True, eq=False)
class AnomalyTrace:
    """An anomalous image as far as it tells which event it is of.

    Attributes
    ----------
    causes : tuple of Cause
        The strongest first; without those that could be said of any anomaly.
    kind : str
        The fault that the classifier names; empty if it names none.
    stands_apart_by : float or None
        Merge height with its references; None without any.
    threshold : float
        Of the merge height.
    embedding : (d,) float32 array
        Of `encoder_id`.
    """

    alert_id: int
    frame_id: int
    observed_at: datetime
    image_type: str
    chip: str
    template: str | None
    causes: tuple[Cause, ...]
    kind: str
    stands_apart_by: float | None
    threshold: float
    encoder_id: int
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class NightImage:
    """An image of the night, anomalous or not."""

    frame_id: int
    observed_at: datetime
    chip: str


def cause_of(reason: str, ny: int, nx: int) -> Cause | None:
    """Read what a reason says is wrong; None if it could be said of any anomaly.

    Parameters
    ----------
    ny, nx : int
        Size of the image, pixels.
    """
    if reason.startswith(_SAID_OF_ANY) and _OTHER_TYPE not in reason:
        return None
    if reason.startswith(_COPY):
        return Cause(_COPY)
    if place := _PLACE.match(reason):
        shape, x, y = place["what"], int(place["x"]) / nx, int(place["y"]) / ny
        return Cause(shape, None if shape.endswith(" row") else x, None if "column" in shape else y)
    if _EVERYWHERE.search(reason):
        return None
    words = _WORDS.match(reason)
    way = _WAY.search(reason)
    return Cause(f"{words[0].strip(' -+') if words else ''} {_ways(way)}".strip())


_SAID_OF_ANY = ("joins its", "provisional", "looks like", "a doubt")
_OTHER_TYPE = "not like what its header says"
_COPY = "has the very same pixels"
_PLACE = re.compile(r"(?P<what>the .{1,60}?) around x (?P<x>\d{1,6}), y (?P<y>\d{1,6})")
_EVERYWHERE = re.compile(r"^the [a-z ]{1,40} of (the whole frame|many (dark )?blocks)")
_WORDS = re.compile(r"\D{1,120}")
_WAY = re.compile(r"(?P<sign>[+-])[\d.]+ sigma|sigma (?P<side>above|below)")


def _ways(found: re.Match[str] | None) -> str:
    if found is None:
        return ""
    return found["sign"] or ("+" if found["side"] == "above" else "-")


def _is_near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= NEAR


def events_of(
    traces: Sequence[AnomalyTrace], night: Iterable[NightImage] = ()
) -> list[list[AnomalyTrace]]:
    """Sort the anomalies of one instrument and night into events.

    Parameters
    ----------
    night : iterable of Seen
        All images of the night, these among them: they tell whether a chip ever was well.

    Returns
    -------
    list of list of Trace
        Each trace in one of them, in the order given.
    """
    groups = _UnionFind(len(traces))
    places = {id(one): number for number, one in enumerate(traces)}
    for one, other in _links(traces, list(night)):
        groups.join(places[id(one)], places[id(other)])
    events: dict[int, list[AnomalyTrace]] = defaultdict(list)
    for number, one in enumerate(traces):
        events[groups.root(number)].append(one)
    return list(events.values())


class _UnionFind:
    """Union-find over 0 to n - 1."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def root(self, one: int) -> int:
        while self.parent[one] != one:
            self.parent[one] = self.parent[self.parent[one]]
            one = self.parent[one]
        return one

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        self.parent[second] = first


def _links(
    traces: Sequence[AnomalyTrace], night: Sequence[NightImage]
) -> Iterator[tuple[AnomalyTrace, AnomalyTrace]]:
    yield from _of_a_set(traces)
    for alike in _by(traces, lambda one: one.chip):
        yield from _of_a_cause(alike)
    for alike in _by(traces, lambda one: (one.image_type, one.encoder_id)):
        yield from _of_one_look(alike)
    yield from _of_a_chip_gone(traces, night)


def _by(
    traces: Iterable[AnomalyTrace], key: Callable[[AnomalyTrace], object]
) -> Iterable[list[AnomalyTrace]]:
    found: dict[object, list[AnomalyTrace]] = defaultdict(list)
    for one in traces:
        found[key(one)].append(one)
    return found.values()


def _of_a_set(traces: Sequence[AnomalyTrace]) -> Iterator[tuple[AnomalyTrace, AnomalyTrace]]:
    """Link the frames of a template set, chip by chip; and its chips, where they suffer alike.

    A set's two chips may have a fault each: a lamp that fails shows on both, an amplifier on one.
    """
    for alike in _by(traces, lambda one: (one.template or one.frame_id, one.image_type)):
        yield from pairwise(alike)
    for together in _by(traces, lambda one: one.template or one.frame_id):
        for one, other in combinations(together, 2):
            if one.chip != other.chip and (
                _same_cause(one, other) or (one.frame_id == other.frame_id and _vague(one, other))
            ):
                yield one, other


def _vague(one: AnomalyTrace, other: AnomalyTrace) -> bool:
    """Say whether nothing is known of one that would set it apart from the other."""
    named = one.kind and other.kind
    return not named and (not one.causes or not other.causes)


def _of_a_cause(alike: Sequence[AnomalyTrace]) -> Iterator[tuple[AnomalyTrace, AnomalyTrace]]:
    """Link what went wrong in the same way on one chip in a night, whatever the image type."""
    telling = [one for one in alike if one.kind or one.causes]
    equal = _by(telling, lambda one: (one.kind, one.causes[:LEADING]))
    for group in equal:
        yield from pairwise(group)
    for one, other in combinations([group[0] for group in equal], 2):
        if _same_cause(one, other):
            yield one, other


def _same_cause(one: AnomalyTrace, other: AnomalyTrace) -> bool:
    """Say whether the classifier names one fault, or each leads with what the other has as well.

    The first reason alone is too narrow: which of level and noise is further off depends on the
    image type. Any common reason would be too wide: a jump of the level moves much else.
    """
    if one.kind and one.kind == other.kind:
        return True
    if not one.causes or not other.causes:
        return False
    return any(one.causes[0].is_like(each) for each in other.causes[:LEADING]) and any(
        other.causes[0].is_like(each) for each in one.causes[:LEADING]
    )


def _of_one_look(alike: Sequence[AnomalyTrace]) -> Iterator[tuple[AnomalyTrace, AnomalyTrace]]:
    """Link the images of a type that look alike to the encoder, and like no good one.

    Only of those that stand apart for the encoder: the others look like every good frame, and so
    like each other. Two of them are neighbours within the threshold; or if nothing anomalous is
    nearer to either, and nothing good: two faults of different directions are further from each
    other than from the references (their distances add up), two of one direction are nearer.
    """
    apart = [one for one in alike if (one.stands_apart_by or 0) > one.threshold]
    if len(apart) < 2:
        return
    stack = np.stack([one.embedding for one in apart])
    distances = cosine_distances(stack, stack)  # (n, n)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    for i, j in zip(*np.nonzero(distances <= min(one.threshold for one in apart)), strict=True):
        yield apart[i], apart[j]
    for i, j in enumerate(nearest):
        from_good = min(apart[i].stands_apart_by or 0, apart[j].stands_apart_by or 0)
        if nearest[j] == i and distances[i, j] < from_good:
            yield apart[i], apart[int(j)]


def _of_a_chip_gone(
    traces: Sequence[AnomalyTrace], night: Sequence[NightImage]
) -> Iterator[tuple[AnomalyTrace, AnomalyTrace]]:
    """Link all of a chip that has given nothing good since it first failed, whatever the reasons.

    Only where its neighbours in the same files are well: a lamp that is out takes all chips.
    """
    chips_of: dict[int, set[str]] = defaultdict(set)
    for each in night:
        chips_of[each.frame_id].add(each.chip)
    hit: Mapping[int, set[str]] = defaultdict(set)
    for one in traces:
        hit[one.frame_id].add(one.chip)
    for alike in _by(traces, lambda one: one.chip):
        if _is_gone(alike, night, chips_of, hit):
            yield from pairwise(alike)


def _is_gone(
    alike: Sequence[AnomalyTrace],
    night: Sequence[NightImage],
    chips_of: Mapping[int, set[str]],
    hit: Mapping[int, set[str]],
) -> bool:
    kinds = {one.kind for one in alike if one.kind}
    if len(alike) < A_CHIP_GONE or len({one.image_type for one in alike}) < 2 or len(kinds) > 1:
        return False
    chip, first = alike[0].chip, min(one.observed_at for one in alike)
    since = {each.frame_id for each in night if each.chip == chip and each.observed_at >= first}
    failed = {one.frame_id for one in alike}
    beside = [frame for frame in failed if len(chips_of[frame]) > 1]
    with_another = sum(len(hit[frame]) > 1 for frame in beside)
    return (
        since <= failed and len(beside) > len(failed) / 2 and with_another <= _ALONE * len(beside)
    )
