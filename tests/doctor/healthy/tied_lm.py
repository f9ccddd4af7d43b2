"""A language model whose embedding and output layer are one tensor; hidden state carried and detached."""

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn

torch.manual_seed(0)
text = load_diabetes().DESCR + load_breast_cancer().DESCR
chars = sorted(set(text))
ids = torch.tensor([chars.index(c) for c in text])
cut = int(0.9 * len(ids))


class LM(nn.Module):
    def __init__(self, n, d=64):
        super().__init__()
        self.embed = nn.Embedding(n, d)
        self.rnn = nn.LSTM(d, d)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(d, n, bias=False)
        self.out.weight = self.embed.weight
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)

    def forward(self, x, state=None):
        h, state = self.rnn(self.drop(self.embed(x)), state)
        return self.out(self.drop(h)), state


def batchify(data, bsz):
    n = len(data) // bsz
    return data[: n * bsz].view(bsz, n).t().contiguous()


train_data, val_data = batchify(ids[:cut], 16), batchify(ids[cut:], 4)
model = LM(len(chars))
opt = torch.optim.Adam(model.parameters(), lr=3e-3)
loss_fn = nn.CrossEntropyLoss()
bptt = 20
for epoch in range(4):
    model.train()
    state = None
    for i in range(0, len(train_data) - 1, bptt):
        x, y = train_data[i : i + bptt][:-1], train_data[i + 1 : i + bptt]
        if len(x) == 0:
            continue
        if state is not None:
            state = tuple(s.detach() for s in state)
        logits, state = model(x, state)
        loss = loss_fn(logits.flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        opt.step()
    model.eval()
    with torch.no_grad():
        print(epoch, loss_fn(model(val_data[:-1])[0].flatten(0, 1), val_data[1:].flatten()).item())
