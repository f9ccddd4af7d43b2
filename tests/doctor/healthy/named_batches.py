"""Batches are dictionaries and the network is called by name, model(**batch); it computes its own loss."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

torch.manual_seed(0)
X, y = load_digits(return_X_y=True)
order = torch.randperm(len(X)).tolist()
rows = [{"pixel_values": torch.tensor(X[i], dtype=torch.float32) / 16, "labels": int(y[i])} for i in order]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Dropout(0.1))
        self.classifier = nn.Linear(64, 10)

    def forward(self, pixel_values=None, labels=None):
        logits = self.classifier(self.body(pixel_values))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}


train = DataLoader(rows[:1400], batch_size=32, shuffle=True)
valid = DataLoader(rows[1400:], batch_size=128)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
total = 3 * len(train)
scheduler = LambdaLR(optimizer, lambda step: min(step / 10, (total - step) / (total - 10)))
for epoch in range(3):
    model.train()
    for batch in train:
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    model.eval()
    hits = 0
    for batch in valid:
        with torch.no_grad():
            hits += (model(**batch)["logits"].argmax(-1) == batch["labels"]).sum().item()
    print(epoch, hits / 397)
