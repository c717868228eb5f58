#!/bin/sh
# Runs uv in an image's build, in the release that requirements/uv.txt pins; nothing of uv stays in the image.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here"
"$here/bin/pip" install --quiet --no-cache-dir --require-hashes --requirement /opt/tunesmith/requirements/uv.txt
"$here/bin/uv" --quiet --no-cache --no-python-downloads "$@"
