// The hardware's own operations that C++ has no words for: each with the PTX form, and with a form that
// the emulator of the tests runs on a CPU (CONV_EMULATED). Nothing else in these files is hardware
// specific.

#ifdef CONV_EMULATED
#define CONV_SHARED(name) float *name = (float *)emulator::shared_memory()
#define CONV_REGISTER(name, threads) CONV_EMULATED_KERNEL(name, threads)
#else
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define CONV_SHARED(name) extern __shared__ __align__(16) float name[]
#define CONV_REGISTER(name, threads)
#endif

#define CONV_INLINE __device__ __forceinline__

// Copies 4 or 16 bytes from global to shared memory behind the thread's back, zeros if not `inside`: the
// source is then not touched, it may lie outside of every buffer. (Compute capability 8.0.)
template <int BYTES> CONV_INLINE void copy_async(float *to, const float *from, bool inside) {
    static_assert(BYTES == 4 || BYTES == 16, "a float or four");
#ifdef CONV_EMULATED
    emulator::copy_async(to, from, BYTES, inside ? BYTES : 0);
#elif __CUDA_ARCH__ >= 800
    const unsigned address = (unsigned)__cvta_generic_to_shared(to);
    const int bytes = inside ? BYTES : 0;
    if (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    }
#endif
}

// Closes a group of the thread's copies; an empty one counts as well.
CONV_INLINE void copy_commit() {
#ifdef CONV_EMULATED
    emulator::commit_copies();
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the newest PENDING groups of the thread's copies have landed. Other threads see
// them after the next barrier.
template <int PENDING> CONV_INLINE void copy_wait() {
#ifdef CONV_EMULATED
    emulator::wait_copies(PENDING);
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// d += a · b, 16 × 8 times 8 × 8 in TF32: lane 4·g + t has
//   a  rows g, g + 8 at step t, then at step t + 4     b  steps t and t + 4 of column g
//   d  columns 2t and 2t + 1 of row g, then of row g + 8
// Of each operand the low 13 bits are ignored. (Compute capability 8.0, as the next two.)
CONV_INLINE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef CONV_EMULATED
    const uint32_t b[2] = {b0, b1};
    emulator::mma_tf32(d, a, b);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// The same, 16 × 16 times 16 × 8 in bfloat16, with two steps in a register.
CONV_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef CONV_EMULATED
    const uint32_t b[2] = {b0, b1};
    emulator::mma_bf16(d, a, b);
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Two numbers rounded to bfloat16, to nearest even; the first in the low half.
CONV_INLINE uint32_t pair_of_bf16(float low, float high) {
#ifdef CONV_EMULATED
    auto rounded = [](float x) -> uint32_t {
        const uint32_t bits = __float_as_uint(x);
        return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
    };
    return rounded(high) << 16 | rounded(low);
#elif __CUDA_ARCH__ >= 800
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return 0;
#endif
}

// Four 8 × 4 matrices of floats from shared memory: lane l has the address of row l % 8 of matrix l / 8, and
// gets column l % 4 of row l / 4 of each. (ldmatrix moves 16-bit numbers in pairs; a pair is a float.)
CONV_INLINE void load_matrices(float (&elements)[4], const float *row) {
#ifdef CONV_EMULATED
    uint32_t bits[4];
    emulator::load_matrices(bits, row);
    for (int i = 0; i < 4; i++) elements[i] = __uint_as_float(bits[i]);
#else
    uint32_t bits[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row))
                 : "memory");
#pragma unroll
    for (int i = 0; i < 4; i++) elements[i] = __uint_as_float(bits[i]);
#endif
}

// ---- Products of warpgroups: 4 successive warps, compute capability 9.0 and no other -------------------------------

// An address as instructions count it in a block's shared memory.
CONV_INLINE uint32_t shared_address(const float *at) {
#ifdef CONV_EMULATED
    return emulator::shared_address(at);
#else
    return (uint32_t)__cvta_generic_to_shared(at);
#endif
}

// What the thread has written to shared memory, copies that it has waited for included, is there for products of
// warpgroups after the next barrier.
CONV_INLINE void fence_shared() {
#ifdef CONV_EMULATED
    emulator::fence_proxy();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product and wherever the program has touched registers of one.
CONV_INLINE void fence_registers() {
#ifdef CONV_EMULATED
    emulator::fence_wgmma();
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// Waits for all products of the warpgroup; `d` is what they add to.
template <int COLUMNS> CONV_INLINE void finish_products(float (&d)[COLUMNS][4]) {
#ifdef CONV_EMULATED
    emulator::commit_wgmma();
    emulator::wait_wgmma(0);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    // The compiler does not know that the sums arrive here.
#pragma unroll
    for (int j = 0; j < COLUMNS; j++)
        asm volatile("" : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3]) : : "memory");
#endif
}

// d += a · b, or d = a · b if it does not `add`, by a warpgroup, behind the program's back: 64 × 8 times 8 × N in TF32,
// 64 × 16 times 16 × N in bfloat16. Each warp has 16 rows; a, and d for each 8 columns, are as in mma_tf32 and
// mma_bf16. b lies in shared memory, where its descriptor says. Neither a nor d may be touched before the wait.
#define CONV_SUMS_1(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define CONV_SUMS_4(j) CONV_SUMS_1(j), CONV_SUMS_1(j + 1), CONV_SUMS_1(j + 2), CONV_SUMS_1(j + 3)
#define CONV_SUMS_8 CONV_SUMS_4(0), CONV_SUMS_4(4)
#define CONV_SUMS_16 CONV_SUMS_8, CONV_SUMS_4(8), CONV_SUMS_4(12)
#define CONV_NAMES_8                                                                                          \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                  \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define CONV_NAMES_16                                                                                         \
    CONV_NAMES_8 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                          \
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#ifdef CONV_EMULATED
#define CONV_WGMMA(NAME, COLUMNS, INSTRUCTION, A, B, ADD, TRANSPOSED)                                         \
    CONV_INLINE void NAME(float (&d)[COLUMNS][4], const uint32_t (&a)[4], uint64_t b, bool add) {             \
        emulator::NAME(&d[0][0], COLUMNS, a, b, add);                                                         \
    }
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CONV_WGMMA(NAME, COLUMNS, INSTRUCTION, A, B, ADD, TRANSPOSED)                                         \
    CONV_INLINE void NAME(float (&d)[COLUMNS][4], const uint32_t (&a)[4], uint64_t b, bool add) {             \
        asm volatile("{.reg .pred p; setp.ne.b32 p, " ADD ", 0;"                                              \
                     "wgmma.mma_async.sync.aligned." INSTRUCTION " {" CONV_NAMES_##COLUMNS "}, {" A "}, " B   \
                     ", p, 1, 1" TRANSPOSED ";}"                                                              \
                     : CONV_SUMS_##COLUMNS                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add)                      \
                     : "memory");                                                                             \
    }
#else
#define CONV_WGMMA(NAME, COLUMNS, INSTRUCTION, A, B, ADD, TRANSPOSED)
#endif
CONV_WGMMA(wgmma_tf32, 8, "m64n64k8.f32.tf32.tf32", "%32,%33,%34,%35", "%36", "%37", "")
CONV_WGMMA(wgmma_tf32, 16, "m64n128k8.f32.tf32.tf32", "%64,%65,%66,%67", "%68", "%69", "")
CONV_WGMMA(wgmma_bf16, 8, "m64n64k16.f32.bf16.bf16", "%32,%33,%34,%35", "%36", "%37", ", 0")
CONV_WGMMA(wgmma_bf16, 16, "m64n128k16.f32.bf16.bf16", "%64,%65,%66,%67", "%68", "%69", ", 0")

// Keeps the compiler from loading ahead of here, which takes registers.
CONV_INLINE void keep_order() { asm volatile("" ::: "memory"); }

// Where the thread is, read anew: the compiler does not keep for long what is read so.
#ifdef CONV_EMULATED
CONV_INLINE int thread_again() { return threadIdx.x; }
CONV_INLINE int block_again() { return blockIdx.x; }
CONV_INLINE int split_again() { return blockIdx.z; }
#else
#define CONV_READ_AGAIN(NAME, REGISTER)                 \
    CONV_INLINE int NAME() {                            \
        int value;                                      \
        asm volatile("mov.u32 %0, %%" REGISTER ";" : "=r"(value)); \
        return value;                                   \
    }
CONV_READ_AGAIN(thread_again, "tid.x")
CONV_READ_AGAIN(block_again, "ctaid.x")
CONV_READ_AGAIN(split_again, "ctaid.z")
#endif
