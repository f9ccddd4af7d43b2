"""The network ends in a sigmoid, and the loss applies another one.

The task: is the digit odd?
The mistake: ``nn.Sigmoid`` as last layer together with ``BCEWithLogitsLoss``, which wants logits.
No exception: probabilities are numbers; they pass as logits.
Harm: the loss sees outputs between 0 and 1, so that no answer of "even" can be confident; the usual threshold at logit
zero then calls everything odd.
Cure: no sigmoid in the network, or ``nn.BCELoss``.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, WIDTH, arguments, build_body, digits, report

RULE = "sigmoid-before-bce-with-logits"
ARCHS = ALL


class OddOrEven(nn.Module):
    def __init__(self, arch, mended):
        super().__init__()
        self.body = build_body(arch)
        self.head = nn.Linear(WIDTH, 1)
        if mended:
            self.last = nn.Identity()  # the cure
        else:
            self.last = nn.Sigmoid()  # the mistake

    def forward(self, x):
        return self.last(self.head(self.body(x))).squeeze(1)


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    odd, odd_valid = (y_train % 2).float(), (y_valid % 2).float()
    model = OddOrEven(args.arch, args.mended)
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(x_train)).split(64):
            optimizer.zero_grad()
            loss = loss_fn(model(x_train[rows]), odd[rows])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = model(x_valid)
        score = ((outputs > 0) == (odd_valid > 0)).float().mean().item()
        print(f"epoch {epoch}: loss {loss_fn(outputs, odd_valid).item():.4f}, accuracy {score:.4f}")
    report(score)


if __name__ == "__main__":
    main()
