#!/bin/bash
# prepare_instance.sh v1 CATEGORY ONNX VNNLIB — nothing to prepare: end what an earlier instance may have left,
# and see that the files are there. No analysis.
set -u
[ "${1:-}" = v1 ] || { echo "expected version v1, got '${1:-}'" >&2; exit 1; }
[ $# -eq 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 1; }
onnx=$3 vnnlib=$4
case $onnx in
    \[*) ;;  # several networks: the tool answers "unknown"
    *) [ -r "$onnx" ] || [ -r "$onnx.gz" ] || { echo "cannot read $onnx" >&2; exit 1; } ;;
esac
[ -r "$vnnlib" ] || [ -r "$vnnlib.gz" ] || { echo "cannot read $vnnlib" >&2; exit 1; }
