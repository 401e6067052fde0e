"""Chapters 6 and 7 of the book in plain PyTorch: a classifier, collate, and the training loop.

Every order is drawn from PyTorch's global generator, in the order of the book's program. Chapter
6's `create_balanced_dataset` and `random_split` are pandas' alone, and are not repeated here.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from reference.gpt2 import GPT2


class Classifier(nn.Module):
    """GPT-2 with a new head. The caller freezes parameters and unfreezes others."""

    def __init__(self, gpt: GPT2, classes: int):
        super().__init__()
        self.gpt = gpt
        self.head = nn.Linear(gpt.config.n_embd, classes)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(B, T), (B,) -> logits (B, classes)"""
        return self.head(self.gpt.hidden(tokens)[torch.arange(len(tokens)), positions])

    def loss(self, tokens: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """(B, T), (B,), (B,) -> mean cross-entropy"""
        return F.cross_entropy(self(tokens, positions), labels)


def make_loader(tensors: tuple[Tensor, ...], batch_size: int, training: bool) -> DataLoader:
    """Return batches of tokens, positions and labels."""
    return DataLoader(TensorDataset(*tensors), batch_size, shuffle=training, drop_last=training)


def collate(
    rows: list[list[int]], pad: int = 50256, ignored: int = -100, max_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return chapter 7's inputs and targets (B, T), as its `custom_collate_fn`."""
    longest = max(len(row) + 1 for row in rows)
    inputs, targets = [], []
    for row in rows:
        padded = torch.tensor([*row, *[pad] * (longest - len(row))])
        labels = padded[1:].clone()
        places = torch.nonzero(labels == pad).squeeze(1)
        labels[places[1:]] = ignored
        inputs.append(padded[:-1][:max_length])
        targets.append(labels[:max_length])
    return torch.stack(inputs), torch.stack(targets)


def train(
    model: Classifier | GPT2,
    train_loader: DataLoader,
    val_loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    eval_every: int,
    eval_batches: int,
) -> Iterator[tuple[float, float]]:
    """Train; yield both losses at each evaluation.

    Of a classifier, also yield both accuracies after each epoch.
    """
    step, both = -1, (train_loader, val_loader)
    for _ in range(epochs):
        for batch in train_loader:
            optimizer.zero_grad()
            model.loss(*batch).backward()
            optimizer.step()
            step += 1
            if step % eval_every == 0:
                yield tuple(mean_loss(model, one, eval_batches) for one in both)
        if isinstance(model, Classifier):
            yield tuple(accuracy(model, one, eval_batches) for one in both)


@torch.no_grad()
def mean_loss(model: Classifier | GPT2, loader: DataLoader, limit: int) -> float:
    """Return the mean loss of the first batches, at most `limit`."""
    total, count = 0.0, min(limit, len(loader))
    for i, batch in enumerate(loader):
        if i == count:
            break
        total += model.loss(*batch).item()
    return total / count


@torch.no_grad()
def accuracy(model: Classifier, loader: DataLoader, limit: int | None = None) -> float:
    """Return the fraction of texts that the first batches classify right."""
    right = count = 0
    for i, (tokens, positions, labels) in enumerate(loader):
        if i == limit:
            break
        right += (model(tokens, positions).argmax(-1) == labels).sum().item()
        count += len(labels)
    return right / count
