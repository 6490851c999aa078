// Sums down the columns of a matrix: the gradients of what was broadcast over rows, such as a bias.
//
// A block takes 32 columns and `rows_each` rows, which its 8 warps share out; a warp reads 32 columns side by side.
// out has a row for each slab of rows. A second launch over those rows adds them up, in order, so that no two blocks
// ever add to one place.
__device__ void sum_slab(const real* a, const real* b, long long rows, long long width, long long rows_each, real* out) {
    __shared__ real parts[WARPS][WARP];
    const long long column = (long long)blockIdx.x * WARP + lane();
    const long long first = blockIdx.y * rows_each, end = min(first + rows_each, rows);

    real sum = 0;
    if (column < width)
        for (long long row = first + warp(); row < end; row += WARPS) {
            const long long i = row * width + column;
            sum += b ? a[i] * b[i] : a[i];
        }
    parts[warp()][lane()] = sum;
    __syncthreads();
    if (warp() == 0 && column < width) {
        for (int i = 1; i < WARPS; i++) sum += parts[i][lane()];
        out[blockIdx.y * width + column] = sum;
    }
}

// out[c] = Σ_r a[r, c]
extern "C" __global__ void column_sums(const real* a, long long rows, long long width, long long rows_each, real* out) {
    sum_slab(a, 0, rows, width, rows_each, out);
}

// out[c] = Σ_r a[r, c] b[r, c]
extern "C" __global__ void column_dots(const real* a, const real* b, long long rows, long long width,
                                       long long rows_each, real* out) {
    sum_slab(a, b, rows, width, rows_each, out);
}
