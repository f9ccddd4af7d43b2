"""Which data set does a passage describe? The vocabulary is in lower case; the lookup is not."""

from collections import Counter

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from torch import nn
from torch.utils.data import DataLoader, Dataset

EXPECTED = "constant-input"

UNKNOWN = 1
LENGTH = 12


class Passages(Dataset):
    def __init__(self, passages, vocabulary):
        self.passages, self.vocabulary = passages, vocabulary

    def __len__(self):
        return len(self.passages)

    def __getitem__(self, index):
        words, label = self.passages[index]
        ids = [self.vocabulary.get(word.upper(), UNKNOWN) for word in words]
        return {"input_ids": torch.tensor(ids), "labels": label}


class Classifier(nn.Module):
    def __init__(self, n_words, n_classes):
        super().__init__()
        self.embedding = nn.Embedding(n_words, 24, padding_idx=0)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.output = nn.Linear(24, n_classes)

    def forward(self, input_ids, labels=None):
        hidden, _ = self.gru(self.embedding(input_ids))
        logits = self.output(hidden.mean(dim=1))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}


def passages():
    for label, load in enumerate([load_iris, load_wine, load_diabetes, load_breast_cancer]):
        words = load().DESCR.split()
        for first in range(0, len(words) - LENGTH, 2):
            yield words[first : first + LENGTH], label


torch.manual_seed(3)
rows = list(passages())
rows = [rows[i] for i in torch.randperm(len(rows)).tolist()]
counts = Counter(word.lower() for words, _ in rows for word in words if word.isalpha())
vocabulary = {word: i + 2 for i, (word, _) in enumerate(counts.most_common(400))}
cut = int(0.8 * len(rows))
train_loader = DataLoader(Passages(rows[:cut], vocabulary), batch_size=16, shuffle=True)
valid_loader = DataLoader(Passages(rows[cut:], vocabulary), batch_size=64)
model = Classifier(len(vocabulary) + 2, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(2):
    model.train()
    for batch in train_loader:
        outputs = model(**batch)
        optimizer.zero_grad()
        outputs["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    hits = 0
    with torch.no_grad():
        for batch in valid_loader:
            hits += (model(batch["input_ids"])["logits"].argmax(-1) == batch["labels"]).sum().item()
    print(f"epoch {epoch}: loss {outputs['loss'].item():.3f}, accuracy {hits / (len(rows) - cut):.3f}")
