// A stand-in for libcudnn.so.9: the functions that the harness calls, on the memory of the stand-in for the driver. Its
// algorithms are the definition in double precision, products of operands that are rounded to TF32 where the descriptor
// lets them be. Everything is enqueued on the handle's stream, as by the library.
//
// CONV_EMULATED_CUDNN: `tf32` rounds whatever was asked for; `nhwc` finds no algorithm in NCHW; `sequential` adds up in
// f32, one product after the other.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>

namespace {

enum Status { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum Math { DEFAULT_MATH = 0, TENSOR_OP_MATH = 1, FMA_MATH = 3 };
enum Format { NCHW = 0, NHWC = 1 };
constexpr int FLOAT = 0, CROSS_CORRELATION = 1;

struct Handle { void* stream = nullptr; };
struct Tensor { int format = -1, size[4] = {}; };
struct Window { int pad[2], stride[2], dilation[2], groups = 1, math = DEFAULT_MATH; };
struct Performance { int algorithm, status; float time; size_t memory; int determinism, math, reserved[3]; };

bool set_to(const char* word) {
    const char* text = getenv("CONV_EMULATED_CUDNN");
    return text && !strcmp(text, word);
}

// Enqueues on the stream of the stand-in for the driver.
int enqueue(Handle* handle, std::function<void()> work) {
    using Launch = int (*)(void*, void (*)(void*), void*);
    void* driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    if (!driver) driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    auto launch = driver ? reinterpret_cast<Launch>(dlsym(driver, "cuLaunchHostFunc")) : nullptr;
    if (!launch) return EXECUTION_FAILED;
    // It stays: a graph may run it again.
    auto* kept = new std::function<void()>(std::move(work));
    auto run = [](void* data) { (*static_cast<std::function<void()>*>(data))(); };
    return launch(handle->stream, run, kept) ? EXECUTION_FAILED : SUCCESS;
}

size_t place(const Tensor& of, int n, int c, int y, int x) {
    const size_t C = of.size[1], H = of.size[2], W = of.size[3];
    return of.format == NHWC ? ((n * H + y) * W + x) * C + c : ((n * C + c) * H + y) * W + x;
}

float tf32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = (bits + 0x1000) & 0xffffe000;
    memcpy(&value, &bits, 4);
    return value;
}

void convolve(Tensor in, const float* x, Tensor filter, const float* w, Window window, Tensor out, float* y) {
    const bool rounds = set_to("tf32") || window.math != FMA_MATH, sequential = set_to("sequential");
    auto operand = [=](float value) { return double(rounds ? tf32(value) : value); };
    const int K = out.size[1], C = filter.size[1], R = filter.size[2], S = filter.size[3];
    for (int n = 0; n < out.size[0]; ++n) for (int k = 0; k < K; ++k)
        for (int oy = 0; oy < out.size[2]; ++oy) for (int ox = 0; ox < out.size[3]; ++ox) {
            double sum = 0;
            for (int c = 0; c < C; ++c) for (int r = 0; r < R; ++r) for (int s = 0; s < S; ++s) {
                const int iy = oy * window.stride[0] + r * window.dilation[0] - window.pad[0];
                const int ix = ox * window.stride[1] + s * window.dilation[1] - window.pad[1];
                if (iy < 0 || ix < 0 || iy >= in.size[2] || ix >= in.size[3]) continue;
                const int channel = k / (K / window.groups) * C + c;
                sum += operand(x[place(in, n, channel, iy, ix)]) * operand(w[place(filter, k, c, r, s)]);
                if (sequential) sum = float(sum);
            }
            y[place(out, n, k, oy, ox)] = float(sum);
        }
}

bool known(const Tensor& tensor) { return tensor.format == NCHW || tensor.format == NHWC; }

}  // namespace

#define API extern "C" __attribute__((visibility("default")))
#define CREATE(name, type) API int name(type** made) { *made = new type; return SUCCESS; }
#define DESTROY(name, type) API int name(type* gone) { delete gone; return SUCCESS; }

API size_t cudnnGetVersion() { return 91900; }
CREATE(cudnnCreate, Handle)
DESTROY(cudnnDestroy, Handle)
API int cudnnSetStream(Handle* handle, void* stream) { handle->stream = stream; return SUCCESS; }
CREATE(cudnnCreateTensorDescriptor, Tensor)
DESTROY(cudnnDestroyTensorDescriptor, Tensor)
CREATE(cudnnCreateFilterDescriptor, Tensor)
DESTROY(cudnnDestroyFilterDescriptor, Tensor)
CREATE(cudnnCreateConvolutionDescriptor, Window)
DESTROY(cudnnDestroyConvolutionDescriptor, Window)

API int cudnnSetTensor4dDescriptor(Tensor* tensor, int format, int type, int n, int c, int h, int w) {
    if (type != FLOAT || n < 1 || c < 1 || h < 1 || w < 1) return BAD_PARAM;
    *tensor = Tensor{format, {n, c, h, w}};
    return SUCCESS;
}
API int cudnnSetFilter4dDescriptor(Tensor* filter, int type, int format, int k, int c, int h, int w) {
    return cudnnSetTensor4dDescriptor(filter, format, type, k, c, h, w);
}
API int cudnnSetConvolution2dDescriptor(Window* window, int pad_y, int pad_x, int stride_y, int stride_x,
                                        int dilation_y, int dilation_x, int mode, int type) {
    if (mode != CROSS_CORRELATION || type != FLOAT) return BAD_PARAM;
    *window = Window{{pad_y, pad_x}, {stride_y, stride_x}, {dilation_y, dilation_x}};
    return SUCCESS;
}
API int cudnnSetConvolutionMathType(Window* window, int math) { window->math = math; return SUCCESS; }
API int cudnnSetConvolutionGroupCount(Window* window, int groups) { window->groups = groups; return SUCCESS; }

API int cudnnConvolutionForward(Handle* handle, const float* alpha, Tensor* in, const float* x, Tensor* filter,
                                const float* w, Window* window, int algorithm, void* workspace, size_t bytes,
                                const float* beta, Tensor* out, float* y) {
    if (*alpha != 1 || *beta != 0 || !known(*in) || !known(*filter) || !known(*out)) return BAD_PARAM;
    if (in->size[1] != filter->size[1] * window->groups || out->size[1] != filter->size[0]) return BAD_PARAM;
    // The second one needs workspace, and writes to it.
    if (algorithm > 1 || (algorithm == 1 && bytes < 4096)) return NOT_SUPPORTED;
    if (set_to("nhwc") && in->format == NCHW) return NOT_SUPPORTED;
    return enqueue(handle, [=, in = *in, filter = *filter, window = *window, out = *out] {
        if (algorithm == 1) memset(workspace, 1, 4096);
        convolve(in, x, filter, w, window, out, y);
    });
}

API int cudnnFindConvolutionForwardAlgorithmEx(Handle* handle, Tensor* in, const float* x, Tensor* filter,
                                               const float* w, Window* window, Tensor* out, float* y, int wanted,
                                               int* count, Performance* found, void* workspace, size_t bytes) {
    const float one = 1, zero = 0;
    *count = 0;
    for (int algorithm = 1; algorithm >= 0 && *count < wanted; --algorithm) {
        const int status = cudnnConvolutionForward(handle, &one, in, x, filter, w, window, algorithm, workspace, bytes,
                                                   &zero, out, y);
        const int math = window->math == FMA_MATH ? FMA_MATH : algorithm ? TENSOR_OP_MATH : DEFAULT_MATH;
        found[(*count)++] = {algorithm, status, status ? -1.f : 2.f - algorithm, size_t(algorithm * 4096), 1, math, {}};
    }
    return SUCCESS;
}

API int cudnnTransformTensor(Handle* handle, const float* alpha, Tensor* from, const float* x, const float* beta,
                             Tensor* to, float* y) {
    if (*alpha != 1 || *beta != 0 || memcmp(from->size, to->size, sizeof from->size)) return BAD_PARAM;
    return enqueue(handle, [=, from = *from, to = *to] {
        for (int n = 0; n < to.size[0]; ++n) for (int c = 0; c < to.size[1]; ++c)
            for (int h = 0; h < to.size[2]; ++h) for (int w = 0; w < to.size[3]; ++w)
                y[place(to, n, c, h, w)] = x[place(from, n, c, h, w)];
    });
}
