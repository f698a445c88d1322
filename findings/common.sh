# Sourced by each finding: a temporary folder with an environment of its own, gone at the end. Not run by CI.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
PATH="$folder/venv/bin:$PATH"
cd "$folder"
