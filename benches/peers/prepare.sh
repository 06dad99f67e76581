#!/usr/bin/env bash
# Get what `make bench-peers` compares with into the cache: Debian's packages, unpacked and never installed, ripgrep as a
# crate, and the logs. What can't be had is named, and left out of the comparison.
#
#   ./prepare.sh PEERS WRITE_LOG    into the folder PEERS, with the program write-log
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
peers=$1
write_log=$2
ripgrep=15.2.0
progress=$here/../../tests/e2e/cluster/progress.sh
mkdir -p "$peers/logs"

for package in fail2ban crowdsec; do
  [ -d "$peers/$package" ] && continue
  (
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    cd "$download"
    # As nobody else: apt's own sandbox user may not write here.
    apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null &&
      dpkg -x "$package"_*.deb "$peers/$package.part" &&
      mv "$peers/$package.part" "$peers/$package"
  ) || echo "MISSING: Debian's $package can't be downloaded (apt-get update?): it is left out" >&2
done

if [ ! -x "$peers/ripgrep-$ripgrep/bin/rg" ]; then
  "$progress" "compiling ripgrep $ripgrep, once" \
    cargo install ripgrep --version "$ripgrep" --locked --root "$peers/ripgrep-$ripgrep" ||
    echo "MISSING: ripgrep $ripgrep can't be compiled: it is left out" >&2
fi

if [ ! -x "$peers/venv/bin/python" ]; then
  { /usr/bin/python3 -m venv "$peers/venv" || python3 -m venv "$peers/venv"; } &&
    "$peers/venv/bin/pip" install --quiet kubernetes ||
    { rm -rf "$peers/venv"; echo "MISSING: the Kubernetes client for Python can't be installed: it is left out" >&2; }
fi

# Logs of fixed bytes; the checksum is that of the research that the bars come from.
write() {
  local name=$1
  shift
  [ -s "$peers/logs/$name" ] && return
  "$write_log" "$@" >"$peers/logs/$name.part"
  mv "$peers/logs/$name.part" "$peers/logs/$name"
}
write access.log mix
write small.log mix --lines 200000 --attackers 500 --benign 20000
sum=d4d9eaf5f5615593dcbacb2a1bf2126e034efd2720d8a300638d2de188c782b3
[ "$(sha256sum <"$peers/logs/access.log" | cut -d' ' -f1)" = $sum ] || {
  echo "$peers/logs/access.log is not the log that the bars are for: remove it and try again" >&2
  exit 1
}
head -n 20000 "$peers/logs/small.log" >"$peers/logs/20k.log"
head -n 1 "$peers/logs/small.log" >"$peers/logs/1.log"
