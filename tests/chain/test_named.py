"""What a word on the command line means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dimwise import chain, ship
from dimwise.chain.named import both, named
from dimwise.errors import ArtifactError, ModelError, RunError, UserError
from dimwise.train import predict_outputs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named") / "runs"
    settings = ["train.epochs=1", "train.lr_range=false", "model.width=0.25"]
    chain.train(chain.load("digits", settings[:1] + settings[2:]), runs_dir=folder)
    return folder


def test_a_run_is_its_trained_network(runs: Path) -> None:
    (run,) = runs.iterdir()
    for word in ("last", run.name, str(run)):
        found = named(word, runs_dir=runs)
        assert found.name == run.name
        assert not found.is_graph
        assert not found.subject.training
    again = named("last", runs_dir=runs)
    torch.testing.assert_close(
        predict_outputs(found.subject, found.raw, found.normalise),
        predict_outputs(again.subject, again.raw, again.normalise),
    )
    scores = torch.from_numpy(ship.session(found.exported().SerializeToString()).run(found.raw.numpy()))
    torch.testing.assert_close(scores, found.subject(torch.from_numpy(found.inputs)).detach(), atol=1e-4, rtol=1e-4)


def test_stages_artifacts_and_files_are_graphs(runs: Path) -> None:
    (run,) = runs.iterdir()
    trained = named("last", runs_dir=runs)
    folder = run / "artifacts" / "prune"
    ship.save(trained.exported(), folder, labels=tuple("0123456789"), reading={}, task="classification", name="p")
    (run / "result.json").write_text('{"chosen": "prune"}')
    for word in ("last:prune", "last:chosen", str(folder), str(folder / "model.onnx")):
        found = named(word, runs_dir=runs)
        assert found.is_graph
        assert found.exported() is found.subject
        assert (found.raw.dtype, tuple(found.raw.shape)) == (torch.uint8, (1, 1, 8, 8))
    with pytest.raises(
        ArtifactError, match=r"keeps no artifact of the stage 'prun'; expected one of: prune.*mean 'pru"
    ):
        named("last:prun", runs_dir=runs)


def test_a_composition_is_a_stage_though_no_folder_has_brackets(runs: Path) -> None:
    (run,) = runs.iterdir()
    graph = named("last", runs_dir=runs).exported()
    place = run / "artifacts" / "prune-macs-0.5-quantize"
    ship.save(graph, place, labels=tuple("0123456789"), reading={}, task="classification", name="p")
    (run / "result.json").write_text('{"chosen": "prune(macs=0.5) quantize"}')
    for word in ("last:prune(macs=0.5) quantize", "last:chosen"):
        assert named(word, runs_dir=runs).is_graph


def test_what_a_runs_files_name_is_not_called(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_spy_for_named.py").write_text(
        "from dimwise.models import build\nopen('called', 'w').close()\n"
        "def same():\n    return build('small_cnn', (1, 8, 8), 10, width=0.25)\n"
    )
    (run,) = runs.iterdir()
    told = run / "environment.json"
    before = told.read_text("utf-8")
    told.write_text('{"model": "my_spy_for_named:same"}')
    try:
        with pytest.raises(
            RunError, match=r"trained the network 'my_spy_for_named:same'.*--model my_spy_for_named:same"
        ):
            named("last", runs_dir=runs)
        assert not Path("called").exists()
        assert not named("last", runs_dir=runs, model="my_spy_for_named:same").is_graph
    finally:
        told.write_text(before)


def test_tables_and_ones_own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = named("mlp", input_shape=(4,), n_outputs=3)
    assert found.subject(found.raw).shape == (1, 3)
    assert tuple(named("lenet5").raw.shape) == (1, 1, 32, 32)
    monkeypatch.chdir(tmp_path)
    Path("my_nets_for_named.py").write_text(
        "from torch import nn\ndef tiny():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))\n"
    )
    own: Any = named("my_nets_for_named:tiny")
    assert isinstance(own.subject, nn.Sequential)
    assert own.inputs.shape == (1, 3, 32, 32)


def test_ones_own_network_takes_the_inputs_of_what_it_is_compared_with(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_digits_for_named.py").write_text(
        "from torch import nn\ndef tiny():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    own, run = both("my_digits_for_named:tiny", "last", runs_dir=runs)
    assert (own.inputs.shape, run.inputs.shape[1:]) == ((1, 1, 8, 8), (1, 8, 8))
    told, _ = both("my_digits_for_named:tiny", "last", runs_dir=runs, input_shape=(2, 32))
    assert told.inputs.shape == (1, 2, 32)
    twice = both("my_digits_for_named:tiny", "my_digits_for_named:tiny", input_shape=(64,))
    assert twice[0] is twice[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("small_cn", r"nothing is called 'small_cn' .*did you mean 'small_cnn'\?"),
        ("none.onnx", r"'none\.onnx' cannot be read"),
        ("nowhere.nets:tiny", r"there is no module 'nowhere'"),
    ],
)
def test_what_means_nothing_is_one_line(word: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        named(word, runs_dir=tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError):
        named("resnet20:stage:", runs_dir=tmp_path)
