# shellcheck shell=bash disable=SC2034 # what is set here is used there
# Sourced by the other scripts: where things are, and how they speak.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Outside the clone, so that a second clone finds what the first has built.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/eve-horizon
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
# Statements are checked against `.sqlx`, whatever database the caller's DATABASE_URL names.
export SQLX_OFFLINE=true
unset DATABASE_URL
# Incremental artifacts of a few clones fill a disk, and save little beside the linker.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

script=$(basename "$0")
say() { printf '%s: %s\n' "$script" "$*" >&2; }
# A step of a longer run.
step() { printf '\n==> %s\n' "$*" >&2; }
# fail MESSAGE [WHAT TO DO]...
fail() {
    say "error: $1"
    shift
    for line in "$@"; do say "  $line"; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
# check_go WHY: that there is a Go that will do.
check_go() {
    local version get="get 1.26 or later: https://go.dev/doc/install"
    have go || fail "there is no Go here: $1" "$get"
    version=$(go env GOVERSION | sed -n 's/^go\([0-9]*\.[0-9]*\).*/\1/p')
    [ "$(printf '%s\n' 1.26 "$version" | sort -V | head -n 1)" = 1.26 ] || fail "Go is $version here: $1" "$get"
}
# wait_until SECONDS WHAT COMMAND...: waits for the command to succeed; says what it waited for.
wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < deadline)) || { say "gave up waiting for $what"; return 1; }
        sleep 0.1
    done
}

oldest_postgres=15
# The folder of the newest Postgres server of a version that will do, or nothing.
postgres_bin() {
    local folder version best=0 found=
    local -a folders
    if [ -n "${EVE_POSTGRES_BIN:-}" ]; then
        folders=("$EVE_POSTGRES_BIN")
    else
        folders=(/usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin
            /usr/local/opt/postgresql*/bin "$(pg_config --bindir 2>/dev/null || true)")
    fi
    for folder in "${folders[@]}"; do
        if [ ! -x "$folder/initdb" ] || [ ! -x "$folder/psql" ]; then continue; fi
        version=$("$folder/postgres" --version | sed -n 's/.*(PostgreSQL) \([0-9]*\).*/\1/p')
        if [ "${version:-0}" -ge "$oldest_postgres" ] && [ "$version" -gt "$best" ]; then
            best=$version found=$folder
        fi
    done
    [ -n "$found" ] && echo "$found"
}
