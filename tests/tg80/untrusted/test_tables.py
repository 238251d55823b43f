"""What strangers wrote is shown as it stands: no escape sequence, markup, Markdown or formula."""

import csv
import io
import os
import pty
import subprocess
import sys
from dataclasses import replace

import pytest
import rich.table

from tests.support import factories
from tg80.console import Table
from tg80.release.card import folder_facts
from tg80.release.survey import survey
from tg80.untrusted.tables import Console, csv_table, markdown_table, markdown_text, printable

HOSTILE = "a\x1b[31m\x9b2J\u202eb\u200b\r\n\t[bold]|`<img src=x>![p](http://x)\udcff"


def test_control_direction_and_zero_width_characters_become_escapes():
    assert printable(HOSTILE).isprintable()
    assert printable("a\u202eb\x1bc") == "a\\u202eb\\x1bc"
    assert printable("Zürich, Å, 水, \\") == "Zürich, Å, 水, \\"


@pytest.mark.parametrize("cell", ["=1+1", "+SUM(A1)", "-2+3", "@x", "=cmd|' /C calc'!A0"])
def test_no_csv_cell_is_a_formula_and_numbers_stay_numbers(cell):
    rows = [[cell, -1.5, "-1.5e-3", "+2", "-inf", "\t=1", HOSTILE]]
    (row,) = list(csv.reader(io.StringIO(csv_table("abcdefg", rows))))[1:]
    assert row[:5] == [f"'{cell}", "-1.5", "-1.5e-3", "+2", "-inf"]
    assert row[5] == "\\t=1" and row[6].isprintable()


def test_a_markdown_cell_is_one_cell_without_code_html_or_links():
    table = markdown_table(["name", "value"], [[HOSTILE, "-0.5"]])
    last = table.splitlines()[-1]
    assert len(table.splitlines()) == 3 and last.count("|") == 3 and last.isprintable()
    assert not any(mark in last for mark in ("`", "<", "]("))
    assert last.endswith("| -0.5 |")
    table = Table(HOSTILE, ["a"], [[HOSTILE]])
    assert len(table.markdown().splitlines()) == 5
    assert table.csv() == csv_table(["a"], [[HOSTILE]])
    assert table.records() == [{"a": HOSTILE}]
    assert markdown_text("C/C=C\\C [NH4+] 1.5 +- 0.2") == "C/C=C\\C [NH4+] 1.5 +- 0.2"


def test_a_table_for_the_terminal_carries_out_nothing():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)

    table = rich.table.Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE, style="red")
    text = stream.getvalue()
    assert "[bold]" in text and "\\x1b[31m" in text and "\\u202e" in text
    assert "\u202e" not in text and "\x9b" not in text and "\x1b[31ma" in text  # our own colour


def test_a_data_card_shows_what_a_shard_says_as_it_stands(tmp_path):
    factories.make_shard(tmp_path, "ethanol", n_frames=60)
    (fact,) = survey(tmp_path)
    told = {"end": HOSTILE, "integrator": HOSTILE, "level": HOSTILE, "platform": {HOSTILE: HOSTILE}}
    spoilt = replace(fact, metadata=fact.metadata.model_copy(update=told), warnings=(HOSTILE,))
    card = folder_facts([spoilt])
    assert "<img" not in card and "](http" not in card and printable(card, "\n") == card
    rows = [line for line in card.splitlines() if line.startswith("| integrator")]
    assert len(rows) == 1 and rows[0].count("|") == 3


def run_on_a_terminal(*command):
    """What reaches the terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=slave, stderr=slave, stdin=subprocess.DEVNULL
    )
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(master)
    return shown.decode()


def test_names_of_files_reach_no_terminal_raw(tmp_path):
    name = "\x1b[2J\u202eevil[red].h5md"
    (tmp_path / name).write_bytes(b"x")
    for command in (["validate"], ["info"]):
        shown = run_on_a_terminal("pipelines.cli", *command, str(tmp_path))
        assert "evil[red]" in shown.replace("\r\n", ""), shown
        assert "\x1b[2J" not in shown and "\u202e" not in shown
