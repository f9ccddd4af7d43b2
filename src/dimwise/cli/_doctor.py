"""What ``dimwise doctor`` looks at: a script, a finished run, data; and what it can tell of its rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dimwise.cli import _out
from dimwise.errors import RunError, UserError

if TYPE_CHECKING:
    from dimwise.data.config import DataConfig
    from dimwise.doctor.finding import Report


@dataclass
class Look:
    """What was found, what a reader should know besides, and how the script ended."""

    report: Report
    remarks: list[str] = field(default_factory=list)
    exit_code: int = 0


def refuse(target: Sequence[str] | None, option: str) -> None:
    """An option that looks at something else takes no script.

    Raises:
        UserError: when there is one.
    """
    if target:
        raise UserError(f"doctor: '{target[0]}' together with {option}", expected=f"{option} alone, or a SCRIPT")


def at_script(target: Sequence[str], *, module: bool, steps: int | None, ignore: Collection[str], prove: bool) -> Look:
    """Run a script under watch."""
    from dimwise.doctor.examine import examine
    from dimwise.doctor.script import watch_script

    execution = watch_script(target[0], target[1:], module=module, steps=steps)
    report = examine(execution.processes, ignore=ignore)
    if prove:
        from dimwise.doctor.prove import prove as proven

        report = proven(report, target[0], target[1:], module=module)
    return Look(report, execution.remarks, execution.exit_code)


def run_named(word: str, runs_dir: Path) -> Path | None:
    """The folder of the run that ``word`` names, when it names no script."""
    from dimwise.runs import folder

    path = Path(word)
    if path.is_dir():
        return path if (path / "recipe.toml").is_file() and not (path / "__main__.py").is_file() else None
    if path.exists() or path.suffix == ".py":
        return None
    try:
        return folder.find(runs_dir, word)
    except RunError:
        return None  # the message about a script that does not exist says more


def at_run(run: Path, ignore: Collection[str]) -> Look:
    """Judge a run by what was seen when it was trained.

    Raises:
        RunError: when nothing was, or its record is damaged.
    """
    from dimwise.chain import rates
    from dimwise.doctor import wire
    from dimwise.doctor.examine import examine

    path = run / "seen.json"
    if not path.is_file():
        raise RunError(
            f"run '{run.name}' was not watched: it holds no seen.json",
            expected="a run of dimwise train or dimwise run",
            next_step="Train it anew without doctor=false, or look at its data alone: dimwise doctor --data.",
        )
    try:
        seen = wire.read(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} cannot be read: {error}", expected="what a run wrote", next_step="Train it anew."
        ) from None
    remarks = [f"run {run.name}: the first {seen.n_steps:,} steps were watched"]
    if seen.error:
        remarks.append(f"it ended with {seen.error.get('type')}: {seen.error.get('message')}")
    report, measured = examine([seen], ignore=ignore), rates.advice(run)
    findings = [replace(f, remedy=f.remedy + measured) if f.rule in rates.RULES else f for f in report.findings]
    return Look(replace(report, findings=findings), remarks)


def at_data(word: str, data_dir: Path | None, ignore: Collection[str]) -> Look:
    """The data rules alone, on what a recipe names, a folder of images, or a file."""
    from dimwise.data import load
    from dimwise.doctor.dataset import look
    from dimwise.progress import Terminal

    report, _, remarks = look(load(_config(word), data_dir, progress=Terminal()), ignore=ignore)
    return Look(report, remarks)


def _config(word: str) -> DataConfig:
    from dimwise import chain
    from dimwise.data.config import DataConfig

    path, _, column = word.rpartition(":") if ".csv:" in word else (word, "", "")
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        if not column:
            raise UserError(
                f"doctor: --data {word}: which column is predicted?",
                expected="FILE.csv:COLUMN",
                next_step=f"As in: dimwise doctor --data {word}:label.",
            )
        return DataConfig(source="csv", path=path, target=column)
    if suffix == ".npz":
        return DataConfig(source="npz", path=path)
    if Path(path).is_dir() and not (Path(path) / "recipe.toml").is_file():
        return DataConfig(source="folder", path=path)
    return chain.load(word).data


def show_gallery() -> int:
    """Each mistake in one line, with the script that shows it."""
    from dimwise.lab.cards import cards

    made = cards()
    _out.table(["rule", "mistake", "script"], [(one.slug, one.title, one.module) for one in made])
    print()
    print(f"The mistake under the doctor's eyes:  {made[0].broken}")
    print(f"The same, mended:                     {made[0].mended}")
    print(f"All about one rule:                   dimwise doctor --explain {made[0].slug}")
    return 0


def show_card(rule: str) -> int:
    """All that is known about one rule."""
    from dimwise.lab.cards import as_text, card

    print(as_text(card(rule)))
    return 0
