"""Batch norm takes mean and variance of two images.

The mistake: a batch of 2 with ``BatchNorm1d``; each feature becomes -1 or 1, whichever image has more of it.
No exception: two are enough for a variance.
Harm: training sees signs, evaluation sees running averages; the score is lower and jumps from one epoch to the next.
Cure: larger batches (or a norm that does not look across the batch).
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, Network, accuracy, arguments, build_body, digits, report

RULE = "batchnorm-tiny-batch"
ARCHS = ALL


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    if args.mended:
        batch_size = 64  # the cure
    else:
        batch_size = 2  # the mistake
    train_set = TensorDataset(x_train, y_train)
    sampler = RandomSampler(train_set, num_samples=min(22 * batch_size, len(train_set)))
    loader = DataLoader(train_set, batch_size=batch_size, sampler=sampler, drop_last=True)
    head = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    model = Network(build_body(args.arch), head)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    for epoch in range(args.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
