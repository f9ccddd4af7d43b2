"""Every network of the table: shapes, gradients, published parameter counts, dropout, errors."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests._networks import inputs, network, small_shape, usual, zeros
from torch import nn

import dimwise.models
from dimwise import recipe
from dimwise.errors import ModelError, RecipeError
from dimwise.models import MODELS, TOKENS, USUAL, build, from_name
from dimwise.models.config import ModelConfig

SMALL = {name: small_shape(name) for name in MODELS}
NARROW = {
    "resnet18": 0.125,
    "resnet50": 0.125,
    "resnet152": 0.125,
    "resnet56": 0.5,
    "mobilenetv2": 0.25,
    "vit": 0.25,
    "deit_tiny": 0.25,
}

PUBLISHED = {
    "mlp": 784 * 128 + 128 + 128 * 10 + 10,
    "guide_cnn": 32 * 9 + 32 + 32 * 13 * 13 * 10 + 10,
    "small_cnn": 9 * (1 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64) + 64 * 10 + 10,
    "fast_cnn": 16 * 25 + 9 * (16 * 32 + 32 * 48) + 2 * (16 + 32 + 48) + 48 * 3 * 3 * 10 + 10,
    "lenet5": 61_706,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "mobilenetv2": 3_504_872,
    "vit": 192 * (3 * 16 + 1) + 192 * 66 + 6 * (12 * 192**2 + 13 * 192) + 2 * 192 + 193 * 10,
    "deit_tiny": 5_717_416,
    "lstm": 8000 * 128 + 4 * 128 * (128 + 128 + 2) + 129 * 2,
    "transformer": (8000 + 48) * 128 + 2 * (4 * 129 * 128 + 2 * 128 * 256 + 256 + 5 * 128) + 2 * 128 + 129 * 2,
}


def small(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return network(name, SMALL[name], 5, width=NARROW.get(name, 1.0), dropout=dropout)


def test_the_table_names_every_builder_of_the_folder_and_the_folder_every_name() -> None:
    folder = Path(dimwise.models.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")} - {"config", "init"}
    found = {}
    for file in files:
        module = importlib.import_module(f"dimwise.models.{file}")
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            if own and not name.startswith("_"):
                found[name] = f"{module.__name__}:{name}"
    assert found == MODELS
    assert len(MODELS) == 15
    assert set(USUAL) == set(MODELS) >= set(TOKENS)


@pytest.mark.parametrize("name", MODELS)
def test_every_builder_has_the_one_signature(name: str) -> None:
    module, _, attribute = MODELS[name].partition(":")
    signature = inspect.signature(getattr(importlib.import_module(module), attribute))
    kinds = {p.name: (p.kind.name, p.default) for p in signature.parameters.values()}
    more = {"vocabulary": ("KEYWORD_ONLY", 0)} if name in TOKENS else {}
    assert kinds == {
        "input_shape": ("POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        "n_outputs": ("POSITIONAL_OR_KEYWORD", inspect.Parameter.empty),
        "width": ("KEYWORD_ONLY", 1.0),
        "dropout": ("KEYWORD_ONLY", 0.0),
        **more,
    }


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_the_published_one(name: str) -> None:
    with torch.device("meta"):
        model = usual(name)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", MODELS)
def test_forward_shape_and_repeatable_in_eval(name: str) -> None:
    model = small(name).eval()
    with torch.inference_mode():
        for batch in (1, 3):
            x = inputs(name, batch, *SMALL[name])
            y = model(x)
            assert y.shape == (batch, 5)
            assert torch.isfinite(y).all()
            assert torch.equal(y, model(x))


@pytest.mark.parametrize("name", MODELS)
def test_backward_reaches_every_parameter(name: str) -> None:
    model = small(name).train()
    model(inputs(name, 3, *SMALL[name])).square().sum().backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a ReLU may be silent for three inputs, so a gradient may be zero in a narrow deep net; it must exist
    assert all(p.grad is not None for p in model.parameters())
    assert len(unreached) <= 0.02 * len(list(model.parameters())), unreached


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only_and_moves_no_weight_name(name: str) -> None:
    model = small(name, dropout=0.5)
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [m.p for m in dropouts] == [0.5] * (2 if name in TOKENS else 1)  # of a text also the embedded words
    model.eval()
    x = inputs(name, 4, *SMALL[name])
    with torch.no_grad():
        quiet = model(x)
        assert torch.equal(quiet, model(x))
        for layer in dropouts:
            layer.train()
            assert not torch.equal(quiet, model(x))
            layer.eval()
    small(name).load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_is_used_twice_or_works_in_place(name: str) -> None:
    """Hooks, pruning and quantization need to see each use as its own module."""
    model = small(name).eval()
    calls: dict[str, int] = {}
    for path, module in model.named_modules():
        assert not getattr(module, "inplace", False), path
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, o, path=path: calls.update({path: calls.get(path, 0) + 1}))
    with torch.no_grad():
        model(zeros(name, 1, *SMALL[name]))
    assert calls
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", MODELS)
def test_convolutions_before_a_norm_have_no_bias(name: str) -> None:
    layers = [m for m in small(name).modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    for conv, after in pairwise(layers):
        if isinstance(conv, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            assert conv.bias is None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.3, 2.0])
def test_width_scales_the_network(name: str, width: float) -> None:
    with torch.device("meta"):
        model = usual(name, width=width).eval()
        shape, n_outputs = USUAL[name]
        assert model(zeros(name, 2, *shape)).shape == (2, n_outputs)
    count = sum(p.numel() for p in model.parameters())
    assert count < PUBLISHED[name] if width < 1 else count > PUBLISHED[name]


def shapes_of(name: str, *modules: str) -> list[tuple[int, ...]]:
    """(C, H, W) that each module returns for the network's usual input."""
    found: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        model = build(name, *USUAL[name]).eval()
        for module in modules:
            layer = model.get_submodule(module)
            layer.register_forward_hook(lambda m, i, o, module=module: found.update({module: tuple(o.shape[1:])}))
        model(torch.zeros(1, *USUAL[name][0]))
    return [found[module] for module in modules]


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_cifar_stages_have_the_papers_maps(name: str) -> None:
    maps = shapes_of(name, "stages.0", "stages.1", "stages.2")
    assert maps == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@pytest.mark.parametrize(("name", "expansion"), [("resnet18", 1), ("resnet50", 4), ("resnet152", 4)])
def test_imagenet_stages_have_the_papers_maps(name: str, expansion: int) -> None:
    maps = shapes_of(name, "conv1", "layer1", "layer2", "layer3", "layer4")
    stages = [(64 * 2**i * expansion, 56 // 2**i, 56 // 2**i) for i in range(4)]
    assert maps == [(64, 112, 112), *stages]


def test_mobilenetv2_has_the_papers_maps_and_never_narrows_the_last_layer() -> None:
    maps = shapes_of("mobilenetv2", *(f"features.{i}" for i in (0, 1, 3, 6, 10, 13, 16, 17, 18)))
    assert maps == [
        (32, 112, 112),
        (16, 112, 112),
        (24, 56, 56),
        (32, 28, 28),
        (64, 14, 14),
        (96, 14, 14),
        (160, 7, 7),
        (320, 7, 7),
        (1280, 7, 7),
    ]
    with torch.device("meta"):
        last = [build("mobilenetv2", (3, 32, 32), 5, width=w).get_submodule("classifier.1") for w in (0.5, 2.0)]
    assert [layer.in_features for layer in last] == [1280, 2560]


@pytest.mark.parametrize(("side", "last"), [(8, 1), (32, 4), (63, 8), (64, 2)])
def test_mobilenetv2_divides_small_images_by_8_instead_of_32(side: int, last: int) -> None:
    with torch.device("meta"):
        model = build("mobilenetv2", (3, side, side), 10).eval()
        assert model.features(torch.empty(1, 3, side, side)).shape[-2:] == (last, last)  # type: ignore[operator]


def test_state_names_are_those_of_published_weights() -> None:
    with torch.device("meta"):
        resnet = set(build("resnet50", *USUAL["resnet50"]).state_dict())
        mobile = set(build("mobilenetv2", *USUAL["mobilenetv2"]).state_dict())
    assert len(resnet) == 320
    assert {"conv1.weight", "layer4.0.downsample.1.running_var", "layer3.5.bn3.bias", "fc.bias"} <= resnet
    assert len(mobile) == 314
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.18.1.bias"} <= mobile
    assert {"features.17.conv.3.running_mean", "classifier.1.weight"} <= mobile


def test_small_cnn_keeps_at_least_a_few_pixels() -> None:
    x = torch.zeros(2, 1, 8, 8)
    model = build("small_cnn", (1, 8, 8), 10)
    maps = [(x := layer(x)).shape for _, layer in model.named_children()]
    assert maps[2][2:] == (8, 8)
    assert maps[-4] == (2, 64, 4, 4)  # before average, flatten, fc
    assert build("small_cnn", (3, 1, 1), 2).eval()(torch.zeros(1, 3, 1, 1)).shape == (1, 2)


def test_lenet5_has_the_papers_maps() -> None:
    shapes = {}
    x = torch.zeros(1, 1, 32, 32)
    for name, layer in build("lenet5", (1, 32, 32), 10).named_children():
        shapes[name] = tuple((x := layer(x)).shape[1:])
    assert shapes["c1"] == (6, 28, 28)
    assert shapes["s2"] == (6, 14, 14)
    assert shapes["c3"] == (16, 10, 10)
    assert shapes["s4"] == (16, 5, 5)
    assert shapes["c5"] == (120, 1, 1)
    assert build("lenet5", (1, 40, 36), 10)(torch.zeros(1, 1, 40, 36)).shape == (1, 10)


def test_option_a_shortcut_takes_every_second_pixel_and_pads_with_zeros() -> None:
    from dimwise.models.resnet_cifar import PadShortcut

    x = torch.arange(32.0).view(1, 2, 4, 4)
    y = PadShortcut(1, 2, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert not y[:, [0, 3, 4]].any()


def test_mlp_takes_tables_and_has_no_needless_layer() -> None:
    model = build("mlp", (7,), 2)
    assert [n for n, _ in model.named_children()] == ["fc1", "relu1", "fc2"]
    assert model(torch.zeros(3, 7)).shape == (3, 2)


@pytest.mark.parametrize("name", TOKENS)
def test_padding_changes_no_output_whatever_its_embedding(name: str) -> None:
    model = small(name).eval()
    x = inputs(name, 6, *SMALL[name])
    assert (x == 0).any(1).sum() > 3
    with torch.no_grad():
        before = model(x)
        assert not model.embedding.weight[0].any()
        assert 0.05 < model.embedding.weight[1:].std() < 0.2
        model.embedding.weight[0] = 7.0
        torch.testing.assert_close(model(x), before)
        torch.testing.assert_close(model(x[2:3]), before[2:3])
        model.embedding.weight[int(x[2, 0])].normal_()  # a word does
        assert not torch.allclose(model(x)[2], before[2])


@pytest.mark.parametrize("name", TOKENS)
def test_a_text_without_a_token_gives_finite_outputs_and_gradients(name: str) -> None:
    model = small(name)
    y = model(torch.zeros(2, *SMALL[name], dtype=torch.int64))
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class TestErrors:
    def test_unknown_name_names_the_nearest(self) -> None:
        with pytest.raises(ModelError, match=r"unknown model 'resnet19'.*did you mean 'resnet1"):
            build("resnet19", (3, 32, 32), 10)

    def test_a_recipe_runs_no_code(self) -> None:
        with pytest.raises(ModelError, match=r"'os:getcwd' is not in the table.*A recipe runs no code"):
            build("os:getcwd", (1, 8, 8), 10)

    @pytest.mark.parametrize("name", [n for n in MODELS if n != "mlp" and n not in TOKENS])
    def test_tables_do_not_fit_image_networks(self, name: str) -> None:
        with pytest.raises(ModelError, match=rf"{name} takes images, not input of shape \(13,\)"):
            build(name, (13,), 3)

    @pytest.mark.parametrize("name", TOKENS)
    def test_images_and_numbers_do_not_fit_networks_for_texts(self, name: str) -> None:
        with pytest.raises(ModelError, match=rf"{name} takes texts, not input of shape \(3, 8, 8\)"):
            build(name, (3, 8, 8), 3, vocabulary=10)
        with pytest.raises(ModelError, match=rf"{name} takes tokens and was given a vocabulary of 0.*take mlp"):
            build(name, (13,), 3)

    @pytest.mark.parametrize("name", [n for n in MODELS if n not in TOKENS])
    def test_tokens_do_not_fit_networks_for_numbers(self, name: str) -> None:
        message = rf"{name} takes numbers, and these inputs are tokens of a text; expected one of: lstm, transformer"
        with pytest.raises(ModelError, match=message):
            build(name, USUAL[name][0], 3, vocabulary=10)

    @pytest.mark.parametrize(("name", "least"), [("lenet5", 28), ("guide_cnn", 4), ("resnet18", 1)])
    def test_least_image_is_named_and_right(self, name: str, least: int) -> None:
        shape = (1, least, least)
        assert build(name, shape, 3, width=0.5).eval()(torch.zeros(1, *shape)).shape == (1, 3)
        with pytest.raises(ModelError, match=f"{name} cannot take images of {least - 1} × {least + 3} pixels"):
            build(name, (1, least - 1, least + 3), 3)

    @pytest.mark.parametrize("shape", [(), (0,), (3, 0, 8)])
    def test_empty_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ModelError, match=r"mlp cannot take input of shape \("):
            build("mlp", shape, 3)

    def test_no_channels(self) -> None:
        with pytest.raises(ModelError, match=r"small_cnn: input shape \(0, 8, 8\) has no channels"):
            build("small_cnn", (0, 8, 8), 3)

    def test_values_out_of_range(self) -> None:
        with pytest.raises(ModelError, match="n_outputs is 0"):
            build("mlp", (4,), 0)
        with pytest.raises(ModelError, match=r"width is -1\.5"):
            build("mlp", (4,), 2, width=-1.5)
        with pytest.raises(ModelError, match=r"dropout is 1\.0"):
            build("mlp", (4,), 2, dropout=1.0)


THEIRS = """
from torch import nn
def both(shape, classes): return nn.Linear(shape[0], classes)
def by_name(hidden=3, *, n_outputs): return nn.Linear(hidden, n_outputs)
def defaults(hidden=3, depth=2): return nn.Linear(hidden, depth)
def nothing(): return nn.Linear(1, 1)
def words(vocabulary, n_outputs): return nn.Embedding(vocabulary, n_outputs)
def anything(*args, **others): return nn.Linear(2, 2)
def three(a, b, c): return nn.Linear(a, b)
def text(): return "net"
class Net(nn.Linear):
    def __init__(self): super().__init__(9, 8)
answer = 42
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "their_nets.py").write_text(THEIRS)
    (tmp_path / "needs_more.py").write_text("import a_library_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield "their_nets"
    assert sys.path == path
    sys.modules.pop("their_nets", None)


class TestFromName:
    @pytest.mark.parametrize(
        ("function", "shape"),
        [
            ("both", (3, 4)),
            ("by_name", (3, 3)),
            ("defaults", (2, 3)),
            ("nothing", (1, 1)),
            ("Net", (8, 9)),
            ("anything", (2, 2)),
        ],
    )
    def test_builds_from_the_current_folder(self, theirs: str, function: str, shape: tuple[int, ...]) -> None:
        assert from_name(f"{theirs}:{function}", (4,), 3).weight.shape == shape

    def test_a_builder_for_texts_gets_the_vocabulary_by_name(self, theirs: str) -> None:
        assert from_name(f"{theirs}:words", (4,), 3, vocabulary=9).weight.shape == (9, 3)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("their_nets", "'their_nets' does not name a builder; expected package.module:function"),
            ("no_such_room:net", "there is no module 'no_such_room'"),
            ("their_nets.deep:net", "there is no module 'their_nets.deep'"),
            ("needs_more:net", "'needs_more' imports 'a_library_nobody_has', which is not installed"),
            ("their_nets:botj", "module 'their_nets' has no 'botj'.*did you mean 'both'"),
            ("their_nets:three", "requires the arguments: a, b, c; expected .input_shape, n_outputs."),
            ("their_nets:text", "their_nets:text returned a str; expected a torch.nn.Module"),
            ("their_nets:answer", "their_nets:answer is an int; expected a function or a class"),
        ],
    )
    def test_errors_name_what_is_wrong(self, theirs: str, name: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            from_name(name, (4,), 3)


def test_a_network_in_place_of_its_builder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("their_made_nets.py").write_text("from torch import nn\n\nnet = nn.Linear(4, 3)\n")
    try:
        with pytest.raises(ModelError, match=r"their_made_nets:net is a network; expected a function or a class"):
            from_name("their_made_nets:net", (4,), 3)
    finally:
        sys.modules.pop("their_made_nets", None)


def test_a_recipe_with_an_unknown_network_is_refused_when_it_is_read() -> None:
    said = r"name = 'resnet21' is not valid; expected a network .* did you mean 'resnet20'\?"
    with pytest.raises(RecipeError, match=said):
        recipe.build(ModelConfig, {"name": "resnet21"}, "my.toml")
    with pytest.raises(RecipeError, match=r"'os:system' is not valid; .*--model"):
        recipe.build(ModelConfig, {"name": "os:system"})
    assert all(recipe.build(ModelConfig, {"name": name}).name == name for name in MODELS)
