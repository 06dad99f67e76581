#!/usr/bin/env bash
# Run a long command quietly, but never silently.
#
#   ./progress.sh [-n LINES] WHAT COMMAND...
#
# The command's output goes to a log. Every 20 s one line on stderr says how
# long it has run, how many lines it has said (of about LINES), and the last.
# When it fails, the end of its output is shown and its exit status is ours.
set -uo pipefail
total=
if [ "$1" = -n ]; then
  total=" of about $2"
  shift 2
fi
what=$1
shift
log=$(mktemp "${TMPDIR:-/tmp}/ip-sentry-XXXXXX.log")
clock() { printf '%d:%02d' $((SECONDS / 60)) $((SECONDS % 60)); }
echo "$what" >&2
"$@" >"$log" 2>&1 </dev/null &
command=$!
trap 'kill "$command" 2>/dev/null; rm -f "$log"; exit 130' INT TERM
shown=0
while kill -0 "$command" 2>/dev/null; do
  sleep 0.2
  if [ $((SECONDS - shown)) -ge 20 ]; then
    shown=$SECONDS
    echo "  $(clock)  $(wc -l <"$log")$total: $(tail -n 1 "$log" | tr -d '\r' | sed 's/^ *//' | cut -c1-80)" >&2
  fi
done
status=0
wait "$command" || status=$?
if [ "$status" != 0 ]; then
  tail -n 40 "$log" >&2
  echo "failed after $(clock) with status $status: $*" >&2
  echo "its whole output: $log" >&2
  exit "$status"
fi
rm -f "$log"
[ "$SECONDS" -lt 5 ] || echo "  done in $(clock)" >&2
