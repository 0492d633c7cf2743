# Everything a person runs here. `just` lists it.

_default:
    @just --list --unsorted

# Five peers on this machine, without Kubernetes.
demo *ARGS:
    cargo run --release -- up {{ARGS}}

# All tests, up to a real Kubernetes cluster on this machine (root).
test *ARGS:
    dev/test {{ARGS}}

# PeerNet beside Garage, MinIO and the machine's limits; `just bench --quick` in a minute.
bench *ARGS:
    dev/bench {{ARGS}}

# Format, clippy, the purity of core, shell scripts, chart.
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    dev/purity
    shellcheck -x dev/cluster dev/cluster.d/* dev/deploy dev/generate dev/images dev/krew dev/lint-chart dev/lint-proto dev/mutants dev/purity dev/soak dev/test dev/test-rest .ci/run
    dev/lint-chart

# A Kubernetes cluster with three nodes: `just cluster up`, `just cluster kill-node 2`, `just cluster down`.
cluster *ARGS:
    dev/cluster {{ARGS}}

# Build the images and install operator and chart on the cluster KUBECONFIG names.
deploy *ARGS:
    dev/deploy {{ARGS}}

# Write the generated files again (CustomResourceDefinition).
generate:
    dev/generate
