// The roofs of a GPU as kernels to be timed: multiply-adds of its cores and tensor cores in registers, and traffic
// over a buffer. What they compute is kept from being optimised away by a store that no value ever asks for.

// Multiply-adds of the cores, in f32: CHAINS independent sums in each thread, so that latency hides.
constexpr int CHAINS = 16;

extern "C" __global__ void roof_fp32(float* out, float factor, float term, int steps)
{
    float sums[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) sums[i] = threadIdx.x + i;
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int repeat = 0; repeat < 8; ++repeat) {
#pragma unroll
            for (int i = 0; i < CHAINS; ++i) sums[i] = fmaf(sums[i], factor, term);
        }
    }
    float all = 0;
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) all += sums[i];
    if (all == 0.123456789f) out[threadIdx.x] = all;
}

// Multiply-adds of the tensor cores by mma.sync, a warp at a time: SUMS independent tiles of 16x8 each.
constexpr int SUMS = 8;

__device__ inline void multiply_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ inline void multiply_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

template <void (*multiply)(float (&)[4], const unsigned (&)[4], const unsigned (&)[2])>
__device__ inline void roof_mma(float* out, float factor, int steps)
{
    float sums[SUMS][4] = {};
    // Random bits would draw more power than one value everywhere, and let the GPU clock lower: as data does.
    unsigned a[4], b[2];
    unsigned seed = threadIdx.x * 2654435761u + __float_as_uint(factor);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = 0x3f003f00u | ((seed >> i) & 0x007f007fu);
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = 0x3f003f00u | ((seed >> (i + 7)) & 0x007f007fu);
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int i = 0; i < SUMS; ++i) multiply(sums[i], a, b);
    }
    float all = 0;
#pragma unroll
    for (int i = 0; i < SUMS; ++i) all += sums[i][0] + sums[i][1] + sums[i][2] + sums[i][3];
    if (all == 0.123456789f) out[threadIdx.x] = all;
}

extern "C" __global__ void roof_tf32(float* out, float factor, float, int steps)
{
    roof_mma<multiply_tf32>(out, factor, steps);
}

extern "C" __global__ void roof_bf16(float* out, float factor, float, int steps)
{
    roof_mma<multiply_bf16>(out, factor, steps);
}

// The same by warpgroups, both operands in shared memory: on compute capability 9.0 only these reach the peak. Blocks
// of 256 threads, two warpgroups; each step sums four products of 64xK by Kx256 (K is 8 in TF32, 16 in BF16: 32
// bytes) in 128 registers. What the operands hold does not matter, so neither does their order in memory.
#if __CUDA_ARCH_FEAT_SM90_ALL
#define ROOF_R8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define ROOF_R32(i) ROOF_R8(i), ROOF_R8(i + 8), ROOF_R8(i + 16), ROOF_R8(i + 24)
#define ROOF_WGMMA(shape, types, end)                                                                              \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                                                     \
                 "wgmma.mma_async.sync.aligned." shape ".f32." types " {"                                          \
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,"  \
                 "%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,"    \
                 "%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,"    \
                 "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,"    \
                 "%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,"      \
                 "%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, %128, %129, p, 1, 1" end \
                 ";\n}"                                                                                            \
                 : ROOF_R32(0), ROOF_R32(32), ROOF_R32(64), ROOF_R32(96)                                           \
                 : "l"(left), "l"(right), "r"(1))

// Address, and the distances of 8-row groups (1024 bytes) with a swizzle of 128 bytes, in units of 16 bytes.
__device__ inline unsigned long long roof_operand(const void* shared)
{
    unsigned long long address = __cvta_generic_to_shared(shared);
    return ((address & 0x3ffff) >> 4) | (1ull << 16) | (64ull << 32) | (1ull << 62);
}

template <bool TF32>
__device__ inline void roof_wgmma(float* out, float factor, int steps)
{
    __shared__ __align__(1024) unsigned operands[(64 + 256) * 32];
    for (int i = threadIdx.x; i < (64 + 256) * 32; i += blockDim.x) {
        operands[i] = 0x3f003f00u | ((i * 2654435761u + __float_as_uint(factor)) & 0x007f007fu);
    }
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    float d[128];
#pragma unroll
    for (int i = 0; i < 128; ++i) d[i] = 0;
    unsigned long long left = roof_operand(operands), right = roof_operand(operands + 64 * 32);
    for (int step = 0; step < steps; ++step) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int repeat = 0; repeat < 4; ++repeat) {
            if (TF32) ROOF_WGMMA("m64n256k8", "tf32.tf32", "");
            else ROOF_WGMMA("m64n256k16", "bf16.bf16", ", 0, 0");
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    float all = 0;
#pragma unroll
    for (int i = 0; i < 128; ++i) all += d[i];
    if (all == 0.123456789f) out[threadIdx.x] = all;
}

extern "C" __global__ void __launch_bounds__(256) roof_wgmma_tf32(float* out, float factor, float, int steps)
{
    roof_wgmma<true>(out, factor, steps);
}

extern "C" __global__ void __launch_bounds__(256) roof_wgmma_bf16(float* out, float factor, float, int steps)
{
    roof_wgmma<false>(out, factor, steps);
}
#endif

// Traffic: every thread takes every so many-th vector, UNROLL of them at a time so that many are under way.
constexpr int UNROLL = 4;

extern "C" __global__ void roof_read(const float4* from, float4* out, unsigned vectors)
{
    unsigned all = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    float4 sum[UNROLL] = {};
    for (unsigned at = first; at < vectors; at += UNROLL * all) {
#pragma unroll
        for (int i = 0; i < UNROLL; ++i) {
            if (at + i * all >= vectors) continue;
            float4 value = from[at + i * all];
            sum[i].x += value.x, sum[i].y += value.y, sum[i].z += value.z, sum[i].w += value.w;
        }
    }
    float4 total = {};
#pragma unroll
    for (int i = 0; i < UNROLL; ++i) {
        total.x += sum[i].x, total.y += sum[i].y, total.z += sum[i].z, total.w += sum[i].w;
    }
    if (total.x + total.y + total.z + total.w == 0.123456789f) out[threadIdx.x] = total;
}

extern "C" __global__ void roof_write(const float4*, float4* to, unsigned vectors)
{
    unsigned all = gridDim.x * blockDim.x;
    for (unsigned at = blockIdx.x * blockDim.x + threadIdx.x; at < vectors; at += all) {
        to[at] = make_float4(1, 2, 3, 4);
    }
}

extern "C" __global__ void roof_copy(const float4* from, float4* to, unsigned vectors)
{
    unsigned all = gridDim.x * blockDim.x, first = blockIdx.x * blockDim.x + threadIdx.x;
    for (unsigned at = first; at < vectors; at += UNROLL * all) {
        float4 value[UNROLL];
#pragma unroll
        for (int i = 0; i < UNROLL; ++i) {
            if (at + i * all < vectors) value[i] = from[at + i * all];
        }
#pragma unroll
        for (int i = 0; i < UNROLL; ++i) {
            if (at + i * all < vectors) to[at + i * all] = value[i];
        }
    }
}
