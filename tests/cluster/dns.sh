# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# Names of Services for pods: CoreDNS as a process of the machine, behind the Service that the kubelet
# writes into every pod's resolv.conf. It knows the cluster's names and no others.

start_dns() {
    ! running coredns || return 0
    say "starting CoreDNS"
    cat >"$state/config/Corefile" <<END
.:1053 {
    bind $host
    errors
    ready $host:1054
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $kubeconfig test
    }
}
END
    spawn coredns "$bin/coredns" -conf "$state/config/Corefile"
    kubectl apply --server-side -f "$state/config/dns.yaml" >/dev/null
}
