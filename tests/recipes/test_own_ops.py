"""`minissl pretrain --with FILE`: what is refused, what is said of a pair, and that the model trains with it."""

import hashlib
import inspect
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from minissl import BertConfig, BertForPreTraining, ops
from minissl.cli import main
from minissl.files import read_arrays
from minissl.gradcheck import op_cases
from minissl.kernels import Pair, replace_op
from minissl.recipes import pretrain as recipe
from minissl.recipes.own_ops import SHAPES, OwnOpError, OwnPair, check_own_ops, load_own_ops, ops_that_run, rehearse
from minissl.recipes.tasks import HmmTask

TINY = ["--steps", "4", "--batch-size", "4", "--seq-len", "12", "--threads", "2", "--save-every", "2"]

GELU = """
import math
import numpy as np
from minissl.ops import gelu_forward

def gelu_backward(dy, cache):
    x, gate = cache
    return dy * (gate + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
"""
ATTENTION = """
import numpy as np

def attention_forward(q, k, v, mask=None, rate=0.0, rng=None):
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -1e30)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    w = e / e.sum(axis=-1, keepdims=True)
    return w @ v, (q, k, v, w)

def attention_backward(dout, cache):
    q, k, v, w = cache
    dw = dout @ v.swapaxes(-1, -2)
    ds = w * (dw - (w * dw).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return ds @ k, ds.swapaxes(-1, -2) @ q, w.swapaxes(-1, -2) @ dout
"""
LAYER_NORM = """
import numpy as np

def layer_norm_forward(x, gain, bias, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    inv_std = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    return gain * (centred * inv_std) + bias, (centred * inv_std, inv_std, gain)

def layer_norm_backward(dy, cache):
    n, inv_std, gain = cache
    d = dy * gain
    dx = inv_std * (d - d.mean(axis=-1, keepdims=True) - n * (d * n).mean(axis=-1, keepdims=True))
    leading = tuple(range(dy.ndim - 1))
    return dx, (dy * n).sum(axis=leading), dy.sum(axis=leading)
"""
MORE = """
from __future__ import annotations
from dataclasses import dataclass
from minissl.ops import *

@dataclass
class Cache:
    x: int

def softmax_forward(x): return x, x
def softmax_backward(dy, cache): return dy
def tanh_forward(x): return x, x
def tanh_backward(dy, cache): return dy
def my_helper_forward(x): return x
def _zebra_forward(x): return x
def _zebra_backward(x): return x
"""
IN_A_GLOBAL = """
from minissl import ops

def attention_forward(q, k, v, mask=None, rate=0.0, rng=None):
    global cache
    y, cache = ops.attention_forward(q, k, v, mask, rate, rng)
    return y, None

def attention_backward(dy, nothing):
    return ops.attention_backward(dy, cache)
"""
LATER = """
from minissl.ops import gelu_backward, gelu_forward as right

calls = 0

def gelu_forward(x):
    global calls
    calls += x.shape[-1] == 512
    y, cache = right(x)
    return (WHAT if calls > 16 else y), cache
"""


def train(*options, data="hmm", out="run"):
    return main(["pretrain", "--data", str(data), *TINY, "--out", out, *options])


def write(text):
    Path("mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())


def own(text, nsp=True, dropout=False):
    write(text)
    return load_own_ops(Path("mine.py"), ops_that_run(nsp, dropout))


def changed(text, old, new):
    assert old in text
    return text.replace(old, new)


def refused(capsys, *options):
    """Train with what must end in one line; return the line, and what was printed before."""
    assert train("--with", "mine.py", *options) == 2
    out, err = capsys.readouterr()
    (line,) = (line for line in err.splitlines() if line and "%|" not in line)  # but for the progress bar
    assert line.startswith("minissl: ")
    return line, out


def bert(dropout=0.0):
    config = BertConfig(
        vocab_size=29, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=17,
        max_position_embeddings=11, hidden_dropout_prob=dropout, attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )  # fmt: skip
    return BertForPreTraining(config)


def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 29, (5, 7))
    labels = np.where(rng.random((5, 7)) < 0.4, ids, -100)
    labels[:, 0] = 3
    mask = (np.arange(7) < np.array([7, 5, 7, 3, 6])[:, None]).astype(int)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "next_sentence_label": rng.integers(0, 2, 5)}


# which ops there are


@pytest.mark.parametrize(("nsp", "dropout"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_ops_that_run_are_those_that_a_training_step_calls(nsp, dropout):
    every = [name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")]
    ran = set()

    def noting(name):
        def backward(dy, cache):
            ran.add(name)
            return getattr(ops, f"{name}_backward")(dy, cache)

        return getattr(ops, f"{name}_forward"), backward

    inputs = batch()
    if not nsp:
        del inputs["next_sentence_label"]
    with ExitStack() as stack:
        for name in every:
            stack.enter_context(replace_op(name, *noting(name)))
        bert(0.1 * dropout).loss_and_grads(**inputs, rng=np.random.default_rng(0))
    assert set(ops_that_run(nsp, dropout)) == ran


@pytest.mark.parametrize("name", SHAPES)
def test_the_shape_of_every_output(name):
    cases = [case for case in op_cases() if case.op == name]
    assert cases
    for case in cases:
        args = inspect.signature(case.forward).bind(**case.inputs).args
        y, _ = OwnPair(name, Path("mine.py"), Pair(case.forward, case.backward)).forward(*args)
        assert SHAPES[name](*args) == y.shape == np.shape(case.forward(*args)[0]), case.label


# a right pair


def test_a_right_copy_trains_to_the_very_weights(quick, small_text, capsys):
    write("\n".join(inspect.getsource(sys.modules[f"minissl.ops.{name}"]) for name in ("attention", "layer_norm")))
    with (  # their twins round otherwise
        replace_op("attention", ops.attention_forward, ops.attention_backward),
        replace_op("layer_norm", ops.layer_norm_forward, ops.layer_norm_backward),
    ):
        for out, option in (("plain", []), ("run", ["--with", "mine.py"])):
            assert train("--vocab-size", "150", *option, data=small_text, out=out) == 0
    said = capsys.readouterr().out
    assert "attention: your pair agrees with minissl's (6 cases)\n" in said
    assert "layer_norm: your pair agrees with minissl's (4 cases)\n" in said
    assert "your own in place of minissl's: attention, layer_norm (mine.py)\n" in said
    assert not any(word in said for word in ("wrong", "differs", "float64", "attention.png"))
    plain, run = Path("plain"), Path("run")
    for name in ("model.safetensors", "log.jsonl"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()
    assert set(os.listdir(run)) - set(os.listdir(plain)) == {"own_ops.py"}
    assert (run / "own_ops.py").read_bytes() == Path("mine.py").read_bytes()
    metrics, plain_metrics = (json.loads((folder / "metrics.json").read_text()) for folder in (run, plain))
    assert metrics.pop("own_ops") == ["attention", "layer_norm"]
    assert metrics.keys() == plain_metrics.keys()
    settings, plain_settings = (json.loads((folder / "run.json").read_text()) for folder in (run, plain))
    sha256 = hashlib.sha256(Path("mine.py").read_bytes()).hexdigest()
    assert settings.pop("own_ops") == {"file": "mine.py", "sha256": sha256}
    assert settings == plain_settings


def test_a_file_may_hold_more_than_its_pairs(quick, capsys):
    """Postponed annotations, a dataclass, helpers named like ops or not, a byte-order mark, names of minissl's own."""
    text = "\ufeff" + MORE + LAYER_NORM
    found = own(text, nsp=False)
    assert (list(found.pairs), found.resting) == (["layer_norm"], ["softmax", "tanh"])
    said = []
    assert check_own_ops(found, said.append)
    assert said == [
        "layer_norm: your pair agrees with minissl's (4 cases)",
        "softmax: your pair takes no part (attention has its softmax inside)",
        "tanh: your pair takes no part (there is no next sentence prediction)",
    ]
    assert list(own(text, nsp=True).pairs) == ["layer_norm", "tanh"]


def test_another_way_to_draw_what_is_dropped_is_right(quick):
    text = """
def dropout_forward(x, rate, rng):
    keep = (rng.random(x.shape) >= rate) / (1 - rate)
    return x * keep, keep

def dropout_backward(dy, keep):
    return dy * keep
"""
    said = []
    assert check_own_ops(own(text, dropout=True), said.append)
    assert said == ["dropout: your pair agrees with minissl's (3 cases)"]


# a wrong pair, and a run that goes on


def stopped(monkeypatch, step):
    """Begin a run with mine.py that is interrupted as step `step` begins."""
    batch = HmmTask.batch

    def until(task, number):
        if number == step:
            raise KeyboardInterrupt
        return batch(task, number)

    with monkeypatch.context() as patch:
        patch.setattr(HmmTask, "batch", until)
        assert train("--with", "mine.py") == 2


def test_a_wrong_pair_trains_and_goes_on_with_its_copy(quick, monkeypatch, capsys):
    write(changed(GELU, "dy * (", "dy * -("))
    assert train("--with", "mine.py", out="whole") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "gelu: your pair is wrong in 4 of 4 cases"
    assert said[1].startswith("  sign: the gradient of x ")
    assert said[1].endswith("(case 1-D)")
    assert said[2].startswith("on the first rows of text, the model's gradient differs from minissl's by ")
    assert said[3] == "training goes on with it, so that you can see what it does"
    stopped(monkeypatch, 4)
    Path("mine.py").unlink()
    capsys.readouterr()
    assert main(["pretrain", "--resume", "run"]) == 0
    assert "your own in place of minissl's: gelu (run/own_ops.py)" in capsys.readouterr().out
    for name in ("model.safetensors", "log.jsonl"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
    assert json.loads(Path("run/metrics.json").read_text())["own_ops"] == ["gelu"]


def test_a_wrong_forward_is_wrong(quick):
    said = []
    text = changed(LAYER_NORM, "+ bias", "+ 2 * bias").replace("dy.sum(", "2 * dy.sum(")
    assert not check_own_ops(own(text), said.append)
    assert "forward_differs" in "".join(said)


def test_a_pair_that_takes_the_models_shapes_alone_trains(quick, capsys):
    """Four axes are what BERT's attention has; masks hide no whole row there either."""
    write(changed(ATTENTION, "swapaxes(-1, -2)", "transpose(0, 1, 3, 2)"))
    assert train("--with", "mine.py") == 0
    said = capsys.readouterr().out
    assert "attention: your pair is wrong in 4 of 6 cases\n  mine.py, line 5: ValueError: axes don't match" in said
    assert "ignored_positions" in said
    assert "attention: your forward and backward made float64 of float32; it is cast back" in said
    assert "differs from minissl's" not in said
    assert "attention.png shows minissl's attention in your model" in said


def test_what_is_kept_in_a_global_shows_in_the_model(quick):
    found = own(IN_A_GLOBAL)
    said = []
    assert check_own_ops(found, said.append)
    rehearse(found, bert(), batch(), True, said.append)
    assert len(said) == 2
    assert said[1].endswith("; each call must keep what its backward needs in its own cache, not in a global")


def test_a_rehearsal_leaves_the_model_alone(quick):
    model, said = bert(), []
    before = model.pack().copy()
    found = own(changed(LAYER_NORM, "    centred", "    gain += 1\n    centred"))
    rehearse(found, model, batch(), False, said.append)
    assert "differs from minissl's by" in said[0]
    assert model.pack().tobytes() == before.tobytes()


# files that cannot be used

HALF = "def attention_forward(q, k, v, mask=None, rate=0.0, rng=None): pass\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"# caf\xe9\n", "mine.py: not UTF-8: byte 5 is 0xe9"),
        ("", "has no pair NAME_forward, NAME_backward for an op; this BERT runs embedding, layer_norm"),
        ("", "the file defines no function"),
        ("def attention(q): pass\nclass Attention: pass\n", "the file defines attention, Attention"),
        ("from minissl.ops import *\n", "the file defines no function"),
        ("def f(:\n", "mine.py, line 1: SyntaxError: "),
        ("def f():\nreturn 1\n", "mine.py, line 2: IndentationError: "),
        ("x = 1\0\n", "null bytes"),
        ("x = [][5]\n", "mine.py, line 1: IndexError: list index out of range"),
        ("\ndef f():\n    assert False\nf()\n", "mine.py, line 3: AssertionError"),
        ("raise ValueError('two\\nlines')\n", "mine.py, line 1: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'; a run keeps this one file"),
        (HALF, "has attention_forward but no attention_backward; an op is a pair of both"),
        (HALF + "def atention_backward(dy, cache): pass\n", "is atention_backward meant to be it?"),
        (changed(LAYER_NORM, "layer_norm", "layernorm"), "layernorm is no op of minissl (did you mean layer_norm?)"),
        (changed(LAYER_NORM, "layer_norm", "zebra"), "zebra is no op of minissl (a helper of your own needs another"),
        (changed(GELU, "gelu", "relu"), "nothing in it would ever run (relu: BERT has none); this BERT runs"),
        (changed(GELU, "gelu_", "softmax_"), "would ever run (softmax: attention has its softmax inside)"),
        (changed(ATTENTION, "q, k, v, mask=", "k, q, v, mask="), "has attention_forward(k, q, v, mask=None, "),
        (changed(ATTENTION, ", rng=None", ""), "expected attention_forward(q, k, v, mask=None, rate=0.0, rng=None)"),
        (changed(ATTENTION, "rng=None", "rng=None, *, stable"), "rng=None, *, stable), expected attention_forward(q"),
        (changed(ATTENTION, "mask=None, rate=0.0, rng=None", "mask, rate, rng"), "(q, k, v, mask, rate, rng), expect"),
        (changed(ATTENTION, "dout, cache)", "dout, q, k, v)"), "has attention_backward(dout, q, k, v), expected "),
        (changed(ATTENTION, "return w @ v", "return w @ v.wrong"), "mine.py, line 10: AttributeError: 'numpy."),
        (changed(ATTENTION, "return w @ v, (q, k, v, w)", "return w @ v"), "mine.py: forward returned ndarray, expect"),
        (changed(ATTENTION, ", w.swapaxes(-1, -2) @ dout", ""), "mine.py: backward returned 2 gradients, expect"),
        (changed(GELU, "    x, gate", "    exit()\n    x, gate"), "no case of gelu's gradient check runs"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(quick, capsys, text, said):
    write(text)
    before = sorted(os.listdir())
    line, out = refused(capsys)
    assert said in line
    assert out == ""
    assert sorted(os.listdir()) == before


def test_what_is_no_python_file(quick, capsys):
    for name, said in (
        ("missing.py", "missing.py: no such file; --with takes one Python file"),
        (".", "cannot be read (Is a directory)"),
        ("", "cannot be read (Is a directory)"),
        ("lesson.ipynb", "is a notebook"),
    ):
        assert train("--with", name) == 2
        assert said in capsys.readouterr().err
    write(GELU)
    assert "--with is given 2 times; put all your pairs into one file" in refused(capsys, "--with", "mine.py")[0]
    assert os.listdir() == ["mine.py"]


def test_dropout_that_never_runs(quick, capsys):
    write("def dropout_forward(x, rate, rng): pass\ndef dropout_backward(dy, cache): pass\n")
    assert "would ever run (dropout: --dropout is 0); this BERT" in refused(capsys)[0]
    assert "mine.py: forward returned NoneType" in refused(capsys, "--dropout", "0.1")[0]


def test_what_the_model_could_not_train_with_is_refused_before_it_trains(quick, capsys):
    write(changed(LAYER_NORM, "axis=leading", "axis=(0, 1)"))
    line, out = refused(capsys)
    assert line == "minissl: mine.py: layer_norm_backward returned dgain () float32, expected (128,) float32"
    assert "layer_norm: your pair is wrong in 3 of 4 cases" in out
    assert "unsummed_broadcast" in out
    assert "training goes on" not in out
    assert os.listdir() == ["mine.py"]


# in the model


def pair(forward, backward, op="linear"):
    return OwnPair(op, Path("mine.py"), Pair(forward, backward))


X, W, B = np.ones((2, 3, 4), np.float32), np.ones((5, 4), np.float32), np.ones(5, np.float32)
Y = np.zeros((2, 3, 5), np.float32)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (Y, "linear_forward returned ndarray, expected the pair (y, cache)"),
        ([Y, None], "linear_forward returned list, expected the pair (y, cache)"),
        ((None, Y), "linear_forward returned NoneType for y, expected an array"),
        ((Y[0], None), "linear_forward returned y (3, 5) float32, expected (2, 3, 5) float32"),
        ((Y.astype(int), None), "linear_forward returned y (2, 3, 5) int64, expected (2, 3, 5) float32"),
        ((Y + 0j, None), "linear_forward returned y (2, 3, 5) complex"),
    ],
)
def test_a_forward_that_returns_something_else(returned, said):
    with pytest.raises(OwnOpError) as raised:
        pair(lambda x, weight, bias: returned, None).forward(X, W, B)
    assert str(raised.value).startswith(f"mine.py: {said}")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "linear_backward returned 0 gradients, expected those of x, weight, bias"),
        (X, "linear_backward returned 1 gradients, expected those of x, weight, bias"),
        ((X, W.T, B), "linear_backward returned dweight (4, 5) float32, expected (5, 4) float32"),
        ((X, W, [1, 2, 3, 4, 5]), "linear_backward returned list for dbias, expected an array"),
    ],
)
def test_a_backward_that_returns_something_else(returned, said):
    mine = pair(lambda x, weight, bias: (Y, "cache"), lambda dy, cache: returned)
    _, cache = mine.forward(X, W, B)
    with pytest.raises(OwnOpError) as raised:
        mine.backward(Y, cache)
    assert str(raised.value).startswith(f"mine.py: {said}")


def test_float64_is_cast_back_and_noted():
    def backward(dy, cache):
        assert cache == "cache"
        return [np.broadcast_to(np.float32(1), X.shape), W.astype(float), B]

    mine = pair(lambda x, weight, bias: (Y.astype(float), "cache"), backward)
    y, cache = mine.forward(X, W, B)
    assert y.dtype == np.float32
    assert mine.cast == {"forward": "float64"}
    gradients = mine.backward(y, cache)
    assert [g.dtype for g in gradients] == [np.float32] * 3
    assert all(g.flags.writeable for g in gradients)
    assert mine.cast == {"forward": "float64", "backward": "float64"}


def test_a_loss_may_be_a_plain_number_and_a_single_gradient_bare():
    mine = pair(lambda logits, targets, count: (0.5, None), lambda dy, cache: dy * X[0], "cross_entropy")
    loss, cache = mine.forward(X[0], np.zeros(3, int), None)
    assert float(loss) == 0.5
    np.testing.assert_array_equal(mine.backward(2.0, cache), 2 * X[0])
    assert mine.cast == {}


def test_attention_weights_are_shown_only_where_they_are_some():
    class Cache:
        weights = np.zeros((2, 3, 5))

    q, k = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    for kept, shown in ((Cache(), True), (q, False), (None, False)):
        mine = pair(lambda q, k, v, mask, rate, rng, kept=kept: (q, kept), None, "attention")
        _, cache = mine.forward(q, k, k, None, 0.0, None)
        assert (cache.weights is not None) == shown
    Cache.weights = np.zeros((2, 3, 4))
    _, cache = pair(lambda q, k, v, mask, rate, rng: (q, Cache()), None, "attention").forward(q, k, k, None, 0.0, None)
    assert cache.weights is None


def test_not_enough_memory_is_said_as_such():
    def forward(x, weight, bias):
        raise MemoryError

    with pytest.raises(MemoryError):
        pair(forward, None).forward(X, W, B)


# in the middle of a training


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("{}", "mine.py: gelu_forward returned dict for y, expected an array; the last checkpoint is in run"),
        ("1 / 0", "mine.py, line 10: ZeroDivisionError: division by zero (in the model, for the op gelu); the last"),
        (
            "y * float('nan')",
            "the usual slip is a learning rate that is too high; this run has your own gelu (mine.py)",
        ),
    ],
)
def test_a_pair_that_goes_wrong_later(quick, capsys, what, said):
    """After two calls in the rehearsal there are six in each step: two layers for two threads and the curve."""
    write(changed(LATER, "WHAT", what))
    line, _ = refused(capsys)
    assert said in line
    assert int(read_arrays("run/checkpoint.safetensors")[1]["step"]) == 2
    assert not Path("run/metrics.json").exists()


def test_a_run_whose_copy_is_not_what_it_was_does_not_go_on(quick, monkeypatch, capsys):
    write(GELU)
    stopped(monkeypatch, 2)
    copy, settings = Path("run/own_ops.py"), Path("run/run.json")
    whole = settings.read_text()
    for damage, said in (
        (lambda: copy.write_text(GELU + "\n"), "run/own_ops.py: has changed since this run began"),
        (copy.unlink, "run/own_ops.py: no such file"),
        (lambda: settings.write_text(whole.replace('"sha256":', '"sha":')), "not the settings of this version"),
    ):
        damage()
        capsys.readouterr()
        assert main(["pretrain", "--resume", "run"]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    copy.write_text(GELU)
    settings.write_text(whole)
    assert main(["pretrain", "--resume", "run", "--with", "mine.py"]) == 2
    assert "give no other option beside it" in capsys.readouterr().err
    assert main(["pretrain", "--resume", "run"]) == 0


def test_an_attention_without_weights_is_drawn_with_minissls(quick):
    found = own(changed(ATTENTION, "np.sqrt(q.shape[-1])", "1.5"))
    model, said = bert(), []
    ids = {"input_ids": batch()["input_ids"][:1]}
    with replace_op("attention", ops.attention_forward, ops.attention_backward):  # its twin rounds otherwise
        expected = model(**ids, output_attentions=True).attentions
    with found.in_place():
        drawn = recipe._attentions(model, ids, said.append)
        assert model(**ids, output_attentions=True).attentions == ()
    assert len(said) == 1
    np.testing.assert_array_equal(drawn[0], expected[0])
