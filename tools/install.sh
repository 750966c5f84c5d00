#!/usr/bin/env bash
# Make .venv and install everything into it. `make install` runs this script.
# OPS=torchvision (the default): mmcv-lite, whose operators torchvision serves; nothing is compiled.
# OPS=compiled: mmcv with its own operators, compiled once per machine.
# It can be interrupted at any point, also while mmcv compiles, and continues there when it is called again.
set -euo pipefail
cd "$(dirname "$0")/.."

OPS=${OPS:-torchvision}
PYTHON=${PYTHON:-python3}
CACHE=${MMDET_EDGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmdet-edge}
BIN=.venv/bin

say() { printf '[install] %s\n' "$*"; }
fail() { printf '[install] error: %s\n' "$*" >&2; exit 1; }
# Builds use the packages of .venv (--no-build-isolation below), because they need torch.
pip() { "$BIN/python" -m pip --disable-pip-version-check "$@"; }

check_options() {
    [ "$OPS" = torchvision ] || [ "$OPS" = compiled ] || fail "OPS must be torchvision or compiled, got '$OPS'"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "Python 3.10 or newer is needed, got '$PYTHON' ($("$PYTHON" --version 2>&1 || true)); name another with 'make install PYTHON=python3.11'"
}

make_venv() {
    if ! "$BIN/python" -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$PYTHON" --version)"
        "$PYTHON" -m venv --clear .venv || fail "could not make .venv; on Debian and Ubuntu: apt install python3-venv"
    fi
}

install_torch() {
    say "installing torch $(pinned torch) and torchvision $(pinned torchvision)"
    # --no-compile: Python compiles a module at its first import, and only a tenth of torch's are imported.
    pip install -q --no-compile -c constraints.txt torch torchvision numpy 'setuptools<81' wheel
}

pinned() { sed -n "s/^$1==//p" constraints.txt; }

# Both distributions of mmcv install into the same folder: removing one removes files of the other.
remove_mmcv() {
    if pip show -q "$1" 2>/dev/null; then
        say "removing $1"
        pip uninstall -q -y mmcv mmcv-lite
    fi
}

# FORCE_CUDA=1 builds for GPUs on a machine without one, such as a login node or a container build.
has_gpu() { [ "${FORCE_CUDA:-}" = 1 ] || nvidia-smi -L >/dev/null 2>&1; }

# Compiled operators fit one Python, one torch and one CUDA; pip's own cache does not distinguish these.
wheel_key() {
    "$BIN/python" - "$1" <<'PY'
import platform
import sys
import torch
print(f'py{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}-torch{torch.__version__}-{sys.argv[1]}')
PY
}

build_mmcv() {
    local device=cpu
    if has_gpu; then
        device=cuda$("$BIN/python" -c 'import torch; print(torch.version.cuda or "")')
        [ "$device" != cuda ] || fail "a build for GPUs is wanted, but the installed torch is a CPU build"
        command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] ||
            fail "a build for GPUs is wanted, but there is no nvcc to compile mmcv with: install the CUDA toolkit ${device#cuda} and set CUDA_HOME, or leave OPS=compiled out; docs/install.md has more"
        export FORCE_CUDA=1
        device+=-sm${TORCH_CUDA_ARCH_LIST:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | paste -sd+ || true)}
        device=${device//[^a-zA-Z0-9.+-]/_}
    fi
    local wheels build
    wheels=$CACHE/wheels/$(wheel_key "$device")
    build=$CACHE/build/$(wheel_key "$device")
    # One compilation at a time: all clones share this cache.
    mkdir -p "$CACHE"
    exec 9>"$CACHE/lock"
    flock -n 9 || { say "waiting for another installation on this machine"; flock 9; }
    if ! ls "$wheels"/mmcv-*.whl >/dev/null 2>&1; then
        local version
        version=$(pinned mmcv)
        command -v "${CXX:-c++}" >/dev/null || fail "OPS=compiled needs a C++ compiler; on Debian and Ubuntu: apt install g++ python3-dev; without OPS=compiled none is needed"
        pip install -q -c constraints.txt ninja psutil
        say "compiling mmcv $version for $(basename "$wheels"): once per machine, about 6 minutes of 2 fast cores (12 of slow ones), longer with CUDA"
        mkdir -p "$build" "$wheels"
        if [ ! -f "$build/mmcv-$version/setup.py" ]; then
            pip download -q --no-deps --no-build-isolation --no-binary mmcv -d "$build" "mmcv==$version"
            tar -xzf "$build/mmcv-$version.tar.gz" -C "$build"
            # mmcv requests C++17, but the headers of torch 2.14 need C++20: without the flag torch adds its standard.
            if "$BIN/python" -c 'import sys, torch; sys.exit(torch.__version__ < "2.14")'; then
                sed -i "s/\['-std=c++17'\]/[]/" "$build/mmcv-$version/setup.py"
            fi
        fi
        # Build in place: an interrupted compilation keeps its object files. Use a new process group: an interrupt
        # then ends all compilers.
        MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)} \
            setsid "$BIN/python" -m pip wheel -v --no-deps --no-build-isolation -w "$build/out" \
            "$build/mmcv-$version" >"$build/log.txt" 2>&1 &
        local pid=$! start=$SECONDS
        trap 'kill -- -$pid 2>/dev/null; exit 130' INT TERM HUP
        while kill -0 $pid 2>/dev/null; do
            sleep 5
            if (( (SECONDS - start) % 30 < 5 )); then
                say "  $(( (SECONDS - start) / 60 )) min $(( (SECONDS - start) % 60 )) s, file $(grep -oE '^ *\[[0-9]+/[0-9]+\]' "$build/log.txt" | tail -n 1 | tr -d ' ' || true)"
            fi
        done
        trap - INT TERM HUP
        wait $pid || { tail -n 30 "$build/log.txt" >&2; fail "mmcv did not compile; the full log is $build/log.txt"; }
        mv "$build/out"/mmcv-*.whl "$wheels"/
        rm -rf "$build"
        say "compiled in $(( (SECONDS - start) / 60 )) min $(( (SECONDS - start) % 60 )) s, kept in $wheels"
    fi
    flock -u 9
    remove_mmcv mmcv-lite
    say "installing mmcv from $wheels"
    # Reinstall always: the installed one may be compiled for the torch that this .venv had before.
    pip install -q --no-deps --force-reinstall "$wheels"/mmcv-*.whl
}

install_package() {
    say "installing mmengine, mmdet, this package (editable) and the test tools"
    if [ "$OPS" = compiled ]; then
        pip install -q --no-compile -c constraints.txt --no-build-isolation mmdet mmengine -e '.[test]'
    else
        pip install -q --no-compile -c constraints.txt --no-build-isolation -e '.[openmmlab,test]'
    fi
    "$BIN/python" -c 'import mmdet_edge, mmcv.ops' || fail "the installed packages cannot be imported"
}

check_options
make_venv
# Written again at the end: without it, make repeats the installation.
rm -f .venv/installed
install_torch
if [ "$OPS" = compiled ]; then
    build_mmcv
else
    remove_mmcv mmcv
fi
install_package
echo "$OPS" >.venv/installed
say "done: activate it with 'source .venv/bin/activate'"
