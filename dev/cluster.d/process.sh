# Starting, finding and stopping processes. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034,SC2154,SC2317  # settings come from and go to dev/cluster; some functions are called by name

fail() { echo "dev/cluster: $*" >&2; exit 1; }

# until_ok SECONDS COMMAND...: repeats the command until it succeeds; fails loudly after the limit.
until_ok() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "dev/cluster: timed out waiting for: $*" >&2; return 1; }
    sleep 0.2
  done
}

# start PART NAME COMMAND...: in the background, logging to log/NAME.log. Every process carries its part of the
# cluster in its environment: unlike a file with a process id in it, that can never name somebody else's process.
start() {
  local part=$1 name=$2; shift 2
  PEERNET_CLUSTER_PART="$RUN#$part" setsid "$@" >>"$RUN/log/$name.log" 2>&1 </dev/null 9<&- &
}

# processes PART: ids of the processes of a part that are alive. Containers are not listed; they die with their node.
processes() {
  grep -lzxF "PEERNET_CLUSTER_PART=$RUN#$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true
}

none_left() { [ -z "$(processes "$1")" ]; }

# stop PART: at once, and back only when all of it is gone; everything here is disposable.
stop() {
  local pids
  kill_all() {
    pids=$(processes "$1")
    # shellcheck disable=SC2086  # one argument per process
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    none_left "$1"
  }
  until_ok 60 kill_all "$1"
}
