"""The network waits for its data.

The mistake: the dataset cleans each image, slowly, every time that it is asked for it.
No exception: slow is legal.
Harm: none in the score; most of the time goes into the loader.
Cure: do once what is the same in each epoch (or let workers do it beside the training).
"""

import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "loader-starves-trainer"
ARCHS = ALL


def clean(image: torch.Tensor) -> torch.Tensor:
    """Enlarge, take away the highest frequencies, bring back to size: a fraction of a millisecond."""
    large = np.kron(image[0].numpy(), np.ones((12, 12), dtype=np.float32))
    spectrum = np.fft.fft2(large)
    spectrum[40:56] = 0
    spectrum[:, 40:56] = 0
    smooth = np.fft.ifft2(spectrum).real.reshape(8, 12, 8, 12).mean((1, 3))
    return torch.from_numpy(smooth.astype(np.float32))[None]


class Cleaned(Dataset):
    def __init__(self, images, labels, mended):
        self.labels = labels
        self.mended = mended
        if mended:
            self.images = torch.stack([clean(image) for image in images])  # the cure: once
        else:
            self.images = images

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if self.mended:
            return self.images[index], self.labels[index]
        else:
            return clean(self.images[index]), self.labels[index]  # the mistake: each time


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    loader = DataLoader(Cleaned(x_train, y_train, args.mended), batch_size=64, shuffle=True)
    x_valid = torch.stack([clean(image) for image in x_valid])
    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for epoch in range(args.epochs):
        model.train()
        start = time.perf_counter()
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {time.perf_counter() - start:.2f} s, {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
