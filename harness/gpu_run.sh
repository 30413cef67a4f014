#!/usr/bin/env bash
# Verifies the GPU kernels on the machine at hand, then measures the layers of ResNet-50 and VGG-16 beside cuDNN, and
# writes records and a report. Needs no Rust, no Python and no network.
set -uo pipefail

usage() {
    cat <<'USAGE'
./run.sh [--minutes N] [--output DIR] [--nvrtc FILE] [--cudnn FILE] [--kernels ID,…]

  --minutes N     how long it may take in all: 2 (the default) gives short samples, 10 and more long ones;
                  what comes last is left out when time is up
  --output DIR    where records and the report go (default: results)
  --nvrtc FILE    libnvrtc.so.13 or .12, where it is not found by itself
  --cudnn FILE    libcudnn.so.9, likewise
  --kernels ID,…  these kernels alone
USAGE
}

minutes=2 output=results nvrtc=${CONV_NVRTC:-} cudnn= kernels=
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --minutes | --output | --nvrtc | --cudnn | --kernels)
            [ $# -ge 2 ] || { echo "run.sh: $1 needs a value" >&2; exit 2; }
            declare "${1#--}=$2"; shift 2 ;;
        *) echo "run.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
done
case $minutes in '' | *[!0-9]* | 0) echo "run.sh: --minutes is $minutes, but must be a whole number from 1" >&2; exit 2 ;; esac

here=$(cd "$(dirname "$0")" && pwd)
convbench=$here/convbench
end=$((SECONDS + 60 * minutes))
left() { echo $((end - SECONDS)); }
mkdir -p "$output" || exit 2
export CONV_CUDA_CACHE=${CONV_CUDA_CACHE:-$output/cache}

# The first file of some names in the folders where toolkits and Python's wheels keep their libraries.
folders=(/usr/local/cuda*/lib64 /usr/local/cuda*/targets/*/lib /usr/lib/x86_64-linux-gnu /usr/lib64
    {/usr,/usr/local,/opt/*,"$HOME"/*,"$HOME/.local","${VIRTUAL_ENV:-/nowhere}","${CONDA_PREFIX:-/nowhere}"}/lib/python3*/{site,dist}-packages/nvidia/*/lib
    /usr/lib/python3/dist-packages/nvidia/*/lib)
look_for() {
    local name folder
    for name in "$@"; do
        for folder in "${folders[@]}"; do
            if [ -e "$folder/$name" ]; then echo "$folder/$name"; return; fi
        done
    done
}
[ -n "$nvrtc" ] || nvrtc=$(look_for libnvrtc.so.13 libnvrtc.so.12)
[ -n "$cudnn" ] || cudnn=$(look_for libcudnn.so.9)
if [ -n "$nvrtc" ]; then export CONV_NVRTC=$nvrtc; fi
# What cuDNN itself loads (its parts, cuBLAS, NVRTC) lies beside it or beside NVRTC.
for library in "$cudnn" "$nvrtc"; do
    if [ -n "$library" ]; then
        LD_LIBRARY_PATH=$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
peer=(--peers cudnn)
if [ -n "$cudnn" ]; then
    # A file that is of no use would end every run.
    said=$("$convbench" bench --spec "c1 h1 w1 o1 k1" --time 0.001 --peers cudnn --cudnn "$cudnn" 2>&1 >/dev/null)
    case $said in
        "convbench: $cudnn"*) echo "$said"; cudnn= ;;
        *) peer+=(--cudnn "$cudnn") ;;
    esac
fi
echo "NVRTC: ${nvrtc:-the system finds it, or not}"
echo "cuDNN: ${cudnn:-the system finds it, or not}"

"$convbench" info 2>&1 | tee "$output/info.txt" | sed -n '/^GPU/,$p'
"$convbench" kernels 2>&1 | grep '^cuda' | tee "$output/kernels.txt"
if [ -z "$kernels" ]; then
    kernels=$(awk '$2 == "available" { print $1 }' "$output/kernels.txt" | paste -sd,)
fi
if [ -z "$kernels" ]; then
    echo "run.sh: no GPU kernel is available here: see above" >&2
    exit 2
fi

# How long each part may be: verification, samples of a row.
if [ "$minutes" -lt 5 ]; then verify=25 cases=60 row=0.05; else verify=100 cases=400 row=0.25; fi

echo; echo "== right? (at most $verify s)"
timeout --signal=INT --kill-after=10 "$verify" "$convbench" verify --kernel "$kernels" --cases "$cases" \
    2>&1 | tee "$output/verify.txt"
code=${PIPESTATUS[0]}
if grep -q WRONG "$output/verify.txt"; then
    echo "run.sh: a kernel is wrong: nothing is measured" >&2
    exit 1
fi
if [ "$code" -ne 0 ] && ! grep -q "stopped before all cases" "$output/verify.txt"; then
    echo "run.sh: the kernels could not be verified" >&2
    exit 1
fi

failed=0
# measure NAME OPTIONS…: rows in NAME.jsonl, as far as there is time.
measure() {
    local name=$1 time
    shift
    time=$(($(left) - 8))
    if [ "$time" -lt 5 ]; then echo "== $name: no time is left"; return; fi
    echo; echo "== $name"
    timeout --signal=INT --kill-after=20 "$time" "$convbench" bench "$@" --time "$row" \
        --json "$output/$name.jsonl" 2>&1 | tee "$output/$name.txt" | grep -vE '^$'
    if grep -qE 'rows are wrong' "$output/$name.txt"; then failed=1; fi
}

device=(--kernel "$kernels" "${peer[@]}" --clock device --baseline cudnn --roofs)
measure resnet50-n32 --network resnet50 --batch 32 "${device[@]}"
measure vgg16-n32 --network vgg16 --batch 32 "${device[@]}"
measure resnet50-n1 --network resnet50 --batch 1 "${device[@]}"
measure vgg16-n1 --network vgg16 --batch 1 "${device[@]}"
measure resnet50-n64 --network resnet50 --batch 64 "${device[@]}"
measure vgg16-n64 --network vgg16 --batch 64 "${device[@]}"
# What a caller with slices in the host's memory pays, beside the CPU; a row of its own, never a device time.
measure host-to-host --network default --batch 1,32 --kernel auto,cuda --clock warm --baseline auto
# The checks of the fp32 rows of cuDNN by another hand: its environment variable that forbids TF32.
export NVIDIA_TF32_OVERRIDE=0
measure resnet50-n32-no-tf32 --network resnet50 --batch 32 --kernel cuda-fp32 "${peer[@]}" --clock device --baseline cudnn

records=()
for record in "$output"/*.jsonl; do
    # One that was stopped early may hold no row.
    case $record in *no-tf32.jsonl) ;; *) grep -qs '"layer"' "$record" && records+=("$record") ;; esac
done
if [ "${#records[@]}" -gt 0 ]; then
    "$convbench" report "${records[@]}" --output "$output/report" || failed=1
else
    echo "run.sh: there was no time for a single row" >&2
    failed=1
fi
tar -czf "$output.tar.gz" --exclude cache -C "$(dirname "$output")" "$(basename "$output")" 2>/dev/null
echo; echo "records and report: $output, $output.tar.gz"
if [ "$failed" -ne 0 ]; then echo "run.sh: not all went well: see above" >&2; fi
exit "$failed"
