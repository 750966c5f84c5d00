#!/usr/bin/env bash
# Build an environment for each supported stack, and run in it the tests that apply:
#
#     bash tools/compat_matrix.sh [NAME...]
#
# NAME is one of NAMES below; without one, all. Environments and logs stay in $MMDET_EDGE_MATRIX, so that the second run
# installs nothing. docs/compatibility.md has the results.
set -euo pipefail
cd "$(dirname "$0")/.."

NAMES=(default compiled floor mmcv22 onedl)
MATRIX=${MMDET_EDGE_MATRIX:-${XDG_CACHE_HOME:-$HOME/.cache}/mmdet-edge/matrix}
# What every environment needs beside the stack. Without wheel, an old setuptools cannot build the package.
COMMON=(-r requirements.txt hypothesis onnx onnxruntime pytest pytest-xdist wheel)
# Models and losses, configs of mmdet and ours, compat, untrusted files, checks, metric, packaging, training, testing,
# resuming, two processes with gloo, and the example project with mmdet's own tools.
FITTING=(
    tests/test_models tests/test_configs.py tests/test_config tests/test_paths.py tests/test_compat tests/test_engine
    tests/test_preflight tests/test_evaluation tests/test_deployment tests/test_packaging.py tests/test_projects
    tests/test_reliability tests/test_tools/test_train_and_test.py
)

say() { printf '[matrix] %s\n' "$*"; }
fail() { printf '[matrix] error: %s\n' "$*" >&2; exit 1; }

# make_env PYTHON: make an empty environment, if there is none.
make_env() {
    command -v "$1" >/dev/null || fail "$name needs $1 on the PATH"
    if [ ! -x "$env/bin/python" ]; then
        say "$name: making $env with $("$1" --version)"
        "$1" -m venv "$env"
    fi
}

pip() { "$env/bin/python" -m pip --disable-pip-version-check -q "$@"; }

install_default() {
    make_env python3.11
    pip install -c constraints.txt torch torchvision mmcv-lite mmengine mmdet 'setuptools<81' "${COMMON[@]}"
}

# mmcv compiled as by `make install OPS=compiled`, with the last torch whose headers compile as C++17.
install_compiled() {
    make_env python3.11
    pip install -c <(grep -v '^torch' constraints.txt) torch==2.13.0 torchvision==0.28.0 'setuptools<81' ninja psutil numpy wheel
    if ! "$env/bin/python" -c 'import mmcv._ext' 2>/dev/null; then
        say "$name: compiling mmcv, 6 to 30 minutes; the log is $env/mmcv.log"
        MMCV_WITH_OPS=1 pip install -v --no-build-isolation --no-binary mmcv --no-cache-dir mmcv==2.1.0 >"$env/mmcv.log" 2>&1 ||
            fail "mmcv did not compile, see $env/mmcv.log"
    fi
    pip install -c <(grep -v '^torch' constraints.txt) mmengine mmdet "${COMMON[@]}"
}

# The lowest versions that are allowed: setup.cfg, requirements.txt, mmdet_edge/compat/versions.py.
install_floor() {
    make_env python3.10
    pip install torch==2.1.2 torchvision==0.16.2 'numpy<2' mmcv-lite==2.0.1 mmengine==0.10.7 mmdet==3.3.0 'setuptools<81' \
        faster-coco-eval==1.7.0 shapely==2.0.0 'opencv-python<4.12' 'onnx<1.18' 'onnxruntime<1.20' "${COMMON[@]}"
}

# mmdet 3.3.0 refuses this mmcv unless mmdet_edge is imported first.
install_mmcv22() {
    make_env python3.11
    pip install -c <(grep -v '^mmcv' constraints.txt) torch torchvision mmcv-lite==2.2.0 mmengine mmdet 'setuptools<81' \
        "${COMMON[@]}"
}

# pip builds OneDL's mmcv in an environment without torch, hence without compiled operators.
install_onedl() {
    make_env python3.12
    pip install torch==2.14.1 torchvision==0.29.1 onedl-mmdetection==3.5.1 onedl-mmcv==2.3.6 onedl-mmengine==0.10.12 \
        setuptools "${COMMON[@]}"
}

run_tests() {
    local tests=("${FITTING[@]}")
    if [ "$name" = default ]; then tests=(); fi
    PATH=$env/bin:$PATH PYTHONPATH=$PWD OMP_NUM_THREADS=1 \
        "$env/bin/python" -m pytest -q -n auto --maxprocesses 2 --dist loadfile "${tests[@]}"
}

versions() {
    "$env/bin/python" -m pip freeze --all | grep -E '^(onedl-)?(mmcv|mmcv-lite|mmdet|mmdetection|mmengine)==|^(numpy|opencv-python|setuptools|torch|torchvision)==' |
        paste -sd' '
}

[ $# -gt 0 ] || set -- "${NAMES[@]}"
failed=()
for name in "$@"; do
    declare -F "install_$name" >/dev/null || fail "unknown environment $name; known: ${NAMES[*]}"
    env=$MATRIX/$name
    mkdir -p "$MATRIX"
    "install_$name"
    say "$name: $("$env/bin/python" --version), $(versions)"
    if run_tests 2>&1 | tee "$MATRIX/$name.log"; then
        say "$name: $(tail -n 1 "$MATRIX/$name.log")"
    else
        failed+=("$name")
    fi
done
[ ${#failed[@]} = 0 ] || fail "not everything passed with: ${failed[*]}"
