"""ByzFL: its clients train one after another in one process, which has as many threads as others have workers.

Or one, where that is faster: the threads of a small model wait for each other more than they work.
"""

import time

import byzfl.fed_framework.models as byzfl_models
import torch
import workload
from byzfl import Client, Server


def seconds(client: Client, threads: int) -> float:
    """Time an epoch."""
    torch.set_num_threads(threads)
    client.compute_model_update(1)
    start = time.perf_counter()
    client.compute_model_update(60)
    return time.perf_counter() - start


if __name__ == "__main__":
    given = workload.options()
    byzfl_models.workload = lambda: workload.model(given.model)  # it looks models up there, by name
    common = {
        "model_name": "workload",
        "device": "cpu",
        "optimizer_name": "SGD",
        "learning_rate": workload.LR,
        "weight_decay": 0.0,
        "milestones": [],
        "learning_rate_decay": 1.0,
    }
    clients = [
        Client(
            {
                **common,
                "loss_name": "CrossEntropyLoss",
                "LabelFlipping": False,
                "nb_labels": 10,
                "momentum": 0.0,
                "training_dataloader": workload.batches(data),
                "store_per_client_metrics": False,
            }
        )
        for data in workload.clients()
    ]
    test = workload.batches(workload.examples("test"))
    server = Server(
        {**common, "aggregator_info": {"name": "Average", "parameters": {}}, "pre_agg_list": [], "test_loader": test}
    )
    steps = workload.EPOCHS * len(clients[0].training_dataloader)
    torch.set_num_threads(min((given.workers, 1), key=lambda threads: seconds(clients[0], threads)))

    clock = workload.Clock()
    clock.start()
    for round_ in range(given.rounds + 1):
        weights = []
        state = server.get_dict_parameters()
        for number in workload.cohort(round_):
            client = clients[number]
            client.set_model_state(state)
            client.compute_model_update(steps)
            weights.append(client.get_flat_parameters())
        server.update_model_with_weights(weights)
        clock.lap()
    workload.tell("byzfl", clock, server.model, given)
