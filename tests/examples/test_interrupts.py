"""Runs that break off anywhere: files are whole or not there, and what follows ends like a run without a break."""

import itertools
import json

import pytest
import quickstart
from distillation import experiment, files, measuring, results
from matplotlib.figure import Figure
from small_quickstart import run


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "DPI", 30)
        yield


def contents(folder):
    """All files; of those that hold times or their own folder's name, what is neither."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in found:
        if name in ("report.json", "run.json"):
            plain = json.loads(found[name])
            plain.pop("seconds", None)
            del plain["settings"]["output"]
            found[name] = plain
        elif name.endswith((".ckpt", ".html")):
            found[name] = len(found[name]) > 0
    return found


class Breaking:
    """Does what the function does until a certain call."""

    def __init__(self, function, error, at=1):
        self.function, self.error, self.left = function, error, at

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.function(*args, **kwargs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run without a break leaves, and what it was written from."""
    folder = tmp_path_factory.mktemp("whole")
    given = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "write_results", lambda *args: given.extend(args) or results.write_results(*args))
        run(folder)
    return contents(folder), given[1:]


def test_a_run_that_breaks_off_ends_like_one_without_a_break(whole, tmp_path, capsys):
    """In the second training, then among the scores; each time resumed."""
    breaks = [
        (experiment, "fit", lambda function: Breaking(function, KeyboardInterrupt(), at=2), SystemExit),
        (measuring, "score", lambda function: Breaking(function, RuntimeError("broken")), RuntimeError),
    ]
    for number, (place, name, broken, error) in enumerate(breaks):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, broken(getattr(place, name)))
            with pytest.raises(error) as stopped:
                run(tmp_path, *["--resume"] * number)
        if error is SystemExit:
            assert stopped.value.code == 130 and "--resume goes on" in capsys.readouterr().err
        left = contents(tmp_path)
        assert left == {name: whole[0][name] for name in left}
        assert "checkpoints/teacher.ckpt" in left and "report.json" not in left
    run(tmp_path, "--resume")
    assert contents(tmp_path) == whole[0]


def half_a_picture(figure, file, **options):
    file.write(b"\x89PNG half of it")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "name", "broken"),
    [
        (files.os, "fsync", lambda function: Breaking(function, OSError("disk full"), at=4)),
        (files.os, "replace", lambda function: Breaking(function, KeyboardInterrupt(), at=2)),
        (Figure, "savefig", lambda function: half_a_picture),
        (results, "page", lambda function: Breaking(function, KeyboardInterrupt())),
    ],
)
def test_what_breaks_off_in_writing_leaves_whole_files_and_is_written_again(whole, tmp_path, monkeypatch, place, name, broken):
    expected, given = whole
    every = results.pictures_of
    monkeypatch.setattr(results, "pictures_of", lambda *args: itertools.islice(every(*args), 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, broken(getattr(place, name)))
        with pytest.raises((OSError, KeyboardInterrupt)):
            results.write_results(tmp_path, *given)
    left = contents(tmp_path)
    assert left and left == {name: expected[name] for name in left}
    assert "index.html" not in left
    results.write_results(tmp_path, *given)
    left = contents(tmp_path)
    assert left == {name: expected[name] for name in left} and "index.html" in left


def test_an_interrupt_before_anything_was_trained_says_to_begin_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "make_task", Breaking(quickstart.make_task, KeyboardInterrupt()))
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path)
    said = capsys.readouterr().err
    assert stopped.value.code == 130 and "the same command again" in said and "--resume" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_description_of_a_run_is_an_error_that_says_what_to_do(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"settings": {')
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--resume")
    assert stopped.value.code == 2 and "run.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "table.csv"
    files.write_text(path, "before")
    with pytest.raises(type(error)), files.whole_file(path) as file:
        file.write(b"half")
        raise error
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"] and path.read_text() == "before"
