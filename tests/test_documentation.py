"""README and docs: that they say what is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from pipeline.cli import main
from pipeline.config import Config, load_config, shipped_configs
from pipeline.config_page import PAGE, page

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def test_every_key_is_described() -> None:
    assert [name for name, field in fields(Config) if not field.description] == []


def test_the_page_on_the_configuration_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m pipeline.config_page`"


def test_every_page_is_in_the_readme() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [path.name for path in PAGES[1:] if f"(docs/{path.name})" not in text] == []
    assert [name for name in shipped_configs() if f"`{name}`" not in text and name != "thesis_baseline"] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.+)$", (path.parent / (target or path.name)).read_text(encoding="utf-8"), re.M)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


def commands() -> list[tuple[str, str]]:
    """Every `ich ...` in a block or in backticks, with its page."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S)
        lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
        lines += re.findall(r"`((?:[A-Z_]+=\S+ )?ich [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        found += [(path.name, line.strip()) for line in lines if re.match(r"(\$ )?ich\s", line.strip())]
    return sorted(set(found))


@pytest.mark.parametrize(("page_name", "line"), commands(), ids=str)
def test_every_command_is_one(page_name: str, line: str) -> None:
    """Its name and its options; what it does is tested where it is built."""
    quoted = re.sub(r"'[^']*'", "VALUE", line.removeprefix("$ "))
    words = [word for word in re.split(r"\s+", re.sub(r"\s#.*|[\[\]|…]|\.\.\.", " ", quoted)) if word]
    command: click.Command = main
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        assert name in command.commands, f"{page_name}: ich has no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"-h", "--help", "--version"}
    used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert used <= known, f"{page_name}: {line}: {used - known}"


def test_yaml_in_the_pages_is_a_configuration(tmp_path: Path) -> None:
    """Blocks that are whole are loaded; those that show a part are put into one that is."""
    seen = 0
    for path in PAGES:
        for number, block in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
        ):
            text = block if re.search(r"^name:", block, re.M) else f"name: part\n{block}"
            if not re.search(r"^data:", text, re.M):
                text += "data: {image: 'a/{case}.nii.gz', mask: 'b/{case}.nii.gz'}\n"
            file = tmp_path / f"{path.stem}-{number}.yaml"
            file.write_text(text)
            load_config(file)
            seen += 1
    assert seen > 3
