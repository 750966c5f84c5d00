#!/usr/bin/env bash
# Test, measure and train on this machine's GPU: run.sh [--minutes N] [--data DIR] OUT
# DEVICE=cpu rehearses the same on a CPU with small sizes; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" -m benchmarks.gpu --device "${DEVICE:-cuda}" "$@"
