"""``dimwise recipe``: list, show, new, check, schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimwise.cli import _out
from dimwise.cli._typer import Json, Settings, group
from dimwise.errors import RecipeError

app = group("List, show, make and check recipes.", example="dimwise recipe show digits")

Name = Annotated[str, typer.Argument(help="A name of `dimwise recipe list`, or a file.")]


@app.command("list")
def list_recipes(as_json: Json = False) -> int:
    """List the recipes that come with dimwise.

    \b
    Example:
      dimwise recipe list
    """
    from dimwise import chain

    found = chain.recipes()
    if as_json:
        _out.emit(found)
    else:
        _out.table(["recipe", "what it does"], found.items())
    return 0


@app.command()
def show(name: Name, settings: Settings = None) -> int:
    """Print a recipe in full, every field with its meaning.

    \b
    Example:
      dimwise recipe show digits --set train.lr=0.01
    """
    from dimwise import chain
    from dimwise.recipe import to_toml

    print(to_toml(chain.load(name, settings or ()), documented=True), end="")
    return 0


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The file to make, ending in .toml.")],
    source: Annotated[str, typer.Option("--from", metavar="NAME", help="The recipe to start from.")] = "digits",
) -> int:
    """Write a documented recipe to a file, to be edited.

    \b
    Example:
      dimwise recipe new mine.toml --from mnist
    """
    from dimwise import chain
    from dimwise.recipe import to_toml
    from dimwise.runs import atomic

    if file.suffix != ".toml":
        raise RecipeError(f"'{file}' does not end in .toml", next_step=f"Name it {file.name}.toml.")
    if file.exists():
        raise RecipeError(f"'{file}' exists already", next_step="Choose another name, or remove it first.")
    made = chain.load(source, [f'name="{file.stem}"'])
    atomic.write_text(file, to_toml(made, documented=True))
    print(f"{file}: edit it, then: dimwise run {file}")
    return 0


@app.command()
def check(name: Name, settings: Settings = None) -> int:
    """Say whether a recipe can be run; name the first mistake if not.

    \b
    Example:
      dimwise recipe check mine.toml
    """
    from dimwise import chain

    chain.load(name, settings or ())
    print(f"{name}: good")
    return 0


@app.command()
def schema() -> int:
    """Print the JSON schema of recipes, for editors and forms.

    \b
    Example:
      dimwise recipe schema > recipe.schema.json
    """
    import json

    from dimwise import chain, recipe

    print(json.dumps(recipe.schema(chain.Recipe), indent=2))
    return 0
