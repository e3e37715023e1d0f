import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from embeddings.clustering import cosine_distances
from embeddings.encoder import ResNet50Encoder, WeightsError
from embeddings.preprocess import STRETCHES
from qc.detection.thresholds import read_thresholds
from qc.io.instrument_files import read_instruments
from qc.project import image_types_of

# He-normal numbers of a fixed seed: equal on every machine and backend.
UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
SIMULATED = "resnet50-simulated-physical-0249b36d4242"  # the file of embeddings/weights

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def encoder():
    return ResNet50Encoder()


@pytest.fixture(scope="module")
def weights_path(encoder, tmp_path_factory):
    """The untrained weights in a file."""
    path = tmp_path_factory.mktemp("weights") / "copy.weights.h5"
    encoder.network.save_weights(path)
    return path


def some_inputs(n: int) -> NDArray[np.float32]:
    """Network inputs of different structure."""
    random = np.random.default_rng(5)
    coarse = random.normal(0, 30, (n, 7, 7, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return np.asarray(coarse + random.normal(0, 3, (n, 224, 224, 3)), np.float32)


def test_fingerprint_of_untrained_weights_is_fixed(encoder):
    assert encoder.fingerprint == UNTRAINED
    assert encoder.name == "resnet50-untrained-physical"


@pytest.mark.slow
def test_simulated_weights_have_fixed_fingerprint():
    shipped = ResNet50Encoder("simulated")
    assert shipped.fingerprint == SIMULATED
    embeddings = shipped.embed(some_inputs(2))
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-3)
    assert 1 - embeddings[0] @ embeddings[1] > 1e-3


@pytest.mark.slow
def test_embedding_has_2048_numbers_and_unit_length(encoder):
    embeddings = encoder.embed(some_inputs(3))
    assert (embeddings.shape, embeddings.dtype) == ((3, 2048), np.float32)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-4)


def test_embedding_survives_storage_as_float16(encoder):
    embeddings = encoder.embed(some_inputs(1))
    assert np.array_equal(embeddings.astype(np.float16).astype(np.float32), embeddings)


def test_embedding_does_not_depend_on_batch(encoder):
    inputs = some_inputs(3)
    together = encoder.embed(inputs)
    assert encoder.embed(inputs[1:2])[0] == pytest.approx(together[1], abs=1e-4)
    assert encoder.embed(inputs[::-1])[::-1] == pytest.approx(together, abs=1e-4)
    cosines = np.einsum("nd,nd->n", encoder.embed(inputs[::-1])[::-1], together)
    assert cosines == pytest.approx(np.square(together).sum(axis=1), abs=1e-5)


def test_embeddings_of_different_inputs_differ(encoder):
    first, second = encoder.embed(some_inputs(2))
    assert 1 - first @ second > 1e-4


@pytest.mark.slow
def test_fingerprint_of_weights_file_depends_on_values_only(encoder, weights_path):
    copy = ResNet50Encoder(str(weights_path))
    assert copy.name == "resnet50-copy-physical"
    assert copy.fingerprint.rpartition("-")[2] == UNTRAINED.rpartition("-")[2]
    inputs = some_inputs(1)
    assert np.array_equal(copy.embed(inputs), encoder.embed(inputs))


def test_fingerprint_of_shipped_weights_loads_no_network():
    code = (
        "import sys; from embeddings.encoder import ResNet50Encoder\n"
        "for name in ('untrained', 'simulated'): print(ResNet50Encoder(name).fingerprint)\n"
        "print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    assert run_python(code).stdout.split() == [UNTRAINED, SIMULATED, "False", "False"]


@pytest.mark.slow
def test_fingerprint_of_weights_file_is_cached(weights_path, tmp_path):
    path, notes = (
        shutil.copy(weights_path, tmp_path / "own.weights.h5"),
        tmp_path / "cache" / "w.json",
    )
    fingerprint = ResNet50Encoder(str(path), notes=notes).fingerprint
    code = (
        "import sys; from pathlib import Path; from embeddings.encoder import ResNet50Encoder\n"
        f"print(ResNet50Encoder({str(path)!r}, notes=Path({str(notes)!r})).fingerprint)\n"
        "print('keras' in sys.modules)"
    )
    assert run_python(code).stdout.split() == [fingerprint, "False"]
    notes.write_text("not JSON")
    assert ResNet50Encoder(str(path), notes=notes).fingerprint == fingerprint


@pytest.mark.slow
def test_pickled_encoder_gives_equal_embeddings(weights_path, tmp_path):
    original = ResNet50Encoder(str(weights_path), notes=tmp_path / "notes" / "weights.json")
    sent = pickle.loads(pickle.dumps(original))
    assert sent.fingerprint == original.fingerprint
    inputs = some_inputs(1)
    assert np.array_equal(sent.embed(inputs), original.embed(inputs))


def test_embed_rejects_weights_with_other_digest_than_cached(weights_path, tmp_path):
    path, notes = shutil.copy(weights_path, tmp_path / "own.weights.h5"), tmp_path / "w.json"
    _ = ResNet50Encoder(str(path), notes=notes).fingerprint
    noted = notes.read_text().replace(UNTRAINED.rpartition("-")[2], "0" * 12)
    notes.write_text(noted)
    with pytest.raises(WeightsError, match="expected weights with the digest 0000"):
        ResNet50Encoder(str(path), notes=notes).embed(some_inputs(1))


def test_fingerprint_depends_on_stretch(weights_path):
    names = {ResNet50Encoder(str(weights_path), stretch).name for stretch in STRETCHES}
    assert len(names) == len(STRETCHES)


def test_encoder_rejects_unknown_stretch():
    with pytest.raises(ValueError, match="no stretch 'log'; there are physical, minmax"):
        ResNet50Encoder(stretch="log")


def test_missing_weights_file_error_gives_remedy(tmp_path):
    with pytest.raises(
        WeightsError, match=r"w\.h5: no such weights file\. Give the path"
    ) as caught:
        _ = ResNet50Encoder(str(tmp_path / "w.h5")).fingerprint
    assert "'simulated', 'untrained' and 'imagenet'" in str(caught.value)


def truncate(weights_path, path):
    path.write_bytes(weights_path.read_bytes()[:100_000])


def replace_by_html(_weights_path, path):
    path.write_text("<html>404 not found</html>")


def replace_by_nothing(_weights_path, path):
    path.touch()


def replace_by_other_network(_weights_path, path):
    import keras  # noqa: PLC0415 - seconds to load

    layers = [keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    keras.Sequential(layers).save_weights(path)


@pytest.mark.parametrize(
    "damage", [truncate, replace_by_html, replace_by_nothing, replace_by_other_network]
)
def test_damaged_weights_file_error_gives_remedy(weights_path, tmp_path, damage):
    path = tmp_path / "spoilt.weights.h5"
    damage(weights_path, path)
    with pytest.raises(WeightsError, match=r"ResNet-50 without its top, got .* fetch it again"):
        _ = ResNet50Encoder(str(path)).fingerprint


def test_weights_file_with_unknown_suffix_is_rejected(weights_path, tmp_path):
    path = shutil.copy(weights_path, tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match=r"weights\.bin: expected"):
        _ = ResNet50Encoder(str(path)).fingerprint


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_imagenet_weights_without_network_error_gives_remedy(tmp_path):
    code = (
        "from embeddings.encoder import ResNet50Encoder, WeightsError\n"
        "try: ResNet50Encoder('imagenet').fingerprint\n"
        "except WeightsError as error: print(error)"
    )
    nowhere = "http://127.0.0.1:9"  # no server: the connection is refused
    done = run_python(code, KERAS_HOME=str(tmp_path), https_proxy=nowhere, HTTPS_PROXY=nowhere)
    assert "could not be fetched" in done.stdout, done.stderr
    assert "give its path as the weights" in done.stdout


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backends_give_equal_fingerprint_and_embedding(encoder, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    inputs = some_inputs(1)
    np.save(tmp_path / "inputs.npy", inputs)
    code = (
        "import numpy as np; from embeddings.encoder import ResNet50Encoder\n"
        "e = ResNet50Encoder(); v = e.embed(np.load('inputs.npy'))\n"
        "np.save('embedding.npy', v); print(e.fingerprint)"
    )
    done = run_python(f"import os; os.chdir({str(tmp_path)!r})\n{code}", KERAS_BACKEND=backend)
    assert done.stdout.strip() == UNTRAINED, done.stderr
    assert np.load(tmp_path / "embedding.npy") == pytest.approx(encoder.embed(inputs), abs=1e-3)


# --- another engine -------------------------------------------------------------------------------


def smallest_limit() -> float:
    """Smallest merge-height threshold of the packaged thresholds, cosine distance."""
    types = image_types_of(read_instruments(None))
    shipped = read_thresholds(Path("thresholds.yaml"), types)
    return min(entry.merge_height for entries in shipped.entries.values() for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["simulated", "untrained"])
def test_openvino_matches_keras_to_thousandth_of_smallest_limit(weights):
    pytest.importorskip("openvino")
    keras, openvino = ResNet50Encoder(weights), ResNet50Encoder(weights, engine="openvino")
    assert openvino.fingerprint == keras.fingerprint
    inputs = some_inputs(5)
    pairs = zip(keras.embed(inputs), openvino.embed(inputs), strict=True)
    [distances] = [[cosine_distances(a[None], b[None]).item() for a, b in pairs]]
    assert max(distances) < 1e-3 * smallest_limit()


def test_openvino_embedding_does_not_depend_on_batch():
    pytest.importorskip("openvino")
    encoder, inputs = ResNet50Encoder(engine="openvino", batch_size=3), some_inputs(5)
    single = np.concatenate([encoder.embed(inputs[i : i + 1]) for i in range(5)])
    assert encoder.embed(inputs) == pytest.approx(single, abs=1e-4)


def test_encoder_rejects_unknown_engine():
    with pytest.raises(ValueError, match="there are keras, openvino"):
        ResNet50Encoder(engine="abacus")
