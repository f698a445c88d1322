"""What can be typed, what it says of itself, what Tab offers, and what is refused."""

from __future__ import annotations

import re

import pytest
from cooptim_magics.commands import COMMANDS
from cooptim_magics.dispatch import complete, find_command
from cooptim_magics.grammar import parse
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError

BODY = "\nmodel, data = None, None"


class TestHelp:
    @pytest.mark.parametrize("line", ["%cooptim", "%cooptim --help", "%cooptim -h"])
    def test_one_screen(self, notebook, line):
        text = notebook.run(line).stdout
        for command in COMMANDS.values():
            assert re.search(rf"^  %+cooptim {command.name} +{re.escape(command.help)}$", text, re.MULTILINE)
        assert text.startswith("cooptim_lab on ")
        assert "%%cooptim ranks" in text
        assert len(text.splitlines()) < 30
        assert max(map(len, text.splitlines())) <= 130

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_explains_itself(self, notebook, name, flag):
        command = COMMANDS[name]
        outcome = notebook.run(f"%cooptim {name} {flag}")
        text = outcome.stdout
        assert text.startswith(f"usage: {'%%' if command.needs_body else '%'}cooptim {name}")
        assert command.help in " ".join(text.split())
        for option in command.options:
            assert all(flag in text for flag in option.flags if flag.startswith("-"))
            assert " ".join(option.help.split()) in " ".join(text.split())
            assert all(choice in text for choice in option.choices)
        assert ("body of a %%cooptim" in text) == bool(command.body)
        assert "%%%" not in text
        assert outcome.displayed == []

    def test_help_comes_before_every_other_complaint(self, notebook):
        assert notebook.run("%cooptim subnets --workers 0 --help").stdout.startswith("usage:")
        assert notebook.run("%%cooptim subnets --help\nthis is not python").stdout.startswith("usage:")
        assert notebook.run("%cooptim ranks --help").stdout.startswith("usage: %%cooptim ranks")

    def test_the_docstring(self, notebook):
        found = notebook.shell.object_inspect("%cooptim", detail_level=0)
        assert found["found"]
        assert "%%cooptim task" in found["docstring"]
        assert "%cooptim lab" in found["docstring"]

    def test_defaults_are_in_the_help(self, notebook):
        text = " ".join(notebook.run("%cooptim speedup --help").stdout.split())
        assert "(default 1,2)" in text
        assert "(default 0)" in text


class TestCompletion:
    @pytest.mark.parametrize(
        ("text", "offered"),
        [
            ("%cooptim ", list(COMMANDS)),
            ("%cooptim s", ["subnets", "sharded", "speedup", "simulate", "show", "stop"]),
            ("%%cooptim ra", ["ranks"]),
            ("%cooptim co", ["compare", "costs"]),
            (
                "%cooptim hardware --",
                ["--measure", "--live", "--seconds", "--again", "--batch", "--out", "--bg", "--help"],
            ),
            ("%cooptim costs --s", ["--sync-every", "--seed"]),
            ("%cooptim nothing ", []),
            ("%cooptim subnets --f", ["--fuse"]),
            ("%cooptim subnets --fuse ", ["mean", "vote", "soup", "merge"]),
            ("%%cooptim subnets --split r", ["replicas"]),
            ("%cooptim sharded --aggregate ", ["server", "allreduce", "ordered", "shared", "local", "diloco", "async"]),
            ("%cooptim sharded --aggregate a", ["allreduce", "async"]),
            ("%cooptim sharded --aggregate server --aggr", []),
            ("%cooptim speedup ", ["subnets", "sharded"]),
            ("%cooptim pool st", ["status", "start", "stop"]),
            ("%cooptim pool start --", ["--workers", "--hosts", "--launcher", "--interface", "--help"]),
            ("%cooptim subnets --epochs ", []),
            ("%cooptim sharded --sy", ["--sync-every"]),
            ("%cooptim subnets --bg --e", ["--engine", "--epochs"]),
            ("%cooptim runs --", ["--help"]),
            ("%cooptim subnets -n 4 --sub", []),
        ],
    )
    def test_offered(self, text, offered):
        found = complete(text)
        if text.endswith("speedup "):
            found = [word for word in found if not word.startswith("-")]
        assert found == offered

    @pytest.mark.parametrize("magic", ["%cooptim", "%%cooptim"])
    def test_by_the_shell(self, notebook, magic):
        def offered(line: str) -> list[str]:
            with pytest.warns(PendingDeprecationWarning, match="Completer.complete"):
                return notebook.shell.complete("", line, len(line))[1]

        assert set(COMMANDS) <= set(offered(f"{magic} "))
        assert offered(f"{magic} comp") == ["compare"]
        assert offered(f"{magic} sharded --agg") == ["--aggregate"]
        assert offered(f"{magic} sharded --aggregate al") == ["allreduce"]

    @pytest.mark.parametrize(
        ("cell", "offered"),
        [
            ("%cooptim subn", "subnets"),
            ("%%cooptim shard", "sharded"),
            ("x = 1\n%cooptim subnets --fus", "--fuse"),
            ("%cooptim sharded --aggregate all", "allreduce"),
        ],
    )
    def test_as_a_front_end_asks(self, notebook, cell, offered):
        with provisionalcompleter():
            found = [(each.text, each.start) for each in notebook.shell.Completer.completions(cell, len(cell))]
        start = max(cell.rfind(" "), cell.rfind("\n")) + 1
        assert (offered, start) in found
        assert len(found) == 1

    def test_what_is_offered_is_accepted(self):
        for name, command in COMMANDS.items():
            for word in complete(f"%cooptim {name} --"):
                assert word == "--help" or any(word in option.flags for option in command.options)


class TestBadLines:
    @pytest.mark.parametrize(
        ("cell", "parts"),
        [
            ("%cooptim subnet", ["no 'subnet'", "did you mean subnets?"]),
            ("%cooptim xyz", ["no 'xyz'", "choose one of hardware, task, train, subnets"]),
            ("%cooptim Compare", ["no 'Compare'", "did you mean compare?"]),
            ("%cooptim subnets --worker 2", ["no option --worker", "did you mean --workers?"]),
            ("%cooptim subnets --qqq", ["no option --qqq", "allowed:", "--workers"]),
            ("%cooptim subnets --workers 0", ["--workers = 0", "must be 1 or more"]),
            ("%cooptim subnets --workers -2", ["--workers", "-2"]),
            ("%cooptim subnets --workers=-2", ["--workers = -2", "must be 1 or more"]),
            ("%cooptim subnets --workers two", ["--workers two", "give a whole number"]),
            ("%cooptim subnets --workers 2.5", ["--workers 2.5", "give a whole number"]),
            ("%cooptim subnets --workers", ["--workers", "expected one argument"]),
            ("%cooptim subnets -n 0", ["--subnets = 0", "must be 1 or more"]),
            ("%cooptim subnets --epochs 0", ["--epochs = 0", "must be 1 or more"]),
            ("%cooptim subnets --seed=-1", ["--seed = -1", "must be 0 or more"]),
            ("%cooptim subnets --split halves", ["--split = 'halves'", "choose one of replicas"]),
            ("%cooptim sharded --aggregate mean", ["--aggregate = 'mean'", "choose one of server, allreduce"]),
            ("%cooptim sharded --skew x", ["--skew x", "give a number"]),
            ("%cooptim sharded --skew=-1", ["--skew = -1", "must be 0 or more"]),
            ("%cooptim sharded --compress zip", ["compress = zip", "topk:F"]),
            ("%cooptim sharded --aggregate local --compress bf16", ["local cannot send that", "allreduce or server"]),
            ("%cooptim sharded --retries 2", ["retries = 2", "add save_every"]),
            ("%cooptim resume", ["required"]),
            ("%cooptim resume nothere", ["no run nothere"]),
            ("%cooptim sharded extra", ["extra is too much", "%cooptim sharded --help"]),
            ("%cooptim sharded --bg yes", ["yes is too much"]),
            ("%cooptim compare -o 2x", ["-o 2x", "a name that a variable may have"]),
            ("%cooptim subnets -n 2 --epochs 1 -o class", ["-o class", "a name that a variable may have"]),
            ("%cooptim speedup", ["required: {subnets,sharded}"]),
            ("%cooptim speedup baseline", ["way = 'baseline'", "choose one of subnets, sharded"]),
            ("%cooptim speedup sharded --workers 1,x", ["--workers 1,x", "whole numbers, e.g. 1,2,4"]),
            ("%cooptim speedup sharded --workers 1,0", ["--workers = 0", "must be 1 or more"]),
            ("%cooptim speedup sharded --workers 1,,2", ["--workers 1,,2", "whole numbers"]),
            ("%cooptim speedup subnets --workers 8", ["workers = 8", "only 4 sub-networks", "-n 8"]),
            ("%cooptim costs --workers 1,2", ["--workers = 1", "must be 2 or more"]),
            ("%cooptim costs --batch 3", ["batch = 3", "4 workers have no row each"]),
            ("%cooptim pool stand", ["action = 'stand'", "choose one of status, start, stop"]),
            ("%cooptim pool --workers 2", ["--workers goes with start"]),
            ("%cooptim pool stop --workers 2", ["--workers goes with start"]),
            ("%cooptim show nosuchrun", ["no run nosuchrun", "%cooptim runs"]),
            ("%cooptim show ../secret", ["no run ../secret"]),
            ("%cooptim stop nosuchrun", ["no run nosuchrun", "%cooptim runs"]),
            ("%cooptim stop", ["no run is going on"]),
            ("%cooptim hardware now", ["now is too much"]),
            ("%cooptim hardware --again", ["--again", "%cooptim hardware --measure"]),
            ("%cooptim hardware --measure --seconds 0", ["--seconds = 0", "must be 0.1 or more"]),
            ("%cooptim subnets 'open", ["%cooptim subnets 'open", "No closing quotation"]),
            ("%cooptim ranks", ["needs a body", "write %%cooptim ranks"]),
            ("%%cooptim task", ["the cell body is empty"]),  # IPython's own words
            ("%%cooptim" + BODY, ["needs a subcommand", "task, train, subnets, sharded, ranks"]),
            ("%%cooptim compare" + BODY, ["takes no body", "write %cooptim compare"]),
            ("%%cooptim runs" + BODY, ["takes no body"]),
            ("%%cooptim ranks --workers 0\n1", ["--workers = 0", "must be 1 or more"]),
            ("%%cooptim ranks\n# nothing", ["the body is empty", "print(rank, size)"]),
            ("%%cooptim ranks\nif True print(1)", ["line 1 of the body is not Python"]),
        ],
    )
    def test_is_refused_in_one_line(self, notebook, cell, parts):
        message = notebook.refuse(cell)
        assert [part for part in parts if part not in message] == [], message
        assert len(message) < 300, message

    def test_a_failed_cell_stops_before_what_follows(self, notebook):
        notebook.try_cell("%cooptim subnet\nreached = True")
        assert "reached" not in notebook.names

    def test_nothing_was_started(self, notebook):
        notebook.refuse("%cooptim compare --workers 0 -o kept")
        assert "kept" not in notebook.names
        assert notebook.run("%cooptim pool").stdout.startswith("no ranks are running")

    def test_parsing_alone_is_usable(self):
        arguments = parse(find_command("speedup"), ["sharded", "--workers", "1,2,4", "--bg"])
        assert (arguments.way, arguments.workers, arguments.bg, arguments.out) == ("sharded", (1, 2, 4), True, None)
        with pytest.raises(UsageError):
            find_command("")

    def test_options_are_taken_from_python(self, notebook):
        """As in every line magic of IPython's: {expression} and $name."""
        notebook.run("count = 0")
        assert "--workers = 0" in notebook.refuse("%cooptim subnets --workers {count}")
        assert "--workers = -1" in notebook.refuse("%cooptim subnets --workers={count - 1}")
