// Runs CUDA C++ kernels on the CPU, to test on a machine without a GPU what they compute, where they read and
// write, and how their threads wait for each other. The device sources are compiled by an ordinary C++ compiler
// with CONV_EMULATED defined; driver.cpp launches them from behind the ABI of the CUDA driver.
//
// How: each thread of a block is a fiber that runs to its next barrier or warp operation before another one
// runs. Which one is a matter of the schedule: ascending, descending or shuffled. Blocks run one after another.
//
// What it catches
// - Missing barriers: two threads that touch a word of shared memory, one of which writes it, without a barrier
//   between them (or `__syncwarp`, within a warp), in whatever order they happened to run. The compiler reports
//   accesses (-fsanitize=thread), the emulator keeps who touched each word. Beyond that, shared memory starts as
//   NaN in every block, and threads run as far ahead of each other as barriers let them.
// - Missing or short waits for cp.async: bytes are NaN from when a copy is issued to when its thread has waited
//   for it (Copies::Late). Copies::AtOnce is the other extreme: a copy that overwrites what is still read.
// - Barriers that not all threads reach, or that threads of a block reach at different lines; warp operations
//   that not all named lanes reach, or in which lanes do different things. Both end the launch with a report.
// - Reads and writes beyond a buffer: it ends at a page that cannot be touched, and what lies between is NaN and
//   is looked at when the buffer is freed. Shared memory likewise.
// - Misaligned vectors, 32-bit overflow, shifts and indices of arrays out of range, with the line: the compiler
//   checks them (-fsanitize=alignment,signed-integer-overflow,shift,bounds) and calls the handlers below.
// - Products of warpgroups on what their descriptors do not name, without the fences that they need, or whose
//   registers are touched before they are done: see there.
// - Sums that are too long for tensor cores: they add with truncation, see `tensor_core_sum`.
// - More shared memory, threads or blocks than there may be: driver.cpp refuses such a launch.
//
// What it cannot: the PTX in the primitives (each is a line, beside its host form), registers and their spills
// (a real compiler tells: see tests/cuda.rs), how memory accesses of one warp coalesce or conflict, how a real
// GPU orders accesses to global memory, two blocks at once, and any speed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <sys/mman.h>
#include <tuple>
#include <utility>
#include <vector>

// ---- CUDA's words and types ------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// There is no `__shared__`: kernels take dynamic shared memory from `emulator::shared_memory()`, all of which is
// poisoned and bounded.

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

// ---- What runs --------------------------------------------------------------------------------------------------

enum class Order { Up, Down, Shuffled };
enum class Copies { Late, AtOnce };

// How the threads of a block take turns, and when asynchronous copies land. Of the host thread that launches.
struct Schedule {
    Order order = Order::Up;
    Copies copies = Copies::Late;
    unsigned seed = 1;
};

// How a launch ended, in the driver's numbers.
enum Outcome { Good = 0, IllegalAddress = 700, IllegalInstruction = 715, Misaligned = 716, LaunchFailed = 719 };

// An asynchronous copy that has not landed.
struct Copy {
    void* to;
    const void* from;
    int bytes, valid;
};

// A product of a warpgroup that has been issued and not waited for, as one of its threads sees it.
struct Product {
    float* sums;
    const uint32_t* rows;            // registers, read as late as can be
    uint64_t columns;                // the descriptor
    int width;                       // columns / 8
    bool bf16, adds;
    std::vector<float> before;       // what the sums were, of the first product that has them: now they are NaN
};

// A CUDA thread: a fiber.
struct Thread {
    uint3 index;
    int number, lane, warp;
    bool done = false;
    void* stack = nullptr;           // where it goes on
    const char* waits = nullptr;     // for what; null when it can run
    int line = 0;                    // of the barrier at which it waits
    std::vector<Copy> copies;        // issued and not landed
    std::vector<size_t> groups;      // how many of `copies` each committed group ends after
    std::vector<Product> products;   // of its warpgroup
    std::vector<size_t> product_groups;
    size_t issued = 0;               // products, all in all
    bool registers_fenced = false;   // whether products may have its registers
    uint32_t fences = 0;             // fence.proxy.async that it has passed, and in which phase each
    std::vector<uint32_t> fence_phases;
};

// Who touched a word of shared memory last. A phase is the time between two barriers of the block; they are counted
// on and on, so that nothing need be cleared. A step is the time between two `__syncwarp`s of a warp.
struct Word {
    uint32_t write_phase, write_step, read_phase, read_step;
    int16_t writer, reader;
    bool other_lanes, other_warps;  // have read it as well, since `read_phase` and `read_step`
    uint32_t fences;                // of the writer before it wrote
};

// An operation in which lanes of a warp take part together.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    const char* kind = nullptr;
    void* lanes[32];                 // what each lane brings, on its own stack
};

struct Machine {
    Schedule schedule;
    const char* kernel = "";
    dim3 grid, block;
    uint3 block_index{};
    std::vector<Thread> threads;
    std::vector<std::vector<Meeting>> meetings;  // of each warp, those that lanes wait in
    std::vector<int> ready;          // threads that can run, the next one last
    std::vector<int> at_barrier;
    Thread* current = nullptr;
    unsigned live = 0, random = 1;
    uint32_t phase = 1, first_phase = 1;  // of the block; its first one
    uint32_t steps[32];              // of each warp
    Word* words = nullptr;           // of shared memory
    std::vector<std::vector<Product>> issued;  // by each warpgroup, without registers
    const std::function<void()>* body = nullptr;
    void* main_stack = nullptr;
    sigjmp_buf escape;               // out of a fault
    Outcome outcome = Good;
    std::string fault;
    // Shared memory and stacks, kept from launch to launch.
    unsigned char *shared_map = nullptr, *shared_end = nullptr, *shared = nullptr;
    size_t shared_bytes = 0;
    unsigned char *stacks = nullptr, *signal_stack = nullptr;

    Machine();
    ~Machine();
};

// The machine of a host thread; those of several run side by side.
inline thread_local __attribute__((tls_model("initial-exec"))) Machine* machine = nullptr;
inline thread_local __attribute__((tls_model("initial-exec"))) bool running = false;

// Says what an address is that a kernel must not touch; set by whoever owns the memory.
inline std::string (*describe_address)(const void*) = nullptr;

constexpr size_t PAGE = 4096, STACK = 96 << 10, SIGNAL_STACK = 64 << 10;
constexpr size_t MOST_THREADS = 1024, MOST_SHARED = 228 << 10, SHARED_ALIGNMENT = 1024;
// A page that cannot be touched, one of slack, shared memory, and a page that cannot be touched.
constexpr size_t SHARED_MAP = PAGE + PAGE + MOST_SHARED + PAGE;
constexpr size_t WORDS_MAP = MOST_SHARED / 4 * sizeof(Word);

// ---- Faults -----------------------------------------------------------------------------------------------------

// Ends the launch with a report of where it was.
[[noreturn]] inline void fault(Outcome outcome, const char* format, ...) {
    Machine& m = *machine;
    char what[512], where[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    const uint3 b = m.block_index;
    int n = snprintf(where, sizeof where, "%s, block (%u, %u, %u)", m.kernel, b.x, b.y, b.z);
    if (m.current) {
        const uint3 t = m.current->index;
        snprintf(where + n, sizeof where - n, ", thread (%u, %u, %u)", t.x, t.y, t.z);
    }
    m.fault = std::string(where) + ": " + what;
    m.outcome = outcome;
    fprintf(stderr, "emulated GPU: %s\n", m.fault.c_str());
    siglongjmp(m.escape, 1);
}

inline struct sigaction previous_actions[NSIG];

inline void on_signal(int signal, siginfo_t* info, void*) {
    if (!running) {  // not ours
        sigaction(signal, &previous_actions[signal], nullptr);
        return;      // the instruction runs again, into the other handler
    }
    if (signal == SIGFPE) fault(LaunchFailed, "integer division by zero");
    std::string what = describe_address ? describe_address(info->si_addr) : "";
    const Machine& m = *machine;
    const auto* at = static_cast<const unsigned char*>(info->si_addr);
    if (at >= m.shared + m.shared_bytes && at < m.shared_map + SHARED_MAP)
        what = "past the end of the shared memory of " + std::to_string(m.shared_bytes) + " bytes";
    else if (at >= m.shared_map && at < m.shared)
        what = "before the start of the shared memory";
    else if (at >= m.stacks && at < m.stacks + MOST_THREADS * STACK)
        what = "a thread's stack is full";
    fault(IllegalAddress, "touches %p: %s", info->si_addr, what.c_str());
}

// ---- Fibers -----------------------------------------------------------------------------------------------------

#ifndef __x86_64__
#error "the switch between fibers is written for x86-64"
#endif
// Saves what a call must preserve, goes on where `load` was saved.
__attribute__((naked, noinline)) inline void switch_stacks(void** /*save*/, void* /*load*/) {
    asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}

inline void go_to(Thread& next, void** save) {
    machine->current = &next;
    switch_stacks(save, next.stack);
}

[[noreturn]] inline void report_deadlock() {
    Machine& m = *machine;
    std::string waiting;
    int shown = 0;
    const char* last = nullptr;
    for (const Thread& t : m.threads) {
        const char* state = t.done ? "the end" : t.waits;
        if (state == last || shown == 8) continue;
        char text[128];
        if (t.line) snprintf(text, sizeof text, "%s%s of line %d from thread %d", shown ? ", " : "", state, t.line, t.number);
        else snprintf(text, sizeof text, "%s%s from thread %d", shown ? ", " : "", state, t.number);
        waiting += text;
        last = state;
        shown++;
    }
    m.current = nullptr;
    fault(LaunchFailed, "deadlock: threads are at %s", waiting.c_str());
}

// Takes the next thread that can run.
inline Thread& next_thread() {
    Machine& m = *machine;
    if (m.ready.empty()) report_deadlock();
    if (m.schedule.order == Order::Shuffled) {
        m.random = m.random * 1664525u + 1013904223u;
        std::swap(m.ready[(m.random >> 8) % m.ready.size()], m.ready.back());
    }
    const int number = m.ready.back();
    m.ready.pop_back();
    return m.threads[number];
}

// Puts threads that can run again behind those that could all along.
inline void release(const int* threads, size_t count) {
    Machine& m = *machine;
    m.ready.insert(m.ready.begin(), threads, threads + count);
    const bool up = m.schedule.order != Order::Down;
    std::sort(m.ready.begin(), m.ready.begin() + count, [up](int a, int b) { return up ? a > b : a < b; });
    for (size_t i = 0; i < count; i++) m.threads[threads[i]].waits = nullptr;
}

// The current thread waits for others, who release it.
inline void wait(const char* what, int line = 0) {
    Thread& me = *machine->current;
    me.waits = what;
    me.line = line;
    go_to(next_thread(), &me.stack);
    me.line = 0;
}

// For what the emulator does itself, which is no access of a kernel's: the compiler reports none there.
#define EMULATOR_UNCHECKED __attribute__((no_sanitize("thread")))

// ---- Barriers and warp operations -------------------------------------------------------------------------------

// Who has exited is not waited for, as on a GPU.
inline void release_barrier_if_all_there() {
    Machine& m = *machine;
    if (m.at_barrier.empty() || m.at_barrier.size() < m.live) return;
    m.phase++;
    std::vector<int> all;
    all.swap(m.at_barrier);
    release(all.data(), all.size());
}

inline void sync_block(int line) {
    Machine& m = *machine;
    if (!m.at_barrier.empty() && m.threads[m.at_barrier[0]].line != line)
        fault(LaunchFailed, "is at the barrier of line %d while thread %d is at that of line %d", line, m.at_barrier[0],
              m.threads[m.at_barrier[0]].line);
    if (m.at_barrier.size() + 1 == m.live) {  // the last one runs on at once
        m.phase++;
        std::vector<int> all;
        all.swap(m.at_barrier);
        release(all.data(), all.size());
        return;
    }
    m.at_barrier.push_back(m.current->number);
    wait("the barrier", line);
}

// The lanes of `mask` bring `mine`; the last one there does the work for all, `f(lanes)`, where `lanes[i]` points to
// what lane i brought, or to nothing.
template <class Lane, class F> void meet(unsigned mask, const char* kind, Lane& mine, F f) {
    Machine& m = *machine;
    Thread& me = *m.current;
    if (!(mask >> me.lane & 1)) fault(LaunchFailed, "%s names lanes %08x, not the one that calls it", kind, mask);
    std::vector<Meeting>& meetings = m.meetings[me.warp];
    size_t i = 0;
    while (i < meetings.size() && meetings[i].mask != mask) {
        if (meetings[i].mask & mask) fault(LaunchFailed, "%s of lanes %08x while others wait with %08x", kind, mask, meetings[i].mask);
        i++;
    }
    if (i == meetings.size()) {
        for (unsigned lane = 0; lane < 32; lane++) {
            const unsigned number = me.warp * 32 + lane;
            if ((mask >> lane & 1) && (number >= m.threads.size() || m.threads[number].done))
                fault(LaunchFailed, "%s names lane %u, which has exited or never was", kind, lane);
        }
        meetings.emplace_back();
        meetings[i].mask = mask;
        meetings[i].kind = kind;
        std::fill(meetings[i].lanes, meetings[i].lanes + 32, nullptr);
    }
    Meeting& meeting = meetings[i];
    if (strcmp(meeting.kind, kind) != 0) fault(LaunchFailed, "is at %s while other lanes of its warp are at %s", kind, meeting.kind);
    meeting.arrived |= 1u << me.lane;
    meeting.lanes[me.lane] = &mine;
    if (meeting.arrived != mask) return wait(kind);
    Lane* lanes[32];
    int waiting[32], count = 0;
    for (int lane = 0; lane < 32; lane++) {
        lanes[lane] = static_cast<Lane*>(meeting.lanes[lane]);
        if (lanes[lane] && lane != me.lane) waiting[count++] = me.warp * 32 + lane;
    }
    meetings.erase(meetings.begin() + i);
    f(lanes);
    release(waiting, count);
}

inline void sync_warp(unsigned mask) {
    char nothing;
    meet(mask, "__syncwarp", nothing, [mask](char**) {
        if (mask == ~0u) machine->steps[machine->current->warp]++;
    });
}

// ---- Races ------------------------------------------------------------------------------------------------------

// Whether a barrier lies between what a thread did in a phase and step and what `me` does now.
EMULATOR_UNCHECKED inline bool is_ordered(int thread, uint32_t phase, uint32_t step, const Thread& me) {
    return thread == me.number || phase != machine->phase || (thread / 32 == me.warp && step != machine->steps[me.warp]);
}

// Notes that a thread touches a word, or ends the launch if it races with another one.
EMULATOR_UNCHECKED inline void touch_word(size_t i, bool writes, const Thread& me) {
    Word& word = machine->words[i];
    const uint32_t phase = machine->phase, step = machine->steps[me.warp];
    const bool read_now = word.read_phase == phase;
    // The same thread again, and nobody wrote in between.
    if (!writes && read_now && word.reader == me.number && word.read_step == step) return;
    const char* other = nullptr;
    int who = word.writer;
    if (!is_ordered(word.writer, word.write_phase, word.write_step, me)) {
        other = "wrote";
    } else if (writes && read_now) {
        const bool unordered = word.other_warps || word.reader / 32 != me.warp ||
                               (word.read_step == step && (word.other_lanes || word.reader != me.number));
        if (unordered) other = "read", who = word.reader;
    }
    if (other) {
        fault(LaunchFailed, "%s word %zu of shared memory, which thread %d %s without a barrier between them",
              writes ? "writes" : "reads", i, who, other);
    }
    if (writes) {
        word = {phase, step, 0, 0, static_cast<int16_t>(me.number), 0, false, false, me.fences};
        return;
    }
    const bool same_warp = word.reader / 32 == me.warp, same_step = word.read_step == step;
    word.other_warps = read_now && (word.other_warps || !same_warp);
    word.other_lanes = read_now && same_warp && same_step && (word.other_lanes || word.reader != me.number);
    word.reader = static_cast<int16_t>(me.number);
    word.read_phase = phase;
    word.read_step = step;
}

// The same for some bytes; other memory than the block's shared memory is none of this function's business.
EMULATOR_UNCHECKED inline void touch(const void* at, size_t bytes, bool writes, const Thread& me) {
    const size_t all = machine->shared_bytes, start = static_cast<const unsigned char*>(at) - machine->shared;
    if (start >= all || bytes == 0) return;
    const size_t end = bytes < all - start ? start + bytes : all;
    for (size_t i = start / 4; i < (end + 3) / 4; i++) touch_word(i, writes, me);
}

// An access that the compiler reports.
EMULATOR_UNCHECKED inline void touch(const void* at, size_t bytes, bool writes) {
    if (running && machine->current) touch(at, bytes, writes, *machine->current);
}

// The value of lane `source`.
template <class T> T shuffle(unsigned mask, T value, int source) {
    struct Lane { T value; int source; T result; } mine{value, source, value};
    meet(mask, "a shuffle", mine, [](Lane** lanes) {
        for (int lane = 0; lane < 32; lane++) {
            if (!lanes[lane]) continue;
            const Lane* from = lanes[lanes[lane]->source & 31];
            if (!from) fault(LaunchFailed, "a shuffle reads lane %d, which does not take part", lanes[lane]->source & 31);
            lanes[lane]->result = from->value;
        }
    });
    return mine.result;
}

inline unsigned ballot(unsigned mask, bool predicate) {
    struct Lane { bool predicate; unsigned result; } mine{predicate, 0};
    meet(mask, "a vote", mine, [](Lane** lanes) {
        unsigned all = 0;
        for (int lane = 0; lane < 32; lane++) all |= lanes[lane] && lanes[lane]->predicate ? 1u << lane : 0;
        for (int lane = 0; lane < 32; lane++) if (lanes[lane]) lanes[lane]->result = all;
    });
    return mine.result;
}

// ---- Shared memory and asynchronous copies ----------------------------------------------------------------------

// The block's dynamic shared memory.
inline unsigned char* shared_memory() { return machine->shared; }

inline void must_be_shared(const void* at, size_t bytes, const char* what) {
    const Machine& m = *machine;
    const auto* p = static_cast<const unsigned char*>(at);
    if (p < m.shared || p + bytes > m.shared + m.shared_bytes)
        fault(IllegalAddress, "%s %zu bytes at %td of a shared memory of %zu", what, bytes, p - m.shared, m.shared_bytes);
}

inline void land(const Copy& copy) {
    touch(copy.to, copy.bytes, true);
    memcpy(copy.to, copy.from, copy.valid);
    memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
}

// cp.async: `bytes` (4, 8 or 16) to shared memory, of which the first `valid` come from `from`, the others are zeros.
inline void copy_async(void* to, const void* from, int bytes, int valid) {
    must_be_shared(to, bytes, "cp.async writes");
    if (bytes != 4 && bytes != 8 && bytes != 16) fault(IllegalInstruction, "cp.async of %d bytes", bytes);
    if (valid < 0 || valid > bytes) fault(IllegalInstruction, "cp.async reads %d bytes of %d", valid, bytes);
    if (reinterpret_cast<uintptr_t>(to) % bytes) fault(Misaligned, "cp.async writes %d bytes to a misaligned address", bytes);
    // Hardware asks the same of an address that it does not read.
    if (reinterpret_cast<uintptr_t>(from) % bytes) fault(Misaligned, "cp.async reads %d bytes from a misaligned address", bytes);
    const Copy copy{to, from, bytes, valid};
    if (machine->schedule.copies == Copies::AtOnce) return land(copy);
    touch(to, bytes, true);
    memset(to, 0xff, bytes);
    machine->current->copies.push_back(copy);
}

// cp.async.commit_group
inline void commit_copies() {
    Thread& me = *machine->current;
    me.groups.push_back(me.copies.size());
}

// cp.async.wait_group: the thread's own copies have landed, but for those of its `newest` groups.
inline void wait_copies(size_t newest) {
    Thread& me = *machine->current;
    if (me.groups.size() <= newest) return;
    const size_t groups = me.groups.size() - newest, landed = me.groups[groups - 1];
    for (size_t i = 0; i < landed; i++) land(me.copies[i]);
    me.copies.erase(me.copies.begin(), me.copies.begin() + landed);
    me.groups.erase(me.groups.begin(), me.groups.begin() + groups);
    for (size_t& end : me.groups) end -= landed;
}

// ---- Tensor cores -----------------------------------------------------------------------------------------------

__forceinline__ float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
// What tensor cores read of a register: the first 19 bits of a float, and each half as a bfloat16.
__forceinline__ float tf32_of(uint32_t bits) { return float_of(bits & 0xffffe000u); }
__forceinline__ float bf16_of(uint32_t bits, int half) { return float_of(half ? bits & 0xffff0000u : bits << 16); }

// The sum as tensor cores form it: terms are aligned to the largest one and lose what is 25 or more bits below its
// first, and so does the sum; nothing is rounded to nearest. (Measured by Fasi et al., "Numerical behavior of
// NVIDIA tensor cores", 2021, who found one or two bits more than an f32's on Turing and Ampere.)
template <int TERMS> EMULATOR_UNCHECKED float tensor_core_sum(const double (&terms)[TERMS]) {
    double largest = 0, plain = 0;
    for (int i = 0; i < TERMS; i++) {
        const double size = __builtin_fabs(terms[i]);
        largest = size > largest ? size : largest;
        plain += terms[i];
    }
    if (!(plain - plain == 0)) return static_cast<float>(plain);  // an infinity or NaN among them
    if (largest == 0) return 0;
    uint64_t exponent;
    memcpy(&exponent, &largest, 8);
    exponent &= 0x7ffull << 52;
    double unit;
    memcpy(&unit, &exponent, 8);  // the power of two that `largest` starts with
    unit *= 0x1p-24;
    if (unit < 0x1p-149) unit = 0x1p-149;
    const double per_unit = 1 / unit;
    double sum = 0;
    for (int i = 0; i < TERMS; i++) sum += __builtin_trunc(terms[i] * per_unit);
    sum *= unit;
    const float rounded = static_cast<float>(sum);
    const bool away = __builtin_fabs(rounded) > __builtin_fabs(sum) && !__builtin_isinf(rounded);
    return away ? __builtin_nextafterf(rounded, 0.0f) : rounded;
}

// mma.sync.aligned.m16n8k(8·PER_REGISTER).row.col: d += a·b, fragments as PTX lays them out. `value(register, i)` is
// the i-th of the PER_REGISTER numbers in a register.
template <int PER_REGISTER, class Value>
void mma_m16n8(const char* kind, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Value value) {
    struct Lane { uint32_t a[4], b[2]; float* d; } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, d};
    meet(~0u, kind, mine, [value](Lane** lanes) EMULATOR_UNCHECKED {
        constexpr int DEPTH = 8 * PER_REGISTER;
        float rows[16][DEPTH], columns[8][DEPTH];
        for (int lane = 0; lane < 32; lane++) {
            const int group = lane / 4, in_group = lane % 4;
            for (int i = 0; i < PER_REGISTER; i++) {
                for (int high = 0; high < 2; high++) {
                    const int k = (high * 4 + in_group) * PER_REGISTER + i;
                    rows[group][k] = value(lanes[lane]->a[2 * high], i);
                    rows[group + 8][k] = value(lanes[lane]->a[2 * high + 1], i);
                    columns[group][k] = value(lanes[lane]->b[high], i);
                }
            }
        }
        for (int lane = 0; lane < 32; lane++) {
            for (int i = 0; i < 4; i++) {
                const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
                double terms[DEPTH + 1];
                for (int k = 0; k < DEPTH; k++) terms[k] = static_cast<double>(rows[row][k]) * columns[column][k];
                terms[DEPTH] = lanes[lane]->d[i];
                lanes[lane]->d[i] = tensor_core_sum(terms);
            }
        }
    });
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8<1>("mma of tf32", d, a, b, [](uint32_t bits, int) EMULATOR_UNCHECKED { return tf32_of(bits); });
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8<2>("mma of bf16", d, a, b, bf16_of);
}

// ldmatrix.sync.aligned.m8n8.x1, .x2 or .x4 of b16: lane l gives the address of row l % 8 of matrix l / 8.
template <int COUNT> void load_matrices(uint32_t (&registers)[COUNT], const void* row) {
    static_assert(COUNT == 1 || COUNT == 2 || COUNT == 4);
    struct Lane { const void* row; uint32_t* registers; } mine{row, registers};
    meet(~0u, "ldmatrix", mine, [](Lane** lanes) EMULATOR_UNCHECKED {
        for (int lane = 0; lane < 8 * COUNT; lane++) {
            const void* row = lanes[lane]->row;
            if (reinterpret_cast<uintptr_t>(row) % 16) fault(Misaligned, "ldmatrix: the row of lane %d is misaligned", lane);
            must_be_shared(row, 16, "ldmatrix reads");
            touch(row, 16, false, machine->threads[machine->current->warp * 32 + lane]);
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < COUNT; i++)
                memcpy(&lanes[lane]->registers[i], static_cast<const char*>(lanes[i * 8 + lane / 4]->row) + lane % 4 * 4, 4);
    });
}

// ---- Products of warpgroups (wgmma) -------------------------------------------------------------------------------
// They run as late as they may: operands are read, also those in registers, and sums written when a thread waits for
// them. Until then the sums are NaN. Copies::AtOnce is the other extreme.

// Makes products wrong, to see what is done about it.
inline std::atomic<bool> wrong_products{false};

// Where a block's dynamic shared memory begins, as instructions count: behind what the system keeps for itself.
constexpr uint32_t SHARED_START = 1024;

inline uint32_t shared_address(const void* at) {
    must_be_shared(at, 1, "an address names");
    return static_cast<uint32_t>(static_cast<const unsigned char*>(at) - machine->shared) + SHARED_START;
}

// fence.proxy.async: what the thread has written to shared memory is seen by products, from the next barrier on.
inline void fence_proxy() {
    Thread& me = *machine->current;
    me.fences++;
    me.fence_phases.push_back(machine->phase);
}

// wgmma.fence
inline void fence_wgmma() { machine->current->registers_fenced = true; }

// A matrix in shared memory of which each row (column of the second operand) has 32 bytes in a row, by the fields that
// the PTX ISA gives ("Matrix Descriptor Format", "Canonical Layouts", K-major).
struct Matrix {
    uint32_t start, leading, stride, base;
    unsigned mode;  // 0: none; 1, 2, 3: 128, 64, 32 bytes are swizzled

    explicit Matrix(uint64_t bits) {
        auto field = [bits](int from, int count) { return static_cast<uint32_t>(bits >> from & ((1ull << count) - 1)); };
        start = field(0, 14) << 4, leading = field(16, 14) << 4, stride = field(32, 14) << 4;
        base = field(49, 3), mode = field(62, 2);
        if (field(14, 2) || field(30, 2) || field(46, 3) || field(52, 10))
            fault(IllegalInstruction, "wgmma: the descriptor %016llx has bits that mean nothing", static_cast<unsigned long long>(bits));
    }

    // Where 16 bytes of a row lie, the first or the second.
    const unsigned char* at(int row, int half) const {
        uint32_t address;
        if (mode == 0) {
            address = start + row / 8 * stride + row % 8 * 16 + half * leading;
        } else {
            const uint32_t pitch = 256u >> mode;  // of a row; the leading distance means nothing
            address = start + row / 8 * stride + row % 8 * pitch + half * 16;
            // Bits from 4 on are changed by those from 7 on; the pattern begins where `base` says.
            address ^= (((address >> 7) - base) & (pitch / 16 - 1)) << 4;
        }
        return machine->shared + (static_cast<int64_t>(address) - SHARED_START);
    }
};

// What a thread of another warpgroup may have written must have passed a fence, and then a barrier.
EMULATOR_UNCHECKED inline void must_be_fenced(const unsigned char* at) {
    const Machine& m = *machine;
    for (size_t i = (at - m.shared) / 4; i < size_t(at - m.shared) / 4 + 4; i++) {
        const Word& word = m.words[i];
        if (word.write_phase < m.first_phase) continue;  // not in this block: it is NaN
        const Thread& writer = m.threads[word.writer];
        if (writer.fences == word.fences)
            fault(LaunchFailed, "wgmma reads word %zu of shared memory, which thread %d wrote without fence.proxy.async behind it", i, word.writer);
        if (writer.fence_phases[word.fences] == m.phase && writer.number != m.current->number)
            fault(LaunchFailed, "wgmma reads word %zu of shared memory, after whose fence.proxy.async by thread %d there was no barrier", i, word.writer);
    }
}

// Product `index` of each lane, for a warp: 16 rows from registers times 32 bytes of each column.
template <int PER_REGISTER, class Value>
EMULATOR_UNCHECKED void multiply(Thread* const (&lanes)[32], size_t index, Value value) {
    constexpr int DEPTH = 8 * PER_REGISTER, PER_16_BYTES = DEPTH / 2;
    const Product first = lanes[0]->products[index];
    float rows[16][DEPTH], column[DEPTH], *sums[32];
    for (int lane = 0; lane < 32; lane++) {
        const uint32_t* a = lanes[lane]->products[index].rows;
        sums[lane] = lanes[lane]->products[index].sums;
        for (int k = 0; k < DEPTH; k++) {
            // Registers have neighbours; a lane those at 4 · PER_REGISTER · high + its own.
            const int high = k / PER_16_BYTES, in_half = k % PER_16_BYTES;
            if (in_half / PER_REGISTER != lane % 4) continue;
            rows[lane / 4][k] = value(a[2 * high], in_half % PER_REGISTER);
            rows[lane / 4 + 8][k] = value(a[2 * high + 1], in_half % PER_REGISTER);
        }
    }
    const Matrix matrix(first.columns);
    const float error = wrong_products ? 1 : 0;
    for (int n = 0; n < first.width * 8; n++) {
        for (int half = 0; half < 2; half++) {
            const unsigned char* at = matrix.at(n, half);
            must_be_shared(at, 16, "wgmma reads");
            must_be_fenced(at);
            touch(at, 16, false, *machine->current);
            for (int i = 0; i < PER_16_BYTES; i++) {
                uint32_t bits;
                memcpy(&bits, at + i / PER_REGISTER * 4, 4);
                column[half * PER_16_BYTES + i] = value(bits, i % PER_REGISTER);
            }
        }
        for (int row = 0; row < 16; row++) {
            float& sum = sums[row % 8 * 4 + n % 8 / 2][n / 8 * 4 + row / 8 * 2 + n % 2];
            double terms[DEPTH + 1];
            for (int k = 0; k < DEPTH; k++) terms[k] = static_cast<double>(rows[row][k]) * column[k];
            terms[DEPTH] = first.adds ? sum : 0;
            sum = tensor_core_sum(terms) + error;
        }
    }
}

// Gives sums their values back, or takes them until the next product that has them.
inline void restore(Product& product) {
    if (!product.before.empty()) std::copy(product.before.begin(), product.before.end(), product.sums);
    product.before.clear();
}
inline void poison(Thread& thread, size_t index) {
    Product& product = thread.products[index];
    for (size_t i = 0; i < index; i++)
        if (thread.products[i].sums == product.sums) return;  // they are NaN already
    product.before.assign(product.sums, product.sums + product.width * 4);
    memset(product.sums, 0xff, product.width * 16);
}

// Does the first products of a warp, all of which it has waited for.
inline void do_products(Thread* const (&lanes)[32], size_t count) {
    for (size_t i = 0; i < count; i++) {
        for (Thread* lane : lanes) restore(lane->products[i]);
        if (lanes[0]->products[i].bf16) multiply<2>(lanes, i, bf16_of);
        else multiply<1>(lanes, i, [](uint32_t bits, int) EMULATOR_UNCHECKED { return tf32_of(bits); });
    }
    for (Thread* lane : lanes) {
        lane->products.erase(lane->products.begin(), lane->products.begin() + count);
        for (size_t i = 0; i < lane->products.size(); i++)
            if (lane->products[i].before.empty()) poison(*lane, i);
    }
}

inline void issue_product(const char* kind, const Product& product) {
    Machine& m = *machine;
    if (m.threads.size() % 128) fault(IllegalInstruction, "wgmma in a block of %zu threads, which are no whole warpgroups", m.threads.size());
    Thread& me = *m.current;
    if (!me.registers_fenced) fault(LaunchFailed, "wgmma without wgmma.fence since its registers could be touched");
    me.products.push_back(product);
    poison(me, me.products.size() - 1);
    struct Lane { const Product* product; } mine{&product};
    meet(~0u, kind, mine, [](Lane** lanes) {
        Machine& m = *machine;
        auto same = [](const Product& a, const Product& b) {
            return a.columns == b.columns && a.width == b.width && a.bf16 == b.bf16 && a.adds == b.adds;
        };
        const Product& product = *lanes[0]->product;
        const int warp = m.current->warp;
        Thread* threads[32];
        for (int lane = 0; lane < 32; lane++) {
            threads[lane] = &m.threads[warp * 32 + lane];
            if (!same(product, *lanes[lane]->product)) fault(LaunchFailed, "wgmma: lane %d has another descriptor or mode", lane);
        }
        // Warps of a warpgroup need not be there at the same time here, but must do the same.
        std::vector<Product>& all = m.issued[warp / 4];
        const size_t number = threads[0]->issued;
        if (number == all.size()) all.push_back({nullptr, nullptr, product.columns, product.width, product.bf16, product.adds, {}});
        if (!same(product, all[number])) fault(LaunchFailed, "wgmma: another warp of the warpgroup has another descriptor or mode");
        for (Thread* thread : threads) thread->issued++;
        if (m.schedule.copies == Copies::AtOnce) {
            do_products(threads, threads[0]->products.size());
            for (Thread* thread : threads) std::fill(thread->product_groups.begin(), thread->product_groups.end(), 0);
        }
    });
}

// wgmma.mma_async.m64n(8·width)k8 of tf32 and k16 of bf16, the first operand in registers.
inline void wgmma_tf32(float* d, int width, const uint32_t (&a)[4], uint64_t b, bool adds) {
    issue_product("wgmma of tf32", {d, a, b, width, false, adds, {}});
}
inline void wgmma_bf16(float* d, int width, const uint32_t (&a)[4], uint64_t b, bool adds) {
    issue_product("wgmma of bf16", {d, a, b, width, true, adds, {}});
}

// wgmma.commit_group
inline void commit_wgmma() {
    Thread& me = *machine->current;
    me.product_groups.push_back(me.products.size());
}

// wgmma.wait_group: all but the newest groups are done. Then the program may touch their registers.
inline void wait_wgmma(size_t newest) {
    struct Lane { size_t newest; } mine{newest};
    meet(~0u, "wgmma.wait_group", mine, [](Lane** lanes) {
        Machine& m = *machine;
        Thread* threads[32];
        for (int lane = 0; lane < 32; lane++) threads[lane] = &m.threads[m.current->warp * 32 + lane];
        const size_t newest = lanes[0]->newest, groups = threads[0]->product_groups.size();
        size_t count = 0;
        if (groups > newest) count = threads[0]->product_groups[groups - newest - 1];
        do_products(threads, count);
        for (Thread* thread : threads) {
            thread->registers_fenced = false;
            if (groups <= newest) continue;
            auto& ends = thread->product_groups;
            ends.erase(ends.begin(), ends.begin() + (groups - newest));
            for (size_t& end : ends) end -= count;
        }
    });
}

// ---- Launching --------------------------------------------------------------------------------------------------

// Where a fiber starts, and ends.
[[noreturn]] inline void run_thread() {
    Machine& m = *machine;
    (*m.body)();
    Thread& me = *m.current;
    if (!me.copies.empty()) fault(LaunchFailed, "exits with a cp.async that it has not waited for");
    if (!me.products.empty()) fault(LaunchFailed, "exits with a wgmma that it has not waited for");
    me.done = true;
    m.live--;
    release_barrier_if_all_there();
    void* unused;
    if (m.live == 0) switch_stacks(&unused, m.main_stack);
    go_to(next_thread(), &unused);
    __builtin_unreachable();
}

inline bool is_poison(const unsigned char* from, const unsigned char* to) {
    return std::all_of(from, to, [](unsigned char byte) { return byte == 0xff; });
}

inline void run_block(uint3 index) {
    Machine& m = *machine;
    const unsigned count = m.block.x * m.block.y * m.block.z;
    m.block_index = index;
    m.threads.assign(count, Thread{});
    m.meetings.assign((count + 31) / 32, {});
    m.at_barrier.clear();
    m.ready.resize(count);
    m.live = count;
    m.first_phase = ++m.phase;
    m.issued.assign((count + 127) / 128, {});
    std::fill(m.steps, m.steps + 32, 0);
    m.random = m.schedule.seed * 2654435761u + index.x + 7 * index.y + 31 * index.z;
    // With a page before it and what alignment leaves behind it.
    memset(m.shared - PAGE, 0xff, m.shared_end - (m.shared - PAGE));
    for (unsigned i = 0; i < count; i++) {
        Thread& t = m.threads[i];
        t.number = i;
        t.lane = i % 32;
        t.warp = i / 32;
        t.index = {i % m.block.x, i / m.block.x % m.block.y, i / (m.block.x * m.block.y)};
        // Not all stacks on the same cache lines.
        auto* top = reinterpret_cast<void**>(m.stacks + (i + 1) * STACK - i % 16 * 256);
        *--top = nullptr;  // the return address of run_thread, which never returns
        *--top = reinterpret_cast<void*>(&run_thread);
        top -= 6;
        std::fill(top, top + 6, nullptr);
        t.stack = top;
        m.ready[m.schedule.order == Order::Down ? i : count - 1 - i] = i;
    }
    Thread& first = next_thread();
    go_to(first, &m.main_stack);
    m.current = nullptr;
    for (const Thread& t : m.threads)
        if (t.issued != m.issued[t.number / 128].size()) fault(LaunchFailed, "wgmma: warp %d left some to others of its warpgroup", t.warp);
    const unsigned char* end = m.shared + m.shared_bytes;
    if (!is_poison(m.shared - PAGE, m.shared)) fault(IllegalAddress, "wrote before the start of the shared memory");
    if (!is_poison(end, m.shared_end))
        fault(IllegalAddress, "wrote past the end of the shared memory of %zu bytes", m.shared_bytes);
}

inline unsigned char* map_memory(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "emulated GPU: no memory for its own use\n");
        abort();
    }
    return static_cast<unsigned char*>(p);
}

inline Machine::Machine() {
    shared_map = map_memory(SHARED_MAP);
    shared_end = shared_map + SHARED_MAP - PAGE;
    mprotect(shared_map, PAGE, PROT_NONE);
    mprotect(shared_end, PAGE, PROT_NONE);
    stacks = map_memory(MOST_THREADS * STACK);
    for (unsigned i = 0; i < MOST_THREADS; i++) mprotect(stacks + i * STACK, PAGE, PROT_NONE);
    words = reinterpret_cast<Word*>(map_memory(WORDS_MAP));
    signal_stack = map_memory(SIGNAL_STACK);  // a fiber's own stack may be what is at fault
    stack_t alternative{};
    alternative.ss_sp = signal_stack;
    alternative.ss_size = SIGNAL_STACK;
    sigaltstack(&alternative, nullptr);
    static const bool once = [] {
        struct sigaction action{};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_ONSTACK | SA_SIGINFO;
        for (int signal : {SIGSEGV, SIGBUS, SIGFPE}) sigaction(signal, &action, &previous_actions[signal]);
        return true;
    }();
    (void)once;
    machine = this;
}

inline Machine::~Machine() {
    machine = nullptr;
    stack_t alternative{};
    alternative.ss_flags = SS_DISABLE;
    sigaltstack(&alternative, nullptr);
    munmap(shared_map, SHARED_MAP);
    munmap(stacks, MOST_THREADS * STACK);
    munmap(words, WORDS_MAP);
    munmap(signal_stack, SIGNAL_STACK);
}

// The machine of the host thread that calls, made when it is first wanted.
inline Machine& this_machine() {
    static thread_local Machine mine;
    return mine;
}

// Runs a kernel whose arguments `body` holds. Limits have been checked. What went wrong is in `machine->fault`.
inline Outcome launch(const char* kernel, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
    Machine& m = this_machine();
    m.kernel = kernel;
    m.grid = grid;
    m.block = block;
    m.body = &body;
    m.shared_bytes = shared_bytes;
    m.shared = m.shared_end - (shared_bytes + SHARED_ALIGNMENT - 1) / SHARED_ALIGNMENT * SHARED_ALIGNMENT;
    m.outcome = Good;
    m.fault.clear();
    m.current = nullptr;
    if (sigsetjmp(m.escape, 1) == 0) {
        running = true;
        for (unsigned z = 0; z < grid.z; z++)
            for (unsigned y = 0; y < grid.y; y++)
                for (unsigned x = 0; x < grid.x; x++) run_block({x, y, z});
    }
    running = false;
    m.current = nullptr;
    return m.outcome;
}

// ---- Kernels by name --------------------------------------------------------------------------------------------

struct Kernel {
    // Takes the arguments as cuLaunchKernel has them, and gives what calls the kernel with them.
    std::function<void()> (*bind)(void** arguments);
    unsigned threads;                    // that a block may have: __launch_bounds__
    std::atomic<long long> launches{0};
    Kernel(std::function<void()> (*bind)(void**), unsigned threads) : bind(bind), threads(threads) {}
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <auto FUNCTION> struct Bind;
template <class... A, void (*FUNCTION)(A...)> struct Bind<FUNCTION> {
    template <size_t... I> static std::tuple<A...> unpack(void** arguments, std::index_sequence<I...>) {
        return std::tuple<A...>(*static_cast<A*>(arguments[I])...);
    }
    static std::function<void()> bind(void** arguments) {
        return [tuple = unpack(arguments, std::index_sequence_for<A...>{})] { std::apply(FUNCTION, tuple); };
    }
};

// Makes `name` a kernel that the driver finds, with at most `threads` threads a block.
#define CONV_EMULATED_KERNEL(name, threads) \
    static const bool registered_##name = \
        ::emulator::kernels().try_emplace(#name, &::emulator::Bind<&name>::bind, threads).second;

}  // namespace emulator

// ---- What the compiler's checks call ----------------------------------------------------------------------------
// Their names and arguments are those of GCC's and Clang's undefined behaviour sanitizer.

namespace emulator {
struct SourceLine {
    const char* file;
    unsigned line, column;
};
[[noreturn]] inline void broken_rule(const void* data, Outcome outcome, const char* what) {
    const auto* at = static_cast<const SourceLine*>(data);
    if (!running) {
        fprintf(stderr, "emulated GPU: %s at %s:%u, outside a kernel\n", what, at->file, at->line);
        abort();
    }
    fault(outcome, "%s at %s:%u:%u", what, at->file, at->line, at->column);
}
}  // namespace emulator

#define EMULATOR_RULE(handler, arguments, outcome, what) \
    extern "C" inline __attribute__((used, visibility("hidden"))) void __ubsan_handle_##handler arguments { \
        ::emulator::broken_rule(data, ::emulator::outcome, what); \
    }
EMULATOR_RULE(type_mismatch_v1, (void* data, void*), Misaligned, "a misaligned access")
EMULATOR_RULE(add_overflow, (void* data, void*, void*), LaunchFailed, "a sum overflows")
EMULATOR_RULE(sub_overflow, (void* data, void*, void*), LaunchFailed, "a difference overflows")
EMULATOR_RULE(mul_overflow, (void* data, void*, void*), LaunchFailed, "a product overflows")
EMULATOR_RULE(divrem_overflow, (void* data, void*, void*), LaunchFailed, "a quotient overflows")
EMULATOR_RULE(negate_overflow, (void* data, void*), LaunchFailed, "a negation overflows")
EMULATOR_RULE(shift_out_of_bounds, (void* data, void*, void*), LaunchFailed, "a shift out of range")
EMULATOR_RULE(out_of_bounds, (void* data, void*), LaunchFailed, "an index out of range")
#undef EMULATOR_RULE

// And those of the thread sanitizer.
#define EMULATOR_ACCESS(name, bytes, writes) \
    extern "C" inline __attribute__((used, visibility("hidden"))) EMULATOR_UNCHECKED void __tsan_##name(void* at) { \
        ::emulator::touch(at, bytes, writes); \
    }
#define EMULATOR_ACCESSES(bytes) \
    EMULATOR_ACCESS(read##bytes, bytes, false) \
    EMULATOR_ACCESS(write##bytes, bytes, true) \
    EMULATOR_ACCESS(unaligned_read##bytes, bytes, false) \
    EMULATOR_ACCESS(unaligned_write##bytes, bytes, true) \
    EMULATOR_ACCESS(volatile_read##bytes, bytes, false) \
    EMULATOR_ACCESS(volatile_write##bytes, bytes, true)
EMULATOR_ACCESSES(1)
EMULATOR_ACCESSES(2)
EMULATOR_ACCESSES(4)
EMULATOR_ACCESSES(8)
EMULATOR_ACCESSES(16)
#undef EMULATOR_ACCESSES
#undef EMULATOR_ACCESS
#define EMULATOR_HANDLER extern "C" inline __attribute__((used, visibility("hidden"))) EMULATOR_UNCHECKED
EMULATOR_HANDLER void __tsan_read_range(void* at, size_t bytes) { ::emulator::touch(at, bytes, false); }
EMULATOR_HANDLER void __tsan_write_range(void* at, size_t bytes) { ::emulator::touch(at, bytes, true); }
EMULATOR_HANDLER void __tsan_init() {}
EMULATOR_HANDLER void __tsan_func_entry(void*) {}
EMULATOR_HANDLER void __tsan_func_exit() {}
EMULATOR_HANDLER void __tsan_vptr_update(void*, void*) {}
EMULATOR_HANDLER void __tsan_vptr_read(void*) {}
EMULATOR_HANDLER char __tsan_atomic8_load(const char* at, int) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
#undef EMULATOR_HANDLER

// ---- CUDA's built-in variables and functions --------------------------------------------------------------------

#define threadIdx (::emulator::machine->current->index)
#define blockIdx (::emulator::machine->block_index)
#define blockDim (::emulator::machine->block)
#define gridDim (::emulator::machine->grid)
#define warpSize 32

inline void __syncthreads(int line = __builtin_LINE()) { ::emulator::sync_block(line); }
inline void __syncwarp(unsigned mask = ~0u) { ::emulator::sync_warp(mask); }

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int lane = ::emulator::machine->current->lane;
    return ::emulator::shuffle(mask, value, lane / width * width + source % width);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = ::emulator::machine->current->lane, source = lane ^ bits;
    return ::emulator::shuffle(mask, value, source / width <= lane / width ? source : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, int by, int width = 32) {
    const int lane = ::emulator::machine->current->lane;
    return ::emulator::shuffle(mask, value, lane % width + by < width ? lane + by : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, int by, int width = 32) {
    const int lane = ::emulator::machine->current->lane;
    return ::emulator::shuffle(mask, value, lane % width >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return ::emulator::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return ::emulator::ballot(mask, predicate != 0) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return ::emulator::ballot(mask, predicate != 0) == mask; }

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcs(T* p, T value) { *p = value; }
inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
inline int __float_as_int(float value) { int bits; memcpy(&bits, &value, 4); return bits; }
inline float __uint_as_float(unsigned bits) { return ::emulator::float_of(bits); }
inline float __int_as_float(int bits) { return ::emulator::float_of(static_cast<unsigned>(bits)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
template <class T> __forceinline__ constexpr T min(T a, T b) { return a < b ? a : b; }
template <class T> __forceinline__ constexpr T max(T a, T b) { return a > b ? a : b; }
