"""Gradients are cleared between backward and step: the optimizer finds nothing.

The mistake: ``zero_grad`` stands after ``backward`` and before ``step``.
No exception: an optimizer skips parameters whose ``.grad`` is None.
Harm: no parameter ever moves; the score stays that of the first weights.
Cure: clear before ``backward`` or after ``step``.
"""

import torch
import torch.nn.functional as F

from dimwise.lab.mistakes._parts import ALL, arguments, build, digits, report

RULE = "zero-grad-before-step"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
net = build(args.arch)
opt = torch.optim.Adam(net.parameters(), lr=3e-3)

for epoch in range(args.epochs):
    net.train()
    for idx in torch.randperm(len(x_train)).split(64):
        out = net(x_train[idx])
        loss = F.cross_entropy(out, y_train[idx])
        if args.mended:
            opt.zero_grad()  # the cure
            loss.backward()
        else:
            loss.backward()
            opt.zero_grad()  # the mistake
        opt.step()
    net.eval()
    with torch.no_grad():
        right = (net(x_valid).argmax(1) == y_valid).float().mean().item()
    print(epoch, f"{right:.4f}")

report(right)
