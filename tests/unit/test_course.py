"""A student's predictions: locked before the run, judged by records on disk, handed in; every bad input."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import pytest

from cooptim_lab.course import asking, checking, progress
from cooptim_lab.course.languages import Text, language
from cooptim_lab.course.lessons import LESSONS
from cooptim_lab.course.progress import Prediction
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Started
from cooptim_lab.runs.run import Run
from tests.support import refused
from tests.unit.test_verdicts import row

SPEEDUP, *_, KERAS = LESSONS[3].claims
LESSON_3 = LESSONS[3].claims


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(store.PLACE, str(tmp_path / "home"))
    monkeypatch.delenv("COOPTIM_LANG", raising=False)
    return tmp_path / "home"


def run_it(speedup: float = 2.5, *, has_ended: bool = True) -> Run:
    """A run on record as the study leaves one."""
    run: Run = Run("speedup", {"way": "subnets", "subnets": 4}, title="speedup subnets: lesson 3")
    store.keep(run)
    run.begin()
    run.post(Started(way="speedup", options=run.options, workers=2))
    if has_ended:
        titles = {"as it is": 1.0, "sub-networks, 1 worker": 2.2, "sub-networks, 2 workers": speedup}
        run.finish(None, summary={"rows": [row(title, value) for title, value in titles.items()]})
    return run


def states(claims=LESSON_3) -> list[str]:
    return [verdict.state for verdict in checking.check(claims)]


class TestPredictThenCheck:
    def test_right(self):
        kept, is_new = asking.predict(SPEEDUP, "2.4×", "work")
        assert is_new
        run = run_it()
        (verdict,) = checking.check([SPEEDUP])
        assert (verdict.state, verdict.reason, verdict.run) == ("right", "right", run.id)
        assert verdict.prediction == kept
        assert kept.time < run.created

    def test_wrong_and_later_runs_change_nothing(self):
        asking.predict(SPEEDUP, "8", "work")
        run_it(2.5)
        assert states([SPEEDUP]) == ["wrong"]
        run_it(8.0)
        assert states([SPEEDUP]) == ["wrong"]

    def test_a_check_before_the_run(self):
        asking.predict(SPEEDUP, "2.4")
        assert states() == ["missing"] * 4

    def test_a_check_without_anything(self):
        assert states() == ["missing"] * 4
        assert not progress.place().exists(), "looking keeps nothing"

    def test_a_run_without_a_prediction_is_told_and_shows_nothing(self):
        run_it()
        (verdict,) = checking.check([SPEEDUP])
        assert (verdict.state, verdict.why, verdict.evidence) == ("missing", "late", None)

    def test_a_published_table_needs_no_run(self):
        asking.predict(KERAS, "1.8", "software")
        assert states([KERAS]) == ["right"]

    def test_the_lesson_before_is_named_while_it_is_open(self):
        assert checking.open_before(3) is None
        assert checking.open_before(4) == (3, 4, 4)
        asking.predict(KERAS, "1.8", "software")
        checking.check(LESSON_3)
        assert checking.open_before(4) == (3, 3, 4)


class TestLocked:
    def test_the_same_again_changes_nothing(self):
        first, _ = asking.predict(SPEEDUP, "2.5", "work")
        run_it()
        assert asking.predict(SPEEDUP, "2.50x", "work") == (first, False)

    @pytest.mark.parametrize(("number", "because"), [("3", "work"), ("2.5", "cores"), ("2.5", None)])
    def test_another_is_refused(self, number, because):
        asking.predict(SPEEDUP, "2.5", "work")
        with pytest.raises(ValueError) as caught:
            asking.predict(SPEEDUP, number, because)
        assert "you have predicted 2.5" in str(caught.value)
        assert "%cooptim check 3" in str(caught.value)
        assert progress.predictions()[SPEEDUP.id].value == 2.5

    @pytest.mark.parametrize("has_ended", [True, False])
    def test_after_the_run_began_is_refused(self, has_ended):
        run = run_it(has_ended=has_ended)
        with pytest.raises(ValueError) as caught:
            asking.predict(SPEEDUP, "2.5")
        message = str(caught.value)
        assert f"run {run.id} began at" in message
        assert '%cooptim predict "accuracy lost by 4 sub-networks"' in message
        assert progress.predictions() == {}
        run.finish(None)  # closes its record

    def test_a_run_that_failed_has_told_nothing(self):
        run_it(has_ended=False).fail(RuntimeError("no"))
        assert asking.predict(SPEEDUP, "2.5")[1]

    def test_what_is_added_by_hand_does_not_count(self):
        asking.predict(SPEEDUP, "2.5")
        with progress.place().open("a") as file:
            file.write(
                json.dumps({"what": "prediction", "claim": "3.1", "value": 9, "because": None, "time": 0}) + "\n"
            )
        assert progress.predictions()["3.1"].value == 2.5

    def test_two_notebooks_at_once_lose_nothing(self):
        def keep(number: int) -> None:
            progress.keep(Prediction(claim=f"{number}", value=number, because=None))

        threads = [threading.Thread(target=keep, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(progress.predictions()) == 16


class TestBadInput:
    @pytest.mark.parametrize("number", ["?", "", "two", "nan", "inf", "2,5", "2.5 points"])
    def test_no_number(self, number):
        with pytest.raises(ValueError) as caught:
            asking.predict(SPEEDUP, number)
        assert "is no number: give what you expect, in ×" in str(caught.value)

    @pytest.mark.parametrize("number", ["0", "-2"])
    def test_a_ratio_is_above_0(self, number):
        with pytest.raises(ValueError, match="is no ratio: give a number above 0"):
            asking.predict(SPEEDUP, number)

    def test_a_difference_may_be_below_0(self):
        assert asking.predict(LESSON_3[1], "-0.5 points")[0].value == -0.5

    def test_an_unknown_reason(self):
        with pytest.raises(ValueError, match="--because luck: choose one of work, cores, slower"):
            asking.predict(SPEEDUP, "2", "luck")

    @pytest.mark.parametrize("given", ["3.1", "Speedup of 4  sub-networks", "4 个子网络的加速比"])
    def test_a_question_by_number_and_by_its_words(self, given):
        assert asking.find(given) is SPEEDUP

    def test_an_unknown_question(self):
        with pytest.raises(ValueError, match="did you mean 'speedup of 4 sub-networks'"):
            asking.find("speedup of sub-networks")
        with pytest.raises(ValueError, match="is no question of the course: %cooptim predict lists them"):
            asking.find("?")

    def test_an_unknown_lesson(self):
        with pytest.raises(ValueError, match="there is no lesson 9: choose one of 3, 4"):
            asking.find_lesson(9)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('{"course": 2}\n', "was written by version 2 of the course, this one reads version 1"),
            ("not json\n", "line 1 is not one of the course's"),
            ('{"course": 1}\n{"what": "prediction", "cl', "line 2 is not one of the course's"),
            ('{"course": 1}\n{"what": "prediction", "claim": "3.1"}\n', "line 2 is not one of the course's"),
            ('{"course": 1}\n[]\n', "line 2 is not one of the course's"),
        ],
    )
    def test_a_file_of_another_version_or_torn(self, home, text, said):
        home.mkdir()
        progress.place().write_text(text)
        for use in (lambda: asking.predict(SPEEDUP, "2"), lambda: checking.check(LESSON_3), progress.verdicts):
            with pytest.raises(ValueError) as caught:
                use()
            assert said in str(caught.value)
            assert "COOPTIM_HOME" in str(caught.value)
            assert "\n" not in str(caught.value)
        assert progress.place().read_text() == text

    def test_a_place_that_cannot_be_written(self, home):
        home.write_text("a file where the folder should be")
        with pytest.raises(ValueError) as caught:
            asking.predict(SPEEDUP, "2")
        assert "set COOPTIM_HOME to" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_disk_that_takes_no_more_leaves_what_was_there(self, monkeypatch):
        asking.predict(SPEEDUP, "2")
        before = progress.place().read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("cooptim_lab.runs.store.write", full)
        with pytest.raises(ValueError, match="No space left on device"):
            asking.predict(KERAS, "2")
        assert progress.place().read_bytes() == before


class TestHandingIn:
    def test_one_file_with_all_that_it_rests_on(self, tmp_path):
        asking.predict(SPEEDUP, "2.4", "work")
        run = run_it()
        place = tmp_path / "mine.json"
        checking.export(place, [3, 4])
        told = json.loads(place.read_text(encoding="utf-8"))
        assert (told["format"], told["version"]) == ("cooptim_lab course", 1)
        lesson = told["lessons"]["3"]
        assert [lesson[name] for name in ("questions", "numbers right", "reasons right", "judged")] == [4, 1, 1, 1]
        first = lesson["verdicts"][0]
        assert (first["run"], first["began"], first["prediction"]["value"]) == (run.id, run.created, 2.4)
        assert first["evidence"]["low"] < first["evidence"]["value"] < first["evidence"]["high"]
        assert told["lessons"]["4"]["judged"] == 0
        assert [line["claim"] for line in told["history"]] == ["3.1"]
        assert "core" in told["machine"]

    def test_again_replaces_it_and_nothing_else(self, tmp_path):
        place = tmp_path / "mine.json"
        checking.export(place, [3])
        checking.export(place, [3])
        other = tmp_path / "thesis.json"
        other.write_text("{}")
        with pytest.raises(ValueError, match="is no export of the course: give another name"):
            checking.export(other, [3])
        assert other.read_text() == "{}"

    def test_a_place_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match="give a place that can be written"):
            checking.export(tmp_path / "file" / "mine.json", [3])


class TestWhatIsDocumented:
    DOCUMENT = Path(__file__).parents[2] / "docs" / "course.md"

    def blocks(self) -> list[str]:
        return re.findall(
            r"^```python\n(.*?)^```$", self.DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )

    def test_a_teacher_reads_the_files(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        asking.predict(KERAS, "1.8", "software")
        checking.export(Path("lesson3.json"), [3])
        reads, _ = self.blocks()
        exec(reads, {})
        assert capsys.readouterr().out == "lesson3 lesson 3 2 right, 1 of 4 judged\n"

    def test_an_autograder_passes_what_was_judged_only(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        _, grades = self.blocks()
        checking.export(Path("lesson3.json"), [3])
        with pytest.raises(AssertionError, match="0 of 4 questions have a verdict"):
            exec(grades, {})
        told = json.loads(Path("lesson3.json").read_text(encoding="utf-8"))
        told["lessons"]["3"]["judged"] = 4
        Path("lesson3.json").write_text(json.dumps(told), encoding="utf-8")
        exec(grades, {})


class TestLanguage:
    @pytest.mark.parametrize(
        ("chosen", "folder", "expected"),
        [("", "zh", "zh"), ("", "en", "en"), ("", "work", "en"), ("zh", "en", "zh"), ("en", "zh", "en")],
    )
    def test_is_chosen(self, chosen, folder, expected, tmp_path, monkeypatch):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        monkeypatch.setenv("COOPTIM_LANG", chosen)
        assert language() == expected
        assert str(Text("yes", "是")) == {"en": "yes", "zh": "是"}[expected]

    def test_an_unknown_one(self, monkeypatch):
        monkeypatch.setenv("COOPTIM_LANG", "fr")
        with refused("COOPTIM_LANG = fr", "choose one of en, zh"):
            language()

    def test_a_folder_that_is_gone(self, tmp_path, monkeypatch):
        gone = tmp_path / "zh"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert language() == "en"
        os.chdir(tmp_path)
