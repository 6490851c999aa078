"""The product of stacks of matrices: NumPy's on the host, one call of cuBLAS on a device; precisions of products."""

import sys
from itertools import product
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

import stand_in_cublas
from minissl import backend
from minissl.backend import PRECISIONS, bmm, product_precision, require_precision, to_host
from minissl.errors import InputError
from minissl.workers import Workers
from stand_in import back, in_place_of_cupy, ndarray

B, H = 2, 3


@pytest.fixture
def stand_in():
    """Whose calls of cuBLAS can be looked at."""
    with in_place_of_cupy():
        stand_in_cublas.CALLS.clear()
        yield ndarray


@pytest.fixture
def put(cupy):
    """An array on the device, in the same order in memory."""

    def put(x):
        if cupy.ndarray is ndarray:
            return ndarray(x)
        whole = x
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        start = x.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        moved = cupy.asarray(whole)
        assert whole.flags.c_contiguous
        return cupy.ndarray(x.shape, x.dtype, moved.data + start, x.strides)

    return put


def numbers(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def stored(x, *axes):
    """The values of x, with its axes in memory in another order."""
    return np.ascontiguousarray(x.transpose(axes)).transpose(np.argsort(axes))


def part_of(x, axis, step=1):
    """The values of x as a part of an array that has more along an axis: around them, or between each two of them."""
    more = list(x.shape)
    more[axis] = more[axis] * step + 3
    full = np.full(more, 99, x.dtype)
    chosen = [slice(None)] * x.ndim
    chosen[axis] = slice(1, 1 + x.shape[axis] * step, step)
    full[tuple(chosen)] = x
    return full[tuple(chosen)]


def by_columns(layout):
    return lambda x: layout(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def heads(x):
    """(B, H, T, K) sliced from (B, T, 3, H, K), as attention gets its queries, keys and values."""
    full = np.full((x.shape[0], x.shape[2], 3, x.shape[1], x.shape[3]), 99, x.dtype)
    full[:, :, 1] = x.swapaxes(1, 2)
    return full[:, :, 1].swapaxes(1, 2)


IN_PLACE = {
    "rows": lambda x: x.copy(),
    "longer rows": lambda x: part_of(x, -1),
    "more rows": lambda x: part_of(x, -2),
    "every second row": lambda x: part_of(x, -2, 2),
    "every second matrix": lambda x: part_of(x[:, :, None], 2)[:, :, 0],
    "one matrix for all": lambda x: np.broadcast_to(x[:1, :1], x.shape),
    "a single matrix": lambda x: x[0, 0],
}
IN_PLACE |= {f"{name}, by columns": by_columns(layout) for name, layout in IN_PLACE.items()}
COPIED = {
    "heads": heads,
    "heads, by columns": by_columns(heads),
    "batch axes swapped": lambda x: stored(x, 1, 0, 2, 3),
    "batch axes last": lambda x: stored(x, 2, 3, 0, 1),
    "rows reversed": lambda x: stored(x[..., ::-1, :], 0, 1, 2, 3)[..., ::-1, :],
    "matrices reversed": lambda x: stored(x[::-1], 0, 1, 2, 3)[::-1],
    "all matrices reversed": lambda x: stored(x[::-1, ::-1], 0, 1, 2, 3)[::-1, ::-1],
    "gaps both ways": lambda x: x.repeat(2, -1)[..., ::2],
    "one row for all": lambda x: np.broadcast_to(x[..., :1, :], x.shape),
    "one column for all": lambda x: np.broadcast_to(x[..., :1], x.shape),
}
LAYOUTS = IN_PLACE | COPIED
SIZES = [(4, 5, 7), (1, 5, 3), (4, 1, 3), (5, 3, 1), (1, 1, 1), (16, 8, 24)]  # m, k, n


def pairs():
    """Every layout of one factor beside every layout of the other, in odd and even sizes."""
    for m, k, n in SIZES:
        for of_a, of_b in product(LAYOUTS, LAYOUTS):
            a, b = LAYOUTS[of_a](numbers(B, H, m, k)), LAYOUTS[of_b](numbers(B, H, k, n, seed=1))
            yield f"{of_a} {a.shape} @ {of_b} {b.shape}", a, b


def test_every_layout_beside_every_other_is_numpys_product(put):
    for what, a, b in pairs():
        got = bmm(put(a), put(b))
        assert got.flags.c_contiguous, what
        np.testing.assert_allclose(to_host(got), a @ b, rtol=1e-12, atol=1e-13, err_msg=what)


@pytest.mark.parametrize("side", "ab")
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_cublas_can_read_is_not_copied(stand_in, name, side):
    x, other = LAYOUTS[name](numbers(B, H, 5, 5)), numbers(B, H, 5, 5, seed=1)
    a, b = (x, other) if side == "a" else (other, x)
    bmm(ndarray(a), ndarray(b))
    (call,) = stand_in_cublas.CALLS
    address = x.__array_interface__["data"][0]
    assert (call["B" if side == "a" else "A"] == address) == (name in IN_PLACE)


def test_the_heads_of_a_single_example_are_not_copied(stand_in):
    a, b = heads(numbers(1, H, 4, 5)), heads(numbers(1, H, 7, 5, seed=1)).swapaxes(-1, -2)
    np.testing.assert_allclose(back(bmm(ndarray(a), ndarray(b))), a @ b, rtol=1e-12, atol=1e-13)
    (call,) = stand_in_cublas.CALLS
    assert [call["B"], call["A"]] == [x.__array_interface__["data"][0] for x in (a, b)]


def test_a_stack_of_one_axis_or_three_and_single_matrices(put):
    for batch in [(), (4,), (2, 3, 2), (1, 3), (3, 1), (1,)]:
        a, b = numbers(*batch, 4, 5), numbers(*batch, 7, 5, seed=1).swapaxes(-1, -2)
        np.testing.assert_allclose(to_host(bmm(put(a), put(b))), a @ b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shapes", [((2, 0, 3), (2, 3, 4)), ((2, 3, 0), (2, 0, 4)), ((0, 2, 3), (0, 3, 4))])
def test_nothing_to_multiply_gives_zeros(put, shapes):
    a, b = (numbers(*shape) for shape in shapes)
    for library in (lambda x: x, put):
        got = to_host(bmm(library(a), library(b)))
        assert got.shape == (*shapes[0][:-1], 4)
        assert not got.any()


def test_the_scale_multiplies(put):
    a, b = numbers(B, H, 4, 5), numbers(B, H, 5, 7, seed=1)
    for library in (lambda x: x, put):
        np.testing.assert_allclose(to_host(bmm(library(a), library(b), 0.3)), 0.3 * (a @ b), rtol=1e-12, atol=1e-13)
    assert bmm(a.astype(np.float32), b.astype(np.float32), 0.3).dtype == np.float32


def test_on_the_host_it_is_numpys_matmul_and_contiguous():
    for what, a, b in pairs():
        got = bmm(a, b)
        assert got.flags.c_contiguous, what
        np.testing.assert_array_equal(got, np.matmul(a, b), err_msg=what)


def half(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: gpu)").bfloat16)
    return np.dtype(name)


@pytest.mark.parametrize(("name", "code"), [("float16", 2), ("bfloat16", 14)])
@pytest.mark.parametrize("layout", ["rows", "rows, by columns", "heads", "heads, by columns"])
def test_halves_are_multiplied_and_summed_in_float32(put, name, code, layout):
    dtype = half(name)
    a, b = LAYOUTS[layout](numbers(B, H, 4, 300, dtype=np.float32)), numbers(B, H, 300, 7, dtype=np.float32, seed=1)
    rounded = a.astype(dtype).astype(np.float64) @ b.astype(dtype).astype(np.float64)
    stand_in_cublas.CALLS.clear()
    with product_precision(name, put(a)):
        chosen = bmm(put(a), put(b))
        assert bmm(put(a.astype(float)), put(b)).dtype == np.float64  # float64 is never rounded
    given = bmm(put(a.astype(dtype)), put(b.astype(dtype)))
    for got in (chosen, given):
        assert got.dtype == np.float32
        np.testing.assert_allclose(to_host(got), rounded, rtol=1e-4, atol=1e-4)
    assert np.abs(to_host(chosen) - a @ b).max() > 1e-3
    for call in [call for call in stand_in_cublas.CALLS if call["Atype"] != 1]:
        assert (call["Atype"], call["Btype"], call["Ctype"], call["computeType"]) == (code, code, 0, 68)


def test_tf32_is_chosen_for_float32_alone(put):
    a, b = numbers(B, 4, 300, dtype=np.float32), numbers(B, 300, 7, dtype=np.float32, seed=1)
    exact = a.astype(float) @ b
    with product_precision("tf32", put(a)):
        rounded = np.abs(to_host(bmm(put(a), put(b))) - exact).max()
        wide = np.abs(to_host(bmm(put(a.astype(float)), put(b))) - exact).max()
    plain = np.abs(to_host(bmm(put(a), put(b))) - exact).max()
    assert wide < 1e-12 < plain < 5e-5 < 1e-3 < rounded < 5e-2


def test_of_two_types_the_wider_one_counts(put):
    a, b = numbers(B, 4, 5), numbers(B, 5, 7, dtype=np.float16, seed=1)
    assert bmm(put(a), put(b)).dtype == np.float64
    got = bmm(put(a.astype(np.float32)), put(b))
    assert got.dtype == np.float32
    np.testing.assert_allclose(to_host(got), a @ b.astype(float), atol=1e-5)


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_cupy_without_the_binding_multiplies_all_the_same(stand_in, monkeypatch, name):
    half(name if name == "bfloat16" else "float32")
    a, b = numbers(B, H, 4, 5, dtype=np.float32), stored(numbers(B, H, 5, 7, dtype=np.float32, seed=1), 0, 1, 3, 2)
    with product_precision(name, ndarray(a)):
        expected = bmm(ndarray(a), ndarray(b), 0.3)
        for without in (SimpleNamespace(), None):
            monkeypatch.setattr(sys.modules["cupy_backends.cuda.libs"], "cublas", without)
            got = bmm(ndarray(a), ndarray(b), 0.3)
            assert got.dtype == np.float32
            np.testing.assert_allclose(back(got), back(expected), atol=1e-2 if name == "tf32" else 1e-6)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((2, 3, 4), (3, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((4,), (4, 5)), ((3, 4), (4,))]
)
def test_shapes_that_do_not_fit_are_refused(put, shapes):
    for library in (lambda x: x, put):
        with pytest.raises(InputError, match=r"product of .* expected .*transposed\?"):
            bmm(*(library(numbers(*shape)) for shape in shapes))


def test_host_and_device_do_not_mix(put):
    a, b = numbers(2, 3), numbers(3, 2)
    for factors in [(put(a), b), (a, put(b))]:
        with pytest.raises(InputError, match="one on the device: move one"):
            bmm(*factors)


def test_integers_are_refused_on_the_device(put):
    with pytest.raises(InputError, match="product of int64 and int64: expected float16"):
        bmm(put(np.ones((2, 2), int)), put(np.ones((2, 2), int)))


@pytest.mark.parametrize(
    ("name", "like", "said"),
    [
        ("fp16", np.ones(1, np.float32), "precision 'fp16': expected one of float32, tf32, float16, bfloat16"),
        ("float16", np.ones(1, np.float32), "only a GPU multiplies faster in it"),
        ("tf32", ndarray(np.ones(1)), "expected a model in float32, got float64"),
    ],
)
def test_a_precision_that_cannot_be_is_one_line(stand_in, name, like, said):
    with pytest.raises(InputError, match=said), product_precision(name, like):
        pass


def test_bfloat16_without_its_package_is_one_line(stand_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(InputError, match=r"ml_dtypes is missing; pip install 'minissl\[gpu\]'"):
        require_precision("bfloat16", ndarray(np.ones(1, np.float32)))


def test_workers_multiply_as_their_caller_and_other_threads_do_not(put):
    like, seen = put(np.ones((1, 1), np.float32)), []
    with Workers(2) as workers:
        with product_precision("float16", like):
            assert workers.map(lambda _: backend._precision.get(), 3) == ["float16"] * 3
            other = Thread(target=lambda: seen.append(backend._precision.get()))
            other.start()
            other.join()
            with pytest.raises(ZeroDivisionError), product_precision("tf32", like):
                1 / 0  # noqa: B018
            assert backend._precision.get() == "float16"
        assert workers.map(lambda _: backend._precision.get(), 2) == ["float32"] * 2
    assert seen == ["float32"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"transa": 1}, {"transb": 1}, {"lda": 6}, {"lda": 8}, {"ldb": 4}, {"ldb": 6}, {"strideA": 36}, {"strideB": 19},
        {"strideC": 27}, {"strideC": 29}, {"ldc": 8}, {"batchCount": 7}, {"m": 4, "n": 7}, {"k": 6}, {"Atype": 0},
        {"Ctype": 0}, {"computeType": 68}, {"computeType": 77}, {"handle": 0}, {"algo": 99}, {"n": np.int64(4)},
    ],
    ids=str,
)  # fmt: skip
def test_the_stand_in_for_cublas_finds_a_wrong_argument(stand_in, monkeypatch, wrong):
    """Which is what the tests above rest on: it answers with an error or another product, never with the right one."""
    a, b = numbers(B, H, 4, 5), numbers(B, H, 5, 7, seed=1)
    right = stand_in_cublas.gemmStridedBatchedEx

    def call(*given):
        names = right.__code__.co_varnames[: right.__code__.co_argcount]
        return right(**{**dict(zip(names, given, strict=True)), **wrong})

    monkeypatch.setattr(stand_in_cublas, "gemmStridedBatchedEx", call)
    try:
        got = back(bmm(ndarray(a), ndarray(b)))
    except (stand_in_cublas.CUBLASError, TypeError):
        return
    assert not np.allclose(got, a @ b)
