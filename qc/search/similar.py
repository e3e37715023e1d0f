"""Similar frames: nearest neighbours of a frame in all stored nights."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qc import db, detection, errors
from qc._text import match_names
from qc.pipeline import process
from qc.project import ProjectContext
from qc.search.nearest import nearest_stored

Floats = NDArray[np.float32]

ANY = "any"


@dataclass(frozen=True)
class Neighbour:
    """A stored extension that is similar to a query.

    Attributes
    ----------
    distance : float
        Cosine distance, 0 to 2.
    label, kind, note : str
        Label in force; empty without one.
    """

    name: str
    image_type: str
    night: dt.date | None
    distance: float
    status: str
    label: str
    kind: str
    note: str

    @property
    def assessment(self) -> str:
        """Verdict and label, in words."""
        if not self.label:
            return f"judged {self.status}, not labelled"
        kind = f" ({self.kind.replace('_', ' ')})" if self.kind else ""
        note = f", “{self.note}”" if self.note else ""
        return f"judged {self.status}, labelled {self.label}{kind}{note}"


@dataclass(frozen=True)
class SimilarFrames:
    """Similar stored extensions of an extension.

    Attributes
    ----------
    threshold : float or None
        Merge height at which an extension of its type is anomalous: a scale for the distances.
        None if the frame is older than every threshold.
    neighbours : tuple of Neighbour
        Nearest first.
    """

    name: str
    image_type: str
    threshold: float | None
    neighbours: tuple[Neighbour, ...]

    def sentences(self) -> list[str]:
        """Return the nearest neighbour, and the nearest one labelled bad, in words."""
        if not self.neighbours:
            return [f"{self.name} ({self.image_type}): there is nothing to compare it with."]
        first = self.neighbours[0]
        sentences = [f"{self.name} ({self.image_type}) is most like {self.describe(first)}"]
        bad = [neighbour for neighbour in self.neighbours[1:] if neighbour.label == "bad"]
        if bad and first.label != "bad":
            sentences.append(f"Of these, the nearest labelled bad is {self.describe(bad[0])}")
        return sentences

    def describe(self, neighbour: Neighbour) -> str:
        """Return a neighbour with night, distance, verdict and label, in words."""
        distance = neighbour.distance
        scale = f", {distance / self.threshold:.2g} thresholds" if self.threshold else ""
        return (
            f"{neighbour.name} of the night {neighbour.night} ({distance:.2g}{scale}): "
            f"{neighbour.assessment}."
        )


@dataclass(frozen=True)
class SimilarityQuery:
    """An extension to find similar ones of, stored or only read."""

    name: str
    number: int
    image_type: str
    night: dt.date | None
    vector: Floats
    frame_id: int | None


def find_similar(
    project: ProjectContext,
    frame: str,
    k: int,
    *,
    image_type: str | None = None,
    labelled: bool = False,
    extension: int | None = None,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> list[SimilarFrames]:
    """Return the similar stored extensions of each extension of a frame.

    Parameters
    ----------
    project : ProjectContext
    frame : str
        Archive name, file name or path of a stored frame; or path of a file, which is read and
        not stored.
    k : int
        Number of neighbours.
    image_type : str, optional
        Types to search: a name, a pattern, or "any"; the extension's type where absent.
    labelled : bool
        Search labelled extensions only.
    extension : int, optional
        HDU number of a single extension.
    first, last : date, optional
        Nights to search.

    Returns
    -------
    list of SimilarFrames

    Raises
    ------
    UnknownFrameError
        If there is neither such a frame nor such a file, or it has no such extension.
    FrameError
        If the file cannot be read.
    """
    queries = read_queries(project, frame)
    selected = [query for query in queries if extension in {None, query.number}]
    if not selected:
        numbers = ", ".join(str(query.number) for query in queries)
        raise errors.UnknownFrameError(f"{frame}: has no extension {extension}; it has {numbers}")
    results = []
    for query in selected:
        criteria = db.embeddings.EmbeddingFilter(
            image_types=match_types(project, image_type or query.image_type),
            first=first,
            last=last,
            labelled=labelled,
            left_out=query.frame_id,
        )
        with project.read_session() as session:
            ids, distances = nearest_stored(project, session, query.vector, k, criteria)
            findings = db.findings.findings_by_id(session, ids.tolist())
        results.append(
            SimilarFrames(
                name=query.name,
                image_type=query.image_type,
                threshold=merge_height_limit(project, query),
                neighbours=tuple(map(_neighbour, findings, distances.tolist())),
            )
        )
    return results


def read_queries(project: ProjectContext, frame: str) -> list[SimilarityQuery]:
    """Return the extensions of a stored frame or of a file.

    Parameters
    ----------
    project : ProjectContext
    frame : str
        As for `find_similar`.

    Returns
    -------
    list of SimilarityQuery
    """
    path = Path(frame)
    if not path.is_file():
        return read_stored_queries(project, frame)
    with project.read_session() as session:
        is_stored = db.extensions.frames_named(session, str(path.resolve()))
    if is_stored:
        return read_stored_queries(project, str(path.resolve()))
    return read_file_queries(project, path)


def read_stored_queries(project: ProjectContext, name: str) -> list[SimilarityQuery]:
    """Return the extensions of a stored frame, with their embeddings.

    Parameters
    ----------
    project : ProjectContext
    name : str

    Returns
    -------
    list of SimilarityQuery

    Raises
    ------
    UnknownFrameError
        If the frame is not stored, or has no embedding by the encoder in use.
    """
    fingerprint = project.encoder.fingerprint
    with project.read_session() as session:
        if not db.extensions.frames_named(session, name):
            raise errors.UnknownFrameError(
                f"{name}: neither the archive name, file name or path of a processed frame, nor "
                "a file to be read"
            )
        findings = db.findings.findings_named(session, name)
        vectors = [
            db.embeddings.find_embedding(session, finding.extension.id, fingerprint)
            for finding in findings
        ]
    queries = []
    for finding, vector in zip(findings, vectors, strict=True):
        frame, extension = finding.frame, finding.extension
        full_name = f"{frame.name}[{extension.number}]"
        if vector is None:
            raise errors.UnknownFrameError(
                f"{full_name}: has no embedding by the encoder in use, {fingerprint}; "
                "'qc archive reprocess' makes it"
            )
        queries.append(
            SimilarityQuery(
                full_name, extension.number, extension.image_type, frame.night, vector, frame.id
            )
        )
    return queries


def read_file_queries(project: ProjectContext, path: Path) -> list[SimilarityQuery]:
    """Read and embed the extensions of a file, without storing them.

    Parameters
    ----------
    project : ProjectContext
    path : Path

    Returns
    -------
    list of SimilarityQuery

    Raises
    ------
    FrameError
        If the file cannot be read.
    """
    arrival = process.read_and_measure(path, project)
    with project.read_session() as session:
        copy = db.frames.find_by_digest(session, arrival.frame.sha256)
    vectors = detection.embed(arrival.measurements, project.encoder)
    return [
        SimilarityQuery(
            name=f"{arrival.frame.name}[{measurement.number}]",
            number=measurement.number,
            image_type=measurement.setup.image_type,
            night=arrival.frame.night,
            vector=vector,
            frame_id=copy.id if copy else None,
        )
        for measurement, vector in zip(arrival.measurements, vectors, strict=True)
    ]


def match_types(project: ProjectContext, pattern: str) -> tuple[str, ...] | None:
    """Return the image types that match a name or pattern.

    Parameters
    ----------
    project : ProjectContext
    pattern : str

    Returns
    -------
    tuple of str or None
        None for all types.
    """
    if pattern.casefold() == ANY:
        return None
    types = [name for instrument in project.instruments for name in instrument.image_types()]
    return tuple(match_names([pattern], types, "image type"))


def merge_height_limit(project: ProjectContext, query: SimilarityQuery) -> float | None:
    """Return the limit on the merge height for an extension.

    Parameters
    ----------
    project : ProjectContext
    query : SimilarityQuery

    Returns
    -------
    float or None
        None if no threshold applies to its night.
    """
    if query.night is None:
        return None
    fingerprint = project.encoder.fingerprint
    try:
        return project.thresholds.threshold(query.image_type, query.night, fingerprint).merge_height
    except errors.IncompleteHeaderError:
        return None


def _neighbour(finding: db.findings.Finding, distance: float) -> Neighbour:
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
