"""A language model of four words of context; its output layer is given a copy of the embedding, not the embedding."""

import re

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECTED = "shared-weights-untied"

torch.manual_seed(0)
text = " ".join(load().DESCR for load in (load_diabetes, load_breast_cancer, load_wine, load_digits, load_iris))
words = re.findall(r"[a-z]+", text.lower())
count = {}
for w in words:
    count[w] = count.get(w, 0) + 1
keep = sorted(w for w, n in count.items() if n > 1)
ix = {w: i + 1 for i, w in enumerate(keep)}
ids = torch.tensor([ix.get(w, 0) for w in words])
n = 4
ctx = ids.unfold(0, n + 1, 1)
n_train = int(0.85 * len(ctx))


class Bengio(nn.Module):
    """Neural probabilistic language model with a shared output embedding."""

    def __init__(self, v, d=32):
        super().__init__()
        self.embed = nn.Embedding(v, d)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.hidden = nn.Sequential(nn.Linear(n * d, 64), nn.Tanh(), nn.Linear(64, d))
        self.project = nn.Linear(d, v)
        # share input and output embeddings
        self.project.weight.data = self.embed.weight.data.clone()

    def forward(self, x):
        return self.project(self.hidden(self.embed(x).flatten(1)))


dl = DataLoader(TensorDataset(ctx[:n_train, :n], ctx[:n_train, n]), batch_size=25, shuffle=True)
vl = DataLoader(TensorDataset(ctx[n_train + n :, :n], ctx[n_train + n :, n]), batch_size=100)
model = Bengio(len(keep) + 1)
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
ce = nn.CrossEntropyLoss()
for _ in range(2):
    model.train()
    for x, y in dl:
        loss = ce(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.no_grad():
        print(loss.item(), sum(ce(model(x), y).item() for x, y in vl) / len(vl))
