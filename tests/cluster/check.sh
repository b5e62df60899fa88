# shellcheck shell=bash disable=SC2154 # set by scripts/cluster and its other files
# A test of the cluster itself, before anything is tested on it.

check() {
    local problem before=$SECONDS
    problem=$(first_problem)
    [ -z "$problem" ] || fail "the cluster is not up: $problem" "run: scripts/cluster up"
    check_namespace=cluster-check-$$
    trap 'kubectl delete namespace "$check_namespace" "$check_namespace-kwok" --ignore-not-found --wait=false >/dev/null 2>&1' EXIT
    check_real_pod
    check_bad_images "$check_namespace"
    check_simulated_pods
    check_end
    say "all well after $((SECONDS - before)) s"
}

make_namespace() {
    kubectl create namespace "$1" >/dev/null
    kubectl label namespace "$1" pod-security.kubernetes.io/enforce=restricted >/dev/null
    [ -z "${2:-}" ] || kubectl annotate namespace "$1" "scheduler.alpha.kubernetes.io/node-selector=$2" >/dev/null
    wait_until 10 "the namespace's account" kubectl -n "$1" get serviceaccount default >/dev/null 2>&1
}

# pod NAME IMAGE: the manifest of one that Pod Security admits where it is strictest.
pod() {
    cat <<END
---
apiVersion: v1
kind: Pod
metadata: { name: $1, labels: { app: $1 } }
spec:
  automountServiceAccountToken: false
  # A namespace waits half as long as its pods may take, whether they do or not.
  terminationGracePeriodSeconds: 1
  securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: RuntimeDefault } }
  containers:
    - name: app
      image: $2
      imagePullPolicy: Always
      ports: [{ containerPort: 8080 }]
      readinessProbe: { httpGet: { path: /readyz, port: 8080 }, periodSeconds: 1 }
      resources: { limits: { cpu: 100m, memory: 64Mi } }
      securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: [ALL] } }
END
}

field() { kubectl -n "$1" get pod "$2" -o "jsonpath={$3}" 2>/dev/null; }
# expect WHAT EXPECTED COMMAND...: tries for half a minute.
expect() {
    local what=$1 expected=$2
    shift 2
    wait_until 30 "$what" answers "$expected" "$@" || fail "$what: expected $expected, got: $("$@" 2>&1 | head -c 400)"
    say "ok: $what"
}
answers() { local expected=$1 && shift && [[ "$("$@" 2>&1)" == *"$expected"* ]]; }
http() {
    exec 3<>"/dev/tcp/$1/$2" && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && cat <&3
    exec 3>&-
}

check_real_pod() {
    local n=$check_namespace address service
    make_namespace "$n"
    pod real docker.io/acme/api:v1.2.3 | kubectl -n "$n" apply -f - >/dev/null
    kubectl -n "$n" expose pod real --port 80 --target-port 8080 >/dev/null
    expect "a pod is pulled, runs and is ready" True field "$n" real '.status.conditions[?(@.type=="Ready")].status'
    expect "its image has a digest" docker.io/acme/api@sha256: field "$n" real '.status.containerStatuses[0].imageID'
    address=$(field "$n" real .status.podIP)
    service=$(kubectl -n "$n" get service real -o 'jsonpath={.spec.clusterIP}')
    expect "it answers" '"version":"v1.2.3"' http "$address" 8080
    expect "so does its Service" '"version":"v1.2.3"' http "$service" 80
    expect "and the Service answers a pod" '"version":"v1.2.3"' kubectl -n "$n" exec real -- /web get "http://$service"
    expect "which reaches nothing outside" "network is unreachable" kubectl -n "$n" exec real -- /web get http://192.0.2.1
    expect "it has a log" "GET / from" kubectl -n "$n" logs real
    expect "a command runs in it" v1.2.3 kubectl -n "$n" exec real -- /web version
}

# check_bad_images NAMESPACE
check_bad_images() {
    local container='.status.containerStatuses[0]'
    { pod crash acme/crash:v1 && pod unready acme/unready:v1 && pod missing acme/missing:v1; } |
        kubectl -n "$1" apply -f - >/dev/null
    expect "$1: a missing image cannot be pulled" ImagePull field "$1" missing "$container.state.waiting.reason"
    expect "$1: a program that ends is started again, later" CrashLoopBackOff field "$1" crash "$container.state.waiting.reason"
    expect "$1: what runs need not be ready" "Running false" field "$1" unready ".status.phase} {$container.ready"
}

check_simulated_pods() {
    local n=$check_namespace-kwok
    make_namespace "$n" topology.kubernetes.io/zone=kwok
    pod simulated acme/api:v1.2.3 | kubectl -n "$n" apply -f - >/dev/null
    expect "a simulated pod is ready" True field "$n" simulated '.status.conditions[?(@.type=="Ready")].status'
    expect "it is on a simulated node" kwok- field "$n" simulated .spec.nodeName
    check_bad_images "$n"
}

check_end() {
    kubectl delete namespace "$check_namespace" "$check_namespace-kwok" --wait=false >/dev/null
    expect "pods and namespaces end" "all gone" rest "$check_namespace" "$check_namespace-kwok"
}
rest() { kubectl get namespace "$@" --ignore-not-found -o name | grep . || echo "all gone"; }
