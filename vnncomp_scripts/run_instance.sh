#!/bin/bash
# run_instance.sh v1 CATEGORY ONNX VNNLIB OUT TIMEOUT — the answer is in OUT; the exit status is always 0.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=$(command -v python3)
[ "${1:-}" = v1 ] || { echo "expected version v1, got '${1:-}'" >&2; exit 1; }
[ $# -eq 6 ] || { echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB OUT TIMEOUT" >&2; exit 1; }
"$python" -P -m verifier.vnncomp.run_instance "$@" || echo error > "$5"
exit 0
