#!/usr/bin/env bash
# Check what can't be installed from Debian's packages: Rust, Go, and root.
#
#   ./versions.sh
set -euo pipefail
bad=0
need() {
  echo "$1" >&2
  bad=1
}
rust=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
case $rust in
"") need "Rust 1.95 or newer is needed, and there is no rustc: see rust-lang.org/tools/install" ;;
1.[0-9].* | 1.[0-8][0-9].* | 1.9[0-4].*) need "Rust 1.95 or newer is needed, this is $rust: run 'rustup update stable'" ;;
esac
go=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || true
case $go in
go1.26 | go1.26.*) ;;
"") need "Go 1.26 is needed to build Kubernetes, and there is no go: see go.dev/dl" ;;
*) need "Go 1.26 is needed to build Kubernetes 1.37, this is $go (with 1.27 its API server answers wrongly): see go.dev/dl" ;;
esac
[ "$(id -u)" = 0 ] || need "root is needed: nodes are network namespaces, mounts and cgroups"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || need "Linux on x86-64 is needed, this is $(uname -s) on $(uname -m)"
if [ "$bad" = 0 ]; then
  . /etc/os-release
  [ "${ID-}-${VERSION_ID-}" = debian-12 ] || echo "note: this is ${PRETTY_NAME-unknown}; only Debian 12 has been tried" >&2
  echo "Rust $rust, ${go/go/Go }, ${PRETTY_NAME-}"
fi
exit "$bad"
