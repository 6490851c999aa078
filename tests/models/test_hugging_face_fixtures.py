"""Every head against what PyTorch and transformers computed; the files of tests/parity/ wrote it down.

Outputs, losses and every parameter's gradient of random tiny models with weights of order 1, in float64.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import minissl
from minissl.files import read_arrays

FOLDER = Path(__file__).parent / "hugging_face"
FORWARD, BACKWARD, FLOAT32 = 1e-10, 1e-8, 2e-5  # relative to the largest number of each array
NAMES = ["classes", "masked-words", "next-sentence", "numbers", "pairs-of-pre-training", "pre-training"]
NAMES += ["several-labels", "spans", "tags", "words-of-pre-training"]
NAMES += ["autoencoder-of-larger-images", "autoencoder-of-normalised-patches", "classes-of-larger-images", "painting"]


def read(name, dtype="float64"):
    arrays, about = read_arrays(FOLDER / f"{name}.safetensors")
    kind = getattr(minissl, about["model"])
    model = kind(kind.config_class.from_dict(json.loads(about["config"])), dtype=dtype)
    parts = {part: {} for part in ("weights", "batch", "out", "gradients")}
    for key, array in arrays.items():
        part, _, key = key.partition("/")
        if key:
            parts[part][key] = array
    model.load_state_dict(parts["weights"])
    return model, parts["batch"], {**parts["out"], "loss": arrays["loss"]}, parts["gradients"]


def close(got, expected, tolerance, what, scale=None):
    assert got.shape == expected.shape, what
    error = np.abs(got - expected).max() / (scale or np.abs(expected).max())
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


def test_no_file_is_left_out():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", FORWARD), ("float32", FLOAT32)])
def test_outputs(name, dtype, tolerance):
    model, batch, expected, _ = read(name, dtype)
    out = model(**batch)
    for field, array in expected.items():
        if field in out:  # transformers gives the scores of every head, whatever is asked
            close(np.asarray(out[field], np.float64), array, tolerance, field)
    assert float(out.loss) == pytest.approx(float(expected["loss"]), rel=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient(name):
    model, batch, expected, gradients = read(name)
    loss, got = model.loss_and_grads(**batch)
    assert loss == pytest.approx(float(expected["loss"]), rel=FORWARD)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for key, _ in model.named_parameters():
        if key not in gradients:  # not on the way to this loss
            assert not got[key].any(), key
            continue
        scale = np.abs(gradients[key]).max()
        if scale < 1e-12 * largest:  # zero but for rounding: a softmax ignores what all of its scores share
            scale = 1e-3 * largest
        close(got[key], gradients[key], BACKWARD, key, scale)


def test_the_proof_can_fail():
    """A gradient off by a part in ten million is seen."""
    model, batch, _, gradients = read("tags")
    _, got = model.loss_and_grads(**batch)
    key = "classifier.weight"
    with pytest.raises(AssertionError, match="relative error"):
        close(got[key] * (1 + 1e-7), gradients[key], BACKWARD, key)
