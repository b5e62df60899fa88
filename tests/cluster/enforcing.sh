# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# What enforces NetworkPolicies, for as long as a command runs: kube-router's firewall, and nothing else of it,
# in the node's namespaces, as on any node. It writes chains of iptables, and sets, beside what kube-proxy has in
# nftables. Nobody else uses iptables in there, so whatever is found afterwards is its own.

enforcer=kube-router
# What policies tell from each other by address, and is not to be had here: something public, and a cloud's
# metadata. The node has these addresses too, and whoever wants an answer has a pod on its network give it.
elsewhere=(1.1.1.1 169.254.169.254)

with_enforcing() {
    [ $# -gt 0 ] || fail "what is to run while NetworkPolicies are enforced?" "usage: scripts/cluster enforcing COMMAND…"
    local problem code=0
    problem=$(first_problem)
    [ -z "$problem" ] || fail "the cluster is not up: $problem" "run: scripts/cluster up"
    check_enforcing
    build --enforcing >&2
    # The folder is locked for as long as it runs; what is started closes the descriptor.
    exec 7<"$state/node"
    flock -n 7 || { say "policies are enforced for somebody else; waiting for that" && flock 7; }
    # By one whose script was killed.
    if enforced; then end_enforcing; fi
    EVE_TEST_ENFORCING=$enforcer
    export EVE_TEST_ENFORCING
    trap end_enforcing EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    start_enforcing
    "$@" 7<&- || code=$?
    return "$code"
}

# What kube-router calls, and whether this kernel does what it asks for: tried in a network of its own.
check_enforcing() {
    local tool problem
    for tool in iptables ipset; do
        have "$tool" || fail "there is no $tool here, which kube-router enforces NetworkPolicies with" "run: scripts/setup"
    done
    problem=$(unshare --net sh -ec 'ipset create tried hash:ip
        iptables -w -A FORWARD -m set --match-set tried src -m physdev --physdev-is-bridged -j NFLOG
        iptables -w -A FORWARD -m conntrack --ctstate INVALID -m mark --mark 1 -j REJECT' 2>&1) ||
        fail "this kernel lacks what kube-router enforces NetworkPolicies with" "$problem"
}

start_enforcing() {
    say "starting kube-router, which enforces NetworkPolicies"
    local pid address
    for address in "${elsewhere[@]}"; do inside_node ip address replace "$address/32" dev lo; done
    pid=$(node_pid)
    spawn "$enforcer" nsenter --target "$pid" --mount --pid --net --uts -- "$bin/$enforcer" \
        --run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false \
        --kubeconfig="$kubeconfig" --hostname-override=node-1 --service-cluster-ip-range="$services" \
        --health-port=0 --metrics-port=0
    wait_until 10 "$enforcer to be started" running "$enforcer" || enforcing_failed
    wait_until 60 "policies to be enforced" enforces || enforcing_failed
}

# It writes all rules at once, and before the first time none that accepts what policies let through.
enforces() {
    still_running "$enforcer"
    [[ $(inside_node iptables -w -S KUBE-ROUTER-FORWARD 2>/dev/null) == *"comply to network policies"* ]]
}
enforcing_failed() { fail "$enforcer did not start; it says:" "$(tail -n 5 "$state/log/$enforcer.log" | cut -c -400)"; }

# Whether any of it is there, running or left.
enforced() {
    running "$enforcer" || [[ $(inside_node iptables -w -S 2>/dev/null) == *KUBE-ROUTER-* ]] || [ -n "$(enforcing_sets)" ] ||
        [[ $(inside_node ip -brief address show dev lo) == *"${elsewhere[0]}/"* ]]
}
# Waits for whoever wants it, and takes away what one that was killed has left.
enforce_nothing() {
    exec 7<"$state/node"
    flock -n 7 || { say "policies are enforced for somebody else; waiting for that" && flock 7; }
    if enforced; then end_enforcing; fi
    exec 7<&-
}
enforcing_sets() { inside_node ipset list -name 2>/dev/null | grep -E '^(inet6:)?KUBE-(SRC|DST)-' || true; }

# Whatever fails here, the rest is to go nevertheless.
end_enforcing() (
    set +e
    say "taking kube-router away, and what it enforced"
    wait_until 30 "$enforcer to end" enforcing_ended || say "error: these do not end: $(pids "$enforcer" | tr '\n' ' ')"
    local set address
    for address in "${elsewhere[@]}"; do inside_node ip address delete "$address/32" dev lo 2>/dev/null; done
    # Rules first: a set stays while a rule names it.
    inside_node iptables -w --flush
    inside_node iptables -w --delete-chain
    for set in $(enforcing_sets); do inside_node ipset destroy "$set"; done
    # The empty table too, where iptables is a face of nftables.
    if [[ $(inside_node nft list tables) == *"table ip filter"* ]]; then inside_node nft delete table ip filter; fi
    if enforced; then say "error: something of it is left: $(inside_node iptables -w -S | head -n 3) $(enforcing_sets)"; fi
)
enforcing_ended() {
    local -a doomed
    mapfile -t doomed < <(pids "$enforcer")
    [ ${#doomed[@]} -eq 0 ] || { kill -KILL "${doomed[@]}" 2>/dev/null && false; }
}
