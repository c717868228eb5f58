#!/usr/bin/env bash
# Pins every dependency by version and hash (`make lock`). Address-free: whoever installs uses their own index.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() { # OUTPUT ARGS...
  local output=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
    --no-annotate --custom-compile-command "make lock" "$@" --output-file "$output"
}
compile requirements/dev.txt pyproject.toml --extra operator --extra stages --group dev
compile requirements/operator.txt pyproject.toml --extra operator --constraint requirements/dev.txt
compile requirements/stages.txt pyproject.toml --extra stages --constraint requirements/dev.txt
compile hack/toolchain/fuse.txt hack/toolchain/fuse.in
compile hack/toolchain/grafana_sdk.txt hack/toolchain/grafana_sdk.in
compile hack/toolchain/mlflow_server.txt hack/toolchain/mlflow_server.in
compile hack/toolchain/cyclonedx.txt hack/toolchain/cyclonedx.in
