"""A layer before batch norm has a bias, which batch norm subtracts again at once.

The mistake: ``bias`` left at its default before ``BatchNorm``.
No exception: a parameter without effect is legal.
Harm: none in the score; parameters, memory and optimizer state for nothing.
Cure: ``bias=False`` before batch norm.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "bias-before-norm"
ARCHS = ALL


def convolutional(bias):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=bias),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=bias),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def other(arch, bias):
    return nn.Sequential(
        build_body(arch),
        nn.Linear(WIDTH, WIDTH, bias=bias),
        nn.BatchNorm1d(WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 10),
    )


args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
if args.mended:
    bias = False  # the cure
else:
    bias = True  # the mistake
model = convolutional(bias) if args.arch == "cnn" else other(args.arch, bias)
print("parameters:", sum(p.numel() for p in model.parameters()))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(args.epochs):
    model.train()
    for rows in torch.randperm(len(x_train)).split(64):
        optimizer.zero_grad()
        criterion(model(x_train[rows]), y_train[rows]).backward()
        optimizer.step()
    print(f"epoch {epoch}: {accuracy(model, x_valid, y_valid):.4f}")
report(accuracy(model, x_valid, y_valid))
