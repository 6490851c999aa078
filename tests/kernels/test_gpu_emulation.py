"""The emulation notices what a GPU would answer with a wrong number or a crash."""

import numpy as np
import pytest

import emulation
from stand_in import back, move

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="no g++ to build the kernels with")

SOURCE = r"""
typedef REAL real;
extern "C" __global__ void reversed(real* x, long long n) {
    __shared__ real all[256];
    if (threadIdx.x < n) all[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    if (threadIdx.x < n) x[threadIdx.x] = all[n - 1 - threadIdx.x];
}
extern "C" __global__ void reversed_at_once(real* x, long long n) {
    __shared__ real all[256];
    if (threadIdx.x < n) all[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < n) x[threadIdx.x] = all[n - 1 - threadIdx.x];
}
extern "C" __global__ void divergent(real* x) {
    if (threadIdx.x != 7) __syncthreads();
    x[0] = 1;
}
extern "C" __global__ void some_lanes(real* x) {
    if (threadIdx.x < 7) x[0] = __shfl_xor_sync(0xffffffffu, x[0], 1);
}
extern "C" __global__ void warp_sums(const real* x, real* sums) {
    real value = x[(long long)blockIdx.x * blockDim.x + threadIdx.x];
    for (int apart = 16; apart; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
    if (threadIdx.x % 32 == 0) sums[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = value;
}
extern "C" __global__ void reads(const real* x, long long i, real* y) { y[0] = x[i]; }
extern "C" __global__ void writes(real* x, long long i) { x[i] = 1; }
extern "C" __global__ void last_wins(real* x) { if (threadIdx.x == 0) x[0] = blockIdx.x; }
extern "C" __global__ void adds(real* x) { x[blockIdx.x] += 1; }
extern "C" __global__ void adds_across_blocks(real* x) { if (threadIdx.x == 0) x[0] += 1; }
extern "C" __global__ void reads_the_block_before(real* x) {
    if (threadIdx.x == 0) x[blockIdx.x] = blockIdx.x ? x[blockIdx.x - 1] : 1;
}
extern "C" __global__ void neighbours(real* x) {
    x[threadIdx.x] = 1;
    __syncwarp();
    x[threadIdx.x] = 1 + x[threadIdx.x ^ 1];
}
extern "C" __global__ void neighbours_in_turn(real* x, real* y) {
    x[threadIdx.x] = 1;
    __syncwarp();
    const real beside = x[threadIdx.x ^ 1];
    __syncthreads();
    x[threadIdx.x] = beside + 1;
    __syncthreads();
    y[threadIdx.x] = x[63 - threadIdx.x];
}
extern "C" __global__ void over_warps(real* x, real* y) {
    x[threadIdx.x] = 1;
    __syncwarp();
    y[threadIdx.x] = x[threadIdx.x ^ 32];
}
extern "C" __global__ void after_a_shuffle(real* x, real* y) {
    x[threadIdx.x] = 1;
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1) + x[threadIdx.x ^ 1];
}
extern "C" __global__ void unset(real* x) {
    __shared__ real all[32];
    x[threadIdx.x] = all[threadIdx.x];
}
"""


def kernel(name, real="float"):
    return emulation.RawModule(code=SOURCE, options=(f"-DREAL={real}",)).get_function(name)


def test_a_barrier_orders():
    host = np.arange(50, dtype=np.float32)
    x, y = move(host), move(np.zeros(64, np.float32))
    kernel("reversed")((1,), (64,), (x, np.int64(50)))
    np.testing.assert_array_equal(back(x), host[::-1])
    kernel("neighbours_in_turn")((1,), (64,), (move(np.zeros(64, np.float32)), y))
    assert (back(y) == 2).all()


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize(
    ("name", "blocks", "more"),
    [
        ("reversed_at_once", 1, np.int64(64)),
        ("last_wins", 2, None),
        ("adds", 1, None),
        ("adds_across_blocks", 2, None),
        ("reads_the_block_before", 2, None),
        ("neighbours", 1, None),
        ("over_warps", 1, np.zeros(64, np.float32)),
        ("after_a_shuffle", 1, np.zeros(64, np.float32)),
    ],
)
def test_a_race_is_found_also_where_its_result_is_right(monkeypatch, name, blocks, more, order):
    monkeypatch.setattr(emulation, "order", order)
    x = move(np.zeros(64, np.float32))
    with pytest.raises(emulation.LaunchRefused, match=f"{name}: a race with a (read|write) of another thread"):
        kernel(name)((blocks,), (64,), (x,) if more is None else (x, move(more)))
    kernel("neighbours_in_turn")((1,), (64,), (x, move(np.zeros(64, np.float32))))  # and the next launch begins afresh


def test_shuffles_sum_every_warp_of_every_block():
    host = np.random.default_rng(0).integers(0, 99, (3, 4, 32)).astype(float)
    sums = move(np.zeros((3, 4)))
    kernel("warp_sums", "double")((3,), (128,), (move(host), sums))
    np.testing.assert_array_equal(back(sums), host.sum(-1))


def test_shared_memory_begins_as_nan():
    x = move(np.zeros(32, np.float32))
    kernel("unset")((1,), (32,), (x,))
    assert np.isnan(back(x)).all()


@pytest.mark.parametrize("name", ["divergent", "some_lanes"])
def test_a_barrier_that_some_threads_miss_is_found(name):
    with pytest.raises(emulation.LaunchRefused, match="not every thread reaches"):
        kernel(name)((1,), (64,), (move(np.zeros(4, np.float32)),))
    kernel("unset")((1,), (32,), (move(np.zeros(32, np.float32)),))  # and the next launch begins afresh


def test_blocks_and_threads_run_in_four_orders(monkeypatch):
    found = set()
    for order in range(4):
        monkeypatch.setattr(emulation, "order", order)
        with pytest.raises(emulation.LaunchRefused, match="race") as refused:
            kernel("adds")((9,), (32,), (move(np.zeros(9, np.float32)),))
        found.add(str(refused.value).partition(" in ")[2])
    assert found == {f"thread {thread} of block ({block}, 0)" for thread in (1, 30) for block in (0, 8)}


@pytest.mark.parametrize("i", [5, 4000, 10**7])
def test_a_read_or_write_past_an_array_is_found(i):
    x, y = move(np.zeros(5, np.float32)), move(np.zeros(1, np.float32))
    with pytest.raises(emulation.LaunchRefused, match="read or write"):
        kernel("reads")((1,), (1,), (x, np.int64(i), y))
    with pytest.raises(emulation.LaunchRefused, match="read or write"):
        kernel("writes")((1,), (1,), (x, np.int64(i)))


def test_a_read_or_write_before_an_array_is_found_in_other_orders(monkeypatch):
    x, y = move(np.zeros(5, np.float32)), move(np.zeros(1, np.float32))
    for order in (1, 3):
        monkeypatch.setattr(emulation, "order", order)
        with pytest.raises(emulation.LaunchRefused, match="read or write"):
            kernel("reads")((1,), (1,), (x, np.int64(-1), y))
        with pytest.raises(emulation.LaunchRefused, match="beside"):
            kernel("writes")((1,), (1,), (x, np.int64(5)))


def test_a_write_before_an_array_is_found_and_a_read_gives_nan():
    x, y = move(np.zeros(5, np.float32)), move(np.zeros(1, np.float32))
    with pytest.raises(emulation.LaunchRefused, match="beside"):
        kernel("writes")((1,), (1,), (x, np.int64(-1)))
    kernel("reads")((1,), (1,), (x, np.int64(-1), y))
    assert np.isnan(back(y)[0])


@pytest.mark.parametrize(
    ("grid", "block", "args", "said"),
    [
        ((1,), (1025,), (np.zeros(5, np.float32), np.int64(1)), "block"),
        ((0,), (32,), (np.zeros(5, np.float32), np.int64(1)), "grid"),
        ((1, 70_000), (32,), (np.zeros(5, np.float32), np.int64(1)), "grid"),
        ((1,), (32,), (np.zeros(5, np.float32),), "1 arguments for 2"),
        ((1,), (32,), (np.zeros(5), np.int64(1)), "float64, expected a device array of float32"),
        ((1,), (32,), (np.zeros((4, 5), np.float32).T, np.int64(1)), "not C-contiguous"),
        ((1,), (32,), (np.zeros(5, np.float32), 1), "int, expected a scalar int64"),
        ((1,), (32,), (np.zeros(5, np.float32), np.int32(1)), "int32, expected a scalar int64"),
    ],
)
def test_what_does_not_fit_the_kernel_is_refused(grid, block, args, said):
    given = tuple(move(a.T).T if isinstance(a, np.ndarray) else a for a in args)
    with pytest.raises(emulation.LaunchRefused, match=said):
        kernel("writes")(grid, block, given)


def test_a_host_array_is_refused():
    with pytest.raises(emulation.LaunchRefused, match="float32, expected a device array"):
        kernel("writes")((1,), (1,), (np.zeros(5, np.float32), np.int64(1)))


def test_a_constant_array_cannot_be_written_and_an_unknown_kernel_is_an_error():
    source = 'typedef REAL real;\nextern "C" __global__ void k(const real* x) { x[0] = 1; }'
    with pytest.raises(emulation.CompileError, match="read-only"):
        emulation.RawModule(code=source, options=("-DREAL=float",)).get_function("k")
    with pytest.raises(KeyError):
        kernel("nothing")
