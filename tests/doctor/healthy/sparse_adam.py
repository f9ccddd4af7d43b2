"""Matrix factorisation: SparseAdam for the embeddings, Adam for the rest; most rows get no gradient in a step."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
n_users, n_items = 300, 200
taste, trait = torch.randn(n_users, 4), torch.randn(n_items, 4)
users, items = torch.randint(n_users, (6000,)), torch.randint(n_items, (6000,))
ratings = 3 + (taste[users] * trait[items]).sum(1) / 2 + 0.2 * torch.randn(6000)


class Recommender(nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.user = nn.Embedding(n_users, d, sparse=True)
        self.item = nn.Embedding(n_items, d, sparse=True)
        self.mlp = nn.Sequential(nn.Linear(3 * d, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, u, i):
        u, i = self.user(u), self.item(i)
        return self.mlp(torch.cat([u, i, u * i], 1)).squeeze(1)


model = Recommender()
sparse = torch.optim.SparseAdam([*model.user.parameters(), *model.item.parameters()], lr=0.01)
dense = torch.optim.Adam(model.mlp.parameters(), lr=0.003)
loader = DataLoader(TensorDataset(users[:5000], items[:5000], ratings[:5000]), batch_size=128, shuffle=True)
for epoch in range(5):
    for u, i, r in loader:
        loss = nn.functional.mse_loss(model(u, i), r)
        sparse.zero_grad()
        dense.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
    with torch.no_grad():
        print(epoch, nn.functional.mse_loss(model(users[5000:], items[5000:]), ratings[5000:]).item())
