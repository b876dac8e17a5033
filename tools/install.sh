#!/usr/bin/env bash
# Installs this project into a virtual environment, and says how much that is before it begins and how long it took.
# tools/install.sh PYTHON_OF_THE_ENVIRONMENT ARGUMENTS_OF_PIP...
set -euo pipefail
python=$1
shift
quiet=(--quiet)
if [ -t 1 ]; then quiet=(); fi # a terminal shows pip's own progress
echo "installing into ${python%/bin/python}: sgl-specreason with SGLang, torch and what they need (11 GB, 3 to 8 minutes where nothing is there yet)"
"$python" -m pip install "${quiet[@]}" --disable-pip-version-check "$@"
echo "installed in $SECONDS s"
