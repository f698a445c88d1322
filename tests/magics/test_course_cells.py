"""`%cooptim predict` and `%cooptim check` as a student types them: what is shown, what is refused."""

from __future__ import annotations

import json

import pytest

from cooptim_lab.runs import store

QUESTION = '"speedup of Keras on 8 GPUs"'
CELL = """%%cooptim ranks --workers 2
{"1/M is off by, %": 28.2}"""


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv(store.PLACE, str(tmp_path))
    monkeypatch.delenv("COOPTIM_LANG", raising=False)


def test_predict_then_check(notebook):
    said = notebook.run(f"%cooptim predict {QUESTION} 8 --because gpus").stdout
    assert said.startswith("locked at ")
    assert "= 8×, because eight GPUs give about eight times\nnow check:  %cooptim check 3" in said
    outcome = notebook.run("%cooptim check 3")
    (table,) = outcome.tables
    assert "speedup of Keras on 8 GPUs: wrong: you said 8×, it is 1.77×" in table
    assert "the reason is another: on the same 8 GPUs" in table
    assert "lesson 3: 0 of 4 numbers and 0 of 4 reasons right; 3 without a verdict yet" in table
    assert table.count("nothing was predicted") == 1, "the next question only"
    html = outcome.displayed[-1]["data"]["text/html"]
    assert html.count("<tr>") == 5


@pytest.mark.mpi
def test_a_cell_on_ranks_answers(notebook, ranks):
    notebook.run("%cooptim predict 4.2 28% --because weight")
    notebook.run(CELL)
    assert "how far plain 1/M is off: right: you said 28 %, it is 28.2 %" in notebook.run("%cooptim check 4").tables[0]


@pytest.mark.mpi
def test_after_the_run_is_too_late(notebook, ranks):
    notebook.run(CELL)
    assert "a prediction comes before its run" in notebook.refuse("%cooptim predict 4.2 28 --because weight")
    (table,) = notebook.run("%cooptim check 4").tables
    assert "the run came before any prediction" in table
    assert "28.2" not in table


def test_in_chinese(notebook, monkeypatch):
    monkeypatch.setenv("COOPTIM_LANG", "zh")
    assert "已于" in notebook.run('%cooptim predict "Keras 在 8 块 GPU 上的加速比" 1.8 --because software').stdout
    (table,) = notebook.run("%cooptim check 3").tables
    assert "Keras 在 8 块 GPU 上的加速比：正确：你预测 1.8×，实测 1.77×" in table
    assert table.startswith("问题")
    assert "不是数字" in notebook.refuse("%cooptim predict 3.1 ?")


def test_the_list(notebook):
    notebook.run(f"%cooptim predict {QUESTION} 8")
    (table,) = notebook.run("%cooptim predict").tables
    assert len([line for line in table.splitlines() if line[:2] in ("3.", "4.")]) == 8
    assert "8×" in table


def test_the_file_to_hand_in(notebook, tmp_path):
    said = notebook.run(f"%cooptim check --export {tmp_path / 'mine.json'}")
    assert said.stdout == f"{tmp_path / 'mine.json'}: the file to hand in\n"
    assert len(said.tables) == 2
    assert set(json.loads((tmp_path / "mine.json").read_text())["lessons"]) == {"3", "4"}


def test_out_of_order_is_told(notebook):
    said = notebook.run("%cooptim predict 4.1 2 --because waiting").stdout
    assert "lesson 3 has 4 of 4 questions without a verdict" in said


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("%cooptim predict 3.1", ["a number is missing", "2.5 --because REASON"]),
        ("%cooptim predict 3.1 two", ["'two' is no number", "in ×"]),
        ("%cooptim predict 3.1 -2", ["-2 is no ratio", "above 0"]),
        ("%cooptim predict nothing 2", ["is no question of the course", "%cooptim predict lists them"]),
        ("%cooptim predict speedup of 4 sub-networks 2", ["too much", "%cooptim predict"]),
        ("%cooptim predict 3.1 2 --because x", ["--because x", "work, cores, slower"]),
        ("%cooptim check 9", ["there is no lesson 9", "3, 4"]),
        ("%cooptim check three", ["three", "a whole number"]),
    ],
)
def test_is_refused_in_one_line(notebook, line, parts):
    message = notebook.refuse(line)
    assert [part for part in parts if part not in message] == [], message
