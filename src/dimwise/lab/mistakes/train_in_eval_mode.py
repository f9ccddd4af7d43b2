"""After the first validation the network stays in eval mode.

The mistake: ``model.train()`` is called once before the epochs, ``model.eval()`` in each of them.
No exception: a network in eval mode computes gradients like any other.
Harm: from the second epoch on dropout is off and batch norm uses its running averages and no longer follows the data;
on a task this easy the score shows little.
Cure: ``model.train()`` at the start of every epoch.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, Network, arguments, build_body, digits, report

RULE = "train-in-eval-mode"
ARCHS = ALL


def fit(model, train_set, valid_set, epochs, mended):
    (x, y), (x_valid, y_valid) = train_set, valid_set
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loss_fn = nn.CrossEntropyLoss()
    score = 0.0
    model.train()
    for epoch in range(epochs):
        if mended:
            model.train()  # the cure
        else:
            pass  # the mistake: the mode of the last validation stays
        for batch in torch.randperm(len(x)).split(64):
            loss = loss_fn(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            score = (model(x_valid).argmax(-1) == y_valid).double().mean().item()
        print(f"epoch {epoch}: {score:.3f}")
    return score


args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
head = nn.Sequential(
    nn.Linear(WIDTH, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10)
)
model = Network(build_body(args.arch), head)
report(fit(model, (x_train, y_train), (x_valid, y_valid), args.epochs, args.mended))
