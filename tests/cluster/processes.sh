# shellcheck shell=bash disable=SC2154 # set by scripts/cluster
# The cluster's processes: each is known by the path that it was started by, which is in our folder, so
# that neither a lost note nor an id that another process has got since can mislead us.

# spawn NAME COMMAND...: starts it in a session of its own, with a log.
spawn() {
    local name=$1
    shift
    setsid "$@" </dev/null >"$state/log/$name.log" 2>&1 9>&- 7>&- &
    local pid=$!
    # How it ends is for us to find out, not for the shell to announce.
    disown
    wait_until 10 "$name to be started" begun "$pid" "$1"
}
begun() { [ "$(program "$1")" = "$2" ] || ! kill -0 "$1" 2>/dev/null; }

# program PID: what it was started as, or nothing when it has ended.
program() {
    local word=
    # The kernel separates the words with zeros.
    { IFS= read -r -d '' word <"/proc/$1/cmdline"; } 2>/dev/null || true
    echo "$word"
}

# pids PATTERN: of the processes that were started by such a name in our folder.
pids() {
    local folder word
    for folder in /proc/[0-9]*; do
        word=
        { IFS= read -r -d '' word <"$folder/cmdline"; } 2>/dev/null || true
        # shellcheck disable=SC2053 # it is a pattern
        if [[ $word == "$bin"/$1 ]]; then echo "${folder#/proc/}"; fi
    done
}
running() { [ -n "$(pids "$1")" ]; }

# The first process in the node's namespaces: all others there end with it.
node_pid() {
    local folder line
    for folder in /proc/[0-9]*; do
        line=$({ tr '\0' ' ' <"$folder/cmdline"; } 2>/dev/null || true)
        case $line in
            # What it forks has the same line until it becomes something else.
            "/bin/bash $state/node-init "*)
                if [ "$(sed -n 's/^NSpid:.*\t//p' "$folder/status" 2>/dev/null)" = 1 ]; then echo "${folder#/proc/}"; fi
                ;;
        esac
    done
}

# still_running NAME: for what waits for it in vain once it has ended.
still_running() {
    running "$1" || fail "$1 has ended" "$(tail -n 5 "$state/log/$1.log" 2>/dev/null | cut -c -400)"
}
