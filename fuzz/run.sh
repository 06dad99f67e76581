#!/usr/bin/env bash
# Fuzz each target for a while, as many at a time as there are processors.
#
#   ./run.sh SECONDS [TARGET...]    all targets when none is named
#
# Each begins with its seeds, and with what earlier runs on this machine found worth keeping (in the cache). What makes
# a target fail lies in the folder that is named at the end, with the command that runs it again.
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
[ $# -gt 0 ] || set -- $(ls targets | sed 's/\.rs$//')
target=${CARGO_TARGET_DIR:-$(cd .. && pwd)/target}/fuzz
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ip-sentry/fuzz

# Flags from outside are for other programs; the lock file is the workspace's, so that what is fuzzed is what runs.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUST_BACKTRACE
../tests/e2e/cluster/progress.sh "compiling the fuzz targets, 2 minutes the first time" \
  cargo build --locked --target-dir "$target" "${@/#/--bin=}" || {
  echo "when it is the lock file: cd fuzz && cp ../Cargo.lock . && cargo update --workspace" >&2
  exit 1
}

one() {
  local name=$1 log=$cache/$1.log
  mkdir -p "$cache/corpus/$name" "$cache/found"
  if ! "$target/debug/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 -dict=tokens.dict \
    -artifact_prefix="$cache/found/$name-" "$cache/corpus/$name" "seeds/$name" >"$log" 2>&1; then
    grep -A 3 -m 1 "panicked at\|^==.*ERROR" "$log" || tail -n 20 "$log"
    echo "$name FAILED. Again: $target/debug/$name $(sed -n 's/.*Test unit written to //p' "$log")"
    return 1
  fi
  # Uninstrumented it would try the seeds, see nothing new, and pass.
  grep -q 'inline 8-bit counters' "$log" || { echo "$name: the code is not instrumented"; return 1; }
  echo "$name: $(grep -o 'Done .*' "$log"), coverage $(grep DONE "$log" | grep -o 'cov: [0-9]*' | cut -d' ' -f2)"
}
export -f one
export seconds target cache
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'one {}'
