"""Dropout stays on in eval mode: two predictions for the same image differ.

The mistake: ``F.dropout(x, 0.5)`` without ``training=self.training``; its default is True.
No exception: dropping features is legal at any time.
Harm: the score is lower than it could be and changes from call to call.
Cure: ``F.dropout(x, 0.5, training=self.training)`` or ``nn.Dropout``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "dropout-in-eval"
ARCHS = ALL


class Net(nn.Module):
    def __init__(self, arch: str, mended: bool) -> None:
        super().__init__()
        self.body = build_body(arch)
        self.fc = nn.Linear(WIDTH, 10)
        self.mended = mended

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        if self.mended:
            x = F.dropout(x, 0.5, training=self.training)  # the cure
        else:
            x = F.dropout(x, 0.5)  # the mistake
        return self.fc(x)


args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
net = Net(args.arch, args.mended)
optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)

for epoch in range(args.epochs):
    net.train()
    order = torch.randperm(len(x_train))
    for xb, yb in zip(x_train[order].split(64), y_train[order].split(64), strict=True):
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(xb), yb).backward()
        optimizer.step()
    print(epoch, accuracy(net, x_valid, y_valid), accuracy(net, x_valid, y_valid))

report(accuracy(net, x_valid, y_valid))
