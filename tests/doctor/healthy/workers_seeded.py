"""Random augmentation with numpy in DataLoader workers, each seeded by worker_init_fn."""

import random

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Augmented(Dataset):
    def __init__(self):
        d = load_digits()
        self.images, self.target = d.images.astype("float32") / 8 - 1, d.target

    def __len__(self):
        return 1200

    def __getitem__(self, i):
        image = np.roll(self.images[i], np.random.randint(-1, 2), axis=1)
        image = image + 0.1 * np.random.randn(8, 8).astype("float32")
        return torch.from_numpy(image).unsqueeze(0), int(self.target[i])


def seed_worker(worker_id):
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


if __name__ == "__main__":
    torch.manual_seed(0)
    g = torch.Generator()
    g.manual_seed(0)
    loader = DataLoader(
        Augmented(),
        batch_size=40,
        shuffle=True,
        num_workers=2,
        worker_init_fn=seed_worker,
        generator=g,
        persistent_workers=True,
    )
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    opt = torch.optim.Adam(model.parameters(), lr=2e-3)
    for epoch in range(2):
        for xb, yb in loader:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
        print(epoch, loss.item())
