#!/bin/bash
# install_tool.sh v1 — create the environment beside the sources and install the tool with all engines.
set -eu
[ "${1:-}" = v1 ] || { echo "expected version v1, got '${1:-}'" >&2; exit 1; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3.11}
[ -x "$root/.venv/bin/python" ] || "$python" -m venv "$root/.venv"
"$root/.venv/bin/python" -m pip install --quiet "$root"
"$root/.venv/bin/python" -m verifier.bounds.lirpa_install
"$root/.venv/bin/python" -m verifier.cli doctor || true
