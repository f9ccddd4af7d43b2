"""All weights of a layer start equal: its units compute the same and learn the same, for ever.

The mistake: every matrix is filled with one constant (or, ``--variant large``, drawn far too wide).
No exception: any number is a legal weight.
Harm: a layer of many units is worth one; the score stays low. Drawn too wide: huge first losses, slow learning.
Cure: random weights scaled to the number of inputs (Glorot and Bengio 2010, He et al. 2015).
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "bad-initialisation"
ARCHS = ALL
VARIANTS = ("constant", "large")


def initialise(model, mended, variant):
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and "place" not in name:
            if mended:
                nn.init.xavier_uniform_(parameter)  # the cure
            elif variant == "constant":
                nn.init.constant_(parameter, 0.02)  # the mistake
            else:
                nn.init.normal_(parameter, std=1.0)  # the mistake


args = arguments(ARCHS, variants=VARIANTS)
torch.manual_seed(args.seed)
x, y, x_valid, y_valid = digits(args.seed)
model = build(args.arch)
initialise(model, args.mended, args.variant)
loss_function = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

steps_per_epoch = len(x) // 64
for step in range(args.epochs * steps_per_epoch):
    if step % steps_per_epoch == 0:
        order = torch.randperm(len(x))
        model.train()
    rows = order[(step % steps_per_epoch) * 64 :][:64]
    optimizer.zero_grad()
    loss = loss_function(model(x[rows]), y[rows])
    loss.backward()
    optimizer.step()
    if (step + 1) % steps_per_epoch == 0:
        print(f"step {step + 1}: loss {loss.item():.4f}, accuracy {accuracy(model, x_valid, y_valid):.4f}")

report(accuracy(model, x_valid, y_valid))
