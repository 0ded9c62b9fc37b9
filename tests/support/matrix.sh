#!/usr/bin/env bash
# Runs the tests on the oldest and the newest Python and torch that nb_elastic promises to work with.
# usage: tests/support/matrix.sh [PYTHON:TORCH ...] [-- PYTEST OPTIONS]     default: 3.10:2.9.0 3.13:newest
# Pythons are looked for on PATH and among pyenv's. Each pair gets a venv of its own under ${MATRIX_DIR:-/tmp/nb_elastic-matrix}:
# several GB, since torch's CUDA builds are large.
set -euo pipefail
cd "$(dirname "$0")/../.."
where=${MATRIX_DIR:-/tmp/nb_elastic-matrix}
pairs=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do pairs+=("$1"); shift; done
[ "${1:-}" = -- ] && shift
[ ${#pairs[@]} -gt 0 ] || pairs=(3.10:2.9.0 3.13:newest)

find_python() {
  local candidate
  for candidate in "$HOME"/.pyenv/versions/"$1".*/bin/python "$(command -v "python$1" || true)"; do
    [ -x "$candidate" ] && "$candidate" -c 'import venv, ensurepip' 2>/dev/null && { echo "$candidate"; return; }
  done
  return 1
}

failed=()
for pair in "${pairs[@]}"; do
  python_version=${pair%%:*} torch_version=${pair#*:}
  room=$where/py$python_version-torch$torch_version
  if ! python=$(find_python "$python_version"); then
    echo "== $pair: no Python $python_version here, left out"
    continue
  fi
  [ -x "$room/bin/python" ] || "$python" -m venv "$room"
  wanted=torch
  [ "$torch_version" = newest ] || wanted="torch==$torch_version"
  # The other pins are for one Python; here the ranges of pyproject.toml are on trial.
  "$room/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted" --editable '.[test]'
  echo "== $pair: $("$room/bin/python" -c 'import platform, torch; print("Python", platform.python_version(), "torch", torch.__version__)')"
  "$room/bin/python" -m pytest -q -p no:cacheprovider "$@" </dev/null || failed+=("$pair")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
