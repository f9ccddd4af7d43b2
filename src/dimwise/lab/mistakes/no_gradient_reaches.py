"""The graph is cut between body and head.

The mistake: the features are detached before the head reads them (or, ``--variant data``, taken through ``.data``).
No exception: to the head, its input is a constant; the body's ``.grad`` stays None and the optimizer skips it.
Harm: a linear classifier on random features; it learns, and hides that the body does not.
Cure: no ``detach`` on the way from input to loss.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, arguments, build_body, digits, report

RULE = "no-gradient-reaches"
ARCHS = ALL
VARIANTS = ("detach", "data")


class Model(nn.Module):
    def __init__(self, arch, mended, variant):
        super().__init__()
        self.body = build_body(arch)
        self.head = nn.Linear(WIDTH, 10)
        self.mended, self.variant = mended, variant

    def forward(self, x):
        features = self.body(x)
        if self.mended:
            return self.head(features)  # the cure
        elif self.variant == "detach":
            return self.head(features.detach())  # the mistake
        else:
            return self.head(features.data)  # the mistake


@torch.no_grad()
def evaluate(model, x, y):
    model.eval()
    logits = model(x)
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


if __name__ == "__main__":
    args = arguments(ARCHS, variants=VARIANTS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = Model(args.arch, args.mended, args.variant)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for epoch in range(1, args.epochs + 1):
        model.train()
        for i in torch.randperm(len(x_train)).chunk(23):
            loss = F.cross_entropy(model(x_train[i]), y_train[i])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        print("epoch {}: valid loss {:.3f}, accuracy {:.3f}".format(epoch, *evaluate(model, x_valid, y_valid)))
    report(evaluate(model, x_valid, y_valid)[1])
