# The scripts, by shorter names. `just` without a name lists them.

export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", env("XDG_CACHE_HOME", env("HOME") / ".cache") / "eve-horizon" / "target")
export SQLX_OFFLINE := "true"

_list:
    @just --list --unsorted

# Install what is missing
setup:
    scripts/setup

# Build eve, start it, and run a pipeline of real requests
quickstart *args:
    scripts/quickstart {{ args }}

# Run every test; with arguments, `cargo test --workspace ARGS`
test *args:
    scripts/test {{ args }}

# Let a real KEDA scale workers, after building it: seven minutes, once
test-keda:
    scripts/test --keda

# Enforce NetworkPolicies, and try whether what they say is so, after building what does: three minutes, once
test-enforcing:
    scripts/test --enforcing

# A Kubernetes cluster for the tests: up, down, status, check; alone, all that it does
cluster *args:
    scripts/cluster {{ args }}

# The Helm chart: check, write, helm; alone, all that it does
chart *args:
    scripts/chart {{ args }}

# The image: docker, cluster; alone, what that means
image *args:
    scripts/image {{ args }}

# Docker Compose, tried on a Docker of its own: check, build; alone, all that it does
compose *args:
    scripts/compose {{ args }}

# The platform in a cluster on this machine: takes Docker, kind and helm
kind-up *args:
    kind get clusters | grep -qx eve-local || kind create cluster --config deploy/kind.yaml
    scripts/image docker
    kind load docker-image --name eve-local eve-horizon/eve:$(sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/eve-horizon/Chart.yaml)
    helm upgrade --install eve-horizon charts/eve-horizon --kube-context kind-eve-local \
        --namespace eve-horizon --create-namespace --wait --timeout 10m {{ args }}

# Takes it away again, data and all
kind-down:
    kind delete cluster --name eve-local

# Attack a whole platform while users work: --seed N --minutes M, or --kills N --requests N; --help
chaos *args:
    cargo build --locked -p eve-host -p eve-tests --bins
    scripts/skills hostile noop orchestrator
    "$CARGO_TARGET_DIR/debug/eve-chaos" {{ args }}

# Run a fuzzing target until it finds something: TARGET -max_total_time=SECONDS, --list
fuzz *args:
    scripts/fuzz {{ args }}

# Format the code
fmt:
    cargo fmt --all

# What scripts/test checks before it runs a test
lint:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    scripts/sqlx-prepare --check

# Bring .sqlx up to date with the statements in the code and with the migrations
sqlx-prepare:
    scripts/sqlx-prepare

# Build the skills for WebAssembly
skills:
    scripts/skills

# Run the platform here, on a Postgres of its own
dev *args:
    cargo run --locked -p eve-host --bin eve -- dev {{ args }}

# Measure the whole queue beside its floors, with a release build: takes a while
bench *args:
    cargo build --release --locked -p eve-host -p eve-benches
    "$CARGO_TARGET_DIR/release/eve-bench" "$CARGO_TARGET_DIR/release/eve" "$(scripts/skills noop | tail -n 1)" {{ args }}
