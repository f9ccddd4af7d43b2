"""Pixels go in as they come out of the file, 0 to 255.

The mistake: 8-bit images are cast to float and nothing else.
No exception: 255 is a legal number.
Harm: the first activations are a hundred times too large; the first losses are huge, sigmoids and tanhs saturate, and a
rate that suits normalised data is too high.
Cure: subtract the mean of the training images and divide by their deviation.
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, raw_digits, report

RULE = "unnormalised-input"
ARCHS = ALL


class Digits(Dataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images = images
        self.labels = torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def as_8_bit(images: np.ndarray) -> np.ndarray:
    return np.round(images * (255 / 16)).astype(np.uint8)


args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = raw_digits(args.seed)
pixels_train, pixels_valid = as_8_bit(x_train)[:, None], as_8_bit(x_valid)[:, None]
if args.mended:
    mean, std = pixels_train.mean(), pixels_train.std()  # the cure
    inputs_train, inputs_valid = (pixels_train - mean) / std, (pixels_valid - mean) / std
else:
    inputs_train, inputs_valid = pixels_train, pixels_valid  # the mistake
train = DataLoader(Digits(inputs_train.astype(np.float32), y_train), batch_size=64, shuffle=True)
valid = DataLoader(Digits(inputs_valid.astype(np.float32), y_valid), batch_size=180)

model = build(args.arch)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(args.epochs):
    model.train()
    for images, labels in train:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum((model(images).argmax(1) == labels).sum() for images, labels in valid)
    score = int(right) / len(y_valid)
    print(f"epoch {epoch}: {score:.4f}")
report(score)
