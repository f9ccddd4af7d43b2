"""The network has a thousand outputs, the labels name ten.

The mistake: a head for another task was left in place.
No exception: every label is a legal output.
Harm: the first loss is ln 1000, and steps are spent on telling 990 outputs that they never happen; a short
run may not get over it, a long one does.
Cure: as many outputs as classes.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dimwise.lab.mistakes._parts import ALL, arguments, build, digits, report

RULE = "output-labels-mismatch"
ARCHS = ALL

args = arguments(ARCHS)
torch.manual_seed(args.seed)
x_train, y_train, x_valid, y_valid = digits(args.seed)
loaders = {
    "train": DataLoader(TensorDataset(x_train, y_train), batch_size=64, shuffle=True),
    "valid": DataLoader(TensorDataset(x_valid, y_valid), batch_size=90),
}
if args.mended:
    model = build(args.arch, n_outputs=10)  # the cure
else:
    model = build(args.arch, n_outputs=1000)  # the mistake
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(args.epochs):
    for phase in ("train", "valid"):
        model.train(phase == "train")
        seen_loss, seen_right = torch.zeros(()), torch.zeros(())
        for inputs, labels in loaders[phase]:
            with torch.set_grad_enabled(phase == "train"):
                outputs = model(inputs)
                loss = criterion(outputs, labels)
                if phase == "train":
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            seen_loss += loss.detach() * len(labels)
            seen_right += (outputs.argmax(1) == labels).sum()
        n = len(loaders[phase].dataset)
        print(f"epoch {epoch}: {phase} loss {float(seen_loss / n):.4f} accuracy {float(seen_right / n):.4f}")

report(float(seen_right / n))
