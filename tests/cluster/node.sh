# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# The real node: namespaces of its own for processes, mounts and the network, as a machine would have.
# When the first process in them ends, so does everything else there, and every mount and interface with
# it; that is how it is taken down.

# Kubernetes' own programs have these paths built in. Inside, something private lies over them; where
# the machine has no such folder, there has to be one to cover.
covered=(/var/lib/kubelet /var/lib/cni /var/log/containers /var/log/pods)
# The kubelet sets these for the whole machine, which gets them back.
kernel_settings=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

start_node() {
    say "starting the node"
    local folder pid
    : >"$state/config/resolv.conf"
    note_kernel_settings
    for folder in "${covered[@]}"; do
        [ -d "$folder" ] || { mkdir -p "$folder" && echo "$folder" >>"$state/run/made"; }
    done
    make_control_group
    cp "$here/node-init" "$state/node-init"
    spawn node unshare --mount --propagation private --pid --fork --kill-child --mount-proc --net --uts \
        "$state/node-init" "$node" "$services"
    wait_until 10 "the node's namespaces" node_started
    pid=$(node_pid)
    ip link add eve-node-1 type veth peer name eth0 netns "$pid"
    ip link set eve-node-1 master "$bridge" up
    ip route replace "$pods" via "$node"
    ip route replace "$services" via "$node"
}

note_kernel_settings() {
    # A reboot puts them back as well, and what was noted before it is of no use then.
    cp /proc/sys/kernel/random/boot_id "$state/run/boot"
    for setting in "${kernel_settings[@]}"; do
        echo "$setting $(cat "/proc/sys/${setting//.//}")"
    done >"$state/run/kernel-settings"
}

node_started() { [ -n "$(node_pid)" ]; }

# In every hierarchy there is: one on a machine of today, a dozen where control groups are version 1.
make_control_group() {
    local hierarchy
    for hierarchy in $(control_group_hierarchies); do
        mkdir -p "$hierarchy/eve-test-cluster"
        # Version 1 lets no process into a group of its `cpuset` before it has these.
        for file in cpuset.mems cpuset.cpus; do
            [ ! -e "$hierarchy/$file" ] || cat "$hierarchy/$file" >"$hierarchy/eve-test-cluster/$file" 2>/dev/null || true
        done
    done
}
control_group_hierarchies() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/mounts; }

# inside_node COMMAND...
inside_node() {
    local pid
    pid=$(node_pid)
    [ -n "$pid" ] || fail "the node is not up" "run: scripts/cluster up"
    [ $# -gt 0 ] || fail "what?" "usage: scripts/cluster node COMMAND…"
    PATH=$bin:$PATH nsenter --target "$pid" --mount --pid --net --uts -- "$@"
}
