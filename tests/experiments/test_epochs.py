"""Training on the digits: which images a model sees, and in which order."""

from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from experiments.epochs import curves, epochs
from export.held_out import digits


class Watched(nn.Linear):
    """A linear classifier that keeps the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__(64, 10)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(x)
        return super().forward(x)


def trained(*, seed: int = 0, batch_size: int = 128, count: int = 1) -> tuple[Watched, list[dict[str, float]]]:
    torch.manual_seed(0)
    model = Watched()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, list(islice(epochs(model, optimizer, (64,), seed=seed, batch_size=batch_size), count))


@pytest.mark.parametrize(
    ("batch_size", "last", "images"),
    [(128, 29, 1437), (4, 4, 1436), (2, 2, 1436), (1, 1, 1437)],
)
def test_a_lone_image_is_left_out_unless_every_batch_is_one(batch_size: int, last: int, images: int) -> None:
    model, _ = trained(batch_size=batch_size)
    assert len(model.seen[0]) == batch_size
    assert len(model.seen[-1]) == last
    assert sum(map(len, model.seen)) == images


def test_the_seed_decides_the_order_and_every_epoch_has_another() -> None:
    (first, _), (again, _), (other, _) = trained(count=2), trained(count=2), trained(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.seen, again.seen, strict=True))
    assert not torch.equal(first.seen[0], other.seen[0])
    assert not torch.equal(first.seen[0], first.seen[len(first.seen) // 2])


def test_an_epoch_sees_every_training_image_once() -> None:
    model, _ = trained()
    seen = torch.cat(model.seen).sum(dim=1).sort().values
    assert torch.equal(seen, torch.from_numpy(digits().train_images).sum(dim=1).sort().values)


def test_a_linear_classifier_learns_and_its_curves_say_so() -> None:
    _, found = trained(count=3)
    drawn = curves(found)
    assert set(drawn) == {"loss", "accuracy", "nll"}
    assert drawn["nll"] == sorted(drawn["nll"], reverse=True)
    assert drawn["accuracy"][-1] > 0.8
