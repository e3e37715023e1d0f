"""The methods that learn from labelled bad images: of another history, of another seed.

The result must hold for another state of the instrument: where a row states so, images are
relative to their own references. A higher score is more anomalous. To add a row, write a
learner and name it in `ROWS`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.detection.evidence import Group, Material
from qc.detection.metrics import METRICS

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

_SEED = 0
_COARSER = 2  # blocks of 224 x 224 become 112 x 112: 9 to 19 unbinned pixels in one
_MOST_SIGMA = 50.0
_PARTNERS = 3  # references that a siamese network compares an image with
_PASSES = 4
_BATCH = 32
_FILTERS = (8, 16, 32)
_DROPOUT = 0.4
_MARGIN = 1.0


@dataclass(frozen=True)
class Examples:
    """Images as classifiers see them; n of them, in one order.

    Attributes
    ----------
    types, faults : (n,) str arrays
        Image type, and kind of fault; empty for a good image.
    pixels : (n, 112, 112) float16 array
        arcsinh of the pixels averaged, ADU above the nominal level in units of the stretch.
    change : (n, 112, 112) float16 array
        The same of the difference from the median of the references, both at standard light.
    z : (n, metrics) float32 array
        arcsinh of the z-scores of the metrics; 0 where a metric has no meaning.
    embeddings : (n, d) float16 array
        The product's.
    partners : (n, 3, d) float16 array
        Those of some of the references.
    bad : (n,) bool array
        By the labels, which may be wrong.
    """

    types: NDArray[np.str_]
    faults: NDArray[np.str_]
    pixels: NDArray[np.float16]
    change: NDArray[np.float16]
    z: Floats
    embeddings: NDArray[np.float16]
    partners: NDArray[np.float16]
    bad: Flags

    def __len__(self) -> int:
        return len(self.types)

    def only(self, which: NDArray[Any]) -> "Examples":
        """Return some of them."""
        return Examples(*(getattr(self, field.name)[which] for field in fields(self)))

    def mislabelled(self, share: float, seed: int = _SEED) -> "Examples":
        """Return them with the labels of this share turned round."""
        wrong = np.random.default_rng(seed).random(len(self)) < share
        return replace(self, bad=self.bad ^ wrong)

    def few(self, per_type: int, seed: int = _SEED) -> "Examples":
        """Return so many of each image type."""
        order = np.random.default_rng(seed).permutation(len(self))
        chosen = [order[self.types[order] == item][:per_type] for item in np.unique(self.types)]
        return self.only(np.concatenate(chosen))


def examples_of(group: Group) -> Examples:
    """Return a group's images as classifiers see them."""
    tests, references = group.tests, group.references
    truths = [sample.truth for sample in group.samples]
    pixels = np.stack([_raw(*item) for item in zip(tests.light, tests.findings, strict=True)])
    template = np.median(_at_standard_light(references), axis=0)  # (112, 112)
    scale = tests.findings[0].extension.stretch_adu
    change = np.arcsinh((_at_standard_light(tests) - template) / scale)
    some = np.linspace(0, len(references.embeddings) - 1, _PARTNERS).astype(int)
    return Examples(
        types=np.array([truth.image_type for truth in truths]),
        faults=np.array([truth.fault for truth in truths]),
        pixels=pixels.astype(np.float16),
        change=change.astype(np.float16),
        z=np.array([_z_vector(finding.verdict.z) for finding in tests.findings], np.float32),
        embeddings=tests.embeddings.astype(np.float16),
        partners=np.broadcast_to(
            references.embeddings[some].astype(np.float16),
            (len(truths), _PARTNERS, references.embeddings.shape[1]),
        ),
        bad=np.array([truth.is_bad for truth in truths]),
    )


def join(parts: Iterable[Examples]) -> Examples:
    """Put examples together, in order."""
    some = list(parts)
    return Examples(
        *(
            np.concatenate([getattr(item, field.name) for item in some])
            for field in fields(Examples)
        )
    )


def _raw(light: Floats, finding: Any) -> Floats:
    """Return the features of a file, with the bias level."""
    about = finding.extension
    level = about.metrics.get("bias_level", about.zero_adu) - about.zero_adu
    return np.asarray(np.arcsinh(_coarser(light[..., 0] + level) / about.stretch_adu), np.float32)


def _at_standard_light(material: Material) -> Floats:
    promised = np.where(material.promised > 0, material.promised, 1).astype(np.float32)
    return _coarser(material.light[..., 0]) / promised[:, np.newaxis, np.newaxis]


def _coarser(blocks: Floats) -> Floats:
    """Average (..., h, w) blocks over squares of two by two."""
    *n, h, w = blocks.shape
    parts = blocks.reshape(*n, h // _COARSER, _COARSER, w // _COARSER, _COARSER)
    return np.asarray(parts.mean(axis=(-3, -1)), np.float32)


def _z_vector(z: Any) -> list[float]:
    return [float(np.arcsinh(z.get(name, 0.0))) for name in METRICS]


# --- learners ------------------------------------------------------------------------------------

Predict = Callable[[Examples], Doubles]
Learn = Callable[[Examples], Predict]


@dataclass(frozen=True)
class Taught:
    """A method that learns from labels, as it stands in the tables."""

    name: str
    learn: Learn
    limit: str = "spring"


def _by_type(
    view: str, new_classifier: Callable[[], Any], target: str, examples: Examples
) -> Predict:
    """Teach one classifier for each image type; a type without bad images is never odd."""
    taught = {}
    for name in np.unique(examples.types):
        matching = examples.only(examples.types == name)
        if matching.bad.any() and not matching.bad.all():
            taught[name] = new_classifier().fit(_flat(matching, view), _targets(matching, target))
    return partial(_predict_by_type, taught, view)


def _predict_by_type(taught: dict[str, Any], view: str, new: Examples) -> Doubles:
    scores = np.zeros(len(new))
    for name, classifier in taught.items():
        matching = new.types == name
        if matching.any():
            scores[matching] = _oddness(classifier, _flat(new.only(matching), view))
    return scores


def _flat(examples: Examples, view: str) -> Floats:
    return np.asarray(getattr(examples, view).reshape(len(examples), -1), np.float32)


def _targets(examples: Examples, target: str) -> NDArray[np.str_]:
    """Return good or bad, or good or the kind of fault."""
    kinds = examples.faults if target == "kind" else "bad"
    return np.where(examples.bad, kinds, _GOOD)


_GOOD = "good"


def _oddness(classifier: Any, inputs: Floats) -> Doubles:
    """Return how little a classifier takes each for a good one."""
    good = list(classifier.classes_).index(_GOOD)
    if hasattr(classifier, "predict_proba"):
        return 1 - np.asarray(classifier.predict_proba(inputs)[:, good], np.float64)
    decision = np.asarray(classifier.decision_function(inputs), np.float64)
    if decision.ndim == 1:  # towards the second of two classes
        return decision if good == 0 else -decision
    return -decision[:, good]


def _svm() -> Any:
    return make_pipeline(StandardScaler(), SVC(class_weight="balanced", random_state=_SEED))


def _forest() -> Any:
    return RandomForestClassifier(200, class_weight="balanced", random_state=_SEED)


def _convolutional(view: str, target: str, examples: Examples) -> Predict:
    """Teach one network for all image types: convolutions and dense layers as in DeepShadows.

    Three convolutions with pooling and dropout and two dense layers (Tanoglidis et al. 2021,
    A&C 35, 100469).
    """
    from keras.utils import set_random_seed  # noqa: PLC0415 - seconds to load

    set_random_seed(_SEED)
    names, numbers = np.unique(_targets(examples, target), return_inverse=True)
    network = _network(getattr(examples, view).shape[1:], len(names))
    inputs = getattr(examples, view)[..., np.newaxis]
    network.fit(inputs, numbers, batch_size=_BATCH, epochs=_PASSES, verbose=0)
    return partial(_log_odds, network, view, names.tolist().index(_GOOD))


def _network(shape: tuple[int, ...], classes: int) -> Any:
    from keras import Sequential, layers  # noqa: PLC0415 - seconds to load

    stages = [
        layer
        for filters in _FILTERS
        for layer in (
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(_DROPOUT),
        )
    ]
    head = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(_DROPOUT)]
    network = Sequential(
        [layers.Input((*shape, 1)), *stages, *head, layers.Dense(classes, activation="softmax")]
    )
    network.compile("adam", "sparse_categorical_crossentropy")
    return network


def _log_odds(network: Any, view: str, good: int, new: Examples) -> Doubles:
    inputs = getattr(new, view)[..., np.newaxis]
    chance = network.predict(inputs, batch_size=_BATCH, verbose=0)[:, good]
    chance = np.clip(np.asarray(chance, np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.log1p(-chance) - np.log(chance))


_LEAST = 1e-7


def _siamese(examples: Examples) -> Predict:
    """Teach twin networks to put an image far from its references if it is bad, else near.

    Contrastive loss (Hadsell et al. 2006) on embeddings, each image type standardised by its own
    good images.
    """
    from keras.utils import set_random_seed  # noqa: PLC0415 - seconds to load

    set_random_seed(_SEED)
    scales = {name: _scale(examples, name) for name in np.unique(examples.types)}
    twins = _twins(examples.embeddings.shape[-1])
    labels = np.repeat(examples.bad, _PARTNERS).astype(np.float32)
    twins.fit(_pairs(examples, scales), labels, batch_size=_BATCH, epochs=_PASSES, verbose=0)
    return partial(_mean_distance, twins, scales)


def _scale(examples: Examples, name: str) -> tuple[Floats, Floats]:
    good = examples.embeddings[(examples.types == name) & ~examples.bad].astype(np.float32)
    return good.mean(axis=0), np.maximum(good.std(axis=0), 1e-4)


def _pairs(examples: Examples, scales: dict[str, tuple[Floats, Floats]]) -> list[Floats]:
    """Return the standardised embedding of each image and of its partner, every pair in turn."""
    middle, scatter = (np.stack([scales[name][i] for name in examples.types]) for i in range(2))
    matching = np.clip((examples.embeddings - middle) / scatter, -_MOST_SIGMA, _MOST_SIGMA)
    rest = (examples.partners - middle[:, np.newaxis]) / scatter[:, np.newaxis]
    rest = np.clip(rest, -_MOST_SIGMA, _MOST_SIGMA).reshape(-1, matching.shape[-1])
    return [np.repeat(matching, _PARTNERS, axis=0).astype(np.float32), rest.astype(np.float32)]


def _twins(length: int) -> Any:
    from keras import Input, Model, Sequential, layers, ops  # noqa: PLC0415 - seconds to load

    twin = Sequential([layers.Dense(128, activation="relu"), layers.Dense(32)])
    item, second = Input((length,)), Input((length,))
    squares = ops.sum(ops.square(twin(item) - twin(second)), axis=-1)
    network = Model([item, second], ops.sqrt(squares + 1e-9))
    network.compile("adam", _contrastive)
    return network


def _contrastive(bad: Any, distance: Any) -> Any:
    from keras import ops  # noqa: PLC0415 - seconds to load

    short = ops.maximum(_MARGIN - distance, 0.0)
    return ops.mean(bad * ops.square(short) + (1 - bad) * ops.square(distance))


def _mean_distance(twins: Any, scales: dict[str, tuple[Floats, Floats]], new: Examples) -> Doubles:
    distances = twins.predict(_pairs(new, scales), batch_size=256, verbose=0)
    return np.asarray(distances.reshape(-1, _PARTNERS).mean(axis=1), np.float64)


SVM_PIXELS = Taught("SVM on pixels", partial(_by_type, "pixels", _svm, "bad"))
CNN_PIXELS = Taught("CNN on pixels", partial(_convolutional, "pixels", "bad"))
ROWS: Sequence[Taught] = (
    SVM_PIXELS,
    Taught("SVM on pixels, by kind", partial(_by_type, "pixels", _svm, "kind")),
    CNN_PIXELS,
    Taught("CNN on pixels, by kind", partial(_convolutional, "pixels", "kind")),
    Taught("CNN on the change from the references", partial(_convolutional, "change", "bad")),
    Taught("SVM on z-scores", partial(_by_type, "z", _svm, "bad")),
    Taught("random forest on z-scores", partial(_by_type, "z", _forest, "bad")),
    Taught("siamese network on embeddings", _siamese),
)
TRIED_ON_BAD_LABELS: Sequence[Taught] = (SVM_PIXELS, CNN_PIXELS)
