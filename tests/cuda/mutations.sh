#!/usr/bin/env bash
# Plants faults in the device sources, one at a time, and shows that the tests of the emulated GPU notice each. The
# sources stay as they are: the tests pass what they compile through sed, see `planted` in standin.rs, and an
# expression that changes nothing is an error.
#
#   tests/cuda/mutations.sh            all of them
#   tests/cuda/mutations.sh winograd   those with this word in their names
#
# Exits with 1 when a fault is missed.
set -uo pipefail
cd "$(dirname "$0")/../.."
only=${1:-}
built=$(cargo test --no-run -p harness --features cuda --test cuda 2>&1) || { echo "$built"; exit 1; }
tests=$(realpath "$(sed -n 's/.*Executable .*(\(.*\)).*/\1/p' <<<"$built")")
cd harness  # where cargo would run them
# Without a fault they pass.
"$tests" cuda::properties >/dev/null 2>&1 || { echo "the tests fail without a planted fault"; exit 1; }

caught=0 missed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# plant NAME FUNCTIONS EXPRESSION: the functions (parts of names, by commas) are those that are compiled and tested.
plant() {
    [[ $1 == *"$only"* ]] || return 0
    local began=$SECONDS why
    if CONV_EMULATED_ONLY=$2 CONV_EMULATED_SED=$3 "$tests" --exact cuda::properties::every_function_in_every_schedule \
        cuda::properties::long_sums_of_one_sign >"$log" 2>&1; then
        missed=$((missed + 1))
        printf 'MISSED  %s\n' "$1"
        return 0
    fi
    # A fault that does not compile, or is not planted at all, proves nothing.
    if grep -qE 'changes nothing|sed does not take|g\+\+.*"-c"|had only' "$log"; then
        missed=$((missed + 1))
        printf 'NOT PLANTED  %s\n' "$1"
        grep -m3 -E 'changes nothing|sed does not|error:|had only' "$log"
        return 0
    fi
    caught=$((caught + 1))
    why=$(grep -m1 -oE 'emulated GPU: conv.*|output \[n.*|a second run gives.*|[a-z0-9_]+ is wrong when it is tried' "$log" | sed 's/^emulated GPU: //' | cut -c1-110)
    printf 'caught  %-58s %2d s  %s\n' "$1" $((SECONDS - began)) "$why"
}

# ---- How threads wait for each other
plant "fp32: no barrier before a tile is read" fp32_nchw_32x32,fp32_nchw_32x128,reduce '/copy_wait<STAGES - 2>\(\);/{n;n;s/__syncthreads\(\);//}'
plant "fp32: waits for one group of copies too few" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/copy_wait<STAGES - 2>/copy_wait<STAGES - 1>/'
plant "fp32: copies into the tile that is being read" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/start\(filling\);/start(reading);/'
plant "fp32: groups are not counted once copies run out" fp32_nhwc_16x128,reduce '/if \(tile \+ STAGES - 1 < tiles\) start\(filling\);/{n;s/copy_commit\(\);/if (tile + STAGES - 1 < tiles) copy_commit();/}'
plant "fp32: a barrier that some threads skip" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/__syncthreads\(\);/if (threadIdx.x < 100) __syncthreads();/'
plant "fp32: two barriers in two branches" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/^( +)__syncthreads\(\);/\1if (threadIdx.x < 64) __syncthreads();\n\1else __syncthreads();/'
plant "fp32, two stages: no barrier after a tile was stored" fp32_nchw_64x64_staged,reduce '/^ +land\(0\);/{n;s/__syncthreads\(\);//}'
plant "fp32, two stages: no barrier behind a tile" fp32_nchw_64x64_staged,reduce '/land\(\(tile \+ 1\) & 1\);/{n;s/__syncthreads\(\);//}'

# ---- Bounds and alignment
plant "fp32: pixels beyond the last one are read" fp32_nhwc_16x128,reduce 's/corner\.exists = pixel < p\.pixels/corner.exists = true/'
plant "fp32: a row below the image is read" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/\(y < \(unsigned\)p\.in_height\) << r/(y <= (unsigned)p.in_height) << r/'
plant "fp32: columns left of the image are read" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/\(x < \(unsigned\)p\.in_width\) << \(16/((int)x < p.in_width) << (16/'
plant "fp32: weights beyond a row are read" fp32_nchw_32x32,reduce 's/across < left\)/true)/'
plant "fp32: sums beyond the last pixel are written" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/if \(pixel \+ q < p\.pixels\)//'
plant "fp32: sums beyond the last filter are written" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/if \(filter >= p\.filters\) continue;//'
plant "fp32: vectors of four where planes are odd" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/p\.out_height \* p\.out_width % 4 == 0/true/'
plant "fp32: vectors of four where filters are odd" fp32_nhwc_16x128,reduce 's/fours = p\.filters % 4 == 0/fours = true/'
plant "fp32: rows of the tile are not apart" fp32_nhwc4_32x32,reduce 's/SIZE = PIXELS \* PITCH/SIZE = PIXELS * STEPS/'
plant "fp32: a tile's rows are misaligned" fp32_nhwc4_32x32,reduce 's/PITCH = STEPS \+ PADDING/PITCH = STEPS + PADDING - 2/'

# ---- What is computed
plant "fp32: dilation of rows is ignored" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/y \+= p\.dilation_y/y++/'
plant "fp32: padding of the other side" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/- p\.pad_left/- p.pad_top/'
plant "fp32: stride of the other axis" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/column \* p\.stride_x/column * p.stride_y/'
plant "fp32: the group's input channels are not found" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/\(unsigned\)group \* p\.channels \* p\.in_channel/0u/'
plant "fp32: the group's weights are not found" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/\(long long\)place\.group \* p\.weight_group/0/'
plant "fp32: steps stay where they were" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/steps \+= STEPS \/ 2;//'
plant "fp32: the previous output is not added" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/if \(p\.accumulate\) sum \+= \*previous;//'
plant "fp32: no activation" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/return limited\(sum, p\);/return sum;/'
plant "fp32: lanes share filters" fp32_nchw_32x32,fp32_nchw_32x128,reduce 's/\(lane \/ \(2 \* PIXELS\) \* 2 \+ lane % 2\) \* 4/(lane \/ (2 * PIXELS) * 2) * 4/'

# ---- Parts of a reduction
plant "parts: each begins at the start" fp32_nchw_32x32,reduce 's/place\.begin = place\.split \* p\.split_steps/place.begin = 0/'
plant "parts: the last goes on beyond the end" fp32_nchw_32x32,reduce 's/min\(place\.begin \+ p\.split_steps, p\.steps\)/place.begin + p.split_steps/'
plant "parts: all in one place" fp32_nchw_32x32,reduce 's/\(long long\)place\.split \* p\.out_len/0/'
plant "parts: the last is not added" fp32_nchw_32x32,reduce 's/split < p\.splits; split/split + 1 < p.splits; split/'
plant "parts: outputs beyond the last are written" fp32_nchw_32x32,reduce 's/if \(i >= p\.out_len\) return;//'
plant "parts: the bias of another channel" fp32_nchw_32x32,reduce 's/i \/ p\.out_channel % \(/i % (/'

# ---- Tensor cores
X3=tf32x3_nchw_32x128,tf32x3_nchw_64x64,tf32x3_nhwc4_32x128,reduce
plant "3xTF32: small times big is left out" $X3 's/mma_tf32\(part\[j\], small,.*;/;/'
plant "3xTF32: big times small is left out" $X3 's/mma_tf32\(part\[j\], big, b\[half\]\[j\]\[0\]\.small.*;/;/'
plant "3xTF32: sums are not promoted" $X3 's/float part\[COLUMNS\]\[4\] = \{\};/float (\&part)[COLUMNS][4] = sum[i];/; s/sum\[i\]\[j\]\[q\] \+= part\[j\]\[q\];/;/'
plant "TF32: operands are truncated" tf32_nchw_64x64,reduce 's/__float_as_uint\(x\) \+ 0x1000 : 0x7fffffff/__float_as_uint(x) : 0x7fffffff/'
plant "tensor cores: the wrong step of a fragment" $X3 's/x\[\(half \* 8 \+ 4\)/x[(half * 8 + 3)/'
plant "tensor cores: rows of a fragment are stored elsewhere" $X3 's/i \/ 2 \* 16 \+ i % 2 \* 8 \+ g/i \/ 2 * 16 + i % 2 * 4 + g/'
plant "tensor cores: rows of ldmatrix are misaligned" $X3 's/lane \/ 16 \* 4;/lane \/ 16 * 2;/'
plant "tensor cores: all warps read the first filters" $X3 's/\(first_f \/ 16 \* 32 \+ lane\)/(lane)/'
plant "tensor cores: pairs where filters are odd" $X3 's/: p\.filters\) % 2 == 0/: p.filters) % 2 >= 0/'
plant "BF16: steps of a register change places" bf16_nchw_64x64,reduce 's/pair_of_bf16\(x\[1\], x\[3\]\)/pair_of_bf16(x[3], x[1])/'

# ---- Products of warpgroups
W3=tf32x3_nchw_64x64_warpgroups,tf32x3_nhwc4_64x64_warpgroups,reduce
W1=tf32_nchw_64x64_warpgroups,tf32_nhwc4_64x64_warpgroups,reduce
WB=bf16_nchw_64x64_warpgroups,bf16_nhwc4_64x64_warpgroups,reduce
plant "warpgroups: the descriptor says that bytes change places" $W1 's/EIGHT_FILTERS << 32;/EIGHT_FILTERS << 32 | (uint64_t)1 << 62;/'
plant "warpgroups: the second half of steps is elsewhere" $W1 's/HALF = 128 \/ 16/HALF = 256 \/ 16/'
plant "warpgroups: distances change places" $W1 's/HALF << 16 \| EIGHT_FILTERS << 32/EIGHT_FILTERS << 16 | HALF << 32/'
plant "warpgroups: the next filters are elsewhere" $WB 's/EIGHT_FILTERS = 256/EIGHT_FILTERS = 128/'
plant "warpgroups: the address in bytes" $W1 's/shared_address\(first\) >> 4 \& 0x3fff/shared_address(first) \& 0x3fff/'
plant "warpgroups: weights of the first half for both" $W1 's/weight_matrix\(a \+ half \* ROW\)/weight_matrix(a)/'
plant "warpgroups: no fence behind copies" $W1 's/if constexpr \(FENCED\) fence_shared\(\);//'
plant "warpgroups: a fence behind the barrier" $W1 '/if constexpr \(FENCED\) fence_shared\(\);/{N;s/(.*)\n(.*)/\2\n\1/}'
plant "warpgroups: no fence of registers" $W3 's/^ +fence_registers\(\);//'
plant "warpgroups: no wait for products" $W3 's/emulator::wait_wgmma\(0\);//'
plant "warpgroups: waits for all but the newest products" $W1 's/emulator::wait_wgmma\(0\);/emulator::wait_wgmma(1);/'
plant "warpgroups: products are not committed" $WB 's/emulator::commit_wgmma\(\);//'
plant "warpgroups: copies into the tile that is being read" $W1 's/start\(filling\);/start(reading);/'
plant "warpgroups: 3xTF32 without small times big" $W3 's/wgmma_tf32\(part, small.*/wgmma_tf32(part, big[half], weight_matrix(w + ROW), half > 0);/'
plant "warpgroups: 3xTF32 without big times small" $W3 's/wgmma_tf32\(part, big\[half\], weight_matrix\(w \+ ROW\), true\);//'
plant "warpgroups: 3xTF32 adds to what was there" $W3 's/weight_matrix\(w\), half > 0\)/weight_matrix(w), true)/'
plant "warpgroups: 3xTF32 forgets the first half" $W3 's/weight_matrix\(w\), half > 0\)/weight_matrix(w), false)/'
plant "warpgroups: 3xTF32 sums are not promoted" $W3 's/float part\[COLUMNS\]\[4\];/float (\&part)[COLUMNS][4] = sum[0];/; s/weight_matrix\(w\), half > 0\)/weight_matrix(w), true)/; s/sum\[0\]\[j\]\[q\] \+= part\[j\]\[q\];/;/'
plant "warpgroups: TF32 operands are truncated" $W1 's/__float_as_uint\(x\) \+ 0x1000 : 0x7fffffff/__float_as_uint(x) : 0x7fffffff/'
plant "warpgroups: BF16 steps of a register change places" $WB 's/pair_of_bf16\(x\[half\]\[0\], x\[half\]\[2\]\)/pair_of_bf16(x[half][2], x[half][0])/'
plant "warpgroups: pixels beyond the last are written" $W1 's/if \(first \+ half \* 8 < p\.pixels\) epilogue/epilogue/'
plant "warpgroups: filters beyond the last are written" $W1 's/if \(filter >= p\.filters\) continue;//'
plant "warpgroups: warps share pixels" $W1 's/first_p = threadIdx\.x \/ 32 \* 16/first_p = threadIdx.x \/ 64 * 16/'

# ---- Winograd
plant "winograd: a sign of the input's transform" winograd 's/rows\[2\]\[j\] = d\[2\]\[j\] - d\[1\]\[j\]/rows[2][j] = d[1][j] - d[2][j]/'
plant "winograd: a sign of the output's transform" winograd 's/rows\[y\]\[1\] - rows\[y\]\[2\] \+/rows[y][1] + rows[y][2] +/'
plant "winograd: tiles are stored and read at other places" winograd 's/\(tile \^ 4 \* channel\)/tile/'
plant "winograd: no wait for weights" winograd 's/^        copy_wait<0>\(\);$//'
plant "winograd: no barrier before a chunk is read" winograd '/^        copy_wait<0>\(\);$/{n;s/__syncthreads\(\);//}'
plant "winograd: no barrier before products meet" winograd '/turn < 4; turn\+\+\) \{/{n;s/__syncthreads\(\);//}'
plant "winograd: copies into the weights that are being read" winograd 's/\(chunk \+ 1\) % 2 \* W::STAGE/chunk % 2 * W::STAGE/'
plant "winograd: channels beyond the last are read" winograd 's/channel < p\.channels \? inside : 0/inside/'
plant "winograd: a column beyond the last is written" winograd 's/if \(at\.x \+ 1 < p\.out_width\) epilogue/epilogue/'
plant "winograd: a row beyond the last is written" winograd 's/if \(at\.y \+ y >= p\.out_height\) break;//'

# ---- Depthwise
plant "depthwise: several filters of a channel are not" depthwise 's/channel \/ p\.filters \* p\.in_channel/channel * p.in_channel/'
plant "depthwise: rows beyond the last are written" depthwise 's/if \(first \+ j >= p\.out_height\) break;//'
plant "depthwise: rows share kernel rows" depthwise 's/const int r = row - j \* STRIDE/const int r = row - j/'
plant "depthwise: rows outside of the image are read" depthwise 's/inside \&\& \(unsigned\)x/(unsigned)x/'
plant "depthwise: images beyond the last are computed" depthwise 's/if \(image >= p\.pixels .* return;//'

echo "$caught caught, $missed missed, $SECONDS s"
[ "$missed" = 0 ]
