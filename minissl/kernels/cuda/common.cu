// What the kernels of this folder use; it stands before them, and all are compiled as one text.
//
// `real` is float or double, as the arrays are: the text is compiled once for either (-DREAL=float).
// A warp is 32 threads that run together and can hand each other numbers without memory. All sums here run in an order
// that depends on the sizes alone, so that a run gives the same bits each time.
typedef REAL real;

#define WARP 32
#define WARPS 8  // in a block
#define ALL_LANES 0xffffffffu
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif

// Every lane gets the sum over its warp. Lanes 1, 2, 4, 8 and 16 apart add each other's, so all have the same bits.
template <class T> __device__ T warp_sum(T value) {
    for (int apart = 1; apart < WARP; apart *= 2) value += __shfl_xor_sync(ALL_LANES, value, apart);
    return value;
}

template <class T> __device__ T warp_max(T value) {
    for (int apart = 1; apart < WARP; apart *= 2) value = fmax(value, __shfl_xor_sync(ALL_LANES, value, apart));
    return value;
}

// This thread's place in its warp, and its warp's place in the block.
__device__ int lane() { return threadIdx.x % WARP; }
__device__ int warp() { return threadIdx.x / WARP; }

// Every thread gets the sum over its block, of the warps' sums in order.
__device__ double block_sum(double value) {
    __shared__ double sums[WARPS];
    value = warp_sum(value);
    if (lane() == 0) sums[warp()] = value;
    __syncthreads();
    double total = 0;
    for (int i = 0; i < WARPS; i++) total += sums[i];
    __syncthreads();  // nobody writes the next call's sums while others still read these
    return total;
}

__device__ real block_max(real value) {
    __shared__ real highest[WARPS];
    value = warp_max(value);
    if (lane() == 0) highest[warp()] = value;
    __syncthreads();
    value = highest[0];
    for (int i = 1; i < WARPS; i++) value = fmax(value, highest[i]);
    __syncthreads();
    return value;
}

// Where rows are shared out one to a warp: this thread's.
__device__ long long warp_row() { return (long long)blockIdx.x * WARPS + warp(); }

// Where entries are shared out one to a thread, until there are no more: its first, and how far it is to the next.
__device__ long long first_entry() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ long long entry_step() { return (long long)gridDim.x * blockDim.x; }
