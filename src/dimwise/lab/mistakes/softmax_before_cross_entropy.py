"""The network ends in a softmax, and cross-entropy applies another one.

The mistake: ``nn.Softmax`` as last layer together with ``nn.CrossEntropyLoss``, which wants logits.
No exception: probabilities are numbers; they pass as logits.
Harm: between ten probabilities the second softmax can hardly differ, the loss stays above 1.46 and gradients are small:
slower, often a hair worse, never obviously broken.
Cure: no softmax in the network.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, WIDTH, accuracy, arguments, build_body, digits, report

RULE = "softmax-before-cross-entropy"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)

if args.mended:
    model = nn.Sequential(build_body(args.arch), nn.Linear(WIDTH, 10))  # the cure
else:
    model = nn.Sequential(build_body(args.arch), nn.Linear(WIDTH, 10), nn.Softmax(dim=1))  # the mistake

criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
loader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)

for epoch in range(args.epochs):
    model.train()
    for step, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        if step == len(loader) - 1:
            print(f"epoch {epoch}, step {step}: loss {loss.item():.4f}")

report(accuracy(model, x_valid, y_valid))
