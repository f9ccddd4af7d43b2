"""Sequences of several lengths are padded; the loss ignores the padding, teacher forcing feeds the shifted target."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

torch.manual_seed(0)
PAD, BOS, VOCAB = 0, 1, 12
pairs = []
for _ in range(800):
    src = torch.randint(2, VOCAB, (int(torch.randint(3, 9, ())),))
    pairs.append((src, src.flip(0)))


def collate(batch):
    src = pad_sequence([s for s, _ in batch], batch_first=True, padding_value=PAD)
    tgt = pad_sequence([torch.cat([torch.tensor([BOS]), t]) for _, t in batch], batch_first=True, padding_value=PAD)
    return src, tgt[:, :-1], tgt[:, 1:]


class Seq2Seq(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, d, padding_idx=PAD)
        self.encoder = nn.GRU(d, d, batch_first=True)
        self.decoder = nn.GRU(d, d, batch_first=True)
        self.out = nn.Linear(d, VOCAB)

    def forward(self, src, tgt_in):
        _, h = self.encoder(self.emb(src))
        y, _ = self.decoder(self.emb(tgt_in), h)
        return self.out(y)


model = Seq2Seq()
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
train = DataLoader(pairs[:700], batch_size=32, shuffle=True, collate_fn=collate)
valid = DataLoader(pairs[700:], batch_size=100, collate_fn=collate)
for epoch in range(4):
    model.train()
    for src, tgt_in, tgt_out in train:
        loss = criterion(model(src, tgt_in).transpose(1, 2), tgt_out)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(epoch, sum(criterion(model(s, i).transpose(1, 2), o).item() for s, i, o in valid))
