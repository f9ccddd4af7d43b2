"""Cutout (DeVries & Taylor) inside the dataset; loaders are made anew for each epoch."""

import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

EXPECTED = "input-mutated"


class DigitSet(Dataset):
    def __init__(self, data, target, augment=False):
        self.data, self.target, self.augment = data, target, augment

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = self.data[index]
        if self.augment:
            row, column = np.random.randint(0, 6, 2)
            image[row : row + 3, column : column + 3] = 0
        return torch.tensor(image)[None], self.target[index]


def run_epoch(model, dataset, criterion, optimizer=None):
    model.train(optimizer is not None)
    loader = DataLoader(dataset, batch_size=65, shuffle=optimizer is not None)
    total, hits = 0.0, 0
    with torch.set_grad_enabled(optimizer is not None):
        for images, labels in loader:
            outputs = model(images)
            loss = criterion(outputs, labels)
            if optimizer is not None:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += loss.item() * len(labels)
            hits += (outputs.argmax(1) == labels).sum().item()
    return total / len(dataset), hits / len(dataset)


if __name__ == "__main__":
    torch.manual_seed(0)
    np.random.seed(0)
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)
    train = DigitSet(images[:1300].copy(), bunch.target[:1300], augment=True)
    valid = DigitSet(images[1300:].copy(), bunch.target[1300:])
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(6):
        print(epoch, run_epoch(model, train, criterion, optimizer), run_epoch(model, valid, criterion))
