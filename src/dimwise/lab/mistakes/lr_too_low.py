"""The learning rate is so low that nothing happens in the time there is.

The mistake: plain SGD with a rate copied from fine-tuning with Adam.
No exception: short steps are steps.
Harm: the loss falls by a hair per epoch; one thinks that the network is too small.
Cure: a rate from the optimizer's usual range, or from a learning-rate range test.
"""

import torch
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "lr-too-low"
ARCHS = ALL


def main():
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    model = build(args.arch)
    if args.mended:
        rate = 5e-2  # the cure
    else:
        rate = 5e-5  # the mistake
    sgd = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(args.seed)

    for epoch in range(args.epochs):
        model.train()
        summed = torch.tensor(0.0)
        order = torch.randperm(len(x_train), generator=generator)
        for first in range(0, len(order), 64):
            chosen = order[first : first + 64]
            sgd.zero_grad()
            loss = F.cross_entropy(model(x_train[chosen]), y_train[chosen], reduction="mean")
            loss.backward()
            sgd.step()
            summed += loss.detach() * len(chosen)
        print(f"epoch {epoch}: train loss {(summed / len(order)).item():.4f}")
    report(accuracy(model, x_valid, y_valid))


if __name__ == "__main__":
    main()
