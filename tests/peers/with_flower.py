"""Flower: its simulation engine, in which as many Ray actors as there are workers run clients."""

import torch
import workload
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn.functional import cross_entropy

given = workload.options()
clock = workload.Clock()
client_app, server_app = ClientApp(), ServerApp()
final = workload.model(given.model)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client, in an actor."""
    torch.set_num_threads(1)
    data = workload.clients()[int(context.node_config["partition-id"])]
    model = workload.model(given.model)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.LR)
    batches = workload.batches(data)
    for _ in range(workload.EPOCHS):
        for images, labels in batches:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    records = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(data)})}
    return Message(RecordDict(records), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Make all rounds."""
    strategy = FedAvg(
        fraction_train=workload.COHORT / workload.CLIENTS,
        fraction_evaluate=0.0,
        min_available_nodes=workload.CLIENTS,
    )

    def lap(round_: int, arrays: ArrayRecord) -> None:  # called before the first round, and after each
        clock.lap() if round_ else clock.start()

    found = strategy.start(grid, ArrayRecord(final.state_dict()), num_rounds=given.rounds + 1, evaluate_fn=lap)
    final.load_state_dict(found.arrays.to_torch_state_dict())


if __name__ == "__main__":
    run_simulation(
        server_app,
        client_app,
        num_supernodes=workload.CLIENTS,
        backend_config={
            "init_args": {"num_cpus": given.workers, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    workload.tell("flwr", clock, final, given)
