// CUDA's threads on one CPU thread, so that g++ can build a kernel's source and a test can run it without a GPU.
//
// Every thread of a block is a fiber with a stack of its own. A fiber runs until it meets a barrier or a shuffle and
// goes on when all it waits for are there too: a thread that reads what another has not yet written, for want of a
// barrier, reads the wrong number, and does so every time. Blocks run one after another, in the order that is asked for,
// and every other one with its threads in reverse. Shared memory begins as NaN. An array ends where forbidden memory
// begins, or in every other order begins where it ends; on its other side are NaN, which are compared afterwards.
//
// A race gives the right number here as long as threads run one after another, so races are looked for: g++'s
// -fsanitize=thread calls a function before every read and write, here one that remembers who was there before. Two
// threads race where one of them writes and nothing stands between the two: __syncthreads, or __syncwarp within a warp.
// A shuffle orders no memory, and nothing orders blocks.
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define __global__
#define __device__ static inline
#define __restrict__
#define __shared__ static __attribute__((section("cuda_shared")))
#define __launch_bounds__(...)
extern char __start_cuda_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_cuda_shared[] __attribute__((weak, visibility("hidden")));

struct Index3 { unsigned x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

// CUDA's names are overloaded; <cmath> would give these too, and take longer than all the rest to compile
#define FOR_EITHER(name) \
    static inline float name(float x) { return __builtin_##name##f(x); } \
    static inline double name(double x) { return __builtin_##name(x); }
FOR_EITHER(erfc) FOR_EITHER(exp) FOR_EITHER(log) FOR_EITHER(sqrt)
static inline float fmax(float a, float b) { return __builtin_fmaxf(a, b); }
static inline double fmax(double a, double b) { return __builtin_fmax(a, b); }
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

namespace emulation {

enum State { READY, AT_WARP, AT_BLOCK, DONE };
const int MOST = 1024, STACK = 1 << 16, WARP = 32, FORBIDDEN = 1 << 26;
typedef void* Place[5];  // where a fiber goes on: GCC's own setjmp saves little and is quick
struct Fiber { ucontext_t start; Place at; State state; int line; bool fresh; unsigned shuffles, barriers, syncs; };
struct Visit { unsigned thread, barriers, syncs; };  // thread: of all blocks', plus 1; 0: nobody
struct Visits { Visit write, read, other_read; };  // the last write, the last read, and the last by another thread
struct Room { char *host, *data, *base; long long bytes, mapped; bool written; Visits* visits; };

static Fiber fibers[MOST];
static char* stacks;
static unsigned long long slots[2][MOST];
static Place scheduler;
static jmp_buf out;
static int current, threads;
static bool plain, waited;  // no block of this launch has waited so far, so this one's threads need no fibers
static char failure[300];
static void (*body)(void**);
static void** arguments;
static Room rooms[64];
static int n_rooms;
static Visits* shared_visits;
static bool watching;

[[noreturn]] static void fail(const char* what) {
    snprintf(failure, sizeof failure, "%s, in thread %u of block (%u, %u)", what, threadIdx.x, blockIdx.x, blockIdx.y);
    _longjmp(out, 1);
}

#define UNWATCHED __attribute__((no_sanitize_thread))

// Whether nothing stands between an earlier visit and one of thread `now`; in shared memory other blocks were elsewhere.
static UNWATCHED bool races(const Visit& before, const Visit& now, bool shared) {
    if (before.thread == 0 || before.thread == now.thread) return false;
    const unsigned a = before.thread - 1, b = now.thread - 1;
    if (a / threads != b / threads) return !shared;
    if (before.barriers != now.barriers) return false;
    return a % threads / WARP != b % threads / WARP || before.syncs == now.syncs;
}

static UNWATCHED void visit(char* place, int size, bool writes) {
    if (!watching) return;
    Visits* visits = nullptr;
    const bool shared = place >= __start_cuda_shared && place < __stop_cuda_shared;
    if (shared) visits = shared_visits + (place - __start_cuda_shared);
    for (int i = 0; i < n_rooms && !visits; i++)
        if (place >= rooms[i].data && place < rooms[i].data + rooms[i].bytes)
            visits = rooms[i].visits + (place - rooms[i].data) / size;
    if (!visits) return;
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    const Fiber& fiber = fibers[threadIdx.x];
    const Visit now = {block * threads + threadIdx.x + 1, fiber.barriers, fiber.syncs};
    if (races(visits->write, now, shared)) fail("a race with a write of another thread");
    if (writes && (races(visits->read, now, shared) || races(visits->other_read, now, shared)))
        fail("a race with a read of another thread");
    if (writes) visits->write = now;
    else {
        if (visits->read.thread != now.thread) visits->other_read = visits->read;
        visits->read = now;
    }
}

[[noreturn]] static __attribute__((noinline)) void jump(Place& place) { __builtin_longjmp(place, 1); }

static __attribute__((noinline)) void leave() {
    if (__builtin_setjmp(fibers[current].at) == 0) jump(scheduler);
}

static void live() {
    for (;;) {
        body(arguments);
        fibers[current].state = DONE;
        leave();
    }
}

static __attribute__((noinline)) void resume(int thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    threadIdx = {(unsigned)thread, 0, 0};
    if (__builtin_setjmp(scheduler) == 0) {
        if (!fiber.fresh) jump(fiber.at);
        fiber.fresh = false;
        setcontext(&fiber.start);
    }
}

static void wait(State where, int line) {
    if (plain) fail("a barrier or a shuffle that not every block reaches");
    waited = true;
    fibers[current].state = where;
    fibers[current].line = line;
    leave();
}

// Whether threads first … first + n all wait for the same thing, in the same line; if so, let them go on.
static bool release(int first, int n, State where) {
    for (int i = first; i < first + n; i++)
        if (fibers[i].state != where || fibers[i].line != fibers[first].line) return false;
    for (int i = first; i < first + n; i++) fibers[i].state = READY;
    return true;
}

static void run_block(bool backwards) {
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    for (int i = 0; i < threads; i++) fibers[i].shuffles = fibers[i].barriers = fibers[i].syncs = 0;
    if (plain) {
        for (int i = 0; i < threads; i++) {
            threadIdx.x = backwards ? threads - 1 - i : i;
            body(arguments);
        }
        return;
    }
    for (int i = 0; i < threads; i++) fibers[i].state = READY;
    const int warps = (threads + WARP - 1) / WARP;
    for (;;) {
        for (int k = 0; k < warps; k++) {
            const int first = WARP * (backwards ? warps - 1 - k : k), n = min(WARP, threads - first);
            do
                for (int i = 0; i < n; i++) {
                    const int thread = first + (backwards ? n - 1 - i : i);
                    if (fibers[thread].state == READY) resume(thread);
                }
            while (n == WARP && release(first, n, AT_WARP));
        }
        if (release(0, threads, AT_BLOCK)) continue;
        for (int i = 0; i < threads; i++)
            if (fibers[i].state != DONE) fail("a barrier or a shuffle that not every thread reaches");
        return;
    }
}

static void block_barrier(int line) {
    wait(AT_BLOCK, line);
    fibers[current].barriers++;
}

static void warp_barrier(int line) {
    wait(AT_WARP, line);
    fibers[current].syncs++;
}

template <class T> static T shuffle(unsigned mask, T value, int source, int line) {
    if (mask != 0xffffffffu) fail("a shuffle that leaves lanes of its warp out");
    auto& now = slots[fibers[current].shuffles++ % 2];  // the next shuffle takes the other, while some still read here
    memcpy(&now[current], &value, sizeof value);
    wait(AT_WARP, line);
    memcpy(&value, &now[source], sizeof value);
    return value;
}

static void outside(int, siginfo_t* info, void*) {
    for (int i = 0; i < n_rooms; i++)
        if ((char*)info->si_addr >= rooms[i].base && (char*)info->si_addr < rooms[i].base + rooms[i].mapped) {
            fail("read or write outside an array");
        }
    fail("read or write of no array at all");
}

static Visits* no_visits(long long places) {
    void* made = mmap(nullptr, places * sizeof(Visits), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) fail("no memory to remember visits in");
    return (Visits*)made;
}

static long long shared_bytes() { return __start_cuda_shared ? __stop_cuda_shared - __start_cuda_shared : 0; }

// A copy of an array with forbidden memory behind its end, or before its start.
static Room make_room(char* host, long long bytes, bool at_start) {
    const long long page = sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page + page;
    const long long mapped = inside + 2 * FORBIDDEN;
    char* base = (char*)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == (char*)MAP_FAILED) fail("no memory for a copy of an array");
    char *start = base + FORBIDDEN, *data = at_start ? start : start + inside - bytes;
    mprotect(start, inside, PROT_READ | PROT_WRITE);
    memset(start, 0xff, inside);
    memcpy(data, host, bytes);
    return {host, data, base, bytes, mapped, false, no_visits(bytes + 1)};
}

static bool untouched(const Room& room) {
    const char *start = room.base + FORBIDDEN, *end = room.base + room.mapped - FORBIDDEN;
    for (const char* p = start; p < end; p++)
        if ((p < room.data || p >= room.data + room.bytes) && *p != (char)0xff) return false;
    return true;
}

// Run a kernel with the grid's two sizes, the block's, and one of four orders in `dims`. bytes[i] is the size of argument i's array, or -1 for a scalar; returns what went wrong, or "".
static const char* launch(void (*kernel)(void**), const unsigned* dims, int n, void** args, const long long* bytes,
                          const int* written) {
    failure[0] = 0;
    body = kernel;
    arguments = args;
    gridDim = {dims[0], dims[1], 1};
    blockDim = {dims[2], 1, 1};
    threads = dims[2];
    if (!stacks) {
        stacks = (char*)mmap(nullptr, (size_t)MOST * STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (Fiber& fiber : fibers) fiber.fresh = true;
    }
    for (int i = 0; i < threads; i++)
        if (fibers[i].fresh) {
            getcontext(&fibers[i].start);
            fibers[i].start.uc_stack.ss_sp = stacks + (size_t)i * STACK;
            fibers[i].start.uc_stack.ss_size = STACK;
            makecontext(&fibers[i].start, live, 0);
        }
    plain = waited = false;
    n_rooms = 0;
    for (int i = 0; i < n; i++) {
        if (bytes[i] < 0) continue;
        char** pointer = (char**)args[i];
        int k = 0;
        while (k < n_rooms && rooms[k].host != *pointer) k++;
        if (k == n_rooms) rooms[n_rooms++] = make_room(*pointer, bytes[i], dims[3] & 1);
        rooms[k].written |= written[i] != 0;
        *pointer = rooms[k].data;
    }
    struct sigaction mine = {}, segv, bus;
    mine.sa_sigaction = outside;
    mine.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &mine, &segv);
    sigaction(SIGBUS, &mine, &bus);
    shared_visits = no_visits(shared_bytes() + 1);
    watching = true;
    if (_setjmp(out) == 0) {
        const long long blocks = (long long)gridDim.x * gridDim.y, order = dims[3];
        for (long long i = 0; i < blocks; i++) {
            const long long b = order & 1 ? i : blocks - 1 - i;
            blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x), 0};
            run_block((b + order / 2) % 2 == 1);
            plain = !waited;
        }
    } else {
        for (Fiber& fiber : fibers) fiber.fresh = true;
    }
    watching = false;
    sigaction(SIGSEGV, &segv, nullptr);
    sigaction(SIGBUS, &bus, nullptr);
    munmap(shared_visits, (shared_bytes() + 1) * sizeof(Visits));
    for (int k = 0; k < n_rooms; k++) {
        if (!failure[0] && !untouched(rooms[k])) snprintf(failure, sizeof failure, "write beside an array");
        if (!failure[0] && rooms[k].written) memcpy(rooms[k].host, rooms[k].data, rooms[k].bytes);
        munmap(rooms[k].base, rooms[k].mapped);
        munmap(rooms[k].visits, (rooms[k].bytes + 1) * sizeof(Visits));
    }
    return failure;
}

}  // namespace emulation

// what -fsanitize=thread calls, in place of its own library's
#define WATCHED(name, size, writes) \
    extern "C" UNWATCHED void __tsan_##name##size(void* place) { emulation::visit((char*)place, size, writes); }
WATCHED(read, 1, false) WATCHED(read, 2, false) WATCHED(read, 4, false) WATCHED(read, 8, false) WATCHED(read, 16, false)
WATCHED(write, 1, true) WATCHED(write, 2, true) WATCHED(write, 4, true) WATCHED(write, 8, true) WATCHED(write, 16, true)
extern "C" void __tsan_read_range(void*, long) {}  // of structs, which no array holds
extern "C" void __tsan_write_range(void*, long) {}
extern "C" UNWATCHED void __tsan_init() {}
extern "C" UNWATCHED void __tsan_func_entry(void*) {}
extern "C" UNWATCHED void __tsan_func_exit() {}

#define __syncthreads() emulation::block_barrier(__LINE__)
#define __syncwarp() emulation::warp_barrier(__LINE__)
#define __shfl_xor_sync(mask, value, with) emulation::shuffle(mask, value, emulation::current ^ (with), __LINE__)
