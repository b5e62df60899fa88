# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# What pods use, for autoscalers and `kubectl top`: metrics-server as a process of the machine, asking the
# kubelet of the real node.

start_metrics() {
    say "starting metrics-server"
    certificate metrics-server /CN=metrics-server serverAuth ca DNS:metrics-server.kube-system.svc
    # It looks as often as it may: nobody is to wait for it as long as in production.
    spawn metrics-server "$bin/metrics-server" --kubeconfig="$kubeconfig" \
        --authentication-kubeconfig="$kubeconfig" --authorization-kubeconfig="$kubeconfig" \
        --bind-address="$host" --secure-port=6445 \
        --tls-cert-file="$pki/metrics-server.crt" --tls-private-key-file="$pki/metrics-server.key" \
        --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
        --node-selector=topology.kubernetes.io/zone=real --metric-resolution=10s --kubelet-request-timeout=5s
    { cat "$state/config/metrics.yaml" && echo "  caBundle: $(base64 -w 0 "$pki/ca.crt")"; } |
        kubectl apply --server-side -f - >/dev/null
}

# No namespace ends before it answers.
wait_for_metrics() {
    wait_until 60 "metrics-server" metrics_ready ||
        fail "metrics-server did not start" "$(tail -n 5 "$state/log/metrics-server.log" | cut -c -400)"
}
metrics_ready() {
    still_running metrics-server
    [ "$(kubectl get apiservice v1beta1.metrics.k8s.io -o 'jsonpath={.status.conditions[?(@.type=="Available")].status}')" = True ]
}
