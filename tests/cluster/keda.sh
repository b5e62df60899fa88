# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# KEDA, for as long as a command runs: its operator and its metrics API as processes of the machine. It
# watches one namespace, whose name the command gets in EVE_TEST_KEDA and which the command makes, so that
# what other tests have in the cluster is not scaled.
#
# It serves external.metrics.k8s.io for the whole cluster. No namespace ends while an aggregated API is
# registered and does not answer, so that registration is the last to come and the first to go.

metrics_api=v1beta1.external.metrics.k8s.io
keda_service=keda/keda-metrics-apiserver
# Kinds whose objects KEDA holds back until it has seen them go.
held_kinds=scaledobjects.keda.sh,scaledjobs.keda.sh,triggerauthentications.keda.sh

with_keda() {
    [ $# -gt 0 ] || fail "what is to run while KEDA is there?" "usage: scripts/cluster keda COMMAND…"
    local problem code=0
    problem=$(first_problem)
    [ -z "$problem" ] || fail "the cluster is not up: $problem" "run: scripts/cluster up"
    build --keda >&2
    # The folder is locked for as long as it runs; what is started closes the descriptor.
    exec 7<"$state/run"
    flock -n 7 || { say "KEDA runs for somebody else; waiting for that" && flock 7; }
    # One whose script was killed.
    if running 'keda-*' || [ "$(metrics_api_of)" = "$keda_service" ]; then end_keda; fi
    metrics_api_free || say "$(metrics_api_of) serves $metrics_api; waiting for that to end"
    wait_until 300 "$metrics_api to be free" metrics_api_free ||
        fail "$(metrics_api_of) serves $metrics_api, and there can be one" \
            "if nobody uses it: scripts/cluster kubectl delete apiservice $metrics_api"
    EVE_TEST_KEDA=keda-$$
    export EVE_TEST_KEDA
    trap end_keda EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    start_keda
    "$@" 7<&- || code=$?
    return "$code"
}

metrics_api_of() { kubectl get apiservice "$metrics_api" --ignore-not-found -o 'jsonpath={.spec.service.namespace}/{.spec.service.name}'; }
metrics_api_free() { [ -z "$(metrics_api_of)" ]; }

start_keda() {
    say "starting KEDA"
    local folder=$state/keda
    rm -rf "$folder"
    mkdir -m 700 "$folder"
    # The two know each other by it, and the API server knows the second.
    certificate keda /CN=keda serverAuth,clientAuth ca DNS:localhost,DNS:keda-metrics-apiserver.keda.svc
    mv "$pki/keda.crt" "$folder/tls.crt"
    mv "$pki/keda.key" "$folder/tls.key"
    cp "$pki/ca.crt" "$folder"
    wait_until 60 "the namespace of the KEDA before to end" keda_forgotten || fail "the namespace keda does not end" "see why: scripts/cluster kubectl get namespace keda -o yaml"
    kubectl apply --server-side --force-conflicts -f "$bin/keda.yaml" -f "$here/config/keda.yaml" >/dev/null
    kubectl wait --for condition=Established --timeout 30s -f "$bin/keda.yaml" >/dev/null
    local -x POD_NAMESPACE=keda KEDA_CLUSTER_OBJECT_NAMESPACE=keda WATCH_NAMESPACE=$EVE_TEST_KEDA
    spawn keda-operator "$bin/keda-operator" --kubeconfig="$kubeconfig" --cert-dir="$folder" \
        --metrics-service-bind-address=127.0.0.1:12381 --health-probe-bind-address=127.0.0.1:12382 \
        --enable-prometheus-metrics=false --enable-webhook-patching=false --enable-apiservice-patching=false
    wait_until 60 "KEDA's operator" listens keda-operator 127.0.0.1 12381 || keda_failed keda-operator
    spawn keda-adapter "$bin/keda-adapter" \
        --kubeconfig="$kubeconfig" --lister-kubeconfig="$kubeconfig" \
        --authentication-kubeconfig="$kubeconfig" --authorization-kubeconfig="$kubeconfig" \
        --bind-address="$host" --secure-port=6444 --port=12383 --cert-dir="$folder" \
        --tls-cert-file="$folder/tls.crt" --tls-private-key-file="$folder/tls.key" \
        --client-ca-file="$pki/ca.crt" --metrics-service-address=localhost:12381
    wait_until 60 "KEDA's metrics API" listens keda-adapter "$host" 6444 || keda_failed keda-adapter
    kubectl apply --server-side -f - >/dev/null <<END
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: { name: $metrics_api }
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  service: { name: keda-metrics-apiserver, namespace: keda }
  caBundle: $(base64 -w 0 "$pki/ca.crt")
END
    kubectl wait --for condition=Available --timeout 60s "apiservice/$metrics_api" >/dev/null || keda_failed keda-adapter
}

keda_forgotten() { [ -z "$(kubectl get namespace keda --ignore-not-found -o name)" ]; }
# listens NAME ADDRESS PORT
listens() {
    still_running "$1"
    (exec 3<>"/dev/tcp/$2/$3") 2>/dev/null
}

keda_failed() { fail "KEDA did not start; $1 says:" "$(tail -n 5 "$state/log/$1.log" | cut -c -400)"; }

# Its kinds stay, as definitions without objects: other tests define some of them too. Whatever fails here,
# the rest is to go nevertheless.
end_keda() (
    set +e
    say "taking KEDA away"
    if [ "$(metrics_api_of)" = "$keda_service" ]; then kubectl delete apiservice "$metrics_api" >/dev/null; fi
    wait_until 30 "KEDA to end" keda_ended || say "error: these do not end: $(pids 'keda-*' | tr '\n' ' ')"
    # Nobody is left to let go of them.
    kubectl get "$held_kinds" --all-namespaces --no-headers \
        -o custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name 2>/dev/null |
        while read -r kind namespace name; do
            kubectl patch "$kind.keda.sh" "$name" --namespace "$namespace" --type merge \
                --patch '{"metadata":{"finalizers":null}}' >/dev/null
        done
    # Its own, and whatever it was to watch, now or before it was killed.
    kubectl get namespaces -o name | sed -n 's|^namespace/\(keda\(-[0-9]*\)\?\)$|\1|p' |
        xargs -r "$bin/kubectl" --kubeconfig "$kubeconfig" delete namespace --ignore-not-found --wait=false >/dev/null
    rm -rf "$state/keda"
)
keda_ended() {
    local -a doomed
    mapfile -t doomed < <(pids 'keda-*')
    [ ${#doomed[@]} -eq 0 ] || { kill -KILL "${doomed[@]}" 2>/dev/null && false; }
}
