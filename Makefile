# `make help` lists what there is. Everything runs on Debian 12 with Rust and Go
# as tests/e2e/cluster/versions.sh asks for them; the rest is installed when missing.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

KUBECTL ?= kubectl
# The overlay that `install` and `uninstall` work with.
OVERLAY ?= deploy/kustomize/overlays/default
# Where `images` tags its images to, for example REGISTRY=registry.example.com/team.
REGISTRY ?=
TAG ?= dev
# Where `binaries` puts the programs.
OUT ?= $(target)/images
# Where `plugin` puts the kubectl plugin.
PLUGIN_DIR ?= $(HOME)/.local/bin

cluster := tests/e2e/cluster
cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ip-sentry
deny_version := 0.20.2
deny := $(cache)/cargo-deny-$(deny_version)/bin/cargo-deny
auditable_version := 0.7.7
auditable := $(cache)/cargo-auditable-$(auditable_version)/bin/cargo-auditable
target := $(or $(CARGO_TARGET_DIR),target)
# Programs as they are released: static, so that they run on any distribution; a dynamic C library would also be a
# fifth of what a replay keeps in memory.
static := RUSTFLAGS='-C target-feature=+crt-static'
build_static = $(static) cargo build --release --locked --target $(host)
# The same, and each program carries the list of its crates, for scanners of images.
build_released = $(static) $(auditable) auditable build --release --locked --target $(host)
# Fails unless these programs carry that list.
carry_crates = @for program in $(1); do readelf --section-headers --wide "$$program" | grep -F .dep-v0 >/dev/null || \
  { echo "$$program does not name its crates" >&2; exit 1; }; done
host = $(shell rustc -vV | sed -n 's/^host: //p')

##@ Try it
demo: ## a real cluster with ip-sentry in it: a probe, its ban, its packets dropped (root; 20 min the first time, then 2)
	$(cluster)/demo.sh
demo-down: cluster-down ## end the demo's cluster; nothing of it stays

##@ Test
test_steps := versions packages fmt-check lint deny layers bench-instructions test-unit fuzz-short test-netns test-e2e
test: ## every test there is, with the time each step takes (root; 40 min the first time, then 20)
	@if [ -n "$$($(cluster)/cluster.sh leftovers)" ]; then echo "a lab's cluster is up: it is ended"; $(cluster)/cluster.sh down; fi
	@times=; \
	for step in $(test_steps); do \
	  echo "━━ $$step"; begin=$$SECONDS; \
	  $(MAKE) --no-print-directory $$step || { echo "━━ $$step failed after $$((SECONDS - begin)) s"; exit 1; }; \
	  times+="$$(printf '%5d s  %s' $$((SECONDS - begin)) $$step)"$$'\n'; \
	done; \
	printf '━━ all passed\n%s%5d s  in all\n' "$$times" $$SECONDS
test-unit: ## unit and property tests, and those against a fake API server
	cargo test --locked --workspace --exclude ip-sentry-e2e --lib --bins
	cargo test --locked --workspace --exclude ip-sentry-e2e --doc
fuzz: ## fuzz every parser, each for FUZZ_SECONDS (default 60); FUZZ_TARGETS names some of fuzz/targets
	fuzz/run.sh $(or $(FUZZ_SECONDS),60) $(FUZZ_TARGETS)
fuzz-short:
	fuzz/run.sh 6
test-netns: ## tests with the real kernel in network namespaces, and with a real API server (root)
	@IP_SENTRY_K8SLAB=$$($(cluster)/kubernetes/build.sh); export IP_SENTRY_K8SLAB; \
	echo "cargo test, the crates' tests/ folders"; \
	cargo test --locked --workspace --exclude ip-sentry-e2e --test '*'
test-e2e: ## tests on a real cluster; one that is up is used and stays up (root)
	@cargo test --locked -p ip-sentry-e2e --no-run
	@cargo build --locked -p ip-sentry-cli
	@was_up=no; ! $(cluster)/cluster.sh is-up || was_up=yes; \
	status=0; \
	{ $(cluster)/cluster.sh up && eval "$$($(cluster)/cluster.sh env)" && \
	  cargo test --locked -p ip-sentry-e2e -- --test-threads=4; } || status=$$?; \
	if [ $$was_up = no ]; then $(cluster)/cluster.sh down; $(cluster)/cluster.sh leftovers || status=1; fi; \
	exit $$status
bench-e2e: ## measure log line → dropped packet and the like on a real cluster (root)
	@$(cluster)/cluster.sh up; \
	eval "$$($(cluster)/cluster.sh env)"; \
	cargo bench --locked -p ip-sentry-e2e

bench-peers: ## compare bans and speed with fail2ban, CrowdSec, ripgrep and the predecessor (10 min; downloads them first)
	@$(cluster)/progress.sh "compiling the kubectl plugin as it is released" \
	  env $(build_static) -p ip-sentry-cli -p ip-sentry-bench-peers
	@benches/peers/prepare.sh '$(cache)/peers' '$(target)/$(host)/release/write-log'
	@benches/peers/bench.py --peers '$(cache)/peers' --program '$(target)/$(host)/release/kubectl-ip_sentry' \
	  --measure '$(target)/$(host)/release/measure' --write-log '$(target)/$(host)/release/write-log'
bench-stream: ## a pod's log at 20,000 lines/s: the operator's CPU and lag beside the predecessor's (3 min, and a release build)
	@$(cluster)/progress.sh "compiling the operator's stream as it is released" \
	  cargo build --release --locked -p ip-sentry-operator --bench stream
	@cargo build --release --locked -p ip-sentry-bench-peers
	@benches/peers/prepare.sh '$(cache)/peers' '$(target)/release/write-log'
	@follow=$$(cargo build --quiet --release --locked -p ip-sentry-operator --bench stream --message-format=json \
	  | sed -n '/"kind":\["bench"\]/s/.*"executable":"\([^"]*\)".*/\1/p'); \
	benches/peers/stream.py --peers '$(cache)/peers' --serve '$(target)/release/serve-log' --follow "$$follow"
bench-instructions: ## count the instructions for each line, and compare with benches/instructions.txt
	@benches/instructions.sh

##@ Check
fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml
fmt-check:
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
lint: ## clippy, with warnings as errors
	cargo clippy --locked --workspace --all-targets -- -D warnings
deny: $(deny) ## licences, sources, banned crates, advisories; the last line says what could not be checked
	$(deny) --log-level error check --hide-inclusion-graph bans licenses sources
	@if timeout 60 $(deny) fetch db >/dev/null 2>&1; then \
	  $(deny) check advisories && echo "deny: bans, licences, sources and advisories are checked"; \
	else echo "deny: bans, licences and sources are checked; NOT CHECKED: advisories (vulnerable, unmaintained and yanked crates), their database can't be reached from here"; fi
# In the images' build stage too, where the lab's scripts are not.
$(auditable):
	@echo "compiling cargo-auditable $(auditable_version), half a minute, once"
	env CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet cargo-auditable --version $(auditable_version) --locked --debug --root $(cache)/cargo-auditable-$(auditable_version)
$(deny):
	@$(cluster)/progress.sh "compiling cargo-deny $(deny_version), about 4 minutes, once" \
	  env CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version $(deny_version) --locked --debug --root $(cache)/cargo-deny-$(deny_version)
layers: ## ip-sentry-core does no I/O: no crate below it does
	@tree=$$(cargo tree --locked -p ip-sentry-core -e normal --prefix none --format '{p}' | cut -d' ' -f1 | sort -u); \
	if grep -xE 'tokio|kube.*|k8s-openapi|libc' <<<"$$tree"; then echo "ip-sentry-core must not depend on these" >&2; exit 1; fi; \
	echo "ip-sentry-core depends on $$(wc -l <<<"$$tree") crates, none of tokio, kube, k8s-openapi, libc"
versions:
	@$(cluster)/versions.sh
packages:
	@$(cluster)/packages.sh

##@ Build
binaries: $(auditable) ## both programs, released and static, into OUT (default target/images)
	$(build_released) -p ip-sentry-operator -p ip-sentry-node-agent
	$(call carry_crates,$(target)/$(host)/release/ip-sentry-operator $(target)/$(host)/release/ip-sentry-node-agent)
	install -D -t '$(OUT)' $(target)/$(host)/release/ip-sentry-operator $(target)/$(host)/release/ip-sentry-node-agent
plugin: $(auditable) ## the kubectl plugin, into PLUGIN_DIR (default ~/.local/bin): replay and explain
	$(build_released) -p ip-sentry-cli
	$(call carry_crates,$(target)/$(host)/release/kubectl-ip_sentry)
	install -D -t '$(PLUGIN_DIR)' $(target)/$(host)/release/kubectl-ip_sentry
	@case ":$$PATH:" in *":$(PLUGIN_DIR):"*) ;; *) echo "put $(PLUGIN_DIR) into PATH, and kubectl finds it";; esac
images: ## both images with docker, podman or buildah: make images REGISTRY=registry.example.com/team TAG=1.0
	@builder=; \
	for tool in docker podman buildah; do \
	  if command -v $$tool >/dev/null && $$tool info >/dev/null 2>&1; then builder=$$tool; break; fi; \
	done; \
	[ -n "$$builder" ] || { echo "make images needs docker, podman or buildah, and none of them works here" >&2; exit 1; }; \
	for image in operator node-agent; do \
	  name=$(if $(REGISTRY),$(REGISTRY:/=)/)ip-sentry-$$image:$(TAG); \
	  echo "$$builder builds $$name"; \
	  DOCKER_BUILDKIT=1 $$builder build --target $$image --tag $$name .; \
	done
manifests: ## write the CRDs anew from the Rust types
	cargo run --locked --quiet -p ip-sentry-crd --bin crdgen -- deploy/kustomize/crds

##@ Your own cluster
install: ## CRDs, operator and node agents with KUBECTL, from OVERLAY
	$(KUBECTL) apply --server-side -k deploy/kustomize/crds
	$(KUBECTL) wait --for=condition=Established --timeout=60s crd --selector=app.kubernetes.io/part-of=ip-sentry
	$(KUBECTL) apply -k $(OVERLAY)
	$(KUBECTL) --namespace ip-sentry rollout status deployment/ip-sentry-operator --timeout=180s
	$(KUBECTL) --namespace ip-sentry-node rollout status daemonset/ip-sentry-node-agent --timeout=180s
uninstall: ## all of ip-sentry with KUBECTL, also from the nodes' kernels
	KUBECTL='$(KUBECTL)' OVERLAY='$(OVERLAY)' deploy/uninstall.sh

##@ The test cluster
cluster-up: ## two real nodes on this machine (root)
	$(cluster)/cluster.sh up
cluster-down: ## end it; nothing of it stays
	@$(cluster)/cluster.sh down
	@$(cluster)/cluster.sh leftovers && echo "nothing of the cluster is left"

##@ Help
help: ## this list
	@awk -F ':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## /{printf "  %-18s %s\n", $$1, $$2}' Makefile

.PHONY: demo demo-down test test-unit fuzz fuzz-short test-netns test-e2e bench-e2e bench-peers bench-stream bench-instructions \
  fmt fmt-check lint deny layers versions packages \
  binaries plugin images manifests install uninstall cluster-up cluster-down help
