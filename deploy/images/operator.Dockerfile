# syntax=docker/dockerfile:1
# Image of drqm-operator: one static binary on an empty base. From the repository's root:
#   docker build -f deploy/images/operator.Dockerfile -t registry.example.com/drqm/drqm-operator:0.1.0 .

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The workspace builds for host-tuple with crt-static: the binary lies below the target's name.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package drqm-operator \
    && install -D "target/$(rustc --print host-tuple)/release/drqm-operator" /out/drqm-operator

FROM scratch
LABEL org.opencontainers.image.title="drqm-operator" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /out/drqm-operator /drqm-operator
USER 65532:65532
ENTRYPOINT ["/drqm-operator"]
