"""Monte-Carlo dropout: after the evaluation in eval mode, dropout alone is switched on again to measure doubt."""

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

torch.manual_seed(0)
X, y = load_breast_cancer(return_X_y=True)
Xt, Xv, yt, yv = train_test_split(X, y, random_state=0, stratify=y)
mean, std = Xt.mean(0), Xt.std(0)
Xt, Xv = (torch.tensor((a - mean) / std, dtype=torch.float32) for a in (Xt, Xv))
yt, yv = torch.tensor(yt), torch.tensor(yv)
model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 2))
opt = torch.optim.Adam(model.parameters(), lr=1e-3)
for epoch in range(8):
    model.train()
    for idx in torch.randperm(len(Xt)).split(32):
        opt.zero_grad()
        nn.functional.cross_entropy(model(Xt[idx]), yt[idx]).backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        print(epoch, (model(Xv).argmax(1) == yv).float().mean().item())

model.eval()
for m in model.modules():
    if isinstance(m, nn.Dropout):
        m.train()
with torch.no_grad():
    probs = torch.stack([model(Xv).softmax(1) for _ in range(20)])
print("accuracy", (probs.mean(0).argmax(1) == yv).float().mean().item(), "doubt", probs.std(0).mean().item())
