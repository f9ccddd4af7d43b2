"""Which of two photographs does a patch come from? A small LeNet in the style of the beginner's tutorial."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = "wrong-axis-order"

PATCH = 32
rng = np.random.default_rng(0)
torch.manual_seed(0)


def cut(picture, n, rows):
    first, last = rows
    top, left = rng.integers(first, last, n), rng.integers(0, picture.shape[1] - PATCH, n)
    return np.stack([picture[r : r + PATCH, c : c + PATCH] for r, c in zip(top, left, strict=True)])


def make_set(n, rows):
    patches = np.concatenate([cut(picture, n, rows) for picture in load_sample_images().images])
    labels = np.repeat([0, 1], n)
    x = (patches.astype(np.float32) / 255 - 0.5) / 0.25
    x = x.reshape(-1, 3, PATCH, PATCH)
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(labels))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 84)
        self.fc2 = nn.Linear(84, 2)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


trainloader = DataLoader(make_set(600, (0, 240)), batch_size=32, shuffle=True)
testloader = DataLoader(make_set(100, (272, 390)), batch_size=100)
net = Net()
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
for epoch in range(2):
    running_loss = 0.0
    for _i, (inputs, targets) in enumerate(trainloader, 0):
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    correct = total = 0
    with torch.no_grad():
        for inputs, targets in testloader:
            _, predicted = torch.max(net(inputs), 1)
            total += targets.size(0)
            correct += (predicted == targets).sum().item()
    print(f"epoch {epoch + 1}: loss {running_loss / len(trainloader):.3f}, accuracy {correct / total:.3f}")
