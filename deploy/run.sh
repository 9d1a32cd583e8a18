#!/usr/bin/env bash
# Installs what is missing, builds, fetches the default model, starts the server, streams the answer to
# a question about a long document, and leaves the server running. Can be run again and again: it then
# replaces the server that it started before.
#
#   deploy/run.sh                        all of that with the default model
#   deploy/run.sh --model=PATH           serves a GGUF file or a folder of one's own
#   deploy/run.sh --model=nsa-tiny       serves the model in training/models, with no download; it also takes the
#                                        default model's place where that cannot be fetched
#   deploy/run.sh --listen=HOST:PORT     gRPC address     (127.0.0.1:50051, or a free port)
#   deploy/run.sh --metrics_listen=HOST:PORT  /metrics    (127.0.0.1:9090, or a free port)
#   deploy/run.sh --no-demo              starts the server only
#   deploy/run.sh --stop                 ends the server that it started
#   deploy/run.sh … -- FLAGS             passes FLAGS to nsa_server (see nsa_server --help)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

model="" listen="" metrics_listen="" demo=true only_stop=false
while [ $# -gt 0 ]; do
  case $1 in
    --model=*) model=${1#*=} ;;
    --listen=*) listen=${1#*=} ;;
    --metrics_listen=*) metrics_listen=${1#*=} ;;
    --no-demo) demo=false ;;
    --stop) only_stop=true ;;
    --help) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --) shift && break ;;
    *) say "unknown option $1; see deploy/run.sh --help" && exit 2 ;;
  esac
  shift
done
server_flags=("$@")

state=$nsa_cache/server
pid_file=$state/pid
log_file=$state/log
server=$nsa_root/build/release/nsa_server
client=$nsa_root/build/release/nsa_client

# The server that an earlier run started, if it still runs. A process that merely has its number by now
# is another program.
running_server() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = nsa_server ] && echo "$pid"
}

stop_server() { end_process server "$pid_file" running_server; }

# HOST:PORT, or a free port of HOST where something else listens there already.
free_address() {
  local host=${1%:*} port=${1##*:}
  if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
    say "port $port is in use by another program; taking a free one"
    echo "$host:0"
  else
    echo "$1"
  fi
}

start_server() {
  mkdir -p "$state"
  : >"$log_file"
  setsid nohup "$server" --model="$model" --listen="$listen" --metrics_listen="$metrics_listen" \
    "${server_flags[@]}" </dev/null >>"$log_file" 2>&1 &
  local pid=$!
  echo "$pid" >"$pid_file"
  local tenths
  for ((tenths = 0; tenths < 6000; ++tenths)); do
    if grep -q '^ready on ' "$log_file"; then
      "$client" info --server="$(ready_address)" >/dev/null || die "the server gives no answer; see $log_file"
      return 0
    fi
    if ! kill -0 "$pid" 2>/dev/null; then
      rm -f "$pid_file"
      cat "$log_file" >&2
      die "the server did not start"
    fi
    sleep 0.1
  done
  die "the server is not ready after 10 minutes; see $log_file"
}

ready_address() { sed -n 's/^ready on //p' "$log_file"; }
metrics_port() { sed -n 's/^metrics on port //p' "$log_file"; }

# A field of what the server says of its model; nothing where it has none.
model_info() {
  "$client" info --server="$(ready_address)" --json | sed -n 's/.*"'"$1"'": *"\{0,1\}\([a-z0-9]*\).*/\1/p'
}

# WANTED bytes of a document, or what fits where the model's context is short: English has about four bytes a token, and
# a question and an answer follow.
fitting_bytes() {
  local bytes=$1 max_context
  max_context=$(model_info max_context)
  if [ -n "$max_context" ] && [ $((3 * max_context - 1024)) -lt "$bytes" ]; then
    bytes=$((3 * max_context - 1024))
    [ "$bytes" -gt 0 ] || die "a context of $max_context tokens is too short for the demonstration; use --no-demo"
    say "the model's context of $max_context tokens holds $bytes bytes of the document"
  fi
  echo "$bytes"
}

# A document of some 34,000 tokens and a question about it.
question="In one sentence, what does this document describe?"
stream_demo() {
  local document=$state/document.txt bytes
  bytes=$(fitting_bytes 140000)
  manual_text >"$document.whole"
  head -c "$bytes" "$document.whole" >"$document"
  rm -f "$document.whole"
  say "document: $bytes bytes of the Debian policy manual ($document)"
  say "question: $question"
  "$client" chat --server="$(ready_address)" --prompt_file="$document" --question="$question" \
    --temperature=0 --max_tokens=96
}

# For models that cannot chat: a key hidden in some 60,000 tokens of this project's own text, in the words that nsa-tiny
# was taught.
needle_demo() {
  local document=$state/document.txt key=$((10000 + (RANDOM * 32768 + RANDOM) % 90000)) depth=$((RANDOM % 90 + 5))
  local bytes at
  bytes=$(fitting_bytes 200000)
  at=$((bytes * depth / 100))
  (cd "$nsa_root" && find ./*.md docs engine kernels server -type f \( -name '*.md' -o -name '*.h' \) -print0 |
    LC_ALL=C sort -z | xargs -0 cat) >"$document.whole"
  {
    head -c "$at" "$document.whole" | sed '$d'
    echo "The pass key is $key. Remember it. $key is the pass key."
    head -c "$bytes" "$document.whole" | tail -c +"$((at + 1))" | sed '1d;$d'
    printf 'What is the pass key? The pass key is'
  } >"$document"
  rm -f "$document.whole"
  say "document: $(wc -c <"$document") bytes of this project's text ($document), the key $key hidden at $depth %"
  say "question: What is the pass key? The pass key is"
  "$client" complete --server="$(ready_address)" --prompt_file="$document" --temperature=0 --max_tokens=8 --stop=.
}

if $only_stop; then
  stop_server
  exit 0
fi
nsa_tiny=$nsa_root/training/models/nsa_tiny
[ "$model" != nsa-tiny ] || model=$nsa_tiny
[ -z "$model" ] || [ -r "$model" ] || die "--model: cannot read '$model'"

begin=$EPOCHREALTIME
run_stage "Debian packages" install_packages
run_stage "Sources of SentencePiece and xgrammar" fetch_sources
run_stage "build" build release nsa_server nsa_client
if [ -z "$model" ]; then
  fetch_default_model() { "$nsa_root/deploy/fetch_model.sh" >/dev/null; }
  time_stage "default model" fetch_default_model
  model=$nsa_tiny
  if [ "$stage_status" -eq 0 ]; then
    model=$("$nsa_root/deploy/fetch_model.sh")
  else
    say "the default model cannot be fetched: serving nsa-tiny, which is part of this tree"
  fi
fi
run_stage "ending an earlier server" stop_server
[ -n "$listen" ] || listen=$(free_address 127.0.0.1:50051)
[ -n "$metrics_listen" ] || metrics_listen=$(free_address 127.0.0.1:9090)
run_stage "server" start_server
if [ "$(model_info has_chat_template)" = true ]; then
  ask="chat --prompt='Hello'"
  demonstrate() { run_stage "a long document and a question" stream_demo; }
else
  ask="complete --prompt='The kernel is' --max_tokens=20"
  demonstrate() { run_stage "a key in a long document" needle_demo; }
fi
! $demo || demonstrate

cat <<EOF

All in $(seconds_since "$begin") s. The server runs as process $(cat "$pid_file") and serves $model.
  ask it       $client $ask --server=$(ready_address) --temperature=0
  see it all   $client --help;  $server --help
  metrics      http://${metrics_listen%:*}:$(metrics_port)/metrics
  log          $log_file
  end it       $nsa_root/deploy/run.sh --stop
EOF
