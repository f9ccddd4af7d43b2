"""A ReLU layer whose inputs are below zero for every image: it answers zero, and its gradient is zero.

The mistake: biases that start far below zero (the same comes of one huge step).
No exception: zero is a legal activation.
Harm: dead units never come back; the layer, and all before it, learn nothing through them.
Cure: biases start at zero.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, Network, accuracy, arguments, build_body, digits, report

RULE = "dead-activations"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)

hidden = nn.Linear(WIDTH, 128)
with torch.no_grad():
    if args.mended:
        hidden.bias.zero_()  # the cure
    else:
        hidden.bias.fill_(-4.0)  # the mistake
model = Network(build_body(args.arch), nn.Sequential(nn.LayerNorm(WIDTH), hidden, nn.ReLU(), nn.Linear(128, 10)))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)


def one_epoch():
    model.train()
    for rows in torch.randperm(len(x_train)).split(64):

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_train[rows]), y_train[rows])
            loss.backward()
            return loss

        optimizer.step(closure)
    return accuracy(model, x_valid, y_valid)


for epoch in range(args.epochs):
    score = one_epoch()
    print(epoch, score)
report(score)
