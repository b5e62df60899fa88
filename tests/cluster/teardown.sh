# shellcheck shell=bash disable=SC2154 # set by scripts/cluster and its other files
# Ends the cluster, from whatever state: whole, half started, or left by a machine that has gone down.

tear_down() {
    if [ ! -e "$state" ] && [ -z "$(pids '*')" ] && ! ip link show "$bridge" >/dev/null 2>&1; then return; fi
    say "taking it down"
    # Nothing of it is wanted again, so nothing gets the time to end well.
    kill_all
    wait_until 30 "its processes to end" nothing_runs ||
        fail "these do not end: $(pids '*' | tr '\n' ' ')"
    ip link delete eve-node-1 2>/dev/null || true
    ip link delete "$bridge" 2>/dev/null || true
    for range in $services $pods $simulated_pods; do
        ip route delete blackhole "$range" metric 4096 2>/dev/null || true
    done
    wait_until 30 "its control groups to empty" remove_control_groups ||
        fail "something still runs in its control groups" "$(find /sys/fs/cgroup -path '*eve-test-cluster*' -name cgroup.procs -exec cat {} + | sort -u)"
    restore_kernel_settings
    remove_folders
    say "down"
}

kill_all() {
    local -a doomed
    mapfile -t doomed < <(node_pid && pids '*')
    [ ${#doomed[@]} -eq 0 ] || kill -KILL "${doomed[@]}" 2>/dev/null || true
}
nothing_runs() { [ -z "$(node_pid)$(pids '*')" ] || { kill_all && false; }; }

# From the leaves up; one with a process in it stays, and is tried again.
remove_control_groups() {
    local hierarchy left=
    for hierarchy in $(control_group_hierarchies); do
        [ -d "$hierarchy/eve-test-cluster" ] || continue
        find "$hierarchy/eve-test-cluster" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
    done
    [ -z "$left" ]
}

restore_kernel_settings() {
    local setting value
    [ "$(cat "$state/run/boot" 2>/dev/null)" = "$(cat /proc/sys/kernel/random/boot_id)" ] || return 0
    while read -r setting value; do
        echo "$value" >"/proc/sys/${setting//.//}"
    done <"$state/run/kernel-settings"
}

remove_folders() {
    local folder
    # The node's mounts were its own. One here would be somebody's, made by hand.
    if grep -qF " $state/" /proc/mounts; then fail "something is mounted in $state" "$(grep -F " $state/" /proc/mounts)"; fi
    while read -r folder; do
        rmdir "$folder" 2>/dev/null || true
    done < <(cat "$state/run/made" 2>/dev/null)
    rm -rf "$state"
}
