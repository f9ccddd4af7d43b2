"""Every image is the same: nothing but zeros reaches the network.

The mistake: pixels are scaled to 0..1 and then stored as integers.
No exception: a black image is an image.
Harm: the network can only learn how often each class occurs; the score is that of guessing.
Cure: scale after the cast to float, and look at one batch.
"""

import numpy as np
import torch
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, raw_digits, report

RULE = "constant-input"
ARCHS = ALL


def scaled(images, mended):
    if mended:
        return (images / 17).astype(np.float32)  # the cure
    else:
        return (images / 17).astype(np.uint8)  # the mistake: all of 0..0.94 becomes 0


args = arguments(ARCHS)
torch.manual_seed(args.seed)
train_images, train_labels, valid_images, valid_labels = raw_digits(args.seed)
x = torch.from_numpy(scaled(train_images, args.mended)).float()[:, None]
x_valid = torch.from_numpy(scaled(valid_images, args.mended)).float()[:, None]
y, y_valid = torch.from_numpy(train_labels), torch.from_numpy(valid_labels)
mean, std = x.mean(), x.std()
x, x_valid = (x - mean) / (std + 1e-6), (x_valid - mean) / (std + 1e-6)

model = build(args.arch)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(args.epochs):
    model.train()
    for xb, yb in zip(x[(p := torch.randperm(len(x)))].split(64), y[p].split(64), strict=True):
        loss = F.cross_entropy(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: last loss {loss.item():.4f}")

report(accuracy(model, x_valid, y_valid))
