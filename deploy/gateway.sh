#!/usr/bin/env bash
# Starts the gateway SMG in front of one or more servers and leaves it running: users then have the OpenAI
# HTTP API (completions, chat, streaming). Can be run again and again: it then replaces the gateway that it
# started before.
#
#   deploy/gateway.sh                    before the server that deploy/run.sh started
#   deploy/gateway.sh HOST:PORT …        before these servers, each by its address for gateways
#   deploy/gateway.sh --listen=HOST:PORT --metrics_port=PORT …   (127.0.0.1:8080, 29000; or free ports)
#   deploy/gateway.sh --stop             ends the gateway that it started
#   deploy/gateway.sh … -- FLAGS         passes FLAGS to smg (see .venv-gateway/bin/smg launch --help)
#
# A server's address is what it says behind "gateways on" (nsa_server --gateway_listen), or, where it asks
# for neither TLS nor keys, behind "ready on".
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

listen=127.0.0.1:8080 metrics_port=29000 only_stop=false workers=()
while [ $# -gt 0 ]; do
  case $1 in
    --listen=*) listen=${1#*=} ;;
    --metrics_port=*) metrics_port=${1#*=} ;;
    --stop) only_stop=true ;;
    --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --) shift && break ;;
    -*) say "unknown option $1; see deploy/gateway.sh --help" && exit 2 ;;
    *) workers+=("$1") ;;
  esac
  shift
done
gateway_flags=("$@")

venv=$nsa_root/.venv-gateway
state=$nsa_cache/gateway
pid_file=$state/pid
log_file=$state/log

# The gateway that an earlier run started, if it still runs. A process that merely has its number by now
# is another program.
running_gateway() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) && [ -n "$pid" ] || return 1
  # SMG calls itself smg::router once it runs.
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -Eq 'smg launch|^smg::' && echo "$pid"
}

# Streams that run get 30 s (SMG's --shutdown-grace-period-secs below).
stop_gateway() { end_process gateway "$pid_file" running_gateway; }

# PORT of HOST, or a free one where something else listens there already.
free_port() {
  "$venv/bin/python" - "$@" <<'PYTHON'
import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
for wanted in (port, 0):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            continue
        print(probe.getsockname()[1])
        break
PYTHON
}

# Whether the gateway knows a model and has its tokenizer.
has_model() {
  "$venv/bin/python" - "$1" <<'PYTHON' 2>/dev/null
import json
import sys
import urllib.request

# No proxy: it is this machine.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(path):
    with opener.open(sys.argv[1] + path, timeout=5) as reply:
        return json.load(reply)


models = {model["id"] for model in ask("/v1/models")["data"]}
tokenizers = {tokenizer["name"] for tokenizer in ask("/v1/tokenizers")["tokenizers"]}
sys.exit(0 if models and models <= tokenizers else 1)
PYTHON
}

default_workers() {
  local log=$nsa_cache/server/log address=""
  if [ -r "$log" ]; then
    address=$(sed -n 's/^gateways on //p' "$log")
    [ -n "$address" ] || address=$(sed -n 's/^ready on //p' "$log")
  fi
  [ -n "$address" ] || die "no server's address given, and deploy/run.sh has started none"
  workers=("$address")
}

start_gateway() {
  local host=${listen%:*} port=${listen##*:} url tenths pid
  host=${host#[} host=${host%]}
  port=$(free_port "$host" "$port")
  [ -n "$port" ] || die "cannot listen on $listen"
  metrics_port=$(free_port 127.0.0.1 "$metrics_port")
  url=http://${listen%:*}:$port
  mkdir -p "$state"
  # A replica that hangs is found within seconds, and not after SMG's three minutes.
  setsid nohup "$venv/bin/smg" launch --host "$host" --port "$port" \
    --prometheus-host 127.0.0.1 --prometheus-port "$metrics_port" \
    --worker-urls "${workers[@]/#/grpc://}" --policy cache_aware \
    --health-check-interval-secs 5 --health-check-timeout-secs 2 --health-failure-threshold 2 \
    --shutdown-grace-period-secs 30 \
    "${gateway_flags[@]}" </dev/null >"$log_file" 2>&1 &
  pid=$!
  echo "$pid" >"$pid_file"
  for ((tenths = 0; tenths < 1200; ++tenths)); do
    if has_model "$url"; then
      say "SMG runs as process $pid (log $log_file)"
      echo "OpenAI API on $url/v1"
      echo "metrics on port $metrics_port"
      return 0
    fi
    if ! kill -0 "$pid" 2>/dev/null; then
      rm -f "$pid_file"
      tail -n 20 "$log_file" >&2
      die "the gateway did not start"
    fi
    sleep 0.1
  done
  die "the gateway knows no model after 2 minutes; see $log_file, and whether ${workers[*]} answer"
}

stop_gateway
$only_stop && exit 0
run_stage "gateway" install_requirements "$nsa_root/deploy/image/gateway-requirements.txt" "$venv"
[ "${#workers[@]}" -gt 0 ] || default_workers
start_gateway
