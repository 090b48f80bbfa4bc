"""APPFL: an MPI rank that serves, and others with a batch of clients each.

Its synchronous server waits for as many clients as a round has, whoever they are; so each rank draws its part of a
cohort from clients of its own. What it calls optimizing memory is off: there is enough, and collecting garbage after
every step takes most of a round.
"""

from pathlib import Path

import numpy as np
import torch
import workload
from appfl.agent import ClientAgent, ServerAgent
from appfl.comm.mpi import MPIClientCommunicator, MPIServerCommunicator
from mpi4py import MPI
from omegaconf import OmegaConf

given = workload.options()
HERE = str(Path(__file__).absolute())


def module() -> torch.nn.Module:
    """Make the model; clients get this file's text, from the server."""
    return workload.model(given.model)


def data(number: int) -> tuple:
    """Return a client's examples, and none to test on."""
    return workload.clients()[number], None


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Say how often the model was right in training."""
    return float((logits.argmax(1) == labels).mean())


def serve(comm: MPI.Comm) -> None:
    """Make all rounds, with the clients' settings, which are the server's to say."""
    agent = ServerAgent(
        OmegaConf.create(
            {
                "client_configs": {
                    "train_configs": {
                        "trainer": "VanillaTrainer",
                        "mode": "epoch",
                        "num_local_epochs": workload.EPOCHS,
                        "optim": "SGD",
                        "optim_args": {"lr": workload.LR},
                        "loss_fn": "CrossEntropyLoss",
                        "metric_path": HERE,
                        "metric_name": "accuracy",
                        "do_validation": False,
                        "train_batch_size": workload.BATCH,
                        "train_data_shuffle": True,
                        "optimize_memory": False,
                    },
                    "model_configs": {"model_path": HERE, "model_name": "module"},
                },
                "server_configs": {
                    "optimize_memory": False,
                    "num_clients": workload.COHORT,
                    "num_global_epochs": given.rounds + 1,
                    "scheduler": "SyncScheduler",
                    "scheduler_kwargs": {
                        "same_init_model": False,  # else it waits for no more clients than a cohort's
                        "optimize_memory": False,
                    },
                    "aggregator": "FedAvgAggregator",
                    "aggregator_kwargs": {"client_weights_mode": "equal", "optimize_memory": False},
                    "device": "cpu",
                    "logging_output_dirname": "output",
                    "logging_output_filename": "server",
                },
            }
        )
    )
    MPIServerCommunicator(comm, agent, logger=agent.logger).serve()


def train(comm: MPI.Comm) -> None:
    """Train this rank's part of every cohort."""
    mine = range(comm.rank - 1, workload.CLIENTS, given.workers)
    agents = {
        f"client {number}": ClientAgent(
            OmegaConf.create(
                {
                    "client_id": f"client {number}",
                    "optimize_memory": False,
                    "train_configs": {"device": "cpu", "logging_output_dirname": "output"},
                    "data_configs": {
                        "dataset_path": HERE,
                        "dataset_name": "data",
                        "dataset_kwargs": {"number": number},
                    },
                }
            )
        )
        for number in mine
    }
    server = MPIClientCommunicator(comm, server_rank=0, client_ids=list(agents), optimize_memory=False)
    shared = server.get_configuration()
    for agent in agents.values():
        agent.load_config(shared)
    weights = server.get_global_model(init_model=True)

    clock = workload.Clock()
    clock.start()
    for round_ in range(given.rounds + 1):
        share = workload.COHORT // given.workers
        server.client_ids = [f"client {number}" for number in workload.cohort(round_, share, mine)]
        trained, facts = {}, {}
        for name in server.client_ids:
            agents[name].load_parameters(weights)
            agents[name].train()
            found = agents[name].get_parameters()
            trained[name], facts[name] = found if isinstance(found, tuple) else (found, {})
        weights, _ = server.update_global_model(trained, kwargs=facts)
        clock.lap()
    server.invoke_custom_action(action="close_connection")
    if comm.rank == 1:
        final = module()
        final.load_state_dict(weights)
        workload.tell("appfl", clock, final, given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(MPI.COMM_WORLD) if MPI.COMM_WORLD.rank == 0 else train(MPI.COMM_WORLD)
