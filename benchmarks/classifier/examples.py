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
from embeddings.classifier_data import Examples
from qc import db
from qc._files import packaged_path
from qc.core.reference import REFERENCE_NEEDED
from qc.core.verdict import Status
from qc.db.findings import Finding
from qc.detection.classifier_features import stack_features
from qc.detection.decision import widen_limits
from qc.detection.thresholds import read_thresholds
from qc.io.instrument_files import read_instruments
from qc.settings import read_settings
from qc.training.examples import features_of_finding

# Invisible in the pixels: are those of a good frame, or the file was refused.
UNSEEN = frozenset({"frame_repeated", "keyword_missing", "binning_misreported", "chip_missing"})


@dataclass(frozen=True)
class LabelledSet:
    """Labelled examples with ground truth of the simulation.

    Attributes
    ----------
    examples : Examples
    headers : (n,) str array
        Image types by the headers.
    strengths : (n,) str array
        Of the fault; empty without one.
    flagged : (n,) bool array
        Whether the product calls the image anomalous.
    """

    examples: Examples
    headers: NDArray[np.str_]
    strengths: NDArray[np.str_]
    flagged: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[np.int_] | NDArray[np.bool_]) -> "LabelledSet":
        """Return some of them."""
        return LabelledSet(
            self.examples[chosen],
            self.headers[chosen],
            self.strengths[chosen],
            self.flagged[chosen],
        )

    def __add__(self, second: "LabelledSet") -> "LabelledSet":
        """Return both, one after the other."""
        return LabelledSet(
            self.examples + second.examples,
            np.concatenate([self.headers, second.headers]),
            np.concatenate([self.strengths, second.strengths]),
            np.concatenate([self.flagged, second.flagged]),
        )


def read_history(work: Path) -> LabelledSet:
    """Return the images of a folder that `benchmarks.detection` has filled.

    Without those of a lamp that was replaced and that nobody entered: good ones differ from their
    references as an overexposed one does.
    """
    blue, red = (_of_arm(work / arm) for arm in ARMS)
    return blue + red


def read_nominal(work: Path) -> LabelledSet:
    """Return the good images of a folder that `benchmarks.thresholds` has filled."""
    blue, red = (_of_good_arm(work / arm) for arm in ARMS)
    return blue + red


def _of_arm(folder: Path) -> LabelledSet:
    with _session(folder) as session:
        results = {
            (Path(finding.frame.path).name, finding.extension.number): finding
            for finding in db.findings.findings(session, date.min)
        }
        rows = [
            (results[truth.file, truth.extension], truth.image_type, truth.fault, truth.strength)
            for truth in read_truth(folder / "truth")
            if (truth.file, truth.extension) in results
            and truth.fault not in UNSEEN
            and truth.part != NEW_LAMP
        ]
        return _known(session, rows)


def _of_good_arm(folder: Path) -> LabelledSet:
    """Return good images, which were judged without limits, as if by those that ship."""
    instruments = read_instruments()
    results = [code for instrument in instruments for code in instrument.image_types()]
    shipped_limits = read_thresholds(packaged_path("thresholds.yaml"), results)
    with _session(folder) as session:
        result = list(db.findings.findings(session, date.min))
        for element in result:
            assert element.frame.night is not None  # a processed frame has one
            entry = shipped_limits.threshold(
                element.extension.image_type, element.frame.night, element.fingerprint
            )
            limit = widen_limits(entry, element.verdict.reference_size).merge_height
            set_committed_value(element.verdict, "threshold", limit)
        return _known(session, [(item, item.extension.image_type, "", "") for item in result])


def _session(folder: Path) -> Session:
    return Session(db.schema.engine.connect(read_settings(folder / "project").database_url))


def _known(session: Session, rows: Sequence[tuple[Finding, str, str, str]]) -> LabelledSet:
    findings = [finding for finding, *_ in rows]
    features = stack_features(
        [features_of_finding(session, calibration) for calibration in findings],
        findings[0].fingerprint,
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
    flagged = np.array([calibration.verdict.status == Status.ANOMALOUS for calibration in findings])
    return LabelledSet(examples, headers, strengths, flagged)


def _kinds(finding: Finding, fault: str) -> frozenset[str] | None:
    """Return the faults; unknown with too few references to compare with."""
    if finding.verdict.reference_size < REFERENCE_NEEDED:
        return None
    return frozenset({fault} if fault else ())


def _days(findings: Sequence[Finding]) -> Iterator[int]:
    for finding in findings:
        assert finding.frame.night is not None  # a processed frame has one
        yield finding.frame.night.toordinal()
