"""Simulated histories as labelled examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from benchmarks.detection.evidence import read_truth
from benchmarks.detection.history import ARMS, NEW_LAMP
from embeddings.classifier import Examples
from qc import db
from qc._files import shipped
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.detection.classifier_features import features_of
from qc.detection.decision import limits_for
from qc.detection.thresholds import read_thresholds
from qc.io.instruments import read_instruments
from qc.settings import read_settings
from qc.training.train import description_of

# What no picture shows: the pixels are those of a good frame, or the file was refused.
UNSEEN = frozenset({"frame_repeated", "keyword_missing", "binning_misreported", "chip_missing"})


@dataclass(frozen=True)
class Known:
    """Labelled examples, and what a simulation knows beside the label.

    Attributes
    ----------
    examples : Examples
    headers : (n,) str array
        The image type that each header says.
    strengths : (n,) str array
        Of the fault; empty without one.
    flagged : (n,) bool array
        Whether the product calls the image anomalous.
    """

    examples: Examples
    headers: NDArray[np.str_]
    strengths: NDArray[np.str_]
    flagged: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "Known":
        """Return some of them."""
        return Known(
            self.examples[chosen],
            self.headers[chosen],
            self.strengths[chosen],
            self.flagged[chosen],
        )

    def __add__(self, other: "Known") -> "Known":
        """Return both, one after the other."""
        return Known(
            self.examples + other.examples,
            np.concatenate([self.headers, other.headers]),
            np.concatenate([self.strengths, other.strengths]),
            np.concatenate([self.flagged, other.flagged]),
        )


def read_history(work: Path) -> Known:
    """Return the images of a folder that `benchmarks.detection` has filled.

    Without those of a lamp that was replaced and that nobody entered: good ones differ from their
    references as an overexposed one does.
    """
    blue, red = (_of_arm(work / arm) for arm in ARMS)
    return blue + red


def read_nominal(work: Path) -> Known:
    """Return the good images of a folder that `benchmarks.thresholds` has filled."""
    blue, red = (_of_good_arm(work / arm) for arm in ARMS)
    return blue + red


def _of_arm(folder: Path) -> Known:
    with _session(folder) as session:
        found = {
            (Path(one.frame.path).name, one.extension.number): one
            for one in db.findings.findings(session, date.min)
        }
        rows = [
            (found[truth.file, truth.extension], truth.image_type, truth.fault, truth.strength)
            for truth in read_truth(folder / "truth")
            if (truth.file, truth.extension) in found
            and truth.fault not in UNSEEN
            and truth.part != NEW_LAMP
        ]
        return _known(session, rows)


def _of_good_arm(folder: Path) -> Known:
    """Return good images, which were judged without limits, as if by those that ship."""
    instruments = read_instruments()
    known = [code for instrument in instruments for code in instrument.image_types()]
    shipped_limits = read_thresholds(shipped("thresholds.yaml"), known)
    with _session(folder) as session:
        found = list(db.findings.findings(session, date.min))
        for one in found:
            assert one.frame.night is not None  # a processed frame has one
            entry = shipped_limits.threshold(
                one.extension.image_type, one.frame.night, one.fingerprint
            )
            limit = limits_for(entry, one.verdict.reference_size).merge_height
            set_committed_value(one.verdict, "threshold", limit)
        return _known(session, [(one, one.extension.image_type, "", "") for one in found])


def _session(folder: Path) -> Session:
    return Session(db.engine.connect(read_settings(folder / "project").database_url))


def _known(session: Session, rows: Sequence[tuple[Finding, str, str, str]]) -> Known:
    findings = [finding for finding, *_ in rows]
    features = features_of(
        [description_of(session, one) for one in findings], findings[0].fingerprint
    )
    examples = Examples(
        features,
        types=tuple(image_type for _, image_type, _, _ in rows),
        kinds=tuple(_kinds(finding, fault) for finding, _, fault, _ in rows),
        days=np.array(list(_days(findings))),
        weights=np.ones(len(rows)),
    )
    headers = np.array([finding.extension.image_type for finding in findings])
    strengths = np.array([strength for *_, strength in rows])
    flagged = np.array([one.verdict.status == Status.ANOMALOUS for one in findings])
    return Known(examples, headers, strengths, flagged)


def _kinds(finding: Finding, fault: str) -> frozenset[str] | None:
    """Return what is wrong; unknown where too few references show how the image differs."""
    if finding.verdict.reference_size < REFERENCE_NEEDED:
        return None
    return frozenset({fault} if fault else ())


def _days(findings: Sequence[Finding]) -> Iterator[int]:
    for one in findings:
        assert one.frame.night is not None  # a processed frame has one
        yield one.frame.night.toordinal()
