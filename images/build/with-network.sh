#!/bin/sh
# Runs a command of an image's build with what the network of this place asks for. Two build secrets say it, both optional:
#   ca       a file of certificates (PEM) to trust instead of the usual ones
#   network  lines NAME=VALUE for uv and pip, passwords included: UV_DEFAULT_INDEX, PIP_INDEX_URL, ...
# Secrets are there while the command runs; no layer and no history keeps them.
set -eu
if [ -f /run/secrets/ca ]; then
  export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca
fi
if [ -f /run/secrets/network ]; then
  set -a
  . /run/secrets/network
  set +a
fi
exec "$@"
