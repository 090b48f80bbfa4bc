# What the scripts of this folder share: starting fempi so that it hears of a stop. Sourced, not run; nothing to adapt.
# shellcheck shell=bash

# sbatch runs a copy of a script that lies elsewhere, so this folder cannot be found by the script's own path.
# shellcheck source=jobs/site.sh
source "${FEMPI_JOBS:-jobs}/site.sh"

# shellcheck disable=SC2034  # used by the scripts
output=${FEMPI_OUTPUT:-results}
asked='' # the signal that asked to stop: USR1, which means for now, or TERM, which means for good and outweighs it
running='' # the launcher's process id
interrupted=no

# Open MPI's mpirun leaves ranks half a second after a TERM. USR1 it passes on, and so do srun and the others.
stop() {
    interrupted=yes
    [ "$asked" = TERM ] || asked=$1
    [ -z "$running" ] || kill -USR1 "$running" 2>/dev/null || true
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM INT HUP

# launch [-n RANKS] COMMAND...: run a command on the job's ranks, and return its exit status.
launch() {
    local status=0
    [ -z "$asked" ] || return 75
    "${launcher[@]}" "$@" </dev/null &
    running=$!
    [ -z "$asked" ] || kill -USR1 "$running" # asked for between the last two lines
    while # a trap ends `wait`, but not what it waits for
        interrupted=no status=0
        wait "$running" || status=$?
        [ "$interrupted" = yes ]
    do :; done
    running=''
    return "$status"
}

# prove CONFIG FOLDER: exit status 0 of a launcher is no proof that all went well, complete records are.
prove() {
    local name records record
    name=$(sed -n '/^ *\[/q; s/^ *name *= *"\([^"]*\)".*/\1/p' "$1")
    mapfile -t records < <(find "$2/$name" -maxdepth 1 \( -name '*.run' -o -name '*.h5' \) | sort)
    [ ${#records[@]} -gt 0 ] || {
        echo "there is no record in $2/$name" >&2
        return 1
    }
    for record in "${records[@]}"; do
        "${fempi[@]}" check --complete "$record" || return 1
    done
}

# requeue_if_stopped STATUS: put the job back into the queue if USR1 asked it to stop and it has kept its state. After
# TERM never: that is scancel, and Slurm would bring the cancelled job back to life.
requeue_if_stopped() {
    local job=$SLURM_JOB_ID # of a task of an array, it may be the id of the whole array
    [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    if [ "$1" -eq 75 ] && [ "$asked" = USR1 ]; then
        echo "job $job goes back into the queue"
        scontrol requeue "$job"
    fi
}
