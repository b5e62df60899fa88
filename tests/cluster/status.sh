# shellcheck shell=bash disable=SC2154 # set by scripts/cluster and its other files
# What runs, in words.

programs=(etcd kube-apiserver kube-controller-manager kube-scheduler registry kwok metrics-server containerd kubelet kube-proxy)

# Why the cluster that was started is not whole, or nothing.
first_problem() {
    local program
    if [ ! -e "$state/build" ]; then echo "it was never up" && return; fi
    for program in "${programs[@]}"; do
        if ! running "$program"; then echo "$program has ended" && return; fi
    done
    # On a busy machine it may take a while, and others may be using it.
    wait_until 30 "its API server" apiserver_ready 2>/dev/null || echo "its API server does not answer"
}

status() {
    local problem program total=0 resident pid
    problem=$(first_problem)
    if [ -n "$problem" ]; then
        say "not up: $problem"
        exit 1
    fi
    echo "started from $(cat "$state/clone"), build $(cat "$state/build"), kubeconfig $kubeconfig"
    for program in "${programs[@]}" coredns keda-operator keda-adapter kube-router; do
        for pid in $(pids "$program"); do
            resident=$(awk '/^VmRSS:/ { print int($2 / 1024) }' "/proc/$pid/status" 2>/dev/null || true)
            [ -n "$resident" ] || continue
            printf '%-26s %7s %5d MiB\n' "$program" "$pid" "$resident"
            total=$((total + resident))
        done
    done
    printf '%-34s %5d MiB\n' together "$total"
    kubectl version 2>/dev/null | grep -i version
    kubectl get nodes -L topology.kubernetes.io/zone
    kubectl get pods -A --no-headers -o custom-columns=PHASE:.status.phase | sort | uniq -c |
        awk '{ print $1, "pods", $2 }'
    nodes_ready || { say "not every node is ready" && exit 1; }
}
