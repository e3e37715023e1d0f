"""2-D projections and dendrograms of stored embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from embeddings import clustering
from embeddings import projection as planes
from qc import db, errors
from qc.figures import dendrogram
from qc.project import ProjectContext

Floats = NDArray[np.float32]

MOST_PROJECTED = 4000  # embeddings of 8 KB; more points cover each other
MOST_IN_TREE = 200  # leaves; more cannot be distinguished


class ProjectionMethod(StrEnum):
    """Method of projecting embeddings on a plane."""

    PCA = "pca"
    TSNE = "tsne"


@dataclass(frozen=True)
class Selection:
    """Extensions by image type and night.

    Attributes
    ----------
    image_types : tuple of str or None
        None for all.
    """

    image_types: tuple[str, ...] | None
    first: date
    last: date


@dataclass(frozen=True)
class ProjectedExtension:
    """An extension in a projection."""

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
    way : ProjectionMethod
    places : tuple of ProjectedExtension
        At most some thousand, evenly over time.
    of : int
        Number of selected extensions.
    """

    way: ProjectionMethod
    places: tuple[ProjectedExtension, ...]
    of: int


@dataclass(frozen=True)
class LeafJoin:
    """First merge of a leaf of a dendrogram.

    Attributes
    ----------
    height : float
        Cosine distance.
    joined : int
        Number of leaves that it is merged with.
    """

    name: str
    height: float
    joined: int


@dataclass(frozen=True)
class Dendrogram:
    """A dendrogram.

    Attributes
    ----------
    names : tuple of n str
        Leaves, oldest first.
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
        """Return the first merge of each leaf, the highest first."""
        leaves = len(self.names)
        sizes = [1] * leaves + [int(size) for *_, size in self.merges]
        joins = [
            LeafJoin(self.names[int(leaf)], height, sizes[int(cluster)])
            for first, second, height, _ in self.merges
            for leaf, cluster in ((first, second), (second, first))
            if leaf < leaves
        ]
        return sorted(joins, key=lambda join: -join.height)


def project_embeddings(
    project: ProjectContext, session: Session, selection: Selection, method: ProjectionMethod
) -> Projection:
    """Project the selected extensions on a plane.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    selection : Selection
    method : ProjectionMethod

    Returns
    -------
    Projection

    Raises
    ------
    InvalidInputError
        If no selected extension has an embedding by the encoder in use.
    """
    ids = select_ids(project, session, selection)
    is_tsne = method is ProjectionMethod.TSNE
    sample = sample_evenly(ids, planes.MOST_TSNE_POINTS if is_tsne else MOST_PROJECTED)
    stored = db.embeddings.vectors_of(session, project.encoder.fingerprint, sample)
    findings = db.findings.findings_by_id(session, sample)
    vectors = np.stack([stored[finding.extension.id] for finding in findings])
    plane = planes.project_tsne(vectors) if is_tsne else planes.project_pca(vectors)
    points = [
        _projected(finding, x, y) for finding, (x, y) in zip(findings, plane.tolist(), strict=True)
    ]
    return Projection(method, tuple(points), len(ids))


def _projected(finding: db.findings.Finding, x: float, y: float) -> ProjectedExtension:
    return ProjectedExtension(
        name=f"{finding.frame.name}[{finding.extension.number}]",
        image_type=finding.extension.image_type,
        night=finding.frame.night,
        status=str(finding.verdict.status),
        label=str(finding.label.label) if finding.label else "",
        kind=finding.label.kind if finding.label else "",
        x=x,
        y=y,
    )


def select_ids(project: ProjectContext, session: Session, selection: Selection) -> Sequence[int]:
    """Return the selected extensions that have an embedding, oldest first.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    selection : Selection

    Returns
    -------
    sequence of int
        Ids of extensions.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    fingerprint, types = project.encoder.fingerprint, selection.image_types
    ids = db.embeddings.list_embedded(session, fingerprint, types, selection.first, selection.last)
    if not ids:
        raise errors.InvalidInputError(
            f"no frame of {' '.join(types) if types else 'any type'} and of these nights has an "
            f"embedding by the encoder in use, {fingerprint}"
        )
    return ids


def sample_evenly(ids: Sequence[int], most: int) -> list[int]:
    """Return a sample of ids, evenly from the first to the last.

    Parameters
    ----------
    ids : sequence of int
    most : int
        Largest size of the sample.

    Returns
    -------
    list of int
    """
    if len(ids) <= most:
        return list(ids)
    return [ids[i] for i in np.linspace(0, len(ids) - 1, most).round().astype(int)]


def draw_dendrogram(
    project: ProjectContext,
    session: Session,
    selection: Selection,
    frames: Sequence[str],
    marked: str,
) -> Dendrogram:
    """Draw the dendrogram of a selection, or of named frames of its type.

    Parameters
    ----------
    project : ProjectContext
    session : Session
    selection : Selection
        Of one image type; only its newest `MOST_IN_TREE` are drawn.
    frames : sequence of str
        Names of frames; empty for the whole selection.
    marked : str
        Frame to mark; empty for the newest.

    Returns
    -------
    Dendrogram

    Raises
    ------
    InvalidInputError
        If there are fewer than two extensions.
    UnknownFrameError
        If a frame was never processed.
    """
    assert selection.image_types is not None
    [image_type] = selection.image_types
    named = [
        finding.extension.id
        for name in [*frames, *([marked] if marked else [])]
        for finding in db.findings.findings_named(session, name)
        if finding.extension.image_type == image_type
    ]
    newest = [] if frames else select_ids(project, session, selection)[-MOST_IN_TREE:]
    ids = list(dict.fromkeys([*newest, *named]))[-MOST_IN_TREE:]
    fingerprint = project.encoder.fingerprint
    vectors = db.embeddings.vectors_of(session, fingerprint, ids)
    findings = [
        finding
        for finding in db.findings.findings_by_id(session, ids)
        if finding.extension.id in vectors
    ]
    if len(findings) < 2:
        raise errors.InvalidInputError(
            f"a tree of {image_type} needs at least 2 frames with an embedding by the encoder in "
            f"use, got {len(findings)}"
        )
    leaves = [finding.extension.id for finding in findings]
    merges = clustering.average_linkage(np.stack([vectors[leaf] for leaf in leaves]))
    is_marked = bool(marked and named) and named[-1] in leaves
    place = leaves.index(named[-1]) if is_marked else len(leaves) - 1
    entries = project.thresholds.entries[image_type]
    matching = [entry for entry in entries if entry.encoder == fingerprint]
    threshold = (matching or entries)[-1].merge_height
    names = tuple(f"{finding.frame.name}[{finding.extension.number}]" for finding in findings)
    return Dendrogram(
        names=names,
        merges=tuple(tuple(map(float, row)) for row in merges),
        marked=names[place],
        threshold=threshold,
        svg=dendrogram.draw_dendrogram(merges, threshold=threshold, marked=place),
    )
