"""The gallery: its table, its folder and the rules' names agree, and its scripts do what they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from dimwise.errors import UserError
from dimwise.lab import mistakes
from dimwise.lab.mistakes import MISTAKES

FOLDER = Path(mistakes.__file__).parent

# The contract of the doctor: these names stay.
RULES = re.findall(
    r"\S+",
    """
missing-zero-grad zero-grad-before-step optimizer-never-steps backward-never-called train-in-eval-mode
validate-in-train-mode grad-in-validation graph-retained accumulation-not-scaled clip-without-effect
scheduler-misused loss-not-finite unseeded
parameters-not-in-optimizer optimizer-holds-stale-parameters parameters-never-change no-gradient-reaches
lr-too-high lr-too-low exploding-gradients vanishing-gradients decay-on-norm-or-bias shared-weights-untied
softmax-before-cross-entropy sigmoid-before-bce-with-logits dead-activations saturated-activations
bad-initialisation initial-loss-off output-labels-mismatch loss-broadcasts dropout-in-eval
batchnorm-tiny-batch nan-origin unused-modules bias-before-norm
unnormalised-input train-valid-preprocessing-differs train-valid-leak no-shuffle labels-carry-no-signal
class-imbalance nan-in-input constant-input workers-share-seed input-mutated wrong-axis-order
batch-too-large loader-starves-trainer sync-every-step
replicas-out-of-sync same-data-on-every-rank wrapped-repeatedly
""",
)

ALLOWED = {"torch", "sklearn", "numpy", "dimwise.lab.mistakes._parts"}
STANDARD = {"contextlib", "itertools", "math", "os", "pathlib", "resource", "sys", "tempfile", "time"}


def constants(path: Path) -> dict[str, str]:
    """Assignments at the top of a script, as text."""
    body = ast.parse(path.read_text("utf-8")).body
    return {ast.unparse(n.targets[0]): ast.unparse(n.value) for n in body if isinstance(n, ast.Assign)}


def test_table_folder_and_contract_name_the_same() -> None:
    assert list(MISTAKES) == RULES
    files = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    assert files == {slug.replace("-", "_") for slug in RULES}
    assert {slug: f"dimwise.lab.mistakes.{slug.replace('-', '_')}" for slug in RULES} == MISTAKES


@pytest.mark.parametrize("slug", RULES)
def test_a_script_says_what_it_is(slug: str) -> None:
    path = mistakes.path(slug)
    text = path.read_text("utf-8")
    assert constants(path)["RULE"] == repr(slug)
    assert mistakes.archs(slug)
    assert "mended" in text
    assert "# the mistake" in text
    assert "# the cure" in text
    card = ast.get_docstring(ast.parse(text)) or ""
    assert [part for part in ("The mistake:", "exception", "Harm:", "Cure:") if part not in card] == []


@pytest.mark.parametrize("slug", RULES)
def test_a_script_is_a_users_script(slug: str) -> None:
    """Only what a user has, and a loop of its own."""
    text = mistakes.path(slug).read_text("utf-8")
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name in ALLOWED or name.split(".")[0] in ALLOWED | STANDARD, name
    assert "optimizer" in text or ".step(" in text


def test_archs_are_known_ones() -> None:
    assert {arch for slug in RULES for arch in mistakes.archs(slug)} == {"cnn", "lstm", "transformer"}


def test_a_name_nobody_knows() -> None:
    with pytest.raises(UserError, match=re.escape("did you mean 'no-shuffle'?")):
        mistakes.path("no-shufle")


def test_a_mistake_costs_what_its_two_forms_differ_by() -> None:
    more = ["--epochs", "2"]
    broken, mended = (mistakes.run("optimizer-never-steps", mended=m, arch="cnn", more=more) for m in (False, True))
    assert broken["returncode"] == mended["returncode"] == 0
    assert broken["name"] == "accuracy"
    assert broken["score"] < 0.3 < 0.7 < mended["score"]


def test_the_same_seed_gives_the_same_score() -> None:
    twice = [mistakes.run("no-shuffle", mended=True, arch="lstm", seed=1, more=["--epochs", "1"]) for _ in range(2)]
    assert twice[0]["score"] is not None
    assert twice[0]["score"] == twice[1]["score"]


def test_a_batch_too_large_ends_the_run_without_a_score() -> None:
    told = mistakes.run("batch-too-large", mended=False, arch="cnn")
    assert told["returncode"] == 1
    assert told["score"] is None
    assert "allocate memory" in told["said"]


def test_several_processes_meet() -> None:
    told = mistakes.run("replicas-out-of-sync", mended=True, arch="cnn", more=["--epochs", "1"])
    assert told["returncode"] == 0, told["said"]
    assert told["score"] > 0.3


def test_a_score_of_a_loss_is_named_so() -> None:
    told = mistakes.run("loss-broadcasts", mended=True, more=["--epochs", "1"])
    assert told["name"] == "loss"
