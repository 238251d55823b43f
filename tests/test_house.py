"""The house rules that a machine can hold: import directions, file lengths, help, docs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import generate

ROOT = Path(__file__).parents[1]
ROOMS = ("tg80", "pipelines", "atom", "benchmarks")


def python_files():
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_import_directions():
    """The contracts of pyproject.toml: tg80 <- pipelines, tg80 + atom <- benchmarks."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_readable():
    long = {
        str(path.relative_to(ROOT)): n
        for path in python_files()
        if (n := len(path.read_text().splitlines())) > 600
    }
    assert long == {}


def test_nothing_is_unpickled():
    """weights_only stands explicitly in every torch.load, and nothing else unpickles."""
    for path in python_files():
        text = path.read_text()
        for call in re.finditer(r"torch\.load\(", text):
            assert "weights_only=True" in text[call.start() : call.start() + 300], path
        assert not re.search(r"pickle\.loads?\(|allow_pickle=True|weights_only=False", text), path


@pytest.mark.parametrize("index", [0, 1], ids=["tg80", "atom-bench"])
def test_every_command_has_help_with_an_example(index):
    name, app, run = generate.programs()[index]
    names = generate.command_names(app)
    assert len(names) >= 2
    for command in names:
        text = " ".join(generate.help_text(run, command.split()).split())
        assert re.search(rf"Example: {name} {command} ", text)
        assert run([*command.split(), "--no-such-option"]) == 2


def test_the_pages_say_what_the_code_says(capsys):
    stale = generate.main(["--check"])
    assert not stale, capsys.readouterr().out


def test_runs_are_told_by_the_commands_that_make_them():
    (_, atom), *_ = [f for f in generate._found("mini-xtb-v1") if f[1].model == "atom"]
    few = atom.settings | {"lessons": {"molecules": 8}, "pretrained_on": "tg80-xtb-v1"}
    fast = {**atom.settings, "training": atom.settings["training"] | {"learning_rate": 0.5}}
    others = [atom.model_copy(update={"settings": settings}) for settings in (few, fast)]
    plain, *commands = (generate._command(record) for record in (atom, *others))
    assert "--set" not in plain and "--molecules" not in plain
    begin = "--from benchmarks/results/tg80-xtb-v1/canonical/fold1/atom"
    assert f"--molecules 8 {begin} --seeds {{seeds}}" in commands[0]
    assert "--set training.learning_rate=0.5 --seeds" in commands[1]
    # Compared by names that tell them apart.
    assert len(list(generate._pairs([atom, *others]))) == 3
    assert {len(name) for pair in generate._pairs([atom, *others]) for name in pair} == {12}


def test_documented_pages_exist():
    pages = re.findall(r"(\w[\w/-]*\.md)", (ROOT / "mkdocs.yml").read_text())
    assert len(pages) >= 6
    assert [page for page in pages if not (ROOT / "docs" / page).exists()] == []


def test_the_docs_name_files_that_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    missing = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in re.findall(r"\b(?:[\w-]+/)+[\w-]+\.(?:py|toml|txt)\b", page.read_text())
        if not (ROOT / name).exists() and "friction" not in name  # an example of a new model
    }
    assert missing == set()
