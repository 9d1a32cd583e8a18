#!/bin/sh
# Installs the gateway into /usr/local/lib/gateway. Runs in the Dockerfile's stage of that name, as root.
set -eu

here=$(dirname "$0")
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install ca-certificates python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv /usr/local/lib/gateway
/usr/local/lib/gateway/bin/python -m pip install --quiet --no-cache-dir --requirement "$here/gateway-requirements.txt"
