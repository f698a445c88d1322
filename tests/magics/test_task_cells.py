"""`%%cooptim task`: the body is a cell like any other, and what it binds is the task."""

from __future__ import annotations

import numpy as np
import pytest
from cooptim_magics.body import BodyFailed, bound_names
from cooptim_magics.session import session

LINES = "import numpy as np\ndef model():\n    from torch import nn\n    return nn.Linear(3, 2)\n"
DATA = "data = (np.zeros((40, 3), 'float32'), np.arange(40) % 2)\n"


class TestBody:
    def test_defines_the_current_task(self, notebook):
        assert notebook.run(f"%%cooptim task\n{LINES}{DATA}").stdout == (
            "your task: model on 40 rows; 20.0 % held out\n"
        )
        task = session(notebook.shell).task
        assert task.model is notebook.names["model"]
        assert task.data is notebook.names["data"]
        assert notebook.run("%cooptim task").stdout.startswith("your task: model on 40 rows")

    def test_is_looked_at(self, notebook):
        """Its layers, how it is scored, what would be split."""
        text = notebook.run(f"%%cooptim task\n{LINES}{DATA}").displayed[-1]["data"]["text/plain"]
        assert "model  Linear" in text
        assert "8 parameters; 32 rows to train on, 8 held out" in text
        assert "accuracy: the largest output is the class" in text
        assert "no hidden layer to split" in text

    def test_one_that_does_not_fit_is_refused_and_not_the_current_one(self, notebook):
        message = notebook.refuse(f"%%cooptim task\n{LINES}data = np.zeros((40, 5)), np.arange(40) % 2")
        assert "cannot take a batch of shape (4, 5)" in message
        assert "until one fits, commands train the built-in digits" in message
        assert session(notebook.shell).task is None

    def test_one_that_is_refused_leaves_the_one_before_and_says_so(self, notebook):
        notebook.run(f"%%cooptim task\n{LINES}{DATA}name = 'mine'")
        message = notebook.refuse(f"%%cooptim task\n{LINES}data = np.zeros((40, 5)), np.arange(40) % 2")
        assert "until one fits, commands train the task defined before, mine" in message
        assert session(notebook.shell).task.name == "mine"

    def test_its_names_are_the_notebooks(self, notebook):
        notebook.run("rows = 12")
        notebook.run(f"%%cooptim task\n{LINES}data = np.zeros((rows, 3)), np.arange(rows) % 2\nextra = rows + 1")
        assert notebook.names["extra"] == 13
        assert notebook.run("assert len(data[0]) == rows")
        assert session(notebook.shell).task.data is notebook.names["data"]

    def test_is_a_cell_like_any_other(self, notebook):
        """Magics and shell lines are understood, the value of the last expression is shown, output comes once."""
        outcome = notebook.run(f"%%cooptim task\n{LINES}{DATA}print('seen')\nplace = %pwd\n6 * 7")
        assert outcome.stdout.count("seen") == 1
        assert "42" in outcome.stdout
        assert notebook.names["place"]

    def test_other_names(self, notebook):
        more = (
            "from torch import optim\nfrom torch.nn.functional import cross_entropy\n"
            "def loss(o, t): return cross_entropy(o, t)\ndef optimizer(p): return optim.SGD(p, lr=0.1)\n"
            "def metric(o, t): return 1.0\ndef subnet(i): ...\n"
        )
        text = notebook.run(f"%%cooptim task\n{LINES}{DATA}{more}").stdout
        assert text.endswith("own loss, optimizer, metric, subnet; 20.0 % held out\n")
        task = session(notebook.shell).task
        assert all(getattr(task, name) is notebook.names[name] for name in ("loss", "optimizer", "metric", "subnet"))

    def test_the_built_in_one_without_a_body(self, notebook):
        assert notebook.run("%cooptim task").stdout == (
            "digits: digits_network on digits_rows, own optimizer; 20.0 % held out\n"
        )

    def test_a_module_is_described_by_its_size(self, notebook):
        cell = f"%%cooptim task\n{LINES}{DATA}from torch import nn\nmodel = nn.Linear(3, 2)"
        assert notebook.run(cell).stdout.startswith("your task: Linear of 8 parameters on 40 rows")


class TestMistakes:
    def test_names_of_earlier_cells_are_not_taken(self, notebook):
        notebook.run(f"{LINES}{DATA}")
        message = notebook.refuse("%%cooptim task\ndata = data")
        assert message == "the body does not define model: it defines data"
        message = notebook.refuse("%%cooptim task\nmodel = model")
        assert message == "the body does not define data: it defines model"

    @pytest.mark.parametrize(
        ("body", "parts"),
        [
            (f"{LINES.replace('model', 'modell')}{DATA}", ["does not define model", "did you mean model = modell?"]),
            (f"{LINES}{DATA.replace('data', 'dta')}", ["does not define data", "did you mean data = dta?"]),
            ("   \n", ["the body is empty", "model = nn.Sequential"]),
            ("# nothing yet\n", ["the body is empty"]),
            (f"{LINES}data = np.zeros((3, 2)), np.zeros(4)", ["X has 3 rows and y has 4"]),
            (f"{LINES}data = np.zeros((3, 2))", ["data", "(X, y)"]),
            (f"{LINES}data = 1, 2, 3", ["data has 3 parts: give two, (X, y)"]),
            (f"{LINES}{DATA}model = 'mlp'", ["model is a str", "nn.Module"]),
            (f"{LINES}{DATA}loss = 0.5", ["loss is a float: give a function"]),
            (f"{LINES}{DATA}from torch.nn import MSELoss as loss", ["loss is the class MSELoss: write MSELoss()"]),
        ],
    )
    def test_are_refused_in_one_line(self, notebook, body, parts):
        message = notebook.refuse(f"%%cooptim task\n{body}")
        assert [part for part in parts if part not in message] == [], message

    def test_a_name_that_looks_like_one_of_a_task_is_told_of(self, notebook):
        more = "from torch import optim\nimport sklearn.metrics as metrics\noptimzer = Loss = 3\nlearning_rate = 0.1"
        text = notebook.run(f"%%cooptim task\n{LINES}{DATA}{more}").stdout
        assert text.startswith(
            "⚠ Loss is not used: did you mean loss = ...?\n⚠ optimzer is not used: did you mean optimizer = ...?\nyour"
        )

    def test_leave_the_task_as_it_was(self, notebook):
        notebook.run(f"%%cooptim task\n{LINES}{DATA}")
        before = session(notebook.shell).task
        notebook.refuse("%%cooptim task\nmodel = 3")
        notebook.try_cell("%%cooptim task\n1 / 0")
        assert session(notebook.shell).task is before

    @pytest.mark.parametrize("command", ["task", "subnets", "sharded"])
    def test_an_error_in_the_body_is_its_own(self, notebook, command):
        outcome = notebook.try_cell(f"%%cooptim {command}\nreached = 1\nnumber = 0\n1 / number")
        assert type(outcome.error) is BodyFailed
        shown = outcome.stdout + outcome.stderr
        assert shown.count("ZeroDivisionError: division by zero") == 1
        assert "1 / number" in shown
        assert "the body failed, see above" in shown
        assert "cooptim_magics" not in shown, "frames of the face are nothing to the reader"
        assert notebook.names["reached"] == 1

    def test_a_body_that_is_not_python(self, notebook):
        outcome = notebook.try_cell("%%cooptim task\nmodel = = 3")
        assert type(outcome.error) is BodyFailed
        assert "SyntaxError" in outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a = b", ["a"]),
        ("a, (b, *c) = d", ["a", "b", "c"]),
        ("a: int = 1", ["a"]),
        ("a += 1", ["a"]),
        ("a.b = 1\na[0] = 2", []),
        ("def f(x):\n    y = 1", ["f"]),
        ("async def f(): z = 1", ["f"]),
        ("class C:\n    y = 1", ["C"]),
        ("import a.b\nimport c as d\nfrom e import f, g as h", ["a", "d", "f", "h"]),
        ("for i in x:\n    a = i\nelse:\n    b = 1", ["i", "a", "b"]),
        ("with x as y:\n    a = 1", ["y", "a"]),
        ("if x:\n    a = 1\nelse:\n    b = 1", ["a", "b"]),
        ("try:\n    a = 1\nexcept E:\n    b = 1\nfinally:\n    c = 1", ["a", "b", "c"]),
        ("if (a := 1): pass", ["a"]),
        ("[i for i in x]\n{i: j for i, j in x}\nlambda k: k", []),
    ],
)
def test_bound_names(source, names):
    assert bound_names(source) == names


def test_what_a_star_import_binds_is_found(notebook, tmp_path):
    """A notebook keeps its model in a file beside it."""
    (tmp_path / "my_network.py").write_text("from torch import nn\ndef model(): return nn.Linear(3, 2)\nhidden = 1\n")
    notebook.names["place"] = str(tmp_path)
    notebook.run(f"import sys\nsys.path.insert(0, place)\n{LINES}")
    try:
        notebook.run(f"%%cooptim task\nfrom my_network import *\n{DATA}")
        assert session(notebook.shell).task.model.__module__ == "my_network"
    finally:
        notebook.run("sys.path.remove(place)\nsys.modules.pop('my_network', None)")


def test_data_stay_the_users_own_arrays(notebook):
    notebook.names["kept"] = kept = (np.zeros((9, 3)), np.zeros(9, int))
    notebook.run(f"%%cooptim task\n{LINES}data = kept")
    assert session(notebook.shell).task.data[0] is kept[0]
