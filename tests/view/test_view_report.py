"""The page: whole, closed, escaped, the same each time, for every kind of run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimwise.errors import RunError, UserError
from dimwise.view import sections
from dimwise.view.report import report
from dimwise.view.sections.doctor import seen_rows
from dimwise.view.units import share_text

KINDS = ("whole", "train", "interrupted", "table", "hundred")
VOID = {"img", "meta", "br", "hr", "wbr", "col"}
HOSTILE = "</td><script>alert('x')</script>\" onload=\"alert(1)"


class Page(HTMLParser):
    """Checks that elements nest, and collects what a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def read(run: Path, language: str = "en") -> tuple[str, Page]:
    text = report(run, language=language).read_text(encoding="utf-8")
    return text, Page(text)


def look(run: Path) -> tuple[str, Page]:
    text = (run / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_whole_and_closed(kind: str, made_run: Callable[[str], Path]) -> None:
    text, page = look(made_run(kind))
    assert text.startswith("<!doctype html>")
    assert len(text) < 2_000_000
    assert "http:" not in text
    assert "https:" not in text
    assert "script" not in page.tags
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src"))
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in page.values("href"))
    assert all(found.startswith("url(#") for found in re.findall(r"url\([^)]*", text))
    assert "@import" not in text
    assert "default-src 'none'" in next(v for v in page.values("content") if "src" in v)
    ids = page.values("id")
    assert len(ids) == len(set(ids)) > 5
    inner = {value[1:] for value in page.values("href") if value.startswith("#")} | set(
        re.findall(r"url\(#([^)]*)", text)
    )
    assert inner <= set(ids)
    images = [a for a in page.attributes if a[0] == "img"]
    assert sum(name == "alt" for _, name, _ in images) == page.tags.count("img")
    assert page.tags.count("h1") == 1
    assert page.values("lang") == ["en"]


def test_same_files_same_bytes(make_run: Callable[[str], Path], made_run: Callable[[str], Path]) -> None:
    assert report(make_run("whole")).read_bytes() == (made_run("whole") / "report.html").read_bytes()


def test_a_whole_run_tells_everything(made_run: Callable[[str], Path]) -> None:
    _, page = look(made_run("whole"))
    text = page.text.replace("\u00a0", " ")
    for part in (
        "7.2× smaller, 14× faster, 0.3 points lost",
        "“prune+quantize” was chosen: 98.6 % accuracy on 360 test inputs",
        "Parity holds: compared with its model on the whole test set, nothing lost; largest scaled difference 3.1·10⁻⁷",
        "keep_frac = 0.6, importance = taylor",
        "under 98.5 %",
        "validation score drops by 0.0139",
        "latency at most 0.05 ms",
        "Least often right",
        "other processes use 0.9 of 2 cores",
        "best 99.0 %, epoch 18",
        'optimizer = "adam"',
        "its outputs are the classes",
        "whole blocks of channels left",
        "the learning rate is too high",
        "PyTorch2.13.0",
        "fp32 channels_last",
        "Together 72 s",
        "Embedded in scikit-learn",
    ):
        assert part in text, part
    shown = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert shown == list(sections.SECTIONS)
    assert text.index("lr-too-high") < text.index("unseeded"), "the more serious finding comes first"


def test_settings_are_shown_as_given_and_numbers_line_up(write: Callable[..., Path], result: dict[str, Any]) -> None:
    step = result["folds"][0]["steps"][0]
    step["config"] = {"percentile": 99.99, "per_channel": True, "skip": []}
    step["layers"] = [{"op": "Conv", "name": "a", "bits": 8, "share": 0.12345}, {"name": "b", "bits": None}]
    text, page = read(write(result=result, records=[]))
    assert "percentile = 99.99, per_channel = true, skip = –" in page.text
    assert '<tr><th scope="row">a</th><td>Conv</td><td class="n">8</td><td class="n">0.123</td></tr>' in text
    assert '<tr><th scope="row">b</th><td>–</td><td class="n">–</td><td class="n">–</td></tr>' in text


def test_components_of_a_reduced_network_are_drawn(write: Callable[..., Path], result: dict[str, Any]) -> None:
    steps = result["folds"][1]["steps"]
    scree, points = {"shares": [0.6, 0.3, 0.1], "kept": 2}, {"points": [[0, 1], [2, 3.5], [4, 1]], "classes": [0, 7, 7]}
    result["labels"] = [HOSTILE, *"123456", "$seven$", *"89"]
    steps[0]["drawn"] = steps[1]["drawn"] = {"scree": scree, "projection": points}
    text, page = read(write(result=result, records=[]))
    for place in ("scree1-0", "scree1-1", "projection1-0", "projection1-1"):
        assert f'"{place}-' in text
    assert "2 kept: 90.0 % of the variance" in page.text
    assert "$seven$" in page.text
    assert "<script" not in text.lower()


@pytest.mark.parametrize(
    "drawn",
    [
        7,
        {"scree": [1, 2], "projection": {"points": 3}},
        {"scree": {"shares": ["a", None], "kept": "b"}},
        {"projection": {"points": [[1, 2], [3]], "classes": [0, 1]}},
        {"projection": {"points": [[1, 2]], "classes": [0, 1]}},
    ],
)
def test_components_that_are_none_are_left_out(drawn: Any, write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["folds"][0]["steps"][0]["drawn"] = drawn
    text, page = read(write(result=result, records=[]))
    assert "scree0" not in text
    assert "projection0" not in text
    assert "blocks of channels" in page.text


@pytest.mark.parametrize("classes", [[10**12, 1], [-5, 1], [None, 1]])
def test_points_of_no_class_are_left_out(
    classes: list[Any], write: Callable[..., Path], result: dict[str, Any]
) -> None:
    result["folds"][0]["steps"][0]["drawn"] = {"projection": {"points": [[1, 2], [3, 4]], "classes": classes}}
    text, _ = read(write(result=result, records=[]))
    assert '"projection0-0-' in text


def test_chosen_row_is_marked(made_run: Callable[[str], Path]) -> None:
    text, _ = look(made_run("whole"))
    rows = re.findall(r'<tr class="chosen">.*?</tr>', text)
    assert len(rows) == 1
    assert "prune+<wbr>quantize" in rows[0]
    assert ">chosen</span>" in rows[0]


def test_a_long_name_breaks_before_its_bracket(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["stages"][1]["name"] = "share(bits=4)"
    assert "share<wbr>(bits=4)" in report(write(result=result)).read_text("utf-8")


def test_training_alone(made_run: Callable[[str], Path]) -> None:
    _, page = look(made_run("train"))
    text = page.text.replace("\u00a0", " ")
    assert "98.6 % accuracy on test data" in text
    assert "Trained for 24 epochs in 22 s" in text
    assert "Stages, side by side" not in text
    assert "Where it is wrong" not in text


def test_interrupted_run_says_how_far_it_came_and_how_to_go_on(made_run: Callable[[str], Path]) -> None:
    _, page = look(made_run("interrupted"))
    assert "Stopped after epoch 6 of 24" in page.text
    assert "dimwise train --resume 20260131-091500-digits-a1f3" in page.text
    assert "cannot be read" not in page.text, "a torn last line is no damage"


def test_run_stopped_at_once(write: Callable[..., Path]) -> None:
    _, page = read(write(records=[]))
    assert "Stopped before the first epoch ended" in page.text
    assert "No step was recorded yet." in page.text


def test_first_epoch_is_drawn_by_steps(write: Callable[..., Path], records: list[dict[str, Any]]) -> None:
    text, _ = read(write(records=records[:7]))
    assert ">step</text>" in text
    assert ">epoch</text>" not in text


def test_resumed_steps_are_not_drawn_twice(write: Callable[..., Path], records: list[dict[str, Any]]) -> None:
    whole = [r for r in records if r["kind"] == "epoch"]
    again = [*whole[:10], {"kind": "resume", "step": whole[4]["step"]}, *whole[5:]]
    run = write(records=again)
    first = report(run).read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(r) for r in whole), encoding="utf-8")
    assert report(run).read_text(encoding="utf-8") == first


def test_mistakes_on_texts_are_shown_as_words(made_run: Callable[[str], Path]) -> None:
    text, page = look(made_run("texts"))
    assert "a <unk> film & more" in page.text
    assert "<b>bold</b>" in page.text
    assert "&lt;b&gt;bold" in text
    assert share_text(0.99) in page.text
    assert "As the model reads them" in page.text
    assert "word…" in page.text  # two hundred words are cut


def test_table_has_no_pictures_and_its_score_is_no_percentage(made_run: Callable[[str], Path]) -> None:
    _, page = look(made_run("table"))
    assert "img" not in page.tags
    assert "0.003 lost" in page.text
    assert "0.986" in page.text


def test_hundred_classes_get_colours_without_numbers_and_a_list(made_run: Callable[[str], Path]) -> None:
    text, page = look(made_run("hundred"))
    assert "Confusion matrix of 100 classes" in text
    assert "Commonest mistakes" in page.text
    svg = next(part for part in text.split("<svg") if "Confusion matrix" in part[:300]).split("</svg>")[0]
    assert "<image" in svg
    assert svg.count("<text") == 2, "only the names of the axes"


def test_hostile_text_stays_text(write: Callable[..., Path], result: dict[str, Any], pictures: dict[str, Any]) -> None:
    result["labels"] = [HOSTILE + str(i) for i in range(10)]
    result["chosen"] = result["stages"][4]["name"] = HOSTILE
    result["reasons"][HOSTILE] = result["measured"]["cpu"] = result["failure"] = HOSTILE
    result["data"]["notes"] = [HOSTILE]
    where = {"file": HOSTILE, "line": HOSTILE, "module": HOSTILE, "step": HOSTILE}
    result["checks"][0] = dict.fromkeys(("rule", "severity", "title", "evidence", "remedy", "proof"), HOSTILE)
    result["checks"][0]["where"] = where
    result["checked"]["not_checked"] = [{"rule": HOSTILE, "why": HOSTILE}]
    result["folds"][0]["steps"][0]["untouched"] = {HOSTILE: HOSTILE}
    result["folds"][0]["steps"][0]["notes"] = [HOSTILE]
    result["folds"][0]["steps"][0]["config"] = {HOSTILE: HOSTILE}
    result["folds"][0]["steps"][0]["layers"] = [{"name": HOSTILE, HOSTILE: HOSTILE}]
    pictures["map_names"] = np.array([HOSTILE, HOSTILE])
    records = [
        {"kind": "epoch", "epoch": 0, "step": 3, "train_loss": 1.0, "grad_norms": {HOSTILE: 1.0, "$\\frac{": 2.0}}
    ]
    run = write(result=result, pictures=pictures, records=records, recipe=f"# {HOSTILE}\n")
    for language in ("en", "zh"):
        text, page = read(run, language)
        assert "<script" not in text.lower()
        assert "script" not in page.tags
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert page.text.count("<script>alert('x')</script>") >= 8


def test_control_characters_and_broken_text_do_not_pass(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["data"]["name"] = "a\x00b\u202ec\ud800d"
    text, _ = read(write(result=result))
    assert "a\ufffdb\ufffdc?d" in text
    assert "\x00" not in text


def test_damaged_files_are_named_and_left_out(make_run: Callable[[str], Path]) -> None:
    run = make_run("whole")
    (run / "result.json").write_text('{"score": {"na')
    (run / "pictures.npz").write_bytes(b"PK\x03\x04 not a zip")
    (run / "environment.json").write_text("[1]")
    _, page = read(run)
    for name in ("result.json", "pictures.npz", "environment.json"):
        assert f"{name} is there but cannot be read" in page.text
    assert "Training" in page.text


def test_arrays_with_objects_are_refused(make_run: Callable[[str], Path]) -> None:
    run = make_run("whole")
    np.savez(run / "pictures.npz", confusion=np.array([{"a": 1}], dtype=object))
    assert "pictures.npz is there but cannot be read" in read(run)[1].text


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((0, 0)), np.zeros(3), np.full((3, 3), np.nan), np.full((2, 3), 1), np.array(["x"]), np.full((3, 3), -1)],
)
def test_arrays_of_wrong_shape_are_left_out(wrong: Any, write: Callable[..., Path], pictures: dict[str, Any]) -> None:
    pictures = dict.fromkeys(pictures, wrong)
    read(write(pictures=pictures, records=[]))


@pytest.mark.parametrize("junk", [None, True, -1, 1e308, 10**400, float("nan"), "text", [], {}, [[1]], [{"a": None}]])
def test_values_of_wrong_type_do_not_stop_it(junk: Any, write: Callable[..., Path], result: dict[str, Any]) -> None:
    damaged = dict.fromkeys(result, junk)
    damaged["stages"] = [dict.fromkeys(row, junk) for row in result["stages"]] + [junk]
    read(write(result=damaged, records=[{"kind": "epoch", "epoch": 0, "valid_score": junk, "grad_norms": junk}]))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no run folder '.*nowhere'.*dimwise runs list"):
        report(tmp_path / "nowhere")


def test_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"'{re.escape(str(tmp_path))}' is not a run: recipe\.toml is missing.*dimwise"):
        report(tmp_path)


def test_unknown_language(make_run: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"no language 'enn'; expected one of: en, zh\. did you mean 'en'"):
        report(make_run("train"), language="enn")


def test_page_that_cannot_be_written(make_run: Callable[[str], Path]) -> None:
    run = make_run("interrupted")
    (run / "report.html").mkdir()
    with pytest.raises(RunError, match=r"cannot write '.*report\.html'"):
        report(run)


def test_failed_gate_is_told(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["failure"] = "no candidate meets the budget. The nearest is 'prune'."
    result["parity"]["passed"] = False
    _, page = read(write(result=result))
    assert "✗ no candidate meets the budget. The nearest is 'prune'." in page.text
    assert "Parity does not hold" in page.text


def test_chinese_page(make_run: Callable[[str], Path]) -> None:
    _, page = read(make_run("whole"), "zh")
    assert page.values("lang") == ["zh-Hans"]
    assert "体积缩小至 1/7.2，速度提升至 14 倍，得分下降 0.3 个百分点" in page.text
    assert "Stages" not in page.text


def test_sections_table_and_folder_agree() -> None:
    folder = Path(sections.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "summary"}
    assert files == set(sections.SECTIONS)
    assert all(callable(sections.get(name)) for name in sections.SECTIONS)


def test_skipped_candidates_are_told_with_their_reasons(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["skipped"] = {"prune": "no layer <can> go. Set fold.prune.macs=0.5.", "b+c": "LookupError: no"}
    run = write(result=result)
    page = report(run).read_text("utf-8")
    assert "<h3>Candidates that could not be made</h3>" in page
    assert "<li><b>prune</b>: no layer &lt;can&gt; go. Set fold.prune.macs=0.5.</li><li><b>b+c</b>: LookupErr" in page
    assert "未能生成的候选" in report(run, language="zh").read_text("utf-8")
    (run / "result.json").write_text(json.dumps(result | {"skipped": {}}))
    assert "could not be made" not in report(run).read_text("utf-8")


def test_a_search_says_how_much_it_looked_at(write: Callable[..., Path], result: dict[str, Any]) -> None:
    run = write(result=result | {"search": {"time_s": 20.0, "looked_at": 31, "whole": 8}})
    page = report(run).read_text("utf-8")
    assert "at most 20\xa0s: it looked at 31 compositions of folds and made 8 candidates" in page
    assert "考察了 31 种" in report(run, language="zh").read_text("utf-8")
    (run / "result.json").write_text(json.dumps(result | {"search": {}}))
    assert "The planner searched" not in report(run).read_text("utf-8")


def test_memory_says_by_which_ruler(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["stages"][1]["peak_memory_bytes"] = 12_390_400
    page = report(write(result=result)).read_text("utf-8")
    lines = re.findall("<li><b>([^<]*)</b>: ([^<]*)</li>", page)
    assert lines == [
        ("tensors for one input", "trained 1.20\u00a0MB"),
        ("fresh process that loads the model and runs one input", "onnx 12.4\u00a0MB"),
        ("tensors of a training step", "trained 9.81\u00a0MB"),
    ]


def seen(n_steps: int = 200) -> dict[str, Any]:
    """What the doctor saw of two layers and two activations."""

    def fall(start: float) -> list[list[float]]:
        return [[step, start * 0.99**step] for step in range(n_steps)]

    layers = {
        "conv1": {"path": "conv1", "order": 1, "grad_norm": fall(1.0), "update_ratio": fall(0.1)},
        "fc": {"path": "fc", "order": 3, "grad_norm": fall(0.2), "update_ratio": fall(0.05)},
    }
    activations = [
        {"path": "relu1", "function": "relu", "order": 2, "dead_frac": [[s, 0.25] for s in range(n_steps)]},
        {"path": "", "function": "tanh", "order": 4, "saturated_frac": [[s, 0.5] for s in range(n_steps)]},
    ]
    other = {"n_train_forwards": 1, "layers": {"x": {"path": "x", "grad_norm": [[0, 1.0]]}}}
    root = {"n_train_forwards": n_steps, "layers": layers, "activations": activations}
    return {"n_steps": n_steps, "roots": {"0": other, "1": root}}


def test_the_doctor_tells_worst_first_with_place_evidence_remedy_and_proof(
    write: Callable[..., Path], result: dict[str, Any]
) -> None:
    run = write(result=result, seen=seen())
    text, page = read(run)
    told = page.text[page.text.index("What the doctor found") :]
    assert told.index("lr-too-high") < told.index("unseeded")
    for words in ("net.py:17 · conv2 · step 41", "the learning rate is too high", "The loss rose 3.1-fold.", "lr=0.01"):
        assert words in told, words
    assert "loss after 20 steps 0.41 instead of 7.2" in told
    assert "3 rules looked at the first 200 steps" in told
    assert "sync-every-step: the parameters live on the CPU" in told
    assert "/home/me" not in text
    chinese = read(run, "zh")[1].text
    assert "学习率" in chinese
    assert "第 41 步" in chinese


def test_what_the_doctor_saw_is_drawn_per_layer_and_step(write: Callable[..., Path], result: dict[str, Any]) -> None:
    _, page = read(write(result=result, seen=seen()))
    labels = page.values("aria-label")
    for words in ("Gradient norms of 2 layers over 199", "Dead units of 1 rectifiers", "Saturation of 1 activations"):
        assert any(label.startswith(words) for label in labels), words
    assert "25\u00a0%" in page.text  # the last share of relu1


def test_between_two_looks_the_earlier_one_stands() -> None:
    layers = {"fc": {"path": "fc", "grad_norm": [[1, 2.0], [3, 1.0]]}}
    assert seen_rows({"roots": {"0": {"layers": layers}}}, "layers", "grad_norm") == (
        [1, 2, 3, 4],
        {"fc": [None, 2.0, 2.0, 1.0]},
    )


DAMAGED: list[Any] = [
    [],
    {"roots": 3},
    {"roots": {"0": {"layers": [1], "activations": {"a": 1}}}},
    {"roots": {"0": {"layers": {"a": {"grad_norm": [[None, 1], [1e9, 2], [0, "x"]]}}}}},
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_record_of_what_was_seen_is_left_out(
    write: Callable[..., Path], result: dict[str, Any], damage: Any
) -> None:
    _, page = read(write(result=result, seen=damage))
    assert "lr-too-high" in page.text
    assert not any("over" in label and "layers" in label and "steps" in label for label in page.values("aria-label"))


def curve(**more: Any) -> dict[str, Any]:
    """A range test as a run keeps it."""
    rates = [10.0**e for e in range(-6, 2)]
    losses = [2.3, 2.3, 2.25, 1.6, 0.9, 0.7, 2.0, 9.0]
    told = {"rates": rates, "losses": losses, "smoothed": losses, "interval": [1e-3, 0.05], "suggested": 1e-2}
    return told | {"n_seeds": 3} | more


def test_the_learning_rates_that_were_tried_are_drawn_with_the_run_s_own(
    write: Callable[..., Path], result: dict[str, Any]
) -> None:
    _, page = read(write(result=result, lr_range=curve()))
    assert "rates to try: 0.0010 to 0.050" in page.values("aria-label")
    for words in ("Learning rates that were tried", "this run: 0.0020", "mean of 3 seeds"):
        assert words in page.text, words


def test_a_curve_without_a_clear_answer_says_so(write: Callable[..., Path], result: dict[str, Any]) -> None:
    _, page = read(write(result=result, lr_range=curve(interval=None, suggested=None)))
    assert "no clear answer" in page.values("aria-label")


def test_a_curve_that_was_left_out_says_why(write: Callable[..., Path], result: dict[str, Any]) -> None:
    _, page = read(write(result=result, lr_range={"left_out": "time", "share": 0.05}))
    assert "more than 5% of the training's time" in page.text


@pytest.mark.parametrize(
    "damage",
    [[], {"rates": 3}, curve(losses=[1.0]), curve(rates=[0.0] * 8), curve(rates=[None] * 8), curve(smoothed=["x"] * 8)],
)
def test_a_damaged_curve_of_learning_rates_is_left_out(
    write: Callable[..., Path], result: dict[str, Any], damage: Any
) -> None:
    _, page = read(write(result=result, lr_range=damage))
    assert "Learning rates that were tried" not in page.text


def test_a_healthy_run_is_told_so(write: Callable[..., Path], result: dict[str, Any]) -> None:
    result["checks"] = []
    assert "Nothing was found. 3 rules looked" in read(write(result=result))[1].text
