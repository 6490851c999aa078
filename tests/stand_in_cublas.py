"""cuBLAS's strided batched product for the stand-in, from BLAS's definition, on the bare memory that it is pointed to.

Column j, row i of matrix b lies at pointer + i + j·ld + b·stride; a wrong flag, leading dimension or stride gives a
wrong result, or leaves the array that the pointer was taken from, which is refused. So are types that cuBLAS does not
multiply together. Its parameters are those of CuPy's binding, by name.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

HANDLE = 4711
CALLS: list[dict[str, int]] = []  # each call's arguments
_taken: list[
    tuple[int, int, int]
] = []  # pointers handed out since the last call: (pointer, begin and end of its array)


class CUBLASError(RuntimeError):
    """What cuBLAS answers with a status."""


def pointer(host: np.ndarray) -> int:
    """The address of an array's first number, remembered with the bounds of what the array covers."""
    at = host.__array_interface__["data"][0]
    _taken.append((at, *np.lib.array_utils.byte_bounds(host)))
    return at


def types() -> dict[int, np.dtype]:
    """cudaDataType_t -> NumPy's; bfloat16 where ml_dtypes is installed."""
    known = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16)}
    try:
        import ml_dtypes
    except ImportError:
        return known
    return {**known, 14: np.dtype(ml_dtypes.bfloat16)}


# cublasComputeType_t -> the types of (A and B, C), as cuBLAS's table of cublasGemmStridedBatchedEx has them.
COMPUTE = {
    64: [(2, 2)],
    68: [(0, 0), (2, 2), (2, 0), (14, 14), (14, 0)],
    70: [(1, 1)],
    77: [(0, 0)],
}


def _matrices(at: int, dtype: np.dtype, rows: int, columns: int, ld: int, stride: int, count: int) -> np.ndarray:
    """A stack (count, rows, columns) as a view of the memory itself."""
    if ld < max(1, rows) or stride < 0 or at % dtype.itemsize:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: ld {ld} of {rows} rows, stride {stride}, address {at}")
    size = ((count - 1) * stride + (columns - 1) * ld + rows) * dtype.itemsize
    if not any(at == start and begin <= at and at + size <= end for start, begin, end in _taken):
        raise CUBLASError(f"reads or writes {size} bytes where its array has fewer")
    memory = np.frombuffer((ctypes.c_char * size).from_address(at), dtype)
    steps = (stride * dtype.itemsize, dtype.itemsize, ld * dtype.itemsize)
    return np.lib.stride_tricks.as_strided(memory, (count, rows, columns), steps)


def _tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to TF32's 10 bits of fraction, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)


def gemmStridedBatchedEx(
    handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C, Ctype, ldc,
    strideC, batchCount, computeType, algo,
):  # fmt: skip
    """C_b = alpha op(A_b) op(B_b) + beta C_b for b < batchCount, everything by columns; scalars are on the host."""
    given: dict[str, Any] = dict(locals())
    if not all(type(value) is int for value in given.values()):
        raise TypeError(f"the binding takes integers: {given}")
    CALLS.append(given)
    if handle != HANDLE or transa not in (0, 1) or transb not in (0, 1) or min(m, n, k, batchCount) < 1 or algo != -1:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {given}")
    if Atype != Btype or (Atype, Ctype) not in COMPUTE.get(computeType, []):
        raise CUBLASError(f"CUBLAS_STATUS_NOT_SUPPORTED: {Atype}, {Btype}, {Ctype} by {computeType}")
    total = np.float64 if computeType == 70 else np.float16 if computeType == 64 else np.float32
    scalars = [
        np.frombuffer((ctypes.c_char * np.dtype(total).itemsize).from_address(at), total)[0] for at in (alpha, beta)
    ]
    a = _matrices(A, types()[Atype], *((k, m) if transa else (m, k)), lda, strideA, batchCount).astype(total)
    b = _matrices(B, types()[Btype], *((n, k) if transb else (k, n)), ldb, strideB, batchCount).astype(total)
    c = _matrices(C, types()[Ctype], m, n, ldc, strideC, batchCount)
    if batchCount > 1 and strideC < ldc * (n - 1) + m:
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: matrices of C overlap, {strideC} apart")
    if computeType == 77:
        a, b = _tf32(a), _tf32(b)
    product = scalars[0] * ((a.swapaxes(1, 2) if transa else a) @ (b.swapaxes(1, 2) if transb else b))
    c[...] = product if scalars[1] == 0 else product + scalars[1] * c
    _taken.clear()
