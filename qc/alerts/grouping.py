"""Alert grouping: anomalies of one template set, one cause or similar embeddings are one event.

A wrong link hides a fault; a missing link costs a second mail. Each link therefore needs a
property that two anomalies share and that nominal frames lack.
"""

import datetime as dt
import itertools
import re
from collections import abc, defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances

LEADING = 3  # reasons that are compared with the first reason of another anomaly
NEAR = 0.03  # of the side of the image: the same place, within a block or two
DEAD_CHIP_IMAGES = 6  # consecutive images, of more than one type, that indicate a dead chip
_SHARED_FRAMES = 0.1  # largest share of frames that are anomalous on another chip as well

_GENERIC_REASONS = ("joins its", "provisional", "looks like", "a doubt")
_OTHER_TYPE = "not like what its header says"
_DUPLICATE = "has the very same pixels"
_PLACE = re.compile(r"(?P<shape>the .{1,60}?) around x (?P<x>\d{1,6}), y (?P<y>\d{1,6})")
_EVERYWHERE = re.compile(r"^the [a-z ]{1,40} of (the whole frame|many (dark )?blocks)")
_NAME = re.compile(r"\D{1,120}")
_DIRECTION = re.compile(r"(?P<sign>[+-])[\d.]+ sigma|sigma (?P<side>above|below)")


@dataclass(frozen=True)
class Cause:
    """Cause of an anomaly: the name in a reason, without the size of the deviation.

    Attributes
    ----------
    name : str
        ``bias level +``: metric and direction.
    x, y : float or None
        Place as a fraction of the image; None without a place, or along that axis.
    """

    name: str
    x: float | None = None
    y: float | None = None

    def matches(self, cause: "Cause") -> bool:
        """Return True for the same cause at the same place."""
        return self.name == cause.name and is_near(self.x, cause.x) and is_near(self.y, cause.y)


@dataclass(frozen=True, eq=False)
class AnomalyTrace:
    """Properties of an anomalous image by which it is grouped.

    Attributes
    ----------
    causes : tuple of Cause
        Strongest first, without causes that fit any anomaly.
    kind : str
        Fault kind named by the classifier; empty for none.
    merge_height : float or None
        Merge height with its references; None without references.
    threshold : float
        Threshold of the merge height.
    embedding : (d,) float32 array
        By the encoder `encoder_id`.
    """

    alert_id: int
    frame_id: int
    observed_at: dt.datetime
    image_type: str
    chip: str
    template: str | None
    causes: tuple[Cause, ...]
    kind: str
    merge_height: float | None
    threshold: float
    encoder_id: int
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class NightImage:
    """Image of a night, anomalous or not."""

    frame_id: int
    observed_at: dt.datetime
    chip: str


Link = tuple[AnomalyTrace, AnomalyTrace]


def parse_cause(reason: str, ny: int, nx: int) -> Cause | None:
    """Return the cause in a reason of a verdict; None if it fits any anomaly.

    Parameters
    ----------
    reason : str
        Reason of a verdict.
    ny, nx : int
        Size of the image, pixels.

    Returns
    -------
    Cause or None
    """
    if reason.startswith(_GENERIC_REASONS) and _OTHER_TYPE not in reason:
        return None
    if reason.startswith(_DUPLICATE):
        return Cause(_DUPLICATE)
    if place := _PLACE.match(reason):
        shape, x, y = place["shape"], int(place["x"]) / nx, int(place["y"]) / ny
        return Cause(shape, None if shape.endswith(" row") else x, None if "column" in shape else y)
    if _EVERYWHERE.search(reason):
        return None
    name = _NAME.match(reason)
    direction = _DIRECTION.search(reason)
    sign = ""
    if direction is not None:
        sign = direction["sign"] or ("+" if direction["side"] == "above" else "-")
    return Cause(f"{name[0].strip(' -+') if name else ''} {sign}".strip())


def is_near(first: float | None, second: float | None) -> bool:
    """Return True for equal places on an axis.

    Parameters
    ----------
    first, second : float or None
        Fraction of the image side.

    Returns
    -------
    bool
    """
    if first is None or second is None:
        return first is second
    return abs(first - second) <= NEAR


def group_anomalies(
    traces: abc.Sequence[AnomalyTrace], night: abc.Iterable[NightImage] = ()
) -> list[list[AnomalyTrace]]:
    """Group the anomalies of one instrument and night into events.

    Parameters
    ----------
    traces : sequence of AnomalyTrace
        Anomalies.
    night : iterable of NightImage
        All images of the night, the anomalies included. They show whether a chip was nominal
        at any time.

    Returns
    -------
    list of list of AnomalyTrace
        Events; each trace belongs to one event, in the order given.
    """
    sets = UnionFind(len(traces))
    positions = {id(trace): number for number, trace in enumerate(traces)}
    for first, second in find_links(traces, list(night)):
        sets.join(positions[id(first)], positions[id(second)])
    events: dict[int, list[AnomalyTrace]] = defaultdict(list)
    for number, trace in enumerate(traces):
        events[sets.find_root(number)].append(trace)
    return list(events.values())


class UnionFind:
    """Disjoint sets of the numbers 0 to n - 1."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find_root(self, number: int) -> int:
        """Return the representative of a number's set."""
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def join(self, first: int, second: int) -> None:
        """Join the sets of two numbers.

        Parameters
        ----------
        first, second : int
            Members of the sets.
        """
        smaller, larger = sorted((self.find_root(first), self.find_root(second)))
        self.parent[larger] = smaller


def find_links(
    traces: abc.Sequence[AnomalyTrace], night: abc.Sequence[NightImage]
) -> abc.Iterator[Link]:
    """Yield the pairs of anomalies that belong to one event.

    Parameters
    ----------
    traces : sequence of AnomalyTrace
        Anomalies of one instrument and night.
    night : sequence of NightImage
        All images of the night.

    Yields
    ------
    tuple of two AnomalyTrace
    """
    yield from link_template_sets(traces)
    for group in _group_by(traces, lambda trace: trace.chip):
        yield from link_causes(group)
    for group in _group_by(traces, lambda trace: (trace.image_type, trace.encoder_id)):
        yield from link_neighbours(group)
    yield from link_dead_chips(traces, night)


def link_template_sets(traces: abc.Sequence[AnomalyTrace]) -> abc.Iterator[Link]:
    """Link the frames of a template set by chip, and the chips of a frame with one cause.

    The two chips of a set may have different faults: a failing lamp shows on both, an amplifier
    fault on one.
    """
    for group in _group_by(
        traces, lambda trace: (trace.template or trace.frame_id, trace.image_type)
    ):
        yield from itertools.pairwise(group)
    for group in _group_by(traces, lambda trace: trace.template or trace.frame_id):
        for first, second in itertools.combinations(group, 2):
            if first.chip == second.chip:
                continue
            is_named = first.kind and second.kind
            is_vague = not is_named and (not first.causes or not second.causes)
            if have_same_cause(first, second) or (first.frame_id == second.frame_id and is_vague):
                yield first, second


def link_causes(traces: abc.Sequence[AnomalyTrace]) -> abc.Iterator[Link]:
    """Link anomalies of one chip with the same cause, for all image types."""
    specific = [trace for trace in traces if trace.kind or trace.causes]
    groups = _group_by(specific, lambda trace: (trace.kind, trace.causes[:LEADING]))
    for group in groups:
        yield from itertools.pairwise(group)
    for first, second in itertools.combinations([group[0] for group in groups], 2):
        if have_same_cause(first, second):
            yield first, second


def have_same_cause(first: AnomalyTrace, second: AnomalyTrace) -> bool:
    """Return True for equal fault kinds, or if each first cause is a leading cause of the other.

    The first reasons alone are too narrow: the order of level and noise depends on the image type.
    Any common reason is too wide: a level jump changes many metrics.

    Parameters
    ----------
    first, second : AnomalyTrace

    Returns
    -------
    bool
    """
    if first.kind and first.kind == second.kind:
        return True
    if not first.causes or not second.causes:
        return False
    return any(first.causes[0].matches(cause) for cause in second.causes[:LEADING]) and any(
        second.causes[0].matches(cause) for cause in first.causes[:LEADING]
    )


def link_neighbours(traces: abc.Sequence[AnomalyTrace]) -> abc.Iterator[Link]:
    """Link images of one type with similar embeddings, dissimilar to all nominal ones.

    Images that join their references are left out: their embeddings are nominal, so similar to
    each other. Two images are linked within the threshold, or as mutual nearest neighbours that
    are nearer to each other than to the references. Two faults in different directions of the
    embedding space are further from each other than from the references; two faults in one
    direction are nearer.

    Parameters
    ----------
    traces : sequence of AnomalyTrace
        Anomalies of one image type and encoder.

    Yields
    ------
    tuple of two AnomalyTrace
    """
    separate = [trace for trace in traces if (trace.merge_height or 0) > trace.threshold]
    if len(separate) < 2:
        return
    stack = np.stack([trace.embedding for trace in separate])
    distances = cosine_distances(stack, stack)  # (n, n)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    limit = min(trace.threshold for trace in separate)
    for i, j in zip(*np.nonzero(distances <= limit), strict=True):
        yield separate[i], separate[j]
    for i, j in enumerate(nearest):
        to_references = min(separate[i].merge_height or 0, separate[j].merge_height or 0)
        if nearest[j] == i and distances[i, j] < to_references:
            yield separate[i], separate[int(j)]


def link_dead_chips(
    traces: abc.Sequence[AnomalyTrace], night: abc.Sequence[NightImage]
) -> abc.Iterator[Link]:
    """Link all anomalies of a chip without a nominal image since its first failure.

    The other chips of the same files must be nominal: a failed lamp affects all chips.

    Parameters
    ----------
    traces : sequence of AnomalyTrace
        Anomalies of one instrument and night.
    night : sequence of NightImage
        All images of the night.

    Yields
    ------
    tuple of two AnomalyTrace
    """
    chips_of_frame: dict[int, set[str]] = defaultdict(set)
    for image in night:
        chips_of_frame[image.frame_id].add(image.chip)
    anomalous_chips: dict[int, set[str]] = defaultdict(set)
    for trace in traces:
        anomalous_chips[trace.frame_id].add(trace.chip)
    for group in _group_by(traces, lambda trace: trace.chip):
        if is_chip_dead(group, night, chips_of_frame, anomalous_chips):
            yield from itertools.pairwise(group)


def is_chip_dead(
    traces: abc.Sequence[AnomalyTrace],
    night: abc.Sequence[NightImage],
    chips_of_frame: abc.Mapping[int, set[str]],
    anomalous_chips: abc.Mapping[int, set[str]],
) -> bool:
    """Return True if a chip has no nominal image since its first anomaly.

    Parameters
    ----------
    traces : sequence of AnomalyTrace
        Anomalies of the chip.
    night : sequence of NightImage
        All images of the night.
    chips_of_frame, anomalous_chips : mapping of int to set of str
        All chips, and the anomalous chips, by frame id.

    Returns
    -------
    bool
    """
    kinds = {trace.kind for trace in traces if trace.kind}
    types = {trace.image_type for trace in traces}
    if len(traces) < DEAD_CHIP_IMAGES or len(types) < 2 or len(kinds) > 1:
        return False
    chip, first = traces[0].chip, min(trace.observed_at for trace in traces)
    later = {image.frame_id for image in night if image.chip == chip and image.observed_at >= first}
    failed = {trace.frame_id for trace in traces}
    multi_chip = [frame for frame in failed if len(chips_of_frame[frame]) > 1]
    shared = sum(len(anomalous_chips[frame]) > 1 for frame in multi_chip)
    return (
        later <= failed
        and len(multi_chip) > len(failed) / 2
        and shared <= _SHARED_FRAMES * len(multi_chip)
    )


def _group_by(
    traces: abc.Iterable[AnomalyTrace], key: abc.Callable[[AnomalyTrace], abc.Hashable]
) -> abc.Iterable[list[AnomalyTrace]]:
    groups: dict[abc.Hashable, list[AnomalyTrace]] = defaultdict(list)
    for trace in traces:
        groups[key(trace)].append(trace)
    return groups.values()
