# shellcheck shell=bash
# What deploy/*.sh and tests/run.sh share. Sourced by bash scripts that have set -euo pipefail.

nsa_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
nsa_cache=${NSA_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/nsa-serve}
nsa_venv=$nsa_root/.venv
# The compiler's cache is told that paths below the tree are relative, and goes by the language and by the compiler's
# bytes: so that trees elsewhere, an image's build too, share it.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$nsa_root} CCACHE_COMPILERCHECK=content LANG=C.UTF-8 LC_ALL=C.UTF-8
unset LC_CTYPE LC_MESSAGES

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# time_stage TITLE COMMAND...: runs the command in a subshell, prints how long it took, leaves its status
# in stage_status. Call it and the two below as plain commands: as part of a condition, bash would go on
# after a failure inside COMMAND.
time_stage() {
  local title=$1 begin=$EPOCHREALTIME outcome="done"
  shift
  say "== $title"
  set +e
  (set -e && "$@")
  stage_status=$?
  set -e
  [ "$stage_status" -eq 0 ] || outcome="FAILED (status $stage_status)"
  say "== $title: $outcome in $(seconds_since "$begin") s"
}

# A stage that the rest needs: a failure ends the script.
run_stage() {
  time_stage "$@"
  [ "$stage_status" -eq 0 ] || exit "$stage_status"
}

# A stage whose failure leaves the rest worth running; its title joins failed_stages.
failed_stages=()
try_stage() {
  time_stage "$@"
  [ "$stage_status" -eq 0 ] || failed_stages+=("$1")
}

# Seconds with one decimal since BEGIN, a value of EPOCHREALTIME.
seconds_since() {
  local begin=${1/./} now=${EPOCHREALTIME/./}
  local tenths=$(((now - begin) / 100000))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "no root rights and no sudo, which are needed for: $*"
  fi
}

# end_process WHAT PID_FILE RUNNING: ends the process whose number the function RUNNING prints, if it prints one: SIGTERM,
# after 35 s SIGKILL. PID_FILE then goes.
end_process() {
  local what=$1 pid_file=$2 running=$3 pid tenths
  if pid=$("$running"); then
    say "ending the $what that runs as process $pid"
    kill -TERM "$pid" 2>/dev/null || true
    for ((tenths = 0; tenths < 400; ++tenths)); do
      "$running" >/dev/null || break
      [ "$tenths" -ne 350 ] || kill -KILL "$pid" 2>/dev/null || true
      sleep 0.1
    done
  fi
  rm -f "$pid_file"
}

# Names of FILE (one a line, # begins a comment) that dpkg does not have as installed.
missing_packages() {
  local wanted
  mapfile -t wanted < <(sed 's/#.*//' "$1" | tr -s '[:space:]' '\n' | sed '/^$/d')
  comm -23 <(printf '%s\n' "${wanted[@]}" | sort -u) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort -u)
}

# install_packages [LIST]: installs what is missing of LIST, deploy/apt-packages.txt by default; nothing
# missing, nothing asked.
install_packages() {
  local list=${1:-$nsa_root/deploy/apt-packages.txt} missing
  command -v dpkg-query >/dev/null ||
    die "this is no Debian: install the counterparts of $list yourself"
  mapfile -t missing < <(missing_packages "$list")
  [ "${#missing[@]}" -gt 0 ] || return 0
  say "installing ${missing[*]}"
  as_root apt-get -o DPkg::Lock::Timeout=300 -qq update ||
    die "apt-get update failed; install these yourself: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq -y \
    --no-install-recommends install "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}; this is for Debian 12 (bookworm)"
}

# unpack_package NAME DIR: the files of Debian's package NAME under DIR, nothing installed: no service of it
# starts, and no rights are needed. Once per DIR.
unpack_package() {
  local name=$1 dir=$2 work
  [ ! -d "$dir" ] || return 0
  mkdir -p "$(dirname "$dir")"
  work=$(mktemp -d)
  # apt fetches as a user of its own, who must be able to write here.
  chmod 777 "$work"
  # A machine may have no lists of packages, or old ones.
  (cd "$work" && apt-get -qq download "$name" >/dev/null 2>&1) ||
    (as_root apt-get -qq update && cd "$work" && apt-get -qq download "$name" >/dev/null) ||
    die "cannot fetch the package $name"
  (cd "$work" && dpkg-deb -x ./*.deb tree)
  chmod 755 "$work/tree"
  # Into place at once: whoever looks sees no tree or a whole one.
  cp -r "$work/tree" "$dir.$$"
  rm -rf "$work"
  mv -T "$dir.$$" "$dir" 2>/dev/null || rm -rf "$dir.$$"
  [ -d "$dir" ]
}

# A virtual environment at DIR (by default .venv) with pip in it. Debian's interpreter comes first: one
# that somebody built may lack venv or be too old.
make_venv() {
  local venv=${1:-$nsa_venv} python
  if "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    return 0
  fi
  for python in /usr/bin/python3 python3; do
    if "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      rm -rf "$venv"
      "$python" -m venv "$venv"
      return 0
    fi
  done
  die "no python3 of version 3.10 or later with venv; on Debian: apt-get install python3-venv"
}

# FILE and the lists that it names with -r, which stand where it says.
requirement_files() {
  local nested
  realpath "$1"
  while read -r nested; do
    requirement_files "$(dirname "$1")/$nested"
  done < <(sed -n 's/^-r  *//p' "$1")
}

# install_requirements FILE VENV: what the pinned list says, once per content of it and of the lists in it.
install_requirements() {
  local list=$1 venv=$2 stamp=$2/.requirements.sha256 files
  make_venv "$venv"
  sha256sum --status --check "$stamp" 2>/dev/null && return 0
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$list" ||
    die "pip could not install $list into $venv"
  mapfile -t files < <(requirement_files "$list")
  sha256sum "${files[@]}" >"$stamp"
}

# Sources that the build needs into .deps, with a pip that is known to work.
fetch_sources() {
  make_venv
  PATH=$nsa_venv/bin:$PATH "$nsa_root/deploy/fetch_sentencepiece.sh"
  PATH=$nsa_venv/bin:$PATH "$nsa_root/deploy/fetch_xgrammar.sh"
}

# build PRESET [TARGET...]: configures where needed and builds.
build() {
  local preset=$1
  shift
  local targets=()
  [ $# -eq 0 ] || targets=(--target "$@")
  cd "$nsa_root"
  local log=build/$preset/configure.log
  mkdir -p "build/$preset"
  if ! cmake --preset "$preset" >"$log" 2>&1; then
    cat "$log" >&2
    die "CMake could not configure the preset $preset"
  fi
  cmake --build --preset "$preset" --parallel "$(nproc)" "${targets[@]}"
}

# Prints the policy manual's text, which debian-policy ships. Where an image leaves documentation out
# (dpkg's path-exclude), it is taken from the package's own archive.
manual_text() {
  local installed=/usr/share/doc/debian-policy/policy.txt.gz kept=$nsa_cache/debian-policy
  if [ ! -r "$installed" ]; then
    unpack_package debian-policy "$kept"
    installed=$kept$installed
  fi
  gzip -dc "$installed"
}
