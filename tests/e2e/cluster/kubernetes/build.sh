#!/usr/bin/env bash
# Build Kubernetes from its Go modules: one binary that is all of its programs.
#
#   ./build.sh          build it unless that is done; prints the binary's path
#   ./build.sh --path   only print that path
#
# The binary is kept in ${XDG_CACHE_HOME:-~/.cache}/ip-sentry under a key made
# of everything that goes in, so every checkout of the same sources shares it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
# The machine's own Go or none: never a toolchain fetched behind our back. 1.26,
# because with 1.27's default JSON the API server's /openapi/v2 answers 503.
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-trimpath -buildvcs=false"
go=$(go env GOVERSION 2>/dev/null) || go="no go"
case $go in go1.26.*) ;; *) echo "build.sh: needs Go 1.26, this machine has $go" >&2; exit 1 ;; esac

release=$(sed -n 's/^	k8s.io\/kubernetes \(v[^ ]*\).*/\1/p' go.mod | head -n 1)
# Without these the server calls itself v0.0.0-master+$Format:%H$.
minor=${release#v1.}
minor=${minor%%.*}
flags=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=" -X $package.gitVersion=$release -X $package.gitMajor=1 -X $package.gitMinor=$minor"
  flags+=" -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done
options=(-mod=readonly "-tags=selinux,notest,grpcnotrace" "-ldflags=-s -w$flags")

key=$(cat go.mod go.sum main.go <(echo "$go $(go env GOOS GOARCH) $GOFLAGS ${options[*]}") | sha256sum | cut -c1-12)
out=${XDG_CACHE_HOME:-$HOME/.cache}/ip-sentry/kubernetes-$release-$key
if [ "${1-}" = --path ]; then
  echo "$out/k8slab"
  exit
fi
mkdir -p "$out"
exec 9>"$out/lock"
flock 9 # a second build of the same waits for the first
if [ -x "$out/k8slab" ]; then
  echo "$out/k8slab"
  exit
fi

# go names each module that it fetches and each package that it compiles.
../progress.sh -n 2500 "building Kubernetes ${release#v} from its Go modules, about 10 minutes on 2 cores the first time" \
  go build -v "${options[@]}" -o "$out/k8slab.new" . 9>&-
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl etcd; do
  ln -sfn k8slab "$out/$name"
done
mv "$out/k8slab.new" "$out/k8slab"
echo "$out/k8slab"
