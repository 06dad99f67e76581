#!/usr/bin/env bash
# Count the processor's instructions for each line of a log, and hold them against what benches/instructions.txt has.
#
#   ./instructions.sh            fails when a count is more than 5 % off, to either side
#   ./instructions.sh --record   writes the counts down, for the commit that changes them
#
# Instructions are the same on a busy machine, which times are not. The log is 20,000 lines as a gateway has them in 72
# seconds, and what the program takes to get ready (a log of one line) is not counted. valgrind knows AVX2: where the
# processor has none, other code runs and the counts differ.
set -euo pipefail
cd "$(dirname "$0")/.."
recorded=benches/instructions.txt
target=${CARGO_TARGET_DIR:-target}
lines=20000
regex='^(?<ip>\S+) \S+ \S+ \[(?<time>.+?)\] "(?:[A-Z]+) (?<path>\S+) \S+" \d+'

tests/e2e/cluster/progress.sh "compiling the engine, 1 minute the first time" \
  cargo build --release --locked -p ip-sentry-bench-peers --bin write-log --bin measure
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
"$target/release/write-log" mix --lines $lines --attackers 50 --benign 200000 --span 72 >"$logs/many"
head -n 1 "$logs/many" >"$logs/one"

instructions() {
  local said
  if ! said=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$target/release/measure" count "$@" 2>&1); then
    echo "$said" >&2
    return 1
  fi
  sed -n 's/.*Collected : //p' <<<"$said"
}

status=0
new=
while read -r name bar words; do
  read -ra words <<<"$words"
  [ "${words[*]-}" != regex ] || words=(--regex "$regex")
  many=$(instructions "${words[@]}" "$logs/many")
  one=$(instructions "${words[@]}" "$logs/one")
  count=$(((many - one) / (lines - 1)))
  was=$(awk -v name="$name" '$1 == name { print $2 }' "$recorded" 2>/dev/null || true)
  new+="$name $count"$'\n'
  verdict=
  [ "$count" -le "$bar" ] || verdict=', over the bar'
  echo "$name: $count instructions a line (recorded ${was:-never}, bar $bar$verdict)"
  if [ "${1-}" != --record ] && { [ -z "$was" ] || [ $((count * 100)) -gt $((was * 105)) ] || [ $((count * 100)) -lt $((was * 95)) ]; }; then
    status=1
  fi
done <<'FORMATS'
preset 900
regex 3000 regex
FORMATS
if [ "${1-}" = --record ]; then
  printf '# Instructions for each line, as benches/instructions.sh --record counts them.\n%s' "$new" >"$recorded"
elif [ $status != 0 ]; then
  echo "a count is more than 5 % off $recorded. If that is meant: benches/instructions.sh --record, and commit the file" >&2
fi
exit $status
