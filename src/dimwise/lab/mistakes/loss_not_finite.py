"""The loss becomes NaN although the network's outputs are fine.

The mistake: a class-balanced loss takes the mean over each class of the batch, also over classes that are not in it;
the mean of nothing is 0/0.
No exception: NaN is a number like any other to autograd.
Harm: one such batch and every weight is NaN; the network answers with the first class for good.
Cure: take the mean only over classes that are there.
"""

import torch
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "loss-not-finite"
ARCHS = ALL


def balanced_loss(logits, labels, mended):
    each = F.cross_entropy(logits, labels, reduction="none")
    if mended:
        classes = labels.unique()  # the cure: only classes that are in the batch
    else:
        classes = torch.arange(10)  # the mistake: some have no member here
    members = (labels == classes[:, None]).float()
    return ((members * each).sum(1) / members.sum(1)).mean()


args = arguments(ARCHS, epochs=3)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
model = build(args.arch)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(args.epochs):
    model.train()
    perm = torch.randperm(len(x_train))
    for xb, yb in zip(x_train[perm].split(32), y_train[perm].split(32), strict=True):
        loss = balanced_loss(model(xb), yb, args.mended)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: last loss {loss.item():.4f}")

report(accuracy(model, x_valid, y_valid))
