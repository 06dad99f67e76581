#!/usr/bin/env bash
# Install the Debian packages that the tests and the lab cluster need (as root).
#
#   ./packages.sh           install what is missing
#   ./packages.sh --check   only name what is missing; exits 1 when something is
#
# A package is missing when its command is: a containerd or a docker that the
# machine already has from elsewhere is never replaced.
set -euo pipefail

wanted='
/usr/bin/cc                       gcc
/usr/bin/c++                      g++
/usr/include/stdio.h              libc6-dev
curl                              curl
git                               git
openssl                           openssl
python3                           python3
ip                                iproute2
nsenter                           util-linux
ps                                procps
modprobe                          kmod
iptables-legacy-restore           iptables
nft                               nftables
ipset                             ipset
conntrack                         conntrack
containerd                        containerd
ctr                               containerd
runc                              runc
/usr/lib/cni/host-local           containernetworking-plugins
mmdebstrap                        mmdebstrap
buildah                           buildah
valgrind                          valgrind
faketime                          faketime
'

missing=()
while read -r what package; do
  [ -n "$what" ] || continue
  case $what in
  /*) [ -e "$what" ] || missing+=("$package") ;;
  *) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null || missing+=("$package") ;;
  esac
done <<<"$wanted"
[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "${1-}" = --check ]; then
  echo "missing Debian packages: ${missing[*]}"
  exit 1
fi
[ "$(id -u)" = 0 ] || { echo "packages.sh: run as root, these Debian packages are missing: ${missing[*]}" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "packages.sh: needs Debian 12 (apt-get), or install by hand: ${missing[*]}" >&2; exit 1; }
echo "installing Debian packages: ${missing[*]}"
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "packages.sh: apt-get failed, its whole output is in $log" >&2
  exit 1
fi
rm -f "$log"
