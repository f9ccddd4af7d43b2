"""A character RNN as in the blog posts; optimizer.zero_grad() was forgotten."""

import random

import torch
import torch.nn as nn
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

EXPECTED = "missing-zero-grad"
# The summed gradients make the steps too large.
ALSO = ("lr-too-high", "exploding-gradients", "saturated-activations")

random.seed(0)
torch.manual_seed(0)

text = load_diabetes().DESCR + load_breast_cancer().DESCR + load_wine().DESCR
all_characters = sorted(set(text))
n_characters = len(all_characters)
char_index = {c: i for i, c in enumerate(all_characters)}
print("file_len =", len(text))

chunk_len = 60
hidden_size = 96
n_layers = 1
batch_size = 16
n_iters = 120
lr = 0.005


def char_tensor(string):
    return torch.tensor([char_index[c] for c in string])


def random_training_set():
    inp = torch.zeros(batch_size, chunk_len, dtype=torch.long)
    target = torch.zeros(batch_size, chunk_len, dtype=torch.long)
    for b in range(batch_size):
        start = random.randint(0, len(text) - chunk_len - 1)
        chunk = text[start : start + chunk_len + 1]
        inp[b] = char_tensor(chunk[:-1])
        target[b] = char_tensor(chunk[1:])
    return inp, target


class RNN(nn.Module):
    def __init__(self, input_size, hidden_size, output_size, n_layers=1):
        super().__init__()
        self.n_layers = n_layers
        self.hidden_size = hidden_size
        self.encoder = nn.Embedding(input_size, hidden_size)
        self.gru = nn.GRU(hidden_size, hidden_size, n_layers, batch_first=True)
        self.decoder = nn.Linear(hidden_size, output_size)

    def forward(self, inp, hidden):
        output, hidden = self.gru(self.encoder(inp), hidden)
        return self.decoder(output), hidden

    def init_hidden(self, n):
        return torch.zeros(self.n_layers, n, self.hidden_size)


decoder = RNN(n_characters, hidden_size, n_characters, n_layers)
decoder_optimizer = torch.optim.Adam(decoder.parameters(), lr=lr)
criterion = nn.CrossEntropyLoss()


def train(inp, target):
    hidden = decoder.init_hidden(batch_size)
    output, hidden = decoder(inp, hidden)
    loss = criterion(output.reshape(-1, n_characters), target.reshape(-1))
    loss.backward()
    decoder_optimizer.step()
    return loss.item()


def evaluate(prime_str="The", predict_len=60, temperature=0.8):
    decoder.eval()
    predicted = prime_str
    with torch.no_grad():
        hidden = decoder.init_hidden(1)
        _, hidden = decoder(char_tensor(prime_str[:-1])[None], hidden)
        inp = char_tensor(prime_str[-1])[None]
        for _ in range(predict_len):
            output, hidden = decoder(inp, hidden)
            top_i = torch.multinomial((output.view(-1) / temperature).exp(), 1)[0]
            predicted += all_characters[top_i]
            inp = top_i.view(1, 1)
    decoder.train()
    return predicted


loss_avg = 0.0
for it in range(1, n_iters + 1):
    loss_avg += train(*random_training_set())
    if it % 40 == 0:
        print(f"[{it} {it / n_iters:.0%}] {loss_avg / 40:.4f}")
        print(evaluate())
        loss_avg = 0.0
