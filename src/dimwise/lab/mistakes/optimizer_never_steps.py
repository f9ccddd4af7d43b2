"""The optimizer is built, gradients are computed, and nobody calls ``step``.

The mistake: the call of ``optimizer.step()`` is missing.
No exception: a gradient that nobody uses is no error.
Harm: no parameter ever moves; the score stays that of the first weights.
Cure: ``optimizer.step()`` after ``backward``.
"""

import torch
from torch import nn

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "optimizer-never-steps"
ARCHS = ALL


class Trainer:
    def __init__(self, model, rate, mended):
        self.model = model
        self.mended = mended
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
        self.loss_fn = nn.CrossEntropyLoss()

    def step(self, x, y):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_fn(self.model(x), y)
        loss.backward()
        if self.mended:
            self.optimizer.step()  # the cure
        else:
            pass  # the mistake: the gradients are there and nobody walks
        return loss.detach()

    def fit(self, x, y, epochs, batch_size=64):
        for epoch in range(epochs):
            self.model.train()
            order = torch.randperm(len(x))
            losses = [self.step(x[i], y[i]) for i in order.split(batch_size)]
            print(f"[{epoch + 1}/{epochs}] {torch.stack(losses).mean():.4f}")


if __name__ == "__main__":
    args = arguments(ARCHS)
    torch.manual_seed(args.seed)
    x_train, y_train, x_valid, y_valid = digits(args.seed)
    trainer = Trainer(build(args.arch), 3e-3, args.mended)
    trainer.fit(x_train, y_train, args.epochs)
    report(accuracy(trainer.model, x_valid, y_valid))
