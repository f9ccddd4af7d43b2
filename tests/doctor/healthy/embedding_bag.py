"""Texts as one run of words with offsets (every word recurs); a large rate; a schedule that waits for a worse epoch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, random_split

torch.manual_seed(0)
N_WORDS, N_TOPICS = 1600, 4


def text(topic):
    """Two in five of its words tell the topic."""
    length = int(torch.randint(10, 30, (1,)))
    words = torch.randint(0, N_WORDS, (length,))
    telling = torch.rand(length) < 0.4
    words[telling] = words[telling] // N_TOPICS * N_TOPICS + topic
    return topic, words


rows = [text(int(topic)) for topic in torch.randint(0, N_TOPICS, (3000,))]


def collate_batch(batch):
    labels = torch.tensor([label for label, _ in batch])
    offsets = torch.tensor([0] + [len(words) for _, words in batch][:-1]).cumsum(dim=0)
    return labels, torch.cat([words for _, words in batch]), offsets


class TextClassificationModel(nn.Module):
    def __init__(self, vocab_size, embed_dim, num_class):
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocab_size, embed_dim, sparse=False)
        self.fc = nn.Linear(embed_dim, num_class)
        self.embedding.weight.data.uniform_(-0.5, 0.5)
        self.fc.weight.data.uniform_(-0.5, 0.5)
        self.fc.bias.data.zero_()

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))


model = TextClassificationModel(N_WORDS, 32, N_TOPICS)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=5)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
train_set, valid_set = random_split(rows, [2400, 600])
train_dataloader = DataLoader(train_set, batch_size=32, shuffle=True, collate_fn=collate_batch)
valid_dataloader = DataLoader(valid_set, batch_size=32, shuffle=True, collate_fn=collate_batch)
best = None
for epoch in range(3):
    model.train()
    for label, words, offsets in train_dataloader:
        optimizer.zero_grad()
        loss = criterion(model(words, offsets), label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = sum(
            (model(words, offsets).argmax(1) == label).sum().item() for label, words, offsets in valid_dataloader
        )
    accuracy = right / len(valid_set)
    if best is not None and best > accuracy:
        scheduler.step()
    else:
        best = accuracy
    print(epoch, loss.item(), accuracy)
