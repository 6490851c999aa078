"""Every stub fails, every solution passes, and the usual wrong answers fail with the words that help."""

import ast
import copy
import re
from dataclasses import replace

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.exercises import suspects
from minissl.exercises.catalogue import GRADERS, exercise, exercises
from minissl.exercises.exercise import StudentError
from minissl.exercises.graders_tests import grade_test
from minissl.exercises.grading import check_source
from minissl.exercises.sandbox import Sandbox
from minissl.recipes.own_ops import check_own_ops, load_own_ops, ops_that_run

ALL = exercises()
CASTS = {"test_layer_norm": suspects.LAYER_NORM, "test_attention": suspects.ATTENTION}


class InProcess:
    """A student without a process of its own: many wrong answers are graded here in the time that one process takes."""

    def __init__(self, source):
        self.names = {}
        exec(compile(source, "student", "exec"), self.names)

    def function(self, name):
        return lambda *args, **kwargs: self.names[name](*copy.deepcopy(args), **copy.deepcopy(kwargs))

    def pair(self, name):
        return self.names[f"{name}_forward"], self.names[f"{name}_backward"]

    def test(self, name, implementation, names):
        functions = {}
        exec(compile(implementation, "implementation", "exec"), functions)
        try:
            self.names[name](*[functions[n] for n in names])
        except NotImplementedError:
            raise
        except Exception as error:
            return str(error) or type(error).__name__
        return None


LOSS = """
def ops_loss(scores, targets):
    scores = scores - scores.max(axis=-1, keepdims=True)
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return -log_probs[np.arange(len(targets)), targets].mean()
"""


def edited(name, old, new):
    """The solution with one slip in it."""
    solution = exercise(name).solution
    assert solution.count(old) == 1, f"{name}: {old!r} occurs {solution.count(old)} times"
    return solution.replace(old, new) + LOSS * ("ops_loss" in new)


# exercise, what stands in the solution, what a student writes instead, words of the verdict
WRONG = [
    ("numerical_derivative", "(f(above) - f(below)) / (2 * step)", "(f(above) - f(x)) / step", "x - h is to be asked"),
    ("numerical_derivative", "(2 * step)", "step", "twice too large"),
    ("numerical_derivative", "below[i] -= step", "", "only one of above and below"),
    ("numerical_derivative", "return gradient", "return gradient.ravel()", "shape: gradient has shape"),
    ("numerical_derivative", "return gradient", "return gradient.tolist()", "returned: gradient is a list"),
    ("numerical_derivative", "(2 * step)", "2 * step", "put brackets around"),
    ("numerical_derivative", "np.ndindex(x.shape)", "range(len(x))", "a whole row has moved at once"),
    ("broadcasting_sums", "np.sum(dx, axis=stretched, keepdims=True)", "np.sum(dx, axis=stretched)",
     "keepdims=True keeps them"),
    ("broadcasting_sums", "range(added)", "range(len(shape), dy.ndim)", "adds axes on the left"),
    ("gelu", "math.sqrt(2 * math.pi)", "(math.sqrt(2) * math.pi)", "π belongs under the root"),
    ("gelu", "np.exp(-0.5 * x * x)", "np.exp(0.5 * x * x)", "lost its minus"),
    ("softmax", "(y * dy).sum(axis=-1, keepdims=True)", "y * dy", "sum over the row is missing"),
    ("softmax", "y * (dy - (y * dy).sum(axis=-1, keepdims=True))", "y * dy", "the row's part is missing"),
    ("softmax", "(y * dy).sum(axis=-1, ", "(y * dy).sum(", "its own entries, the last axis"),
    ("softmax", "(y * dy).sum(", "(y * dy).mean(", "a mean over the row"),
    ("softmax", "(y * dy).sum(", "dy.mean(", "weighs each dy_i with y_i"),
    ("softmax", "dy - (y", "dy + (y", "it is taken off"),
    ("masked_cross_entropy", "    scores = scores - ", "    z = np.exp(logits - logits.max(-1, keepdims=True))\n"
     "    grad = z / z.sum(-1, keepdims=True) - np.eye(logits.shape[-1], dtype=logits.dtype)[labels.clip(0)]\n"
     "    return ops_loss(scores, targets), grad / len(rows)\n    scores = scores - ", "it is 0 there"),
    ("masked_cross_entropy", "dlogits / len(rows)", "dlogits / (labels != IGNORE).sum()", "int\\(…\\) of a count"),
    ("layer_norm", "mean_part = dnormed.mean(", "mean_part = dnormed.sum(", "means are asked"),
    ("layer_norm", "mean_part - variance_part", "mean_part + variance_part", "a sign is wrong"),
    ("layer_norm", "(dnormed * normed).mean(axis=-1, keepdims=True)",
     "(dnormed * normed).sum(axis=-1, keepdims=True) / (dy.shape[-1] - 1)", "divided by D - 1"),
    ("layer_norm", "dx = inv_std * (dnormed - mean_part - variance_part)",
     "dx = (dnormed - mean_part - variance_part) / inv_std", "holds the inverse already"),
    ("linear", "drows.T @ rows", "rows.T @ drows", "shape: dweight"),
    ("linear", "np.sum(drows, axis=0)", "np.sum(dy, axis=0)", "shape: dbias has shape \\(4, 8\\), expected"),
    ("linear", "np.sum(drows, axis=0)", "np.mean(drows, axis=0)", "0.25 times the right one"),
    ("layer_norm", "return dx, (dy * normed).sum(axis=leading), dy.sum(axis=leading)",
     "return dx, dy.sum(axis=leading), (dy * normed).sum(axis=leading)", "gradient of gain is the gradient of bias"),
    ("linear",  "drows.T @ rows, np.sum(drows, axis=0)", "drows.T @ rows", "expected dx, dweight, dbias"),
    ("broadcasting_sums", "keepdims=True", "keepdims=False", "shape: dx"),
    ("broadcasting_sums", "dx = np.sum(", "dx = np.mean(", "value: dx"),
    ("gelu", "phi + x * density", "phi", "value: dx"),
    ("gelu", "return dy * (phi + x * density)", "return phi + x * density", "value: dx"),
    ("gelu", "phi + x * density", "phi - x * density", "added, not subtracted"),
    ("gelu", " / math.sqrt(2 * math.pi)", " / np.sqrt(2 * np.pi)", "dtype: dx has dtype float64, expected float32"),
    ("softmax", "y * (dy - (y * dy).sum(axis=-1, keepdims=True))", "y * (1 - y) * dy", "value: dx"),
    ("softmax", "(y * dy).sum(axis=-1", "(y * dy).sum(axis=0", "value: dx"),
    ("masked_cross_entropy", "dlogits / len(rows)", "dlogits", "divide by M"),
    ("masked_cross_entropy", "dlogits / len(rows)", "dlogits / labels.size", "divided by B·T"),
    ("masked_cross_entropy", "-log_probs[rows, targets].mean()", "-log_probs[rows, targets].sum()", "the sum over"),
    ("masked_cross_entropy", "np.nonzero(labels != IGNORE)", "np.nonzero(labels != 0)", "as if they had a label"),
    ("masked_cross_entropy", "scores = scores - scores.max(axis=-1, keepdims=True)", "", "maximum off first"),
    ("masked_cross_entropy", "dlogits[b, t, targets] -= 1", "", "value: dlogits"),
    ("embedding", "np.add.at(dweight, ids, dy)", "dweight[ids] += dy", "value: dweight"),
    ("embedding", "np.zeros(shape, dy.dtype)", "np.zeros(shape)", "dtype: dweight has dtype float64, expected float32"),
    ("embedding", "return dweight", "dweight", "returned None"),
    ("layer_norm", " - mean_part", "", "value: dx"),
    ("layer_norm", "dnormed.mean(axis=-1", "dnormed.mean(axis=0", "belong to one row"),
    ("layer_norm", "dnormed = dy * gain", "dnormed = dy", "value: dx"),
    ("layer_norm", "tuple(range(dy.ndim - 1))", "0", "shape: dgain"),
    ("layer_norm", "return dx, (dy * normed).sum(axis=leading)", "normed *= dy; return dx, normed.sum(axis=leading)",
     "again: a second backward"),
    ("dropout", "0, 1 / (1 - rate)", "0, 1", "not scaled up"),
    ("dropout", "rng.random(x.shape) < rate", "rng.random(x.shape) > rate", "here it is kept"),
    ("dropout", "rng.random(x.shape)", "np.random.default_rng().random(x.shape)", "equal generators differ"),
    ("dropout", "rng.random(x.shape)", "np.random.default_rng(0).random(x.shape)", "different generators"),
    ("dropout", "rng.random(x.shape)", "0 * x + rng.random(x.shape[-1])", "along axis 0"),
    ("dropout", ".astype(x.dtype)", "", "dtype: y"),
    ("dropout", "return x * factor, factor", "return x * factor, factor > 0", "the share that is kept"),
    ("dropout", "return x * factor, factor", "return x * factor", "expected the pair y, cache"),
    ("attention", "dscores = dscores / math.sqrt(q.shape[-1])", "", "value: dq"),
    ("attention", "weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))", "weights * dweights",
     "row sum is missing"),
    ("attention", "dscores.swapaxes(-1, -2) @ q", "q.swapaxes(-1, -2) @ dscores", "shape: dk"),
    ("masks", "return mask", "return ~mask", "upside down"),
    ("masks", "1], dtype=bool)", "1], dtype=bool).T", "lower triangle"),
    ("masks", "[:, None, None, :]", "[:, None, :, None]", "shape: mask"),
    ("masks", "attention_mask.astype(bool)", "attention_mask", "dtype: mask"),
    ("masks", "mask = mask & np.tri", "mask = mask | np.tri", "not where one does"),
    ("heads", "x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)", "x.reshape(len(x), heads, x.shape[1], -1)",
     "reshape to \\(B, T, H, K\\)"),
    ("heads", "y.swapaxes(1, 2).reshape", "y.reshape", "not put back side by side"),
    ("heads", "swapaxes(1, 2) for x in (q, k, v)]\n    y = attention(*split)\n    return y.swapaxes(1, 2)",
     "reshape(*x.shape[:2], -1, heads).transpose(0, 3, 1, 2) for x in (q, k, v)]\n    y = attention(*split)\n"
     "    return y.transpose(0, 2, 3, 1)", "features are neighbours"),
    ("residuals", "return dsum + dx", "return dx", "value: dx"),
    ("residuals", "return dsum + dx", "return dy + dx", "value: dx"),
    ("residuals", "f_backward(dsum, f_cache)", "f_backward(dy, f_cache)", "value: dx"),
    ("tied_weights", "    np.add.at(dweight, ids, dh * (1 - h * h))\n", "", "value: dweight"),
    ("tied_weights", "np.add.at(dweight, ids, dh * (1 - h * h))", "dweight[ids] += dh * (1 - h * h)", "value: dweight"),
    ("tied_weights", "dh * (1 - h * h)", "dh", "value: dweight"),
    ("mlm_corruption", "rng.choice(positions,", "rng.choice(len(maskable[row]),", "special token or padding"),
    ("mlm_corruption", "labels[row, t] = input_ids[row, t]", "", "its label is -100"),
    ("mlm_corruption", "max(1, round(0.15 * len(positions)))", "round(0.15 * len(positions))", "still needs one"),
    ("mlm_corruption", "replace=False", "replace=True", "drawn twice"),
    ("mlm_corruption", "fate < 0.8", "fate < 0.9", "expected about 80 %"),
    ("mlm_corruption", "rng.integers(vocab_size)", "rng.integers(5, vocab_size)", "0, 1, 2, 3 never drawn"),
    ("mlm_corruption", "rng.integers(vocab_size)", "rng.integers(vocab_size - 1)", "18 never drawn"),
    ("mlm_corruption", "rng.integers(vocab_size)", "rng.integers(vocab_size + 1)", "outside 0 … 18"),
    ("mlm_corruption", "rng.random()", "np.random.random()", "equal generators differ|rng"),
    ("adamw", "m / (1 - beta1**t), v / (1 - beta2**t)", "m, v", "bias correction is missing"),
    ("adamw", "    m = beta1", "    g = g + decay * w\n    m = beta1", "decoupled"),
    ("adamw", "lr * decay * w", "decay * w", "not multiplied by lr"),
    ("adamw", "(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)", "inside the root"),
    ("adamw", "return m, v,", "return m_hat, v_hat,", "stay uncorrected"),
    ("adamw", "return m, v,", "return", "expected m, v, w"),
    ("patchify", "x = x.swapaxes(-4, -3)\n    x = np.moveaxis(x, -1, -5)\n    return x.reshape(*leading, channels",
     "return dy.reshape(*leading, channels", "a reshape alone mixes"),
    ("patchify", "leading, h, w, side, side, channels)\n    x = x.swap",
     "leading, w, h, side, side, channels)\n    x = x.swap",
     "h and w have changed places"),
    ("patchify", "side, side, channels)\n    x = x.swapaxes(-4, -3)\n    x = np.moveaxis(x, -1, -5)",
     "channels, side, side)\n    x = np.moveaxis(x, -3, -5).swapaxes(-3, -2)",
     "row, column, channel; here they are read as"),
    ("patchify", "x.swapaxes(-4, -3)\n    x = np.moveaxis(x, -1, -5)", "np.moveaxis(x, -1, -5)",
     "w and P are not swapped"),
    ("patchify", "x.swapaxes(-4, -3)\n    x = np.moveaxis(x, -1, -5)",
     "x.swapaxes(-3, -2).swapaxes(-4, -3)\n    x = np.moveaxis(x, -1, -5)", "mirrored at its diagonal"),
    ("patchify", "x = np.moveaxis(x, -1, -5)\n    return x.reshape(*leading, channels, height, width)",
     "return x.reshape(*leading, height, width, channels)", "here they are last"),
    ("patchify", "np.moveaxis(x, -1, -5)\n    return x.reshape(*leading, channels, height, width)",
     "x.swapaxes(-4, -2)\n    x = np.moveaxis(x, -1, -5)\n    return x.reshape(*leading, channels, width, height)",
     "value: dimages|shape: dimages"),
    ("patchify", "return x.reshape(*leading, channels, height, width)",
     "return x.reshape(*leading, channels, height, width) / side**2", "0.0625 times the right one"),
    ("restoring_order", "np.argsort(shuffle, axis=1)\n", "shuffle\n", "shuffled once more"),
    ("restoring_order", "everything[rows, ids]", "everything[rows, shuffle]", "shuffled once more"),
    ("restoring_order", "return everything[rows, ids], (ids, K)", "return everything[rows, ids], (shuffle, K)",
     "value: dvisible.*\n.*the cache is not what y was indexed with"),
    ("restoring_order", "everything[rows, ids]", "everything", "still in shuffled order"),
    ("restoring_order", "everything[rows, ids]", "everything[:, ids[0]]", "one image's order is used for all"),
    ("restoring_order", "[visible, tokens]", "[tokens, visible]", "before the visible patches"),
    ("restoring_order", "np.broadcast_to(mask_token, (B, N - K, D))", "np.zeros((B, N - K, D), visible.dtype)",
     "zeros stand where"),
    ("restoring_order", "np.broadcast_to(mask_token, (B, N - K, D))", "0.0 * np.ones((B, N - K, D)) + mask_token",
     "dtype: y has dtype float64, expected float32"),
    ("restoring_order", "return everything[rows, ids], (ids, K)", "return everything[rows, ids]",
     "expected the pair y, cache"),
    ("masked_patch_loss", "keepdims=True) / (n - 1)", "keepdims=True) / n", "unbiased one is divided by n - 1"),
    ("masked_patch_loss", "target = centred / np.sqrt(variance + 1e-6)", "target = patches",
     "the target is not normalised"),
    ("masked_patch_loss", "centred / np.sqrt(variance + 1e-6)", "centred", "not divided by its deviation"),
    ("masked_patch_loss", "centred / np.sqrt(variance + 1e-6)", "centred / (variance + 1e-6)", "not by its root"),
    ("masked_patch_loss", "np.sqrt(variance + 1e-6)", "np.sqrt(variance)", "variance 0"),
    ("masked_patch_loss", "np.sqrt(variance + 1e-6)", "(np.sqrt(variance) + 1e-6)", "under the root"),
    ("masked_patch_loss", "    target = ", "    mask = np.ones_like(mask)\n    target = ",
     "averaged over all N patches"),
    ("masked_patch_loss", "    target = ", "    mask = ~mask if not mask.all() else mask\n    target = ",
     "True means hidden"),
    ("masked_patch_loss", "(difference * difference).mean()", "(difference * difference).sum() / prediction.size",
     "divided by all of them"),
    ("masked_patch_loss", "(difference * difference).mean()", "(difference * difference).sum()", "this is the sum"),
    ("masked_patch_loss", "(difference * difference).mean()", "0.5 * (difference * difference).mean()", "no 1/2"),
    ("masked_patch_loss", "dprediction[mask] = 2 * difference / difference.size",
     "dprediction[...] = 2 * (prediction - target) / difference.size", "it is 0 there"),
    ("masked_patch_loss", "= 2 * difference / difference.size", "= difference / difference.size",
     "the 2 of the square"),
    ("masked_patch_loss", "2 * difference / difference.size", "2 * difference", "divide by M·n"),
    ("masked_patch_loss", "2 * difference / difference.size", "2 * difference / len(difference)", "divided by n too"),
    ("masked_patch_loss", "2 * difference / difference.size", "2 * difference / prediction.size",
     "over the hidden ones"),
    ("masked_patch_loss", "2 * difference / difference.size", "-2 * difference / difference.size", "the sign"),
    ("masked_patch_loss",
     "patches.mean(axis=-1, keepdims=True)\n    variance = (centred * centred).sum(axis=-1, keepdims=True) "
     "/ (n - 1)", "patches.mean()\n    variance = (centred * centred).sum() / (patches.size - 1)",
     "here all patches share one"),
    ("position_table", "np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)",
     "np.sin(y * omega), np.cos(y * omega), np.sin(x * omega), np.cos(x * omega)", "height comes first"),
    ("position_table", "np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)",
     "np.sin(x * omega), np.sin(y * omega), np.cos(x * omega), np.cos(y * omega)", "both sines come first"),
    ("position_table", "return table", "table[0] = np.tile(np.repeat([0, 1], d // 4), 2)\n    return table",
     "with cos 0 = 1"),
    ("position_table", "return table", "return table[1:]", "row of zeros is missing"),
    ("position_table", "return table", "return np.roll(table, -1, axis=0)", "comes first, before the patches"),
    ("position_table", "-4 * np.arange", "-2 * np.arange", "the frequencies fall"),
    ("position_table", "np.divmod(np.arange(h * w)[:, None], w)",
     "np.divmod(np.arange(h * w)[:, None], w)\n    x, y = x + 1, y + 1",
     "counted from 1"),
    ("position_table", "y, x = np.divmod(np.arange(h * w)[:, None], w)",
     "x, y = np.divmod(np.arange(h * w)[:, None], h)",
     "column by column"),
    ("position_table", "    return table", "    pieces = table[1:].reshape(h * w, 2, 2, d // 4)\n"
     "    table[1:] = pieces.swapaxes(2, 3).reshape(h * w, d)\n    return table", "take turns"),
    ("position_table", "np.zeros((1 + h * w, d))", "np.zeros((1 + h * w, d), np.float32)",
     "dtype: table has dtype float32"),
]  # fmt: skip


def graded_in_process(name, source):
    with np.errstate(all="ignore"):
        return exercise(name).grade(InProcess(source))


@pytest.mark.parametrize("e", ALL, ids=lambda e: e.name)
def test_the_stub_fails_and_the_solution_passes(e):
    with pytest.raises(NotImplementedError):
        e.grade(InProcess(e.stub))
    if e.name in CASTS:  # a process for each of its pairs: here two wrong ones, all of them in process below
        few = CASTS[e.name]._replace(bugs=CASTS[e.name].bugs[:2], rewrites=())
        e = replace(e, grade=grade_test(e.name, few))
    with Sandbox(e.solution, e.file_name) as student:
        verdict = e.grade(student)
    assert verdict.passed, verdict.lines
    assert verdict.score == 1
    assert all(line.startswith("✓") for line in verdict.lines)


def test_a_stub_is_told_that_it_is_not_done():
    for e in (exercise("softmax"), exercise("test_attention")):
        with (
            pytest.raises(StudentError, match=r"not done yet: .* at line \d+"),
            Sandbox(e.stub, e.file_name) as student,
        ):
            e.grade(student)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong[0]}: {wrong[2]!r}"[:70])
def test_a_wrong_answer_fails_with_the_words_that_help(wrong):
    name, old, new, words = wrong
    verdict = graded_in_process(name, edited(name, old, new))
    assert not verdict.passed
    assert verdict.score == 0
    assert re.search(words, "\n".join(verdict.lines)), verdict.lines
    assert [line[0] for line in verdict.lines].count("✗") == 1


IMAGES = ("patchify", "restoring_order", "masked_patch_loss", "position_table")
HOSTILE = [
    ("return None", "returned None"),
    ("return np.array([1, None])", "object|expected"),
    ("import os; os._exit(0)", "ended Python itself"),
    ("raise SystemExit(0)", "leaves Python at line"),
]


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("body", "words"), HOSTILE)
def test_a_hostile_file_does_not_pass(name, body, words):
    source = exercise(name).stub.replace("raise NotImplementedError", body)
    checked = check_source(exercise(name), source)
    assert not checked.verdict.passed
    assert checked.verdict.score == 0
    assert re.search(words, checked.verdict.lines[-1]), checked.verdict.lines


def test_division_by_rate_in_place_of_the_share_that_is_kept():
    source = edited("dropout", "1 / (1 - rate)", "1 / rate")
    e = exercise("dropout")
    with pytest.raises(StudentError, match=r"rate 0.0.*") as caught, Sandbox(source, e.file_name) as student:
        e.grade(student)
    assert "divided by 1 - rate, which is 1 here, not by rate" in str(caught.value)


def test_an_object_array_is_called_one():
    source = edited("softmax", "return y * (dy - (y * dy)", "return y.astype(object) * (dy - (y * dy)")
    e = exercise("softmax")
    with Sandbox(source, e.file_name) as student:
        assert "dx is <array of dtype object" in e.grade(student).lines[0]


def test_a_product_that_cannot_be_is_told_with_its_shapes():
    source = edited("linear", "drows.T @ rows", "drows @ rows")
    e = exercise("linear")
    with pytest.raises(StudentError) as caught, Sandbox(source, e.file_name) as student:
        e.grade(student)
    message = str(caught.value)
    assert re.search(r": drows \(4, 8\) @ rows \(4, 7\): the inner sizes differ; is a transpose missing\?", message)
    assert "(in the case " in message
    assert "gufunc" not in message


def test_the_attention_of_the_exercise_trains_a_bert(tmp_path):
    file = tmp_path / "10_attention.py"
    file.write_text(exercise("attention").solution, encoding="utf-8")
    own = load_own_ops(file, ops_that_run(nsp=False, dropout=False))
    assert check_own_ops(own, lambda line: None)


def test_every_exercise_has_wrong_answers():
    assert {wrong[0] for wrong in WRONG} | set(CASTS) == {e.name for e in ALL}


def test_there_is_one_todo_each_and_hints_in_stages():
    assert [e.number for e in ALL] == list(range(1, len(ALL) + 1))
    assert len(ALL) >= 16
    assert {e.name for e in ALL} == set(GRADERS)
    for e in ALL:
        assert e.stub.count("TODO") == e.stub.count("NotImplementedError") == 1, e.name
        assert e.solution.count("TODO") == 0
        assert len(e.hints) >= 2, e.name
        assert e.title
        assert "minissl exercise check" in e.task


def test_the_students_file_needs_only_numpy_and_math():
    for e in ALL:
        tree = ast.parse(e.stub)
        imports = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert imports in (["import numpy as np"], ["import math", "import numpy as np"]), e.name


def test_an_exercise_is_found_by_number_and_by_name():
    for asked in ("masked_cross_entropy", "masked-cross-entropy", 6, "6", "06", "06_masked_cross_entropy.py"):
        assert exercise(asked).number == 6
    assert exercise("minissl-exercises/05_softmax.py").number == 5
    with pytest.raises(InputError, match="did you mean softmax"):
        exercise("sofmax")
    with pytest.raises(InputError, match="test_layer_norm"):
        exercise("layer_nrm")
    with pytest.raises(InputError, match="expected 1 … 22"):
        exercise("99")


# ---- exercises whose answer is a test


def with_body(name, body):
    """The exercise with another test in it."""
    source = exercise(name).stub
    return source.replace("raise NotImplementedError", body)


@pytest.mark.parametrize("name", CASTS)
def test_every_wrong_pair_is_wrong_and_every_right_one_right(name):
    cast = CASTS[name]
    assert len(cast.wrong()) >= 8
    assert len(cast.right()) >= 3
    assert len({source for _, source in [*cast.wrong(), *cast.right()]}) == len(cast.wrong()) + len(cast.right())
    student = InProcess(exercise(name).solution)
    with np.errstate(all="ignore"):
        assert [hint for hint, source in cast.right() if student.test(name, source, cast.functions)] == []
        assert [hint for hint, source in cast.wrong() if not student.test(name, source, cast.functions)] == []


@pytest.mark.parametrize("name", CASTS)
def test_a_test_that_never_fails_or_always_fails_does_not_pass(name):
    verdict = graded_in_process(name, with_body(name, "pass"))
    assert (verdict.passed, verdict.score) == (False, 0)
    assert "0 of 12 found, 10 needed" in verdict.lines[1]
    assert len(verdict.lines) == 2 + 12
    verdict = graded_in_process(name, with_body(name, "assert False, 'no'"))
    assert (verdict.passed, verdict.score) == (False, 0)
    assert verdict.lines == ["✗ right pairs: your test refuses a right one (the usual formula): no"]


def test_a_test_that_compares_every_bit_is_a_false_alarm():
    source = edited("test_layer_norm", 'inputs["bias"], atol=1e-9)', 'inputs["bias"], rtol=0)')
    verdict = graded_in_process("test_layer_norm", source)
    assert not verdict.passed
    assert "✗ right pairs: your test refuses a right one (" in verdict.lines[0]


def test_a_test_that_misses_little_passes_with_a_lower_score_and_hints():
    source = edited("test_layer_norm", "for _ in range(2):", "for _ in range(1):")
    verdict = graded_in_process("test_layer_norm", source)
    assert verdict.passed
    assert verdict.score == 11 / 12
    assert "11 of 12 found" in verdict.lines[1]
    assert verdict.lines[2] == "  not found: backward, only when it is called again: something was changed in place"


def test_a_test_at_gain_1_alone_misses_what_shows_elsewhere():
    source = edited("test_layer_norm", "rng.uniform(0.5, 1.5, 5)", "np.ones(5)")
    missed = "\n".join(graded_in_process("test_layer_norm", source).lines)
    assert missed.count("gain is not 1") == 2
    assert "entries of the gain differ" in missed


def test_a_suspect_whose_text_is_gone_is_an_error():
    gone = suspects.LAYER_NORM._replace(bugs=(suspects.bug("a hint", "what no exercise says", ""),))
    with pytest.raises(InputError, match="occurs 0 times"):
        gone.wrong()
