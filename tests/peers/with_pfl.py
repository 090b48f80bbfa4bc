"""pfl-research: processes that torchrun started train and add up, each its share of a cohort."""

import os

import torch
import workload
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch.nn.functional import cross_entropy


class Module(torch.nn.Module):
    """The workload's model with the two methods that pfl wants."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner = workload.model(name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images)

    def loss(self, images: torch.Tensor, labels: torch.Tensor, *, eval: bool = False) -> torch.Tensor:  # noqa: A002
        self.train(not eval)
        return cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images: torch.Tensor, labels: torch.Tensor, *, eval: bool = True) -> dict:  # noqa: A002
        return {"loss": Weighted(float(self.loss(images, labels, eval=eval)) * len(labels), len(labels))}


class Laps(TrainingProcessCallback):
    """Ends a round when the model has changed."""

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        clock.start()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        clock.lap()
        return False, Metrics()


if __name__ == "__main__":
    given = workload.options()
    torch.set_num_threads(1)
    clock = workload.Clock()
    users = list(range(workload.CLIENTS))
    data = [PyTorchTensorDataset(each.tensors, user_id=str(user)) for user, each in enumerate(workload.clients())]
    federation = FederatedDataset(data.__getitem__, get_user_sampler("random", users))
    module = Module(given.model)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=given.rounds + 1,
            evaluation_frequency=given.rounds + 1,  # it tests before the first round, which does not count
            train_cohort_size=workload.COHORT,
            val_cohort_size=0,
        ),
        SimulatedBackend(federation, federation),
        PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0)),
        NNTrainHyperParams(
            local_num_epochs=workload.EPOCHS, local_learning_rate=workload.LR, local_batch_size=workload.BATCH
        ),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[Laps()],
        send_metrics_to_platform=False,
    )
    if os.environ["RANK"] == "0":
        workload.tell("pfl", clock, module, given)
