// One number from many, always added in the same order, in double precision.

// sums[block] = Σ x² over the entries that the block's threads share out
extern "C" __global__ void square_sums(const real* x, long long size, double* sums) {
    double sum = 0;
    for (long long i = first_entry(); i < size; i += entry_step()) sum += (double)x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// out = Σ values / divisor; one block does it
extern "C" __global__ void sum_up(const double* values, long long size, double divisor, real* out) {
    double sum = 0;
    for (long long i = threadIdx.x; i < size; i += blockDim.x) sum += values[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[0] = sum / divisor;
}
