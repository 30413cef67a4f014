// The hardware's own operations that C++ has no words for: each with the PTX form, and with a form that
// the emulator of the tests runs on a CPU (CONV_EMULATED). Nothing else in these files is hardware
// specific.

#ifdef CONV_EMULATED
#define CONV_SHARED(name) float *name = (float *)emulator::shared_memory()
#define CONV_REGISTER(name, threads) CONV_EMULATED_KERNEL(name, threads)
#else
typedef unsigned int uint32_t;
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
