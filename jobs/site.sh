# What differs from site to site: the only file here that you must adapt. The scripts source it; it is not run by itself.
# shellcheck shell=bash
# shellcheck disable=SC2034  # used by common.sh

# 1. Software. Load the MPI for which mpi4py was built, and Python if the virtual environment rests on a module's.
# module purge
# module load gcc openmpi python

# 2. fempi: a virtual environment, made on a login node in a folder that compute nodes see ...
# shellcheck source=/dev/null
source "${FEMPI_VENV:-.venv}/bin/activate"
fempi=(fempi)
# ... or a container, built there too (the MPI inside must be one that the launcher outside can start: ask your site):
# fempi=(apptainer exec --bind "$PWD" fempi.sif fempi) # with GPUs: apptainer exec --nv

# 3. The launcher: mpirun, the one that came with the MPI library (the module's; for the wheel the virtual
# environment's), or srun, where Slurm speaks PMIx (`srun --mpi=list` says so) or whatever your site tells you.
launcher_name=${FEMPI_LAUNCHER:-mpirun}
case $launcher_name in
    mpirun) launcher=(mpirun) ;; # Open MPI: perhaps --bind-to core --map-by slot:PE="$OMP_NUM_THREADS"
    srun) launcher=(srun --mpi=pmix --kill-on-bad-exit=1) ;; # perhaps --cpu-bind=cores; MPICH and Intel MPI: --mpi=pmi2
    *)
        echo "FEMPI_LAUNCHER is '$launcher_name'; it must be mpirun or srun" >&2
        exit 2
        ;;
esac

# 4. Threads of a rank. One gives the same bits on any number of ranks.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS # srun no longer takes it from the job since Slurm 22.05

# 5. Data, fetched on a login node: `fempi fetch mnist --root /where/all/nodes/see/it`
# export FEMPI_DATA=/where/all/nodes/see/it
# Many ranks that read large data from a shared file system at once: copy it to each node's own disk first.
# srun --ntasks-per-node=1 cp -r "$FEMPI_DATA" "$TMPDIR/data" && export FEMPI_DATA=$TMPDIR/data
# Records stay on the shared file system: what is on a node's disk is gone with the job, and so is the checkpoint.
# export HDF5_USE_FILE_LOCKING=FALSE # where HDF5 says that the file system has no locks
