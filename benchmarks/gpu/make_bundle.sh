#!/usr/bin/env bash
# Collect the wheels for a machine without network: make_bundle.sh PYTHON DIR
# PYTHON: version of the other machine's CPython, such as 3.12. That machine has torch and torchvision, and may have
# NumPy, SciPy, matplotlib, pandas, OpenCV and pytest, which the bundle does not contain (CONTENT=all adds them).
set -euo pipefail

VERSION=${1:?usage: make_bundle.sh PYTHON DIR}
DIR=${2:?usage: make_bundle.sh PYTHON DIR}
cd "$(dirname "$0")/../.."
mkdir -p "$DIR/wheels"
DIR=$(cd "$DIR" && pwd)
say() { printf '[bundle] %s\n' "$*"; }

# mmcv-lite, mmengine and mmdet need no compiler; with what they import and the machine above lacks.
packages=(mmcv-lite mmengine mmdet addict yapf termcolor terminaltables pycocotools faster-coco-eval shapely rich
    markdown-it-py mdurl pygments platformdirs 'setuptools<81' tabulate pyyaml six tqdm)
if [ "${CONTENT:-}" = all ]; then
    packages+=(numpy scipy matplotlib pandas opencv-python-headless pytest hypothesis contourpy cycler fonttools
        kiwisolver packaging pillow pyparsing python-dateutil iniconfig pluggy sortedcontainers)
fi

platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
# The pinned versions, without the environment markers of other Pythons.
grep -v '^ *#' constraints.txt >"$constraints"

say "downloading the wheels for CPython $VERSION"
sources=()
for package in "${packages[@]}"; do
    python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: --python-version "$VERSION" \
        --implementation cp "${platforms[@]}" -c "$constraints" -d "$DIR/wheels" "$package" 2>/dev/null ||
        sources+=("$package")
done
if (( ${#sources[@]} )); then
    say "building pure Python wheels of ${sources[*]}"
    python3 -m pip --disable-pip-version-check wheel -q --no-deps -c "$constraints" -w "$DIR/wheels" "${sources[@]}"
fi
if ls "$DIR"/wheels/*linux_x86_64.whl 2>/dev/null | grep -v manylinux | grep -q .; then
    say "error: a wheel was compiled for this machine's Python: $(ls "$DIR"/wheels/*-linux_x86_64.whl)" >&2
    exit 1
fi

cat >"$DIR/install.sh" <<'SH'
#!/usr/bin/env bash
# Make an environment from the wheels beside this file, without network: install.sh [PYTHON] [ENVIRONMENT]
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
PYTHON=${1:-python3}
VENV=${2:-$HERE/venv}
"$PYTHON" -m venv --system-site-packages "$VENV"
# --system-site-packages skips the packages of an environment that PYTHON itself is of: add them.
"$PYTHON" -c 'import site; print("\n".join(site.getsitepackages()))' \
    >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth"
"$VENV/bin/python" -m pip --disable-pip-version-check install -q --no-index --no-deps "$HERE"/wheels/*.whl
"$VENV/bin/python" -c 'import torch, torchvision, mmengine, mmcv; print("environment:", torch.__version__, mmcv.__version__)'
SH
chmod +x "$DIR/install.sh"
say "$(ls "$DIR/wheels" | wc -l) wheels, $(du -sh "$DIR" | cut -f1) in $DIR; on the other machine: bash install.sh PYTHON"
