"""The whole history, searched by likeness: when a frame looked like this before."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qc import db
from qc._text import chosen_all
from qc.db.embeddings import EmbeddingFilter
from qc.db.findings import Finding
from qc.errors import IncompleteHeaderError, UnknownFrameError
from qc.pipeline.process import embed, read_and_measure
from qc.project import Project
from qc.search.nearest import nearest_stored

Floats = NDArray[np.float32]

ANY = "any"


@dataclass(frozen=True)
class Neighbour:
    """A stored extension that looks like the one asked about.

    Attributes
    ----------
    distance : float
        Cosine distance, 0 to 2.
    label, kind, note : str
        What a person said of it; empty if nobody did.
    """

    name: str
    image_type: str
    night: date | None
    distance: float
    status: str
    label: str
    kind: str
    note: str


@dataclass(frozen=True)
class SimilarFrames:
    """What an extension looks like.

    Attributes
    ----------
    threshold : float or None
        The merge height at which one of its type stands apart: a scale for the distances. None if
        the frame is older than every threshold.
    neighbours : tuple of Neighbour
        Nearest first.
    """

    name: str
    image_type: str
    threshold: float | None
    neighbours: tuple[Neighbour, ...]

    def sentences(self) -> list[str]:
        """Say in words what it is most like, and what the nearest was that somebody called bad."""
        if not self.neighbours:
            return [f"{self.name} ({self.image_type}): there is nothing to compare it with."]
        first = self.neighbours[0]
        said = [f"{self.name} ({self.image_type}) is most like {self._told(first)}"]
        bad = [one for one in self.neighbours[1:] if one.label == "bad"]
        if bad and first.label != "bad":
            said.append(f"Of these, the nearest that was called bad is {self._told(bad[0])}")
        return said

    def _told(self, one: Neighbour) -> str:
        scale = f", {one.distance / self.threshold:.2g} thresholds" if self.threshold else ""
        return (
            f"{one.name} of the night {one.night} ({one.distance:.2g}{scale}): {_what_it_was(one)}."
        )


def _what_it_was(one: Neighbour) -> str:
    if not one.label:
        return f"judged {one.status}, nobody has labelled it"
    kind = f" ({one.kind.replace('_', ' ')})" if one.kind else ""
    note = f", “{one.note}”" if one.note else ""
    return f"judged {one.status}, labelled {one.label}{kind}{note}"


@dataclass(frozen=True)
class _Query:
    """An extension asked about: stored, or only read."""

    name: str
    number: int
    image_type: str
    night: date | None
    vector: Floats
    frame_id: int | None


def similar(
    project: Project,
    frame: str,
    k: int,
    *,
    image_type: str | None = None,
    labelled: bool = False,
    extension: int | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[SimilarFrames]:
    """Return what each extension of a frame looks like, in all that is stored.

    Parameters
    ----------
    frame : str
        The archive name, file name or path of a stored frame; or the path of a file, which is
        then read and not stored.
    k : int
        How many neighbours are wanted.
    image_type : str, optional
        Among which types: a name, a pattern, or "any"; else among its own.
    labelled : bool
        Only among those that a person has spoken about.
    extension : int, optional
        The HDU number of the only extension wanted.
    first, last : date, optional
        Only among these nights.

    Raises
    ------
    UnknownFrame
        If there is neither such a frame nor such a file, or it has no such extension.
    FrameError
        If it is a file that cannot be read.
    """
    queries = _queries(project, frame)
    wanted = [one for one in queries if extension in {None, one.number}]
    if not wanted:
        numbers = ", ".join(str(one.number) for one in queries)
        raise UnknownFrameError(f"{frame}: has no extension {extension}; it has {numbers}")
    return [
        _likeness(
            project,
            one,
            k,
            EmbeddingFilter(
                image_types=_types(project, image_type or one.image_type),
                first=first,
                last=last,
                labelled=labelled,
                left_out=one.frame_id,
            ),
        )
        for one in wanted
    ]


def _queries(project: Project, frame: str) -> list[_Query]:
    path = Path(frame)
    if not path.is_file():
        return _stored(project, frame)
    with project.reads() as session:
        known = db.selection.frames_named(session, str(path.resolve()))
    return _stored(project, str(path.resolve())) if known else _read(project, path)


def _stored(project: Project, name: str) -> list[_Query]:
    fingerprint = project.encoder.fingerprint
    with project.reads() as session:
        if not db.selection.frames_named(session, name):
            raise UnknownFrameError(
                f"{name}: neither the archive name, file name or path of a processed frame, nor "
                "a file to be read"
            )
        found = db.findings.findings_named(session, name)
        vectors = [
            db.embeddings.find_embedding(session, one.extension.id, fingerprint) for one in found
        ]
    return [
        _stored_query(one, vector, fingerprint) for one, vector in zip(found, vectors, strict=True)
    ]


def _stored_query(one: Finding, vector: Floats | None, fingerprint: str) -> _Query:
    name = f"{one.frame.name}[{one.extension.number}]"
    if vector is None:
        raise UnknownFrameError(
            f"{name}: has no embedding by the encoder in use, {fingerprint}; "
            "'qc process --again' makes it"
        )
    number, image_type = one.extension.number, one.extension.image_type
    return _Query(name, number, image_type, one.frame.night, vector, one.frame.id)


def _read(project: Project, path: Path) -> list[_Query]:
    """Read and embed a file, and store nothing of it."""
    arrival = read_and_measure(path, project)
    with project.reads() as session:
        copy = db.frames.frame_with_digest(session, arrival.frame.sha256)
    frame_id = copy.id if copy else None
    return [
        _Query(
            name=f"{arrival.frame.name}[{measured.number}]",
            number=measured.number,
            image_type=measured.setup.image_type,
            night=arrival.frame.night,
            vector=vector,
            frame_id=frame_id,
        )
        for measured, vector in zip(arrival.measured, embed([arrival], project), strict=True)
    ]


def _likeness(project: Project, query: _Query, k: int, among: EmbeddingFilter) -> SimilarFrames:
    with project.reads() as session:
        ids, distances = nearest_stored(project, session, query.vector, k, among)
        found = db.findings.findings_with(session, ids.tolist())
    return SimilarFrames(
        name=query.name,
        image_type=query.image_type,
        threshold=_threshold(project, query),
        neighbours=tuple(map(_neighbour, found, distances.tolist())),
    )


def _types(project: Project, wanted: str) -> tuple[str, ...] | None:
    """Return the image types meant; None for all."""
    if wanted.casefold() == ANY:
        return None
    known = [name for one in project.instruments for name in one.image_types()]
    return tuple(chosen_all([wanted], known, "image type"))


def _threshold(project: Project, query: _Query) -> float | None:
    if query.night is None:
        return None
    try:
        found = project.thresholds.threshold(
            query.image_type, query.night, project.encoder.fingerprint
        )
    except IncompleteHeaderError:
        return None
    return found.merge_height


def _neighbour(finding: Finding, distance: float) -> Neighbour:
    label = finding.label
    return Neighbour(
        name=f"{finding.frame.name}[{finding.extension.number}]",
        image_type=finding.extension.image_type,
        night=finding.frame.night,
        distance=distance,
        status=str(finding.verdict.status),
        label=str(label.label) if label else "",
        kind=label.kind if label else "",
        note=label.note if label else "",
    )
