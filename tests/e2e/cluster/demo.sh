#!/usr/bin/env bash
# ip-sentry on a real cluster on this machine: `make demo`.
#
# Installs what is missing, builds everything, and shows one ban from the probe
# to the dropped packet and back. The cluster stays up; `make demo-down` ends it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
gateway=nginx-gateway-fabric
victim=203.0.113.7
step() { printf '\n\e[1m%s\e[0m\n' "$*"; }
show() { # runs a command and shows it as one would type it
  printf '\e[2m$ %s\e[0m\n' "$*" >&2
  "$@"
}
request() { # client path: the status, or 000 when nothing answers
  "$here/client.sh" exec "$1" curl --silent --max-time 0.25 --output /dev/null --write-out '%{http_code}' "http://10.99.0.11:30080$2" || true
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }
# Requests until one is answered, or is not; prints after how long. A request
# that was not answered counts from when it was sent, not when it gave up.
until_request_is() { # answered|dropped client
  local begin sent status
  begin=$(milliseconds)
  while :; do
    sent=$(milliseconds)
    status=$(request "$2" /)
    case $1,$status in
    dropped,000)
      echo $((sent - begin))
      return
      ;;
    answered,[1-9]*)
      echo $(($(milliseconds) - begin))
      return
      ;;
    esac
    [ $((sent - begin)) -lt 30000 ] || { echo "demo: no change after 30 s; see 'kubectl get probepolicies -A' and 'kubectl get ipbans,nodefirewalls'" >&2; exit 1; }
  done
}

cat <<'TEXT'
What happens now, and how long it takes on 2 cores the first time (later):
  1. check Rust, Go and root; install missing Debian packages    1 min  (0)
  2. build Kubernetes 1.37 from its Go modules                  10 min  (0)
  3. compile ip-sentry, make the images                          7 min  (0)
  4. start two real nodes, install ip-sentry and a gateway       1 min  (1 min)
  5. one ban, from the probe to the dropped packet and back      10 s
TEXT

step "1. What is needed"
"$here/versions.sh"
"$here/packages.sh"

step "2.-4. The cluster"
"$here/cluster.sh" up
eval "$("$here/cluster.sh" env)"
"$here/cluster.sh" gateway-api >/dev/null
show kubectl apply -f "$here/gateway.yaml"
show make --no-print-directory -C "$root" install KUBECTL=kubectl >/dev/null
show kubectl apply -f "$root/deploy/kustomize/examples/probe-policy.yaml"
kubectl --namespace $gateway rollout status deployment --timeout=60s >/dev/null
kubectl --namespace $gateway wait probepolicy/public-gateway --for=condition=LogsStreaming --timeout=60s >/dev/null
kubectl wait nodefirewalls --all --for=condition=Ready --timeout=60s >/dev/null
show kubectl get nodes -o wide
show kubectl get probepolicies --all-namespaces
show kubectl get nodefirewalls

step "5. One ban"
"$here/client.sh" add alice $victim 2001:db8::7
"$here/client.sh" add bob 203.0.113.8
kubectl delete ipban $victim --ignore-not-found >/dev/null
echo "alice is $victim, bob is 203.0.113.8. Both may read the site: alice $(request alice /), bob $(request bob /)."
echo "Now alice probes:"
for path in /wp-login.php /.env; do echo "  GET $path  $(request alice $path)"; done
took=$(until_request_is dropped alice)
echo "Two of the policy's patterns within its window: her request sent $took ms later was not answered any more. Bob: $(request bob /)."
show kubectl get ipbans
for n in 1 2; do
  echo "In the kernel of node-$n:"
  "$here/cluster.sh" node "$n" iptables-legacy --wait -L IP-BLOCKER -n -v
done
show kubectl delete ipban $victim
took=$(until_request_is answered alice)
echo "She was let in again $took ms after that: $(request alice /)."

step "The cluster stays up. Try:"
cat <<TEXT
  eval "\$($here/cluster.sh env)"                  # this shell's kubectl is the cluster's
  kubectl get ipbans --watch                      # in one terminal, and in another:
  $here/client.sh exec alice curl http://10.99.0.12:30080/{wp-admin,.env}
  kubectl explain probepolicy.spec
  kubectl -n $gateway describe probepolicy public-gateway
  kubectl apply -f $root/deploy/kustomize/examples/ip-ban.yaml
  kubectl get nodefirewalls -o yaml
  kubectl -n ip-sentry-node exec daemonset/ip-sentry-node-agent -- ip-sentry-node-agent list
  make demo-down                                  # ends it; nothing of it stays
TEXT
