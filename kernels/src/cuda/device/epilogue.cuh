// What happens to a sum on its way to memory: bias, previous output, activation. Parts of a sum that was
// split go to scratch as they are; reduce.cuh does the rest.

// NaN passes through.
CONV_INLINE float limited(float x, const Params &p) { return x < p.min ? p.min : x > p.max ? p.max : x; }

CONV_INLINE float finished(float sum, float bias, const float *previous, const Params &p) {
    sum += bias;
    if (p.accumulate) sum += *previous;
    return limited(sum, p);
}

// Writes the sums of a block's tile.
struct Epilogue {
    const float *bias;
    float *to;  // the output, or this split's part of the scratch memory
    bool whole;

    CONV_INLINE Epilogue(const float *all_bias, float *output, float *scratch, const Place &place, const Params &p) {
        bias = all_bias;
        whole = p.splits == 1;
        to = whole ? output : scratch + (long long)place.split * p.out_len;
    }
    // Offset of a pixel's first channel.
    static CONV_INLINE int pixel_offset(const Params &p, int pixel) {
        const int plane = p.out_height * p.out_width, image = pixel / plane;
        return image * p.out_image + (pixel - image * plane) * p.out_pixel;
    }
    CONV_INLINE float bias_of(int channel) const { return bias && whole ? __ldg(bias + channel) : 0.f; }

    CONV_INLINE void store(int offset, float sum, float add, const Params &p) const {
        to[offset] = whole ? finished(sum, add, to + offset, p) : sum;
    }
    // Two neighbours at once, from an even offset.
    CONV_INLINE void store2(int offset, float2 sum, float2 add, const Params &p) const {
        float2 *at = (float2 *)(to + offset);
        if (whole) {
            const float2 old = p.accumulate ? *at : make_float2(0.f, 0.f);
            sum.x = finished(sum.x, add.x, &old.x, p);
            sum.y = finished(sum.y, add.y, &old.y, p);
        }
        *at = sum;
    }
    // Four neighbours at once, from an offset that is a multiple of 4.
    CONV_INLINE void store4(int offset, float4 sum, float4 add, const Params &p) const {
        float4 *at = (float4 *)(to + offset);
        if (whole) {
            const float4 old = p.accumulate ? *at : make_float4(0.f, 0.f, 0.f, 0.f);
            sum.x = finished(sum.x, add.x, &old.x, p);
            sum.y = finished(sum.y, add.y, &old.y, p);
            sum.z = finished(sum.z, add.z, &old.z, p);
            sum.w = finished(sum.w, add.w, &old.w, p);
        }
        *at = sum;
    }
};
