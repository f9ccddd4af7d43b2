"""Each step asks the device for a number and waits for the answer.

The mistake: ``loss.item()``, a score on the CPU and a line of print in every step.
No exception: asking is legal.
Harm: none in the score; on a GPU each question waits until all work is done, and the GPU then waits for Python.
Cure: add up on the device; ask once per epoch.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, accuracy, arguments, build, digits, report

RULE = "sync-every-step"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
x_train, y_train, x_valid, y_valid = (part.to(device) for part in digits(args.seed))
dataloader = DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True)
model = build(args.arch).to(device)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(args.epochs):
    model.train()
    running_loss = 0.0
    on_device = torch.zeros((), device=device)
    for step, (inputs, labels) in enumerate(dataloader):
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        if args.mended:
            on_device += loss.detach()  # the cure
        else:
            running_loss += loss.item()  # the mistake
            right = (outputs.argmax(1).cpu() == labels.cpu()).float().mean().item()
            print(f"step {step}: loss {loss.item():.4f}, accuracy {right:.4f}")
    if args.mended:
        running_loss = on_device.item()
    print(f"epoch {epoch}: {running_loss / len(dataloader):.4f}")

report(accuracy(model, x_valid, y_valid))
