#!/usr/bin/env bash
# A real Kubernetes on this machine, for ip-sentry's tests and demo.
#
#   ./cluster.sh build               build Kubernetes, unless that is done
#   ./cluster.sh images              make the nodes' images; prints the archives' paths
#   ./cluster.sh up                  two dual-stack nodes, both Ready
#   ./cluster.sh down                end it; nothing of it stays
#   ./cluster.sh leftovers           name what a lab has left on the machine; exits 1 if anything
#   ./cluster.sh is-up               exits 0 when it is
#   ./cluster.sh status              nodes, pods, processes
#   ./cluster.sh env                 shell lines: eval "$(./cluster.sh env)" for kubectl
#   ./cluster.sh load                load images that have changed into the running nodes, restart their pods
#   ./cluster.sh stop PART           end apiserver, etcd, kcm or scheduler at once
#   ./cluster.sh start               start the parts that are not running, and wait for them
#   ./cluster.sh node N COMMAND...   run a command on node N, as root on it would
#   ./cluster.sh gateway-api         install the Gateway API's definitions
#
# Node 1 has kube-proxy in iptables mode with iptables-legacy, node 2 in
# nftables mode. `up` and `down` need root; see client.sh for clients, and
# lab.sh for the settings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
lab_scripts=$here
export LAB_IP=10.99.0.1
. "$here/lab.sh"
need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root"; }

is_up() {
  local name
  for name in etcd apiserver kcm scheduler node-1 node-2; do alive "$name" || return; done
  [ "$(kubectl get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" = "True True" ]
}

up() {
  local started=$SECONDS images
  need_root up
  "$here/packages.sh"
  K8SLAB=${K8SLAB:-$("$here/kubernetes/build.sh")}
  export K8SLAB
  need_binary
  images=$("$here/images.sh")
  if is_up 2>/dev/null; then
    say "the cluster is up already"
    load "$images"
    return
  fi
  down # whatever an earlier lab left, after a crash or a restart of the machine
  started=$SECONDS
  # Not all are modules everywhere, and most are loaded on demand where they are.
  modprobe --all --quiet br_netfilter overlay ip_tables ip6_tables ip_set ip_set_hash_net nf_tables 2>/dev/null || true
  say "starting the control plane"
  "$here/node-up.sh" link
  "$here/up.sh" >/dev/null
  say "starting two nodes"
  LAB_IMAGES=$images LAB_IPTABLES=legacy "$here/node-up.sh" 1 >/dev/null &
  LAB_IMAGES=$images "$here/node-up.sh" 2 >/dev/null &
  if ! { wait -n && wait -n; }; then die "a node did not come up"; fi
  echo "$images" >"$LAB_DIR/images"
  say "the cluster is up after $((SECONDS - started)) s"
}

down() {
  local id
  need_root down
  "$here/down.sh"
  # Whatever is left when the state folder went before the processes did.
  for id in $(lab_processes); do kill -9 "$id" 2>/dev/null || true; done
  "$here/node-down.sh"
  if [ -e "$LAB_DIR" ]; then rm -rf "$LAB_DIR"/node-* "$LAB_DIR/run"; fi
  rmdir "$LAB_DIR" 2>/dev/null || true
}

leftovers() {
  local left
  left=$(
    for id in $(lab_processes); do echo "process $id $(tr '\0' ' ' <"/proc/$id/cmdline" | cut -c1-80)"; done
    awk -v "lab=$LAB_DIR/" -v "node=/run/netns/$node_space" -v "client=/run/netns/$client_space" \
      'index($5, lab) == 1 || index($5, node) == 1 || index($5, client) == 1 { print "mount " $5 }' /proc/self/mountinfo
    lab_spaces | sed 's/^/network namespace /'
    lab_cgroups | sed 's/^/cgroup /'
    ip -o link | sed -n "s/^[0-9]*: \(\($bridge\|ipsc-\)[^@: ]*\).*/link \1/p"
    { ip route; ip -6 route; } | grep -w "dev $bridge" | sed 's/^/route /'
    if [ -e "$LAB_DIR" ]; then echo "folder $LAB_DIR"; fi
  ) || true
  [ -n "$left" ] || return 0
  echo "$left"
  return 1
}

status() {
  local name
  for name in etcd apiserver kcm scheduler node-1 node-2; do
    if alive "$name"; then say "$name runs"; else say "$name does not run"; fi
  done
  if alive apiserver; then kubectl get nodes -o wide && kubectl get pods --all-namespaces -o wide; fi
}

environment() {
  cat <<ENV
export KUBECONFIG='$LAB_DIR/kubeconfig'
export KUBECTL='$(dirname "$bin")/kubectl'
export LAB_DIR='$LAB_DIR'
export PATH='$(dirname "$bin")':"\$PATH"
ENV
}

load() { # archives
  local images=$1 name image space
  if [ "$images" = "$(cat "$LAB_DIR/images" 2>/dev/null)" ]; then return; fi
  say "loading new images"
  for name in node-1 node-2; do
    alive "$name" || die "$name does not run: '$here/cluster.sh up' first"
    for image in $images; do
      ctr --address "$LAB_DIR/$name/containerd.sock" --namespace k8s.io images import "$image" >/dev/null
    done
  done
  echo "$images" >"$LAB_DIR/images"
  # Pods of the same tag don't notice.
  for space in ip-sentry ip-sentry-node; do
    if kubectl get namespace "$space" >/dev/null 2>&1; then
      kubectl --namespace "$space" rollout restart deployment,daemonset >/dev/null
    fi
  done
}

on_node() { # N command...
  local id
  read -r id _ <"$runs/node-$1" 2>/dev/null || die "node $1 does not run"
  shift
  # Its network, mounts and processes; `ip netns exec` would give only the network.
  id=$(cat "/proc/$id/task/$id/children")
  exec nsenter --target "${id%% *}" --net --mount --pid -- "$@"
}

# Version and checksum of the Gateway API's module; 1.7 needs a newer Go.
gateway_api=sigs.k8s.io/gateway-api@v1.6.3
gateway_api_sum=h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=
gateway_api() {
  local module kind files=()
  module=$(cd / && GOTOOLCHAIN=local go mod download -json "$gateway_api") || die "$gateway_api can't be fetched: $module"
  grep -qF "\"Sum\": \"$gateway_api_sum\"" <<<"$module" || die "$gateway_api does not have the checksum $gateway_api_sum"
  module=$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<<"$module")
  for kind in gatewayclasses gateways httproutes; do
    files+=(--filename "$module/config/crd/standard/gateway.networking.k8s.io_$kind.yaml")
  done
  kubectl apply --server-side "${files[@]}"
  kubectl wait --for=condition=Established --timeout=30s "${files[@]}" >/dev/null
}

verb=${1-}
[ $# = 0 ] || shift
case $verb in
build) "$here/kubernetes/build.sh" ;;
images) "$here/packages.sh" && "$here/images.sh" ;;
up) up ;;
down) down ;;
leftovers) leftovers ;;
is-up) bin=$(kubernetes_binary) && is_up 2>/dev/null ;;
status | env | load | stop | start | node | gateway-api)
  need_binary
  case $verb in
  env) environment ;;
  start) "$here/up.sh" >/dev/null ;;
  stop) stop "${1:?usage: cluster.sh stop apiserver|etcd|kcm|scheduler}" ;;
  node) on_node "$@" ;;
  gateway-api) gateway_api ;;
  load) load "$("$here/images.sh")" ;;
  *) "$verb" ;;
  esac
  ;;
*)
  sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
esac
