// The emulator about itself: kernels with one fault each must be reported as that fault, and the same kernels without
// it must give the right numbers, in every schedule.
#include "emulator.h"

#include <memory>

using emulator::Copies;
using emulator::Order;
using emulator::Outcome;

namespace {

int failures = 0;

struct Schedules {
    static constexpr Order ORDERS[3] = {Order::Up, Order::Down, Order::Shuffled};
    template <class F> static void each(F f) {
        for (Order order : ORDERS)
            for (Copies copies : {Copies::Late, Copies::AtOnce}) {
                emulator::this_machine().schedule = {order, copies, 7};
                f();
            }
    }
};

// How a kernel of `threads` threads must end in every schedule, with words that the report must hold.
void expect(const char* name, Outcome outcome, const char* words, unsigned threads, size_t shared, const std::function<void()>& kernel) {
    Schedules::each([&] {
        const Outcome got = emulator::launch(name, {2}, {threads}, shared, kernel);
        const std::string& report = emulator::machine->fault;
        if (got == outcome && report.find(words) != std::string::npos) return;
        printf("%s: ends with %d, `%s`; must be %d with `%s`\n", name, got, report.c_str(), outcome, words);
        failures++;
    });
}

// Values that must come out in every schedule.
void expect_values(const char* name, unsigned threads, size_t shared, float* out, const std::function<void()>& kernel,
                   const std::function<float(unsigned)>& want) {
    Schedules::each([&] {
        std::fill(out, out + threads, -1.0f);
        emulator::launch(name, {1}, {threads}, shared, kernel);
        for (unsigned i = 0; i < threads; i++) {
            if (out[i] == want(i)) continue;
            printf("%s: value %u is %g, must be %g (%s)\n", name, i, out[i], want(i), emulator::machine->fault.c_str());
            failures++;
            return;
        }
    });
}

// Whether some schedule makes the values differ from those wanted: the fault in the kernel shows.
void expect_caught(const char* name, unsigned threads, size_t shared, float* out, const std::function<void()>& kernel,
                   const std::function<float(unsigned)>& want) {
    bool caught = false;
    Schedules::each([&] {
        std::fill(out, out + threads, -1.0f);
        caught |= emulator::launch(name, {1}, {threads}, shared, kernel) != emulator::Good;
        for (unsigned i = 0; i < threads; i++) caught |= out[i] != want(i);
    });
    if (caught) return;
    printf("%s: not caught\n", name);
    failures++;
}

float* shared() { return reinterpret_cast<float*>(emulator::shared_memory()); }

void barriers() {
    static float out[256];
    auto reversed = [](unsigned i) { return float(255 - i); };
    expect_values("a barrier", 256, 1024, out, [] {
        shared()[threadIdx.x] = float(threadIdx.x);
        __syncthreads();
        out[threadIdx.x] = shared()[255 - threadIdx.x];
    }, reversed);
    expect_caught("no barrier", 256, 1024, out, [] {
        shared()[threadIdx.x] = float(threadIdx.x);
        out[threadIdx.x] = shared()[255 - threadIdx.x];
    }, reversed);
    expect_caught("no barrier before reuse", 256, 1024, out, [] {
        float sum = 0;
        for (int round = 0; round < 3; round++) {
            shared()[threadIdx.x] = float(threadIdx.x) * float(round);
            __syncthreads();
            sum += shared()[255 - threadIdx.x];
        }
        out[threadIdx.x] = sum / 3;
    }, reversed);
    // Nothing that any schedule shows: the value is the same.
    expect("no barrier between reading and writing", emulator::LaunchFailed, "without a barrier", 64, 1024, [] {
        shared()[threadIdx.x] = 1;
        __syncthreads();
        out[threadIdx.x] = shared()[63 - threadIdx.x];
        shared()[threadIdx.x] = 1;
    });
    expect("a warp's barrier between warps", emulator::LaunchFailed, "without a barrier", 64, 1024, [] {
        shared()[threadIdx.x] = 1;
        __syncwarp();
        out[threadIdx.x] = shared()[63 - threadIdx.x];
    });
    expect("a warp's barrier within warps", emulator::Good, "", 64, 1024, [] {
        for (int round = 0; round < 3; round++) {
            shared()[threadIdx.x] = 1;
            __syncwarp();
            out[threadIdx.x] = shared()[threadIdx.x ^ 31];
            __syncwarp();
        }
    });
    expect("a shuffle in the place of a warp's barrier", emulator::LaunchFailed, "without a barrier", 32, 1024, [] {
        shared()[threadIdx.x] = 1;
        __shfl_sync(~0u, 1, 0);
        out[threadIdx.x] = shared()[threadIdx.x ^ 31];
    });
    expect("many read what one wrote", emulator::Good, "", 64, 1024, [] {
        for (int round = 0; round < 3; round++) {
            if (threadIdx.x == 5) shared()[7] = 1;
            __syncthreads();
            out[threadIdx.x] = shared()[7];
            __syncthreads();
        }
    });
    expect("a barrier that some do not reach", emulator::LaunchFailed, "deadlock", 64, 0, [] {
        if (threadIdx.x <= 32) __syncthreads();
        else __syncwarp();
    });
    expect("two barriers in two branches", emulator::LaunchFailed, "at the barrier of line", 64, 0, [] {
        if (threadIdx.x < 32) {
            __syncthreads();
        } else {
            __syncthreads();
        }
    });
    expect("a barrier after some have exited", emulator::Good, "", 64, 0, [] {
        if (threadIdx.x >= 32) __syncthreads();
    });
}

void warps() {
    static float out[64];
    expect_values("shuffles", 64, 0, out, [] {
        float sum = float(threadIdx.x);
        for (int bit = 16; bit; bit /= 2) sum += __shfl_xor_sync(~0u, sum, bit);
        out[threadIdx.x] = sum + __shfl_down_sync(~0u, float(threadIdx.x % 32), 4);
    }, [](unsigned i) { return float(i < 32 ? 496 : 1520) + float(i % 32 < 28 ? i % 32 + 4 : i % 32); });
    expect("a shuffle that a lane leaves out", emulator::LaunchFailed, "", 32, 0, [] {
        if (threadIdx.x != 9) __shfl_sync(~0u, 1, 0);
    });
    expect("lanes in different operations", emulator::LaunchFailed, "while other lanes of its warp", 32, 0, [] {
        if (threadIdx.x % 2) __syncwarp();
        else __shfl_sync(~0u, 1, 0);
    });
    expect("a warp of sixteen", emulator::LaunchFailed, "never was", 16, 0, [] { __syncwarp(); });
}

void addresses() {
    expect("past the end of shared memory", emulator::IllegalAddress, "shared memory", 32, 400, [] {
        shared()[100 + threadIdx.x] = 1;
    });
    expect("far past the end of shared memory", emulator::IllegalAddress, "past the end", 32, 400, [] {
        shared()[300 + threadIdx.x] = 1;
    });
    expect("before the start of shared memory", emulator::IllegalAddress, "before the start", 32, 400, [] {
        shared()[-1] = 1;
    });
    expect("nowhere", emulator::IllegalAddress, "touches", 32, 0, [] {
        volatile uintptr_t address = 64;
        *reinterpret_cast<volatile float*>(address) = 1;
    });
    expect("a misaligned vector", emulator::Misaligned, "misaligned access", 32, 1024, [] {
        auto* p = reinterpret_cast<volatile float4*>(shared() + threadIdx.x);
        p->x = 1;
    });
    expect("a product beyond 32 bits", emulator::LaunchFailed, "a product overflows", 32, 0, [] {
        volatile int large = 1 << 20;
        volatile int product = large * large;
        (void)product;
    });
    expect("an index beyond an array", emulator::LaunchFailed, "an index out of range", 32, 0, [] {
        volatile int index = 4;
        volatile int values[4] = {}, value = values[index];
        (void)value;
    });
    expect("division by zero", emulator::LaunchFailed, "division", 32, 0, [] {
        volatile int zero = 0, one = 1;
        volatile int quotient = one / zero;
        (void)quotient;
    });
}

void copies() {
    alignas(16) static float in[128];
    static float out[128];
    for (int i = 0; i < 128; i++) in[i] = float(i);
    // Sixty-four threads in two groups of copies, of which thread 5's are zeros.
    auto kernel = [](int newest, bool barrier) {
        return [=] {
            const int t = threadIdx.x;
            for (int half = 0; half < 2; half++) {
                emulator::copy_async(shared() + half * 64 + t, in + half * 64 + t, 4, t == 5 ? 0 : 4);
                emulator::commit_copies();
            }
            emulator::wait_copies(newest);
            if (barrier) __syncthreads();
            out[t] = shared()[127 - t];
            emulator::wait_copies(0);
        };
    };
    auto want = [](unsigned i) { return i == 58 ? 0.0f : float(127 - i); };
    expect_values("copies", 64, 512, out, kernel(0, true), want);
    expect_caught("a wait for all but one", 64, 512, out, kernel(1, true), want);
    expect_caught("a wait without a barrier", 64, 512, out, kernel(0, false), want);
    expect("a misaligned copy", emulator::Misaligned, "cp.async", 32, 512, [] { emulator::copy_async(shared() + 1, in, 16, 16); });
    expect("a copy past the end", emulator::IllegalAddress, "cp.async writes 16 bytes at 512", 32, 512, [] {
        emulator::copy_async(shared() + 128, in, 16, 16);
    });
}

// A product of a 16x8 and an 8x8 matrix through ldmatrix, and its transposed fragments.
void tensor_cores() {
    static float out[32];
    auto a = [](int row, int k) { return float(row * 3 - k); };
    auto b = [](int k, int column) { return float(k * 5 + column - 7); };
    expect_values("mma of tf32", 32, 1024, out, [=] {
        const int lane = threadIdx.x;
        for (int i = lane; i < 128; i += 32) shared()[i] = a(i / 8, i % 8);
        for (int i = lane; i < 64; i += 32) shared()[128 + i] = b(i % 8, i / 8);
        __syncwarp();
        uint32_t fragment_a[4], fragment_b[2];
        // Rows 0-7 and 8-15 of the left four columns, then of the right ones.
        emulator::load_matrices(fragment_a, shared() + lane % 16 * 8 + lane / 16 * 4);
        emulator::load_matrices(fragment_b, shared() + 128 + lane % 8 * 8 + lane / 8 % 2 * 4);
        float d[4] = {1, 2, 3, 4};
        emulator::mma_tf32(d, fragment_a, fragment_b);
        float sum = 0;
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float want = float(i + 1);
            for (int k = 0; k < 8; k++) want += a(row, k) * b(k, column);
            sum += d[i] == want ? 1 : 0;
        }
        out[lane] = sum;
    }, [](unsigned) { return 4.0f; });
    // Toward zero, where rounding to nearest would go up.
    const double terms[3] = {1, 0x1.8p-24, 0};
    const double small[2] = {1, 0x1.fp-25};
    if (emulator::tensor_core_sum(terms) != 1.0f || emulator::tensor_core_sum(small) != 1.0f) {
        printf("sums are not truncated\n");
        failures++;
    }
}

// A product of a warpgroup: 64 x 8 whole numbers in registers times 8 x 64 in shared memory, in each form that a
// descriptor can say, and what must not be left out.
enum Left { NOTHING, PROXY_FENCE, BARRIER, REGISTER_FENCE, COMMIT, WAIT, WARP };

struct Form {
    const char* name;
    uint64_t descriptor;             // without the address
    int (*place)(int column, int half);  // of 16 bytes
};
const Form FORMS[] = {
    {"wgmma", 8ull << 16 | 16ull << 32, [](int n, int half) { return n / 8 * 256 + half * 128 + n % 8 * 16; }},
    {"wgmma, halves far apart", 64ull << 16 | 8ull << 32, [](int n, int half) { return half * 1024 + n * 16; }},
    // Rows of 32, 64 and 128 bytes, 16 bytes of which change places with the row.
    {"wgmma, 32 bytes swizzled", 3ull << 62 | 16ull << 32, [](int n, int half) { return n * 32 + (half ^ n / 4 % 2) * 16; }},
    {"wgmma, 64 bytes swizzled", 2ull << 62 | 32ull << 32, [](int n, int half) { return n * 64 + (half ^ n / 2 % 4) * 16; }},
    {"wgmma, 128 bytes swizzled", 1ull << 62 | 64ull << 32, [](int n, int half) { return n * 128 + (half ^ n % 8) * 16; }},
};

std::function<void()> warpgroup(const Form& form, Left left, uint64_t change, float* out) {
    return [=] {
        auto a = [](int row, int k) { return float(row % 13 * 3 - k); };
        auto b = [](int k, int column) { return float(k * 5 + column % 11 - 7); };
        const int thread = threadIdx.x, lane = thread % 32, row = thread / 32 * 16 + lane / 4, t = lane % 4;
        char* bytes = reinterpret_cast<char*>(shared());
        for (int i = thread; i < 64 * 8; i += 128)
            *reinterpret_cast<float*>(bytes + form.place(i / 8, i % 8 / 4) + i % 4 * 4) = b(i % 8, i / 8);
        if (left != PROXY_FENCE && left != BARRIER) emulator::fence_proxy();
        __syncthreads();
        if (left == BARRIER) emulator::fence_proxy();
        uint32_t rows[4];
        for (int i = 0; i < 4; i++) rows[i] = __float_as_uint(a(row + i % 2 * 8, t + i / 2 * 4));
        float d[8][4];
        for (auto& four : d)
            for (float& sum : four) sum = 5;
        const uint64_t descriptor = (form.descriptor | emulator::shared_address(bytes) >> 4) ^ change;
        if (left != REGISTER_FENCE) emulator::fence_wgmma();
        // The second one adds to the first, which adds to nothing.
        emulator::wgmma_tf32(&d[0][0], 8, rows, descriptor, false);
        if (left != WARP || thread < 32) emulator::wgmma_tf32(&d[0][0], 8, rows, descriptor, true);
        if (left != COMMIT) emulator::commit_wgmma();
        if (left != WAIT) emulator::wait_wgmma(0);
        int right = 0;
        for (int i = 0; i < 32; i++) {
            const int of_row = row + i / 2 % 2 * 8, column = i / 4 * 8 + t * 2 + i % 2;
            float want = 0;
            for (int k = 0; k < 8; k++) want += 2 * a(of_row, k) * b(k, column);
            right += d[i / 4][i % 4] == want;
        }
        out[thread] = float(right);
        if (left == WAIT || left == COMMIT) {
            emulator::commit_wgmma();
            emulator::wait_wgmma(0);
        }
    };
}

void warpgroups() {
    static float out[128];
    auto all = [](unsigned) { return 32.0f; };
    for (const Form& form : FORMS) {
        expect_values(form.name, 128, 8192, out, warpgroup(form, NOTHING, 0, out), all);
        expect_caught("wgmma from 16 bytes further on", 128, 8192, out, warpgroup(form, NOTHING, 1, out), all);
        expect_caught("wgmma with another swizzle", 128, 8192, out, warpgroup(form, NOTHING, 1ull << 63, out), all);
    }
    expect_caught("wgmma, steps not so far apart", 128, 8192, out, warpgroup(FORMS[0], NOTHING, 1 << 16, out), all);
    expect_caught("wgmma, columns not so far apart", 128, 8192, out, warpgroup(FORMS[0], NOTHING, 1ull << 32, out), all);
    expect_caught("wgmma not committed", 128, 8192, out, warpgroup(FORMS[0], COMMIT, 0, out), all);
    expect_caught("wgmma not waited for", 128, 8192, out, warpgroup(FORMS[0], WAIT, 0, out), all);
    using emulator::LaunchFailed;
    expect("wgmma without a fence", LaunchFailed, "without fence.proxy.async", 128, 8192, warpgroup(FORMS[0], PROXY_FENCE, 0, out));
    expect("wgmma with a late fence", LaunchFailed, "there was no barrier", 128, 8192, warpgroup(FORMS[0], BARRIER, 0, out));
    expect("wgmma without wgmma.fence", LaunchFailed, "without wgmma.fence", 128, 8192, warpgroup(FORMS[0], REGISTER_FENCE, 0, out));
    expect("wgmma by one warp", LaunchFailed, "left some to others", 128, 8192, warpgroup(FORMS[0], WARP, 0, out));
    expect("wgmma beyond shared memory", emulator::IllegalAddress, "wgmma reads", 128, 2048, warpgroup(FORMS[0], NOTHING, 8, out));
    expect("wgmma by half a warpgroup", emulator::IllegalInstruction, "no whole warpgroups", 64, 8192, warpgroup(FORMS[0], NOTHING, 0, out));
    expect("a descriptor of other bits", emulator::IllegalInstruction, "mean nothing", 128, 8192, warpgroup(FORMS[0], NOTHING, 1 << 15, out));
}

}  // namespace

int main() {
    barriers();
    warps();
    addresses();
    copies();
    tensor_cores();
    warpgroups();
    if (failures == 0) printf("the emulator reports what it says\n");
    return failures != 0;
}
