#!/usr/bin/env bash
# debian_root.sh DIR [--slim]: a minimal Debian 12 at DIR, made by debootstrap from the mirror that this machine
# uses. As root. With --slim it leaves out what debian:bookworm-slim does: package lists, documentation, locales.
set -euo pipefail

root=$1 slim=${2:-}

# "URI SUITE" of Debian's own part main, as this machine's sources have it.
# shellcheck disable=SC2016 # apt replaces these
mapfile -t sources < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  sed -n 's/^\(\S*\/debian\(-security\)\?\/\?\) \(bookworm\S*\) main$/\1 \3/p' | sort -u)
mirror=$(printf '%s\n' "${sources[@]}" | sed -n 's/ bookworm$//p' | head -n 1)
if [ -z "$mirror" ]; then
  echo "debian_root.sh: this machine's sources name no mirror of Debian 12" >&2
  exit 1
fi

debootstrap --variant=minbase bookworm "$root" "$mirror" >"$root.log" 2>&1 || {
  tail -n 20 "$root.log" >&2
  exit 1
}
printf 'deb %s main\n' "${sources[@]}" >"$root/etc/apt/sources.list"
rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb

if [ "$slim" = --slim ]; then
  # For what is installed later; the same of what is there. A build that a crash ends begins anew: no syncs.
  cat >"$root/etc/dpkg/dpkg.cfg.d/slim" <<'CONFIG'
force-unsafe-io
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/man/*
CONFIG
  find "$root/usr/share/doc" -type f ! -name copyright -delete
  rm -rf "$root"/usr/share/{info,locale,man}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/{apt,debconf}/*
fi
