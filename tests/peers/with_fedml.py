"""FedML: Parrot's sequential MPI simulator, an MPI rank that serves and others that train clients one after another."""

import logging
from types import SimpleNamespace

import torch
import workload
from fedml import FedMLRunner
from fedml.core.mlops import MLOpsStore
from fedml.simulation.mpi.fedavg_seq.FedAVGAggregator import FedAVGAggregator
from mpi4py import MPI

given = workload.options()
clock = workload.Clock()
final = workload.model(given.model)
aggregate = FedAVGAggregator.aggregate


def timed(self: FedAVGAggregator) -> dict:
    """Aggregate, which is how a round ends."""
    found = aggregate(self)
    clock.lap()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    comm = MPI.COMM_WORLD
    logging.disable(logging.INFO)
    settings = SimpleNamespace(
        training_type="simulation",
        backend="MPI",
        federated_optimizer="FedAvg_seq",
        dataset="mnist",
        model=given.model,
        client_num_in_total=workload.CLIENTS,
        client_num_per_round=workload.COHORT,
        comm_round=given.rounds + 1,
        epochs=workload.EPOCHS,
        batch_size=workload.BATCH,
        client_optimizer="sgd",
        learning_rate=workload.LR,
        weight_decay=0.0,
        frequency_of_the_test=10**9,
        random_seed=workload.SEED,
        run_id="0",
        using_gpu=False,
        using_mlops=False,
        enable_tracking=False,
        enable_wandb=False,
        sys_perf_profiling=False,
        comm=comm,
        rank=comm.rank,
        process_id=comm.rank,
        worker_num=comm.size,
    )
    MLOpsStore.mlops_args = settings  # else it asks its makers' servers; fedml.init() does so whatever is set
    data = dict(enumerate(map(workload.batches, workload.clients())))
    sizes = dict(enumerate(map(len, workload.clients())))
    everything = [workload.batches(workload.examples(part)) for part in ("train", "test")]
    dataset = [sum(sizes.values()), 10_000, *everything, sizes, data, data, 10]
    FedAVGAggregator.aggregate = timed
    rank = comm.rank  # after the last round nobody may ask: it calls MPI_Finalize
    comm.Barrier()
    clock.start()
    FedMLRunner(settings, torch.device("cpu"), dataset, final).run()
    if rank == 0:
        workload.tell("fedml", clock, final, given)
