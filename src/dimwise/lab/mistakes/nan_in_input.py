"""A few pixels are missing, and "missing" is read as NaN.

The mistake: a table with empty cells goes into the network as it was read.
No exception: NaN is a number like any other.
Harm: the first batch with one empty cell makes every weight NaN.
Cure: fill empty cells with something known from the training part, here the mean of that pixel.
"""

import numpy as np
import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, raw_digits, report

RULE = "nan-in-input"
ARCHS = ALL


def with_empty_cells(images, seed, n_cells=40):
    rng = np.random.default_rng(seed)
    images = images.copy()
    images.reshape(-1)[rng.choice(images.size, n_cells, replace=False)] = np.nan
    return images


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = raw_digits(args.seed)
    x_train = with_empty_cells(x_train, args.seed)
    mean, std = np.nanmean(x_train), np.nanstd(x_train)
    if args.mended:
        x_train = np.where(np.isnan(x_train), np.nanmean(x_train, axis=0), x_train)  # the cure
    else:
        x_train = x_train.astype(np.float32)  # the mistake: empty cells stay NaN
    x, y = torch.from_numpy((x_train - mean) / std).float()[:, None], torch.from_numpy(y_train)
    xv, yv = torch.from_numpy((x_valid - mean) / std).float()[:, None], torch.from_numpy(y_valid)

    model = build(args.arch)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = criterion(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: last loss {loss.item():.4f}")
    report(accuracy(model, xv, yv))


if __name__ == "__main__":
    main()
