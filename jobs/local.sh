#!/usr/bin/env bash
# One configuration file on a workstation without Slurm, started again until it is done:
#
#     [FEMPI_RANKS=4] jobs/local.sh CONFIG [options of fempi run, but not --force]
#     nohup jobs/local.sh CONFIG >fempi.log 2>&1 &    # goes on when you log out
#
# It is submitted to nobody, but adapted like the others: jobs/site.sh. Ctrl-C, or kill, makes it stop after the round;
# the same command goes on. If ranks are stopped by somebody else, or another process is at the runs that are left, it
# waits a minute ($FEMPI_PAUSE seconds) and goes on. If they are killed (out of memory?), it does so up to five times.
# A fault (exit status 1) or what you can mend (2) ends it.
set -euo pipefail
FEMPI_JOBS=$(dirname "$0")
# shellcheck source=jobs/common.sh
source "$FEMPI_JOBS/common.sh"

set -m # each command has its own process group: Ctrl-C reaches this script, not mpirun, which would kill its ranks
killed=0
while :; do
    status=0
    launch -n "${FEMPI_RANKS:-2}" "${fempi[@]}" run --output "$output" "$@" || status=$?
    [ -z "$asked" ] || exit "$status"
    case $status in
        0) break ;;
        1 | 2) exit "$status" ;;
        75) ;;
        *) [ $((killed += 1)) -le 5 ] || exit "$status" ;;
    esac
    echo "exit status $status; starting again soon" >&2
    sleep "${FEMPI_PAUSE:-60}" &
    wait "$!" || true
done
prove "$1" "$output"
