#!/bin/sh
# Installs the libraries that the programs link and makes their user; leaves no package lists,
# documentation or locales. Runs in the Dockerfile's last stages, as root.
set -eu

here=$(dirname "$0")
apt-get -qq update
# shellcheck disable=SC2046 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $(cat "$here/packages.txt")
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log
# Copyright files stay: licences ask for that.
find /usr/share/doc -type f ! -name copyright -delete
rm -rf /usr/share/man /usr/share/locale /usr/share/info

groupadd --gid 10001 nsa
useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin nsa
