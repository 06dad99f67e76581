OUT ?= target/images
.PHONY: binaries
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
binaries: ## static release binaries of both programs into OUT
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target $(HOST) -p ip-sentry-operator -p ip-sentry-node-agent
	install -D -t $(OUT) target/$(HOST)/release/ip-sentry-operator target/$(HOST)/release/ip-sentry-node-agent
