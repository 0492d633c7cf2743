# The images of the node and of the operator. With Docker:
#
#   docker build --target node -t REGISTRY/peernet-node:0.1.0 .
#   docker build --target operator -t REGISTRY/peernet-operator:0.1.0 .
#
# Binaries that were compiled elsewhere take the place of the build stage (dev/images does this):
#
#   docker build --target node --build-context build=DIR_WITH_THE_BINARIES .
ARG RUST=1.95

FROM rust:${RUST}-bookworm AS build
WORKDIR /src
COPY . .
# crt-static: one file without an interpreter, for an image with nothing else in it.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS='-C target-feature=+crt-static' cargo build --profile dist --locked --target "$target" \
      -p peernet-node -p peernet-operator \
 && cp "target/$target/dist/peernet-node" "target/$target/dist/peernet-operator" /

FROM scratch AS node
COPY --from=build /peernet-node /peernet-node
USER 65532:65532
# One heap for all threads: with one for every few of them, what each keeps adds up (docs/benchmarks.md, "At rest").
ENV MALLOC_ARENA_MAX=1
ENTRYPOINT ["/peernet-node"]

FROM scratch AS operator
COPY --from=build /peernet-operator /peernet-operator
USER 65532:65532
ENTRYPOINT ["/peernet-operator"]
