# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# Simulated nodes: KWOK writes the status of their pods, and nothing runs.

start_simulated_nodes() {
    say "starting $simulated_nodes simulated nodes"
    cat "$bin/stages.yaml" <(echo ---) "$state/config/kwok-pods.yaml" >"$state/config/kwok.yaml"
    spawn kwok "$bin/kwok" --config="$state/config/kwok.yaml" --kubeconfig="$kubeconfig" \
        --manage-all-nodes=false --manage-nodes-with-label-selector=topology.kubernetes.io/zone=kwok \
        --cidr="${simulated_pods%.*}.1/16" --node-ip="${simulated_pods%.0.0/16}.255.1" --node-lease-duration-seconds=40
    for number in $(seq 0 $((simulated_nodes - 1))); do simulated_node "kwok-$number"; done |
        kubectl apply --server-side -f - >/dev/null
}

simulated_node() {
    cat <<END
---
apiVersion: v1
kind: Node
metadata:
  name: $1
  labels:
    kubernetes.io/arch: amd64
    kubernetes.io/hostname: $1
    kubernetes.io/os: linux
    topology.kubernetes.io/zone: kwok
status:
  allocatable: { cpu: "64", memory: 256Gi, ephemeral-storage: 1Ti, pods: "110" }
  capacity: { cpu: "64", memory: 256Gi, ephemeral-storage: 1Ti, pods: "110" }
END
}

wait_for_nodes() {
    wait_until 90 "the nodes" nodes_ready ||
        fail "not every node is ready" "$(kubectl get nodes 2>&1)" "$(tail -n 5 "$state/log/kubelet.log" | cut -c -400)"
    # Pods need it, and the controllers make it when they are ready.
    wait_until 60 "the controllers" kubectl get serviceaccount default >/dev/null 2>&1
}

nodes_ready() {
    [ "$(kubectl get nodes --no-headers 2>/dev/null | awk '$2 == "Ready"' | wc -l)" -eq $((simulated_nodes + 1)) ]
}
