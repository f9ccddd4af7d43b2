"""A hand-written Trainer with the names of the well-known one; its schedule counts optimizer steps but is stepped
once an epoch."""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

EXPECTED = "scheduler-misused"
# The rate never leaves the first steps of its warm-up.
ALSO = ("lr-too-low", "parameters-never-change")


@dataclass
class TrainingArguments:
    learning_rate: float = 2e-3
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 128
    num_train_epochs: int = 4
    warmup_steps: int = 20
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 42


class DigitsDataset(Dataset):
    def __init__(self, encodings, labels):
        self.encodings, self.labels = encodings, labels

    def __getitem__(self, idx):
        return {"input_ids": self.encodings[idx], "labels": self.labels[idx]}

    def __len__(self):
        return len(self.labels)


class DigitsForClassification(nn.Module):
    """A digit as a sequence of 64 tokens out of 17 grey levels."""

    def __init__(self, dim=32, num_labels=10):
        super().__init__()
        self.embeddings = nn.Embedding(17, dim)
        self.position = nn.Parameter(torch.randn(1, 64, dim) * 0.02)
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_labels)

    def forward(self, input_ids, labels=None):
        hidden = self.encoder(self.embeddings(input_ids) + self.position)
        logits = self.classifier(self.norm(hidden).mean(1))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return {"loss": loss, "logits": logits}


def get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_training_steps):
    def lr_lambda(step):
        if step < num_warmup_steps:
            return step / max(1, num_warmup_steps)
        return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))

    return LambdaLR(optimizer, lr_lambda)


class Trainer:
    def __init__(self, model, args, train_dataset, eval_dataset):
        self.model, self.args = model, args
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset

    def create_optimizer_and_scheduler(self, num_training_steps):
        no_decay = ["bias", "norm"]
        named = list(self.model.named_parameters())
        groups = [
            {
                "params": [p for n, p in named if not any(nd in n for nd in no_decay)],
                "weight_decay": self.args.weight_decay,
            },
            {"params": [p for n, p in named if any(nd in n for nd in no_decay)], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.args.learning_rate)
        self.lr_scheduler = get_linear_schedule_with_warmup(self.optimizer, self.args.warmup_steps, num_training_steps)

    def train(self):
        loader = DataLoader(
            self.train_dataset, self.args.per_device_train_batch_size, sampler=RandomSampler(self.train_dataset)
        )
        self.create_optimizer_and_scheduler(len(loader) * self.args.num_train_epochs)
        for epoch in range(self.args.num_train_epochs):
            self.model.train()
            for inputs in loader:
                loss = self.model(**inputs)["loss"]
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.lr_scheduler.step()
            print({"epoch": epoch, "lr": self.lr_scheduler.get_last_lr()[0], **self.evaluate()})

    def evaluate(self):
        self.model.eval()
        loader = DataLoader(
            self.eval_dataset, self.args.per_device_eval_batch_size, sampler=SequentialSampler(self.eval_dataset)
        )
        hits, losses = [], []
        for inputs in loader:
            with torch.no_grad():
                outputs = self.model(**inputs)
            losses.append(outputs["loss"].item())
            hits.append((outputs["logits"].argmax(-1) == inputs["labels"]).float())
        return {"eval_loss": sum(losses) / len(losses), "eval_accuracy": torch.cat(hits).mean().item()}


def main():
    args = TrainingArguments()
    torch.manual_seed(args.seed)
    X, y = load_digits(return_X_y=True)
    perm = torch.randperm(len(X))
    X, y = torch.tensor(X, dtype=torch.long)[perm], torch.tensor(y)[perm]
    Trainer(DigitsForClassification(), args, DigitsDataset(X[:800], y[:800]), DigitsDataset(X[1400:], y[1400:])).train()


if __name__ == "__main__":
    main()
