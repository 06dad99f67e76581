# One stage per image:
#
#   docker build --target operator   -t ip-sentry-operator:dev   .
#   docker build --target node-agent -t ip-sentry-node-agent:dev .
#
# `make images` does both. Both programs are linked statically, so that neither
# depends on the C library of the stage it ends up in.
#
# What goes in is pinned: base images by the digest of their index (the tag tells
# people which it is), crates by Cargo.lock, Debian's packages by the base image's
# date. What came in can be read from the images: each program names
# its crates in its section .dep-v0 (cargo auditable), and the agent's image has
# Debian's own records of the packages in /var/lib/dpkg/status.d.
# CONTRIBUTING.md says how to raise the digests.
ARG RUST=docker.io/library/rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
ARG DEBIAN=docker.io/library/debian:bookworm-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251

FROM ${RUST} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/root/.cache \
    --mount=type=cache,target=/src/target \
    make binaries OUT=/out

# The packet filter's command line tools as Debian packages them, and nothing
# else of Debian: every match and target a node's rules may use must be known
# to iptables-legacy-save, so all extensions come along.
FROM ${DEBIAN} AS xtables
# The base image names the archive's snapshot that it was made of in a comment
# above each source. SNAPSHOT=no takes today's packages.
ARG SNAPSHOT=yes
RUN if [ "$SNAPSHOT" = yes ]; then \
      sources=/etc/apt/sources.list.d/debian.sources \
   && sed -i '/^URIs:/d; s/^# http/URIs: http/' "$sources" \
   && [ "$(grep -c '^URIs: .*/[0-9]\{8\}T[0-9]\{6\}Z$' "$sources")" = "$(grep -c '^Types:' "$sources")" ] \
   && echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/snapshot; \
    fi
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
RUN mkdir -p /image/var/lib/dpkg/status.d \
 && cp -L --parents /etc/os-release /image \
 && find /image -type f -printf '*/%f\n' | xargs dpkg-query --search | cut -d: -f1 | tr -d ' ' | tr ',' '\n' | sort -u \
    | while read -r package; do dpkg-query --status "$package" >"/image/var/lib/dpkg/status.d/$package" || exit 1; done

FROM scratch AS operator
COPY --from=build /out/ip-sentry-operator /ip-sentry-operator
USER 65532:65532
ENTRYPOINT ["/ip-sentry-operator"]

FROM scratch AS node-agent
COPY --from=xtables /image /
COPY --from=build /out/ip-sentry-node-agent /usr/local/bin/ip-sentry-node-agent
ENV PATH=/usr/local/bin:/usr/sbin
ENTRYPOINT ["/usr/local/bin/ip-sentry-node-agent"]
