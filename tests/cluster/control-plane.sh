# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# The control plane, as processes of the machine on an address of the cluster's own: certificates, etcd,
# the API server, its controllers and the scheduler. And the registry, which the node needs first.

pki=$state/pki

start_control_plane() {
    make_host_network
    say "making certificates"
    make_certificates
    say "starting the registry and the control plane"
    spawn registry "$bin/registry" serve "$registry" "$state/registry"
    start_etcd
    start_apiserver
    push_catalogue
    wait_until 60 "the API server" apiserver_ready || fail "the API server did not start" "$(tail -n 5 "$state/log/kube-apiserver.log")"
    start_controllers
    # Both need a little of it: the cluster's own kinds and rights.
    kubectl apply --server-side -f "$bin/gateway-api.yaml" -f "$state/config/rights.yaml" >/dev/null
}

# Nothing of the cluster's ranges may leave the machine, whatever runs: where there is no better route,
# there is a black hole.
make_host_network() {
    ip link add "$bridge" type bridge
    ip address add "$host/24" dev "$bridge"
    ip link set "$bridge" up
    for range in $services $pods $simulated_pods; do
        ip route replace blackhole "$range" metric 4096
    done
}

# authority NAME
authority() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"
    openssl req -x509 -new -key "$pki/$1.key" -subj "/CN=$1" -days 3650 -out "$pki/$1.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
}

# certificate NAME SUBJECT USAGE [AUTHORITY [OTHER-NAMES]]
certificate() {
    local name=$1 subject=$2 usage=$3 authority=${4:-ca} others=${5:-}
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$name.key"
    openssl req -new -key "$pki/$name.key" -subj "$subject" -out "$pki/$name.request"
    printf '%s\n' basicConstraints=CA:FALSE keyUsage=critical,digitalSignature "extendedKeyUsage=$usage" \
        ${others:+"subjectAltName=$others"} >"$pki/$name.extensions"
    openssl x509 -req -in "$pki/$name.request" -CA "$pki/$authority.crt" -CAkey "$pki/$authority.key" -CAcreateserial \
        -days 3650 -extfile "$pki/$name.extensions" -out "$pki/$name.crt" 2>/dev/null
    rm "$pki/$name.request" "$pki/$name.extensions"
}

# identity NAME SUBJECT [FILE]: a client of the API server, with all it needs in one file.
identity() {
    certificate "$1" "$2" clientAuth
    cat >"${3:-$pki/$1.kubeconfig}" <<END
apiVersion: v1
kind: Config
clusters:
  - name: test
    cluster:
      server: https://$host:6443
      certificate-authority-data: $(base64 -w 0 "$pki/ca.crt")
users:
  - name: $1
    user:
      client-certificate-data: $(base64 -w 0 "$pki/$1.crt")
      client-key-data: $(base64 -w 0 "$pki/$1.key")
contexts:
  - name: test
    context: { cluster: test, user: $1 }
current-context: test
END
}

make_certificates() {
    mkdir -m 700 "$pki"
    authority ca
    authority front-proxy-ca
    openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
    local name=kubernetes names=IP:127.0.0.1,IP:$host,IP:${services%.*}.1
    for suffix in .default .svc .cluster.local ''; do
        names+=,DNS:$name
        name+=$suffix
    done
    certificate apiserver /CN=kube-apiserver serverAuth ca "$names"
    certificate apiserver-of-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
    certificate front-proxy /CN=front-proxy-client clientAuth front-proxy-ca
    certificate kubelet-server /O=system:nodes/CN=system:node:node-1 serverAuth ca "DNS:node-1,IP:$node"
    (umask 077 && identity admin /O=system:masters/CN=admin "$kubeconfig")
    identity controller-manager /CN=system:kube-controller-manager
    identity scheduler /CN=system:kube-scheduler
    identity kubelet /O=system:nodes/CN=system:node:node-1
    identity kube-proxy /CN=system:kube-proxy
}

start_etcd() {
    spawn etcd "$bin/etcd" --name test --data-dir "$state/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
        --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 \
        --initial-cluster test=http://127.0.0.1:12380
}

# Aggregated APIs (the metrics of an autoscaler) may be served by a process of the machine: a Service
# without a selector and an EndpointSlice with the bridge's address, which needs the aggregator to route
# to endpoints.
start_apiserver() {
    spawn kube-apiserver "$bin/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 \
        --bind-address="$host" --advertise-address="$host" --secure-port=6443 --service-cluster-ip-range="$services" \
        --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
        --kubelet-client-certificate="$pki/apiserver-of-kubelet.crt" \
        --kubelet-client-key="$pki/apiserver-of-kubelet.key" \
        --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key" \
        --authorization-mode=Node,RBAC --allow-privileged=true \
        --enable-admission-plugins=NodeRestriction,PodNodeSelector \
        --admission-control-config-file="$state/config/admission.yaml" \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
        --enable-aggregator-routing=true
}

apiserver_ready() {
    still_running kube-apiserver
    [ "$(kubectl get --raw /readyz --request-timeout 5s 2>/dev/null)" = ok ]
}

# A thousand deployments at once are normal here, so the controllers may ask often. Autoscalers look
# every 5 s, so that nobody waits for them as long as in production.
start_controllers() {
    local -a common=(--bind-address=127.0.0.1 --leader-elect=false --kube-api-qps=500 --kube-api-burst=1000)
    local own=$pki/controller-manager.kubeconfig
    spawn kube-controller-manager "$bin/kube-controller-manager" "${common[@]}" \
        --kubeconfig="$own" --authentication-kubeconfig="$own" --authorization-kubeconfig="$own" \
        --use-service-account-credentials=true --service-account-private-key-file="$pki/accounts.key" \
        --root-ca-file="$pki/ca.crt" --client-ca-file="$pki/ca.crt" \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
        --concurrent-deployment-syncs=20 --concurrent-replicaset-syncs=20 \
        --horizontal-pod-autoscaler-sync-period=5s --horizontal-pod-autoscaler-downscale-stabilization=10s
    own=$pki/scheduler.kubeconfig
    spawn kube-scheduler "$bin/kube-scheduler" "${common[@]}" \
        --kubeconfig="$own" --authentication-kubeconfig="$own" --authorization-kubeconfig="$own"
}

push_catalogue() {
    wait_until 10 "the registry" registry_answers
    local image program
    local -a variables
    while read -r image program variables_text; do
        case $image in '' | '#'*) continue ;; esac
        read -r -a variables <<<"$variables_text"
        "$bin/registry" push "$registry" "$image" "${variables[@]/#/-env=}" "$bin/$program=/$program"
    done <"$here/images/catalogue" >"$state/log/catalogue.log"
}

registry_answers() {
    still_running registry
    (exec 3<>"/dev/tcp/$host/${registry##*:}") 2>/dev/null
}

# push_image NAME SOURCE=DESTINATION... [-user UID] [-entry PATH] [-env KEY=VALUE]...: with the libraries
# that the files are linked to.
push_image() {
    running registry || fail "the cluster is not up" "run: scripts/cluster up"
    [ $# -gt 1 ] || fail "what is in it?" "usage: scripts/cluster image NAME SOURCE=DESTINATION… [-env KEY=VALUE]…"
    local name=$1 library
    local -a options=() files=() libraries=()
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            -user | -entry | -env) options+=("$1" "$2") && shift 2 ;;
            *)
                files+=("$1")
                while read -r library; do
                    libraries+=("$library=$library")
                done < <(ldd "${1%%=*}" 2>/dev/null | awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" { print $1 }')
                shift
                ;;
        esac
    done
    "$bin/registry" push "$registry" "$name" "${options[@]}" "${files[@]}" "${libraries[@]}"
    forget_image "$name"
}

# Nodes pull a name once. What the node has under this one, whatever registry in front, is of before.
forget_image() {
    local -a known=()
    running containerd || return 0
    mapfile -t known < <(inside_node ctr -n k8s.io images ls -q 2>/dev/null |
        awk -v name="/$1" '"/" $0 == name || substr($0, length($0) - length(name) + 1) == name')
    [ ${#known[@]} -eq 0 ] || inside_node ctr -n k8s.io images rm "${known[@]}" >/dev/null 2>&1
}
