# syntax=docker/dockerfile:1
# Image of drqm-replicator: one static binary on an empty base. From the repository's root:
#   docker build -f deploy/images/replicator.Dockerfile -t registry.example.com/drqm/drqm-replicator:0.1.0 .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The workspace builds for host-tuple with crt-static: the binary lies below the target's name.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package drqm-replicator \
    && install -D "target/$(rustc --print host-tuple)/release/drqm-replicator" /out/drqm-replicator

FROM scratch
LABEL org.opencontainers.image.title="drqm-replicator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /out/drqm-replicator /drqm-replicator
# Root: it serves block devices. The DaemonSet makes the container privileged.
USER 0:0
ENTRYPOINT ["/drqm-replicator"]
