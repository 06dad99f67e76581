# One stage per image:
#
#   docker build --target operator   -t ip-sentry-operator:dev   .
#   docker build --target node-agent -t ip-sentry-node-agent:dev .
#
# `make images` does both. Both programs are linked statically, so that neither
# depends on the C library of the stage it ends up in.

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    make binaries OUT=/out

# The packet filter's command line tools as Debian packages them, and nothing
# else of Debian: every match and target a node's rules may use must be known
# to iptables-legacy-save, so all extensions come along.
FROM docker.io/library/debian:bookworm-slim AS xtables
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iptables \
 && mkdir -p /image/usr/sbin /image/run /image/tmp \
 && cd /usr/sbin \
 && for tool in iptables-legacy iptables-legacy-save iptables-legacy-restore \
      ip6tables-legacy ip6tables-legacy-save ip6tables-legacy-restore; do \
      ln -s xtables-legacy-multi "/image/usr/sbin/$tool"; \
    done \
 && cp xtables-legacy-multi /image/usr/sbin/ \
 && extensions=$(dirname "$(find /usr/lib -name libxt_set.so)") \
 && cp -L --parents "$extensions"/libxt_*.so "$extensions"/libipt_*.so "$extensions"/libip6t_*.so /image \
 && ldd xtables-legacy-multi "$extensions"/*.so | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/lib[^ ]*\) .*/\1/p' \
    | sort -u | xargs cp -L --parents -t /image

FROM scratch AS operator
LABEL org.opencontainers.image.title="ip-sentry-operator" \
      org.opencontainers.image.description="Reads gateways' access logs and creates an IPBan for each source that probes" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/ip-sentry-operator /ip-sentry-operator
USER 65532:65532
ENTRYPOINT ["/ip-sentry-operator"]

FROM scratch AS node-agent
LABEL org.opencontainers.image.title="ip-sentry-node-agent" \
      org.opencontainers.image.description="Drops the sources of IPBans in the kernel of the node it runs on" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=xtables /image /
COPY --from=build /out/ip-sentry-node-agent /usr/local/bin/ip-sentry-node-agent
ENV PATH=/usr/local/bin:/usr/sbin
ENTRYPOINT ["/usr/local/bin/ip-sentry-node-agent"]
