"""`%cooptim pool start` with a launcher: what IPython does to its braces."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("typed", "arrives"),
    [("srun -n {workers}", "srun -n 4"), ("srun -n {workers} -p short", "srun -n 4 -p short")],
)
def test_braces_that_ipython_has_filled_in_are_to_be_doubled(notebook, typed, arrives):
    notebook.names["workers"] = 4
    message = notebook.refuse(f'%cooptim pool start --launcher "{typed}"')
    assert message.startswith(
        f"--launcher {arrives}: IPython has put the notebook's variable workers where {{workers}}"
    )
    assert message.endswith("double the braces: {{workers}}")
    # Doubled they arrive as they must; the launcher itself is not there.
    doubled = typed.replace("srun", "no-such-launcher").replace("{workers}", "{{workers}}")
    assert "launcher no-such-launcher not found" in notebook.refuse(f'%cooptim pool start --launcher "{doubled}"')


def test_hosts_are_looked_at_too_where_they_are_given(notebook):
    notebook.names["hosts"] = ["a", "b"]
    said = notebook.refuse('%cooptim pool start --hosts a:1,b:1 --launcher "run -n {{workers}} -w {hosts}"')
    assert "variable hosts where {hosts} stood; double the braces: {{hosts}}" in said


def test_without_such_a_variable_single_braces_do(notebook):
    assert "not found" in notebook.refuse('%cooptim pool start --launcher "no-such-launcher -n {workers}"')
    assert "put {workers} where" in notebook.refuse('%cooptim pool start --launcher "srun -n 4"')
