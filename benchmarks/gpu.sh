#!/usr/bin/env bash
# Everything that needs a GPU, in at most nine minutes, on a machine that has PyTorch and no network.
#
#     python benchmarks/gpu_wheels.py                   # where there is a package index: fills build/gpu_wheels
#     bash benchmarks/gpu.sh [--tiny] [OUT_FOLDER]      # where there is a GPU: writes OUT_FOLDER/gpu.json
#
# Without that folder (or the one that GPU_WHEELS names) it runs with what is installed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
wheels=${GPU_WHEELS:-$root/build/gpu_wheels}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
if compgen -G "$wheels/*.whl" >/dev/null; then
    # A folder and not a virtual environment, which would not see the packages of the one it is made in.
    site=$root/build/gpu_site
    rm -rf "$site"
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec python3 "$here/gpu.py" --seconds $((530 - SECONDS)) "$@"
