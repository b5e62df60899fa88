# One image for every role: `eve serve`, `eve worker`, `eve migrate`. scripts/image builds it.

ARG RUST=1.95
ARG DEBIAN=bookworm

# What compiles, and what plans how to: dependencies are built in a layer of their own, which stays until
# Cargo.lock changes.
FROM rust:${RUST}-slim-${DEBIAN} AS chef
# Postgres' own parser of SQL is C, and its bindings are made with libclang.
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
RUN cargo install --locked cargo-chef@0.1.78 cargo-auditable@0.7.7
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

FROM chef AS build
ENV SQLX_OFFLINE=true CARGO_INCREMENTAL=0
COPY --from=plan /recipe.json /recipe.json
RUN cargo chef cook --locked --release --package eve-host --recipe-path /recipe.json
COPY . .
# The list of dependencies is in the binary, where scanners of images find it (cargo-auditable).
RUN cargo auditable build --locked --release --package eve-host --bin eve \
    && install -D --strip --mode 755 target/release/eve /image/usr/local/bin/eve \
    && install -d --mode 700 --owner 65532 --group 65532 /image/var/cache/eve

# glibc, libgcc and certificates; no shell. Its user is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Eve Horizon" \
      org.opencontainers.image.description="Runs WebAssembly skills from a queue of requests, for many organisations at once" \
      org.opencontainers.image.source="https://github.com/eve-horizon/eve-horizon" \
      org.opencontainers.image.documentation="https://github.com/eve-horizon/eve-horizon/blob/main/docs/operating.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
ENV EVE_LISTEN=0.0.0.0:3000 \
    EVE_CACHE_DIR=/var/cache/eve/artifacts \
    EVE_LOG_FORMAT=json
USER 65532:65532
EXPOSE 3000
ENTRYPOINT ["/usr/local/bin/eve"]
CMD ["--help"]
