"""The body runs in eval mode under no_grad; the head alone learns, and the optimizer knows only the head."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(1)
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16 - 0.3
labels = torch.from_numpy(digits.target)
body = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2), nn.Flatten()
)
body.eval()
head = nn.Linear(512, 10)
opt = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
order = torch.randperm(len(images))
train, test = order[:1400], order[1400:]
for epoch in range(3):
    for batch in train[torch.randperm(len(train))].split(50):
        with torch.no_grad():
            features = body(images[batch])
        loss = F.cross_entropy(head(features), labels[batch])
        loss.backward()
        opt.step()
        opt.zero_grad()
    with torch.no_grad():
        print(epoch, (head(body(images[test])).argmax(1) == labels[test]).float().mean().item())
