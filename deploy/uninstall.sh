#!/usr/bin/env bash
# Remove ip-sentry from a cluster, in the order that leaves nothing behind:
# policies, bans, operator and node agents, chain and sets on every node, CRDs.
#
#   deploy/uninstall.sh
#
#   KUBECTL   the kubectl to use                         default kubectl
#   OVERLAY   the overlay that was installed             default kustomize/overlays/default
#   PATIENCE  seconds to give the operator to let go of
#             the bans before they are taken from it     default 60
#
# It works with a broken operator, and may be run again after an interruption.
set -euo pipefail
cd "$(dirname "$0")/kustomize"
KUBECTL=${KUBECTL:-kubectl}
OVERLAY=${OVERLAY:-overlays/default}
PATIENCE=${PATIENCE:-60}
[[ $OVERLAY = /* || -d $OVERLAY ]] || OVERLAY=$OLDPWD/$OVERLAY
[ -d "$OVERLAY" ] || { echo "uninstall.sh: there is no folder $OVERLAY" >&2; exit 2; }
say() { echo "uninstall: $*"; }
run() { "$KUBECTL" "$@"; }
has() { run get crd "$1.ipsentry.dev" >/dev/null 2>&1; }
remove() { run delete --ignore-not-found "$@"; }
run version >/dev/null || { echo "uninstall.sh: no cluster answers to '$KUBECTL'" >&2; exit 2; }

# The image that runs on the nodes is the one that cleans them.
image=$(run -n ip-sentry-node get daemonset ip-sentry-node-agent \
  -o 'jsonpath={.spec.template.spec.containers[0].image}' --ignore-not-found)
image=${image:-${NODE_AGENT_IMAGE:-ip-sentry-node-agent:dev}}

if has probepolicies; then
  say "policies: nothing new is banned"
  remove probepolicies.ipsentry.dev --all --all-namespaces --timeout="${PATIENCE}s" ||
    say "some policies are still there after $PATIENCE s: going on"
fi
if has ipbans; then
  say "bans: lifted on every node, the operator writes their history"
  # One wait for all: without --wait=false kubectl would wait for one after the other.
  remove ipbans.ipsentry.dev --all --wait=false >/dev/null
  until=$((SECONDS + PATIENCE))
  while [ -n "$(run get ipbans.ipsentry.dev -o name)" ]; do
    if [ "$SECONDS" -ge "$until" ]; then
      say "the operator has not let go of all bans after $PATIENCE s: they are taken from it below"
      break
    fi
    sleep 0.5
  done
fi

say "operator and node agents"
remove -k "$OVERLAY" --timeout=180s >/dev/null
remove role,rolebinding --all-namespaces --selector=app.kubernetes.io/part-of=ip-sentry >/dev/null

# Bans that a broken operator held, or that it made in its last moment.
if has ipbans; then
  remove ipbans.ipsentry.dev --all --wait=false >/dev/null
  run get ipbans.ipsentry.dev -o name |
    xargs -r -n 100 "$KUBECTL" patch --type=merge --patch='{"metadata":{"finalizers":null}}' >/dev/null || true
fi

say "chain and sets on every node"
run kustomize components/cleanup | sed "s|image: ip-sentry-node-agent:dev\$|image: $image|" | run apply -f - >/dev/null
status=0
if run -n ip-sentry-node rollout status daemonset/ip-sentry-cleanup --timeout=300s >/dev/null; then
  remove -k components/cleanup --timeout=120s >/dev/null
else
  status=1
  echo "uninstall.sh: these nodes are not clean yet:" >&2
  run -n ip-sentry-node get pods --selector=app.kubernetes.io/name=ip-sentry-cleanup -o wide >&2
  echo "uninstall.sh: the cleaning goes on as nodes come back; end it with '$KUBECTL delete -k $PWD/components/cleanup'" >&2
fi

say "CRDs"
remove -k crds --timeout=120s >/dev/null
if [ "$status" = 0 ]; then say "nothing of ip-sentry is left"; fi
exit "$status"
