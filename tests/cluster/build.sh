# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# Builds the cluster's programs from Go modules, each in a folder of the cache named after its pins and
# its flags, and gathers them in a folder for the whole. Nothing is built here that was built before.

parts=(kubernetes etcd containerd runc cni kwok registry metrics_server images gateway_api)
# Not in every cluster: they take two, seven and three more minutes to build.
dns_parts=(coredns)
keda_parts=(keda)
enforcing_parts=(kube_router)

# pinned MODULE PATH: the version of a dependency.
pinned() { awk -v path="$2" '$1 == path { print $2 } $1 == "require" && $2 == path { print $3 }' "$here/modules/$1/go.mod"; }

# go_build MODULE FOLDER PACKAGE... [-- FLAG...]: into the folder.
go_build() {
    local module=$1 folder=$2 package
    local -a packages=()
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do packages+=("$1") && shift; done
    [ $# -eq 0 ] || shift
    for package in "${packages[@]}"; do
        GOWORK=off go -C "$here/$module" build -mod=readonly -buildvcs=false "$@" -o "$folder/" "$package"
        say "  $package"
    done
}

# What a release says of itself is not in its source: it is stamped on.
build_kubernetes() {
    local stamp=k8s.io/component-base/version version major minor
    version=$(pinned kubernetes k8s.io/kubernetes)
    IFS=. read -r major minor _ <<<"${version#v}"
    go_build modules/kubernetes "$1" k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl} \
        -- -ldflags "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean"
}
build_etcd() {
    go_build modules/etcd "$1" go.etcd.io/etcd/server/v3 -- -trimpath
    mv "$1/server" "$1/etcd"
}
build_containerd() {
    local version
    version=$(pinned containerd github.com/containerd/containerd/v2)
    CGO_ENABLED=0 go_build modules/containerd "$1" github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr} \
        -- -trimpath -tags "no_btrfs no_zfs no_devmapper" \
        -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=${version#v}"
}
# Without seccomp it would refuse every pod with a profile, and all of ours have one.
build_runc() {
    local version
    version=$(pinned runc github.com/opencontainers/runc)
    go_build modules/runc "$1" github.com/opencontainers/runc \
        -- -trimpath -tags seccomp -ldflags "-s -w -X main.version=${version#v}"
}
build_cni() {
    CGO_ENABLED=0 go_build modules/cni "$1" github.com/containernetworking/plugins/plugins/{main/ptp,main/loopback,ipam/host-local} \
        -- -trimpath -ldflags "-s -w"
}
build_kwok() {
    go_build modules/kwok "$1" sigs.k8s.io/kwok/cmd/kwok -- -trimpath
    local stages
    stages=$(module_folder kwok sigs.k8s.io/kwok)/kustomize/stage
    # How a node is born and lives, and how a pod ends, as its authors have it.
    for stage in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease \
        pod/fast/pod-complete pod/fast/pod-delete; do
        echo ---
        cat "$stages/$stage.yaml"
    done >"$1/stages.yaml"
}
build_registry() { CGO_ENABLED=0 go_build modules/registry "$1" . -- -trimpath -ldflags "-s -w"; }
build_metrics_server() {
    CGO_ENABLED=0 go_build modules/metrics-server "$1" sigs.k8s.io/metrics-server/cmd/metrics-server -- -trimpath -ldflags "-s -w"
}
build_images() { CGO_ENABLED=0 go_build images "$1" ./pause ./web -- -trimpath -ldflags "-s -w"; }
build_gateway_api() {
    local definitions
    definitions=$(module_folder gateway-api sigs.k8s.io/gateway-api)/config/crd/standard
    for kind in gatewayclasses gateways httproutes referencegrants; do
        echo ---
        cat "$definitions/gateway.networking.k8s.io_$kind.yaml"
    done >"$1/gateway-api.yaml"
}
build_coredns() { CGO_ENABLED=0 go_build modules/coredns "$1" github.com/coredns/coredns -- -trimpath -ldflags "-s -w"; }
build_keda() {
    CGO_ENABLED=0 go_build modules/keda "$1" github.com/kedacore/keda/v2/cmd/{operator,adapter} -- -trimpath -ldflags "-s -w"
    mv "$1/operator" "$1/keda-operator"
    mv "$1/adapter" "$1/keda-adapter"
    local definitions
    definitions=$(module_folder keda github.com/kedacore/keda/v2)/config/crd/bases
    for file in "$definitions"/*.yaml; do
        echo ---
        cat "$file"
    done >"$1/keda.yaml"
}
build_kube_router() {
    CGO_ENABLED=0 go_build modules/kube-router "$1" github.com/cloudnativelabs/kube-router/v2/cmd/kube-router \
        -- -trimpath -ldflags "-s -w"
}

# module_folder MODULE PATH: where Go keeps the source of a dependency.
module_folder() {
    GOWORK=off go -C "$here/modules/$1" mod download "$2"
    GOWORK=off go -C "$here/modules/$1" list -m -f '{{.Dir}}' "$2"
}

# part_id PART: changes with its sources, its pins and its flags.
part_id() {
    local sources=$here/modules/${1//_/-}
    [ "$1" != images ] || sources=$here/images
    {
        (cd "$sources" && find . -type f \( -name '*.go' -o -name 'go.*' \) | LC_ALL=C sort | xargs cat)
        declare -f "build_$1"
    } | sha256sum | cut -c -12
}
part_folder() { echo "$cache/cluster/parts/$1-$(part_id "$1")"; }

build_id() { for part in "${parts[@]}"; do part_id "$part"; done | sha256sum | cut -c -12; }
build_folder() { echo "$cache/cluster/$(build_id)"; }

build() {
    local -a wanted=("${parts[@]}")
    case ${1:-} in
        '') ;;
        --dns) wanted+=("${dns_parts[@]}") ;;
        --keda) wanted+=("${keda_parts[@]}") ;;
        --enforcing) wanted+=("${enforcing_parts[@]}") ;;
        --all) wanted+=("${dns_parts[@]}" "${keda_parts[@]}" "${enforcing_parts[@]}") ;;
        *) fail "what is $1?" "usage: scripts/cluster build [--dns|--keda|--enforcing|--all]" ;;
    esac
    local folder part number=0 began=$SECONDS built=
    folder=$(build_folder)
    mkdir -p "$cache/cluster/parts" "$folder/bin"
    # A second clone that builds at the same time waits, and finds everything done.
    exec 8>"$cache/cluster/lock"
    flock -n 8 || { say "another build is under way; waiting for it" && flock 8; }
    for part in "${wanted[@]}"; do
        number=$((number + 1))
        if [ ! -d "$(part_folder "$part")" ]; then
            if [ -z "$built" ]; then
                check_builder
                say "building the cluster: ten minutes, once, where Go has none of it in its caches"
                built=yes
            fi
            say "building $part ($number of ${#wanted[@]})"
            build_part "$part"
        fi
        touch "$(part_folder "$part")"
        ln -sfn "$(part_folder "$part")"/* "$folder/bin/"
    done
    # What no build has used for a month. The links of builds that used it are too small to matter.
    find "$cache/cluster/parts" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
    exec 8>&-
    [ -z "$built" ] || say "built in $((SECONDS - began)) s; it stays in $cache/cluster"
}

build_part() {
    local part=$1 folder
    folder=$(part_folder "$part")
    rm -rf "$folder.unfinished"
    mkdir "$folder.unfinished"
    "build_$part" "$folder.unfinished"
    mv "$folder.unfinished" "$folder"
}

check_builder() {
    check_go "the cluster is built with it"
    have cc || fail "there is no C compiler here" "run: scripts/setup"
    { have pkg-config && pkg-config --exists libseccomp; } || fail "there is no libseccomp to build runc with" "run: scripts/setup"
}
