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

# He-normal numbers of a fixed seed: the same on every machine, with every backend, for ever.
UNTRAINED = "resnet50-untrained-physical-233c98921cb7"
SIMULATED = "resnet50-simulated-physical-0249b36d4242"  # the file of embeddings/weights

# Keras of NumPy 1, when it saves weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def encoder():
    return ResNet50Encoder()


@pytest.fixture(scope="module")
def saved(encoder, tmp_path_factory):
    """The untrained weights in a file."""
    path = tmp_path_factory.mktemp("weights") / "copy.weights.h5"
    encoder.network.save_weights(path)
    return path


def some_inputs(n: int) -> NDArray[np.float32]:
    """Network inputs of different looks."""
    random = np.random.default_rng(5)
    coarse = random.normal(0, 30, (n, 7, 7, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return np.asarray(coarse + random.normal(0, 3, (n, 224, 224, 3)), np.float32)


def test_the_untrained_weights_are_the_same_everywhere(encoder):
    assert encoder.fingerprint == UNTRAINED
    assert encoder.name == "resnet50-untrained-physical"


def test_the_weights_that_came_with_the_program_have_a_name():
    shipped = ResNet50Encoder("simulated")
    assert shipped.fingerprint == SIMULATED
    embeddings = shipped.embed(some_inputs(2))
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-3)
    assert 1 - embeddings[0] @ embeddings[1] > 1e-3


def test_an_embedding_has_2048_numbers_and_length_one(encoder):
    embeddings = encoder.embed(some_inputs(3))
    assert (embeddings.shape, embeddings.dtype) == ((3, 2048), np.float32)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-4)


def test_an_embedding_is_stored_without_loss_in_sixteen_bits(encoder):
    embeddings = encoder.embed(some_inputs(1))
    assert np.array_equal(embeddings.astype(np.float16).astype(np.float32), embeddings)


def test_an_embedding_does_not_depend_on_its_company(encoder):
    inputs = some_inputs(3)
    together = encoder.embed(inputs)
    assert encoder.embed(inputs[1:2])[0] == pytest.approx(together[1], abs=1e-4)
    assert encoder.embed(inputs[::-1])[::-1] == pytest.approx(together, abs=1e-4)
    cosines = np.einsum("nd,nd->n", encoder.embed(inputs[::-1])[::-1], together)
    assert cosines == pytest.approx(np.square(together).sum(axis=1), abs=1e-5)


def test_different_inputs_have_different_embeddings(encoder):
    one, other = encoder.embed(some_inputs(2))
    assert 1 - one @ other > 1e-4


def test_weights_from_a_file_have_the_digest_of_their_numbers(encoder, saved):
    copy = ResNet50Encoder(str(saved))
    assert copy.name == "resnet50-copy-physical"
    assert copy.fingerprint.rpartition("-")[2] == UNTRAINED.rpartition("-")[2]
    inputs = some_inputs(1)
    assert np.array_equal(copy.embed(inputs), encoder.embed(inputs))


def test_the_fingerprint_of_known_weights_is_told_without_the_network():
    code = (
        "import sys; from embeddings.encoder import ResNet50Encoder\n"
        "for one in ('untrained', 'simulated'): print(ResNet50Encoder(one).fingerprint)\n"
        "print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    assert run_python(code).stdout.split() == [UNTRAINED, SIMULATED, "False", "False"]


def test_the_fingerprint_of_a_file_is_noted_when_it_was_read_once(saved, tmp_path):
    path, notes = shutil.copy(saved, tmp_path / "own.weights.h5"), tmp_path / "cache" / "w.json"
    told = ResNet50Encoder(str(path), notes=notes).fingerprint
    code = (
        "import sys; from pathlib import Path; from embeddings.encoder import ResNet50Encoder\n"
        f"print(ResNet50Encoder({str(path)!r}, notes=Path({str(notes)!r})).fingerprint)\n"
        "print('keras' in sys.modules)"
    )
    assert run_python(code).stdout.split() == [told, "False"]
    notes.write_text("not what was written")
    assert ResNet50Encoder(str(path), notes=notes).fingerprint == told


def test_an_encoder_that_was_sent_to_another_process_is_the_same_there(saved, tmp_path):
    own = ResNet50Encoder(str(saved), notes=tmp_path / "notes" / "weights.json")
    sent = pickle.loads(pickle.dumps(own))
    assert sent.fingerprint == own.fingerprint
    one = some_inputs(1)
    assert np.array_equal(sent.embed(one), own.embed(one))


def test_weights_that_are_read_otherwise_than_before_make_no_embedding(saved, tmp_path):
    path, notes = shutil.copy(saved, tmp_path / "own.weights.h5"), tmp_path / "w.json"
    _ = ResNet50Encoder(str(path), notes=notes).fingerprint
    noted = notes.read_text().replace(UNTRAINED.rpartition("-")[2], "0" * 12)
    notes.write_text(noted)
    with pytest.raises(WeightsError, match="expected weights with the digest 0000"):
        ResNet50Encoder(str(path), notes=notes).embed(some_inputs(1))


def test_the_stretch_is_part_of_the_fingerprint(saved):
    names = {ResNet50Encoder(str(saved), stretch).name for stretch in STRETCHES}
    assert len(names) == len(STRETCHES)


def test_an_unknown_stretch_is_refused_at_once():
    with pytest.raises(ValueError, match="no stretch 'log'; there are physical, minmax"):
        ResNet50Encoder(stretch="log")


def test_a_missing_weights_file_is_told_with_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"w\.h5: no such weights file\. Give the path") as told:
        _ = ResNet50Encoder(str(tmp_path / "w.h5")).fingerprint
    assert "'simulated', 'untrained' and 'imagenet'" in str(told.value)


def cut_short(saved, path):
    path.write_bytes(saved.read_bytes()[:100_000])


def not_weights(_saved, path):
    path.write_text("<html>404 not found</html>")


def empty(_saved, path):
    path.touch()


def of_another_network(_saved, path):
    import keras  # noqa: PLC0415 - seconds to load

    layers = [keras.layers.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)]
    keras.Sequential(layers).save_weights(path)


@pytest.mark.parametrize("spoil", [cut_short, not_weights, empty, of_another_network])
def test_a_spoilt_weights_file_is_told_in_one_line_with_what_to_do(saved, tmp_path, spoil):
    path = tmp_path / "spoilt.weights.h5"
    spoil(saved, path)
    with pytest.raises(WeightsError, match=r"ResNet-50 without its top, got .* fetch it again"):
        _ = ResNet50Encoder(str(path)).fingerprint


def test_weights_under_a_name_without_the_usual_ending_are_told(saved, tmp_path):
    path = shutil.copy(saved, tmp_path / "weights.bin")
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


def test_imagenet_weights_without_a_network_are_told_with_what_to_do(tmp_path):
    code = (
        "from embeddings.encoder import ResNet50Encoder, WeightsError\n"
        "try: ResNet50Encoder('imagenet').fingerprint\n"
        "except WeightsError as error: print(error)"
    )
    nowhere = "http://127.0.0.1:9"  # nobody listens there: refused at once
    done = run_python(code, KERAS_HOME=str(tmp_path), https_proxy=nowhere, HTTPS_PROXY=nowhere)
    assert "could not be fetched" in done.stdout, done.stderr
    assert "give its path as the weights" in done.stdout


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_gives_the_same_fingerprint_and_embedding(encoder, tmp_path, backend):
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
    """The smallest cosine distance that anything is judged by, with the limits of the program."""
    types = image_types_of(read_instruments(None))
    shipped = read_thresholds(Path("thresholds.yaml"), types)
    return min(entry.merge_height for each in shipped.entries.values() for entry in each)


@pytest.mark.parametrize("weights", ["simulated", "untrained"])
def test_openvino_gives_the_embeddings_of_keras_to_a_thousandth_of_the_smallest_limit(weights):
    pytest.importorskip("openvino")
    keras, other = ResNet50Encoder(weights), ResNet50Encoder(weights, engine="openvino")
    assert other.fingerprint == keras.fingerprint
    inputs = some_inputs(5)
    pairs = zip(keras.embed(inputs), other.embed(inputs), strict=True)
    [distances] = [[cosine_distances(a[None], b[None]).item() for a, b in pairs]]
    assert max(distances) < 1e-3 * smallest_limit()


def test_openvino_gives_the_same_whatever_comes_in_one_batch():
    pytest.importorskip("openvino")
    encoder, inputs = ResNet50Encoder(engine="openvino", batch_size=3), some_inputs(5)
    alone = np.concatenate([encoder.embed(inputs[i : i + 1]) for i in range(5)])
    assert encoder.embed(inputs) == pytest.approx(alone, abs=1e-4)


def test_an_engine_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="there are keras, openvino"):
        ResNet50Encoder(engine="abacus")
