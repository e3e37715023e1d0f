"""Maps and trees of stored embeddings: which frames of the history are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings.clustering import average_linkage
from embeddings.projection import MOST_NEIGHBOURS, neighbour_plane, principal_plane
from qc import db
from qc.db.findings import Finding
from qc.errors import InvalidInputError
from qc.figures import plots
from qc.project import Project

Floats = NDArray[np.float32]

MOST_MAPPED = 4000  # embeddings of 8 KB; more points cover each other
MOST_IN_TREE = 200  # leaves: more are no longer told apart


class ProjectionMethod(StrEnum):
    """How embeddings are laid on a plane."""

    PCA = "pca"
    TSNE = "tsne"


@dataclass(frozen=True)
class Selection:
    """Which extensions are meant.

    Attributes
    ----------
    image_types : tuple of str or None
        None: all.
    """

    image_types: tuple[str, ...] | None
    first: date
    last: date


@dataclass(frozen=True)
class ProjectedExtension:
    """An extension on a map."""

    name: str
    image_type: str
    night: date | None
    status: str
    label: str
    kind: str
    x: float
    y: float


@dataclass(frozen=True)
class Projection:
    """Extensions on a plane.

    Attributes
    ----------
    of : int
        How many there are; at most some thousand are shown, evenly over time.
    """

    way: ProjectionMethod
    places: tuple[ProjectedExtension, ...]
    of: int


@dataclass(frozen=True)
class LeafJoin:
    """Where a leaf of a tree first joins others.

    Attributes
    ----------
    height : float
        Cosine distance.
    others : int
        How many it joins there.
    """

    name: str
    height: float
    others: int


@dataclass(frozen=True)
class Dendrogram:
    """A dendrogram.

    Attributes
    ----------
    names : tuple of n str
        The leaves, oldest first.
    merges : (n - 1) tuples of 4 numbers
        As `scipy.cluster.hierarchy.linkage` returns them.
    marked : str
    threshold : float
    svg : str
    """

    names: tuple[str, ...]
    merges: tuple[tuple[float, ...], ...]
    marked: str
    threshold: float
    svg: str

    def joins(self) -> list[LeafJoin]:
        """Return where each leaf first joins others: what the drawing shows, the highest first."""
        leaves = len(self.names)
        sizes = [1] * leaves + [int(size) for *_, size in self.merges]
        found = [
            LeafJoin(self.names[int(one)], height, sizes[int(other)])
            for left, right, height, _ in self.merges
            for one, other in ((left, right), (right, left))
            if one < leaves
        ]
        return sorted(found, key=lambda join: -join.height)


def draw_map(
    project: Project, session: Session, selection: Selection, way: ProjectionMethod
) -> Projection:
    """Lay a selection on a plane.

    Raises
    ------
    InvalidAnswer
        If nothing of it has an embedding by the encoder in use.
    """
    ids = _ids(project, session, selection)
    shown = evenly(ids, MOST_NEIGHBOURS if way is ProjectionMethod.TSNE else MOST_MAPPED)
    known = db.embeddings.vectors_with(session, project.encoder.fingerprint, shown)
    found = db.findings.findings_with(session, shown)
    vectors = np.stack([known[one.extension.id] for one in found])
    plane = neighbour_plane(vectors) if way is ProjectionMethod.TSNE else principal_plane(vectors)
    places = tuple(_place(one, x, y) for one, (x, y) in zip(found, plane.tolist(), strict=True))
    return Projection(way, places, len(ids))


def _ids(project: Project, session: Session, selection: Selection) -> Sequence[int]:
    fingerprint, types = project.encoder.fingerprint, selection.image_types
    ids = db.embeddings.embedded(session, fingerprint, types, selection.first, selection.last)
    if not ids:
        raise InvalidInputError(
            f"no frame of {' '.join(types) if types else 'any type'} and of these nights has an "
            f"embedding by the encoder in use, {fingerprint}"
        )
    return ids


def evenly(ids: Sequence[int], most: int) -> list[int]:
    """Return at most so many, evenly from the first to the last."""
    if len(ids) <= most:
        return list(ids)
    return [ids[i] for i in np.linspace(0, len(ids) - 1, most).round().astype(int)]


def _place(one: Finding, x: float, y: float) -> ProjectedExtension:
    return ProjectedExtension(
        name=f"{one.frame.name}[{one.extension.number}]",
        image_type=one.extension.image_type,
        night=one.frame.night,
        status=str(one.verdict.status),
        label=str(one.label.label) if one.label else "",
        kind=one.label.kind if one.label else "",
        x=x,
        y=y,
    )


def draw_tree(
    project: Project, session: Session, selection: Selection, frames: Sequence[str], marked: str
) -> Dendrogram:
    """Draw the dendrogram of a selection, or of some named frames of its type.

    Parameters
    ----------
    selection : Selection
        Of one image type; only its newest `MOST_IN_TREE` are drawn.
    frames : sequence of str
        Names, as of frames; empty: all of the selection.
    marked : str
        The frame that is marked; empty: the newest.

    Raises
    ------
    InvalidAnswer
        If there are fewer than two of them.
    UnknownFrame
        If one of the frames was never processed.
    """
    assert selection.image_types is not None
    [image_type] = selection.image_types
    wanted = [*frames, *([marked] if marked else [])]
    named = [
        one.extension.id
        for name in wanted
        for one in db.findings.findings_named(session, name)
        if one.extension.image_type == image_type
    ]
    rest = [] if frames else _ids(project, session, selection)[-MOST_IN_TREE:]
    ids = list(dict.fromkeys([*rest, *named]))[-MOST_IN_TREE:]
    known = db.embeddings.vectors_with(session, project.encoder.fingerprint, ids)
    found = [one for one in db.findings.findings_with(session, ids) if one.extension.id in known]
    if len(found) < 2:
        raise InvalidInputError(
            f"a tree of {image_type} needs at least 2 frames that the encoder in use has seen, "
            f"got {len(found)}"
        )
    return _tree(project, image_type, found, known, named[-1] if marked and named else None)


def _tree(
    project: Project,
    image_type: str,
    found: Sequence[Finding],
    known: dict[int, Floats],
    marked: int | None,
) -> Dendrogram:
    merges = average_linkage(np.stack([known[one.extension.id] for one in found]))
    ids = [one.extension.id for one in found]
    place = ids.index(marked) if marked in ids else len(ids) - 1
    entries = project.thresholds.entries[image_type]
    own = [one for one in entries if one.encoder == project.encoder.fingerprint]
    threshold = (own or entries)[-1].merge_height
    names = tuple(f"{one.frame.name}[{one.extension.number}]" for one in found)
    return Dendrogram(
        names=names,
        merges=tuple(tuple(map(float, row)) for row in merges),
        marked=names[place],
        threshold=threshold,
        svg=plots.dendrogram(merges, threshold=threshold, marked=place),
    )
