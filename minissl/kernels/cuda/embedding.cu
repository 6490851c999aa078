// The gradient of a table: row v gets the sum of dy over the places where id v was looked up.
//
// The ids are sorted, so that equal ones are a run; places[i] is where ids[i] stood. A run may be long (padding, or two
// token types), so it is summed in parts, none of which reaches over a multiple of `chunk`; then the parts are added.

// sums[i] for every i that begins a part: Σ dy over it. A block to an i.
extern "C" __global__ void part_sums(const long long* ids, const long long* places, const real* dy, long long size,
                                     long long width, long long chunk, real* sums) {
    const long long i = blockIdx.x;
    if (i % chunk != 0 && ids[i - 1] == ids[i]) return;
    const long long end = min((i / chunk + 1) * chunk, size);
    for (long long column = threadIdx.x; column < width; column += blockDim.x) {
        real sum = 0;
        for (long long j = i; j < end && ids[j] == ids[i]; j++) sum += dy[places[j] * width + column];
        sums[i * width + column] = sum;
    }
}

// dweight[v] for every v that occurs: Σ sums over the parts of its run.
extern "C" __global__ void run_sums(const long long* ids, const real* sums, long long size, long long width,
                                    long long chunk, real* dweight) {
    const long long i = blockIdx.x;
    if (i > 0 && ids[i - 1] == ids[i]) return;
    for (long long column = threadIdx.x; column < width; column += blockDim.x) {
        real sum = sums[i * width + column];
        for (long long j = (i / chunk + 1) * chunk; j < size && ids[j] == ids[i]; j += chunk)
            sum += sums[j * width + column];
        dweight[ids[i] * width + column] = sum;
    }
}
