"""A sweep of learning rates; a new model is made for each, the optimizer still holds the first one's parameters."""

import torch
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale
from torch import nn

EXPECTED = "optimizer-holds-stale-parameters"
# The same fact, seen from the models made later: nobody moves their values.
ALSO = ("parameters-not-in-optimizer", "parameters-never-change")

torch.manual_seed(0)
X, y = load_iris(return_X_y=True)
X, y = torch.tensor(scale(X), dtype=torch.float32), torch.tensor(y)
perm = torch.randperm(len(X))
train_idx, val_idx = perm[:110], perm[110:]


def make_model():
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def run(model, opt, lr, epochs=15):
    for g in opt.param_groups:
        g["lr"] = lr
    for _ in range(epochs):
        shuffled = train_idx[torch.randperm(len(train_idx))]
        for i in range(0, len(shuffled), 16):
            b = shuffled[i : i + 16]
            loss = nn.functional.cross_entropy(model(X[b]), y[b])
            opt.zero_grad()
            loss.backward()
            opt.step()
    with torch.no_grad():
        return (model(X[val_idx]).argmax(1) == y[val_idx]).float().mean().item()


model = make_model()
opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
results = {}
for lr in [0.01, 0.03, 0.1]:
    model = make_model()
    results[lr] = run(model, opt, lr)
    print(f"lr={lr:<6} val acc={results[lr]:.3f}")
print("best lr:", max(results, key=results.get))
