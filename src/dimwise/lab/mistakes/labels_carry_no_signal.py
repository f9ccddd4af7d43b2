"""Images were shuffled and labels were not: they no longer belong together.

The mistake: one permutation for the images, none for the labels.
No exception: both arrays keep their shapes.
Harm: the loss stays at ln 10 at first; a larger network then learns the noise by heart, and the score stays at chance.
Cure: the same permutation for both.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "labels-carry-no-signal"
ARCHS = ALL


def main():
    args = arguments(ARCHS, epochs=6)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    permutation = torch.from_numpy(np.random.default_rng(args.seed).permutation(len(x_train)))
    if args.mended:
        x_train, y_train = x_train[permutation], y_train[permutation]  # the cure
    else:
        x_train, y_train = x_train[permutation], y_train  # the mistake
    loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
    model = build(args.arch)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
