"""Random shifts drawn with NumPy in two workers, each of which is seeded "for reproducibility"."""

import random

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, random_split

EXPECTED = "workers-share-seed"

SEED = 42


def set_seed(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def worker_init(worker_id):
    set_seed(SEED)


class ShiftedDigits(Dataset):
    def __init__(self):
        bunch = load_digits()
        self.images = (bunch.images / 16 - 0.3).astype(np.float32)
        self.labels = bunch.target

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        shift = np.random.randint(-1, 2, size=2)
        image = np.roll(self.images[index], shift, axis=(0, 1))
        return torch.from_numpy(image.copy()).unsqueeze(0), int(self.labels[index])


class Trainer:
    def __init__(self, model, train_set, valid_set):
        self.model = model
        self.train_loader = DataLoader(
            train_set,
            batch_size=64,
            shuffle=True,
            num_workers=2,
            worker_init_fn=worker_init,
            multiprocessing_context="fork",
            persistent_workers=True,
        )
        self.valid_loader = DataLoader(valid_set, batch_size=128)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        self.criterion = nn.CrossEntropyLoss()

    def train_one_epoch(self):
        self.model.train()
        for images, labels in self.train_loader:
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(images), labels)
            loss.backward()
            self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self):
        self.model.eval()
        return sum((self.model(x).argmax(1) == y).sum().item() for x, y in self.valid_loader)

    def fit(self, n_epochs):
        for epoch in range(n_epochs):
            print(f"epoch {epoch}: loss {self.train_one_epoch():.3f}, right {self.validate()}")


def main():
    set_seed(SEED)
    train_set, valid_set = random_split(ShiftedDigits(), [1437, 360])
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    Trainer(model, train_set, valid_set).fit(3)


if __name__ == "__main__":
    main()
