"""Output folders: what is in them stays the user's, and what is damaged there is refused before any training."""

import json
import multiprocessing
import os
import shutil
import signal
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distillation import checkpoints, experiment, locks, record, results
from distillation.networks import build
from small_quickstart import run


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("finished") / "run"
    run(output)
    return output


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def untrained(monkeypatch):
    """Makes every training a failure of the test."""

    def fit(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(experiment, "fit", fit)


def refusal(capsys, output, *more):
    """The one line in which the run is refused."""
    with pytest.raises(SystemExit) as stopped:
        run(output, *more)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    return said


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_lists_all_that_it_writes_and_writes_nothing_else(finished):
    listed = json.loads((finished / "run.json").read_text())["files"]
    written = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert written - set(listed) == {"run.json"}
    # One Base only, so no seed control; no placebo Teachers, no second Teacher.
    optional = ("seed_control", "prediction_tests", "placebos", "random_placebos", "second_teacher")
    tables = [f"tables/{name}.{kind}" for name in optional for kind in ("csv", "md")]
    assert set(listed) - written == {"figures/seed_control_teacher.png", *tables}


def test_files_of_others_are_left_alone_and_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(experiment, "measure", stop)
    others = ["notes.txt", "checkpoints/my.model.ckpt", "checkpoints/mine.ckpt", "figures/mine.png", ".hidden"]
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for more in ([], ["--overwrite"], ["--resume"]):
        with pytest.raises(KeyError):
            run(tmp_path, *more)
        assert [(tmp_path / name).read_text() for name in others] == ["mine"] * 5
        said = capsys.readouterr().out
        assert "not of this run and stay as they are: checkpoints/mine.ckpt, checkpoints/my.model.ckpt, figures/mine.png" in said
    assert (tmp_path / "checkpoints" / "student.ckpt").exists()


def stop(*args, **kwargs):
    raise KeyError("stop")


@pytest.mark.parametrize("name", ["checkpoints/teacher.ckpt", "report.json", "tables/accuracy.md", "run.json.part"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_file_of_others_where_the_run_would_write_is_refused(tmp_path, capsys, untrained, name, more):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    assert f"no run of these examples wrote and that this one would replace: {name}." in refusal(capsys, tmp_path, *more)
    assert contents(tmp_path) == {Path(name): b"mine"}


@pytest.mark.parametrize("kind", ["finished run", "run that was not finished"])
def test_a_run_is_not_replaced_unasked(copy, capsys, untrained, kind):
    if kind != "finished run":
        (copy / "index.html").unlink()
    before = contents(copy)
    assert f"holds a {kind}. Go on with it by --resume, replace it by --overwrite" in refusal(capsys, copy)
    assert contents(copy) == before


def test_a_run_is_overwritten_where_that_is_asked_for(copy, monkeypatch):
    monkeypatch.setattr(experiment, "fit", stop)
    (copy / "tables" / "mine.csv").write_text("mine")
    with pytest.raises(KeyError):
        run(copy, "--overwrite", "--seed", "1")
    assert set(contents(copy)) == {Path("run.json"), Path("tables/mine.csv")}
    assert json.loads((copy / "run.json").read_text())["settings"]["seed"] == 1


def test_a_run_without_any_training_is_begun_again(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "fit", stop)
    for _ in range(2):
        with pytest.raises(KeyError):
            run(tmp_path)


def test_resume_and_overwrite_exclude_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--resume", "--overwrite")
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoints", "tables", "figures"])
@pytest.mark.parametrize("more", ["--overwrite", "--resume"])
def test_nothing_is_deleted_behind_a_link(copy, capsys, untrained, name, more):
    shutil.move(copy / name, copy.parent / "elsewhere")
    (copy / name).symlink_to(copy.parent / "elsewhere")
    before = contents(copy.parent)
    assert f"{name} is a symbolic link" in refusal(capsys, copy, more)
    assert contents(copy.parent) == before


def test_a_link_goes_and_what_it_leads_to_stays(copy, monkeypatch):
    monkeypatch.setattr(experiment, "fit", stop)
    for name in ("report.json", "checkpoints/teacher.ckpt.part"):
        (copy.parent / "precious").write_text("precious")
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(copy.parent / "precious")
    with pytest.raises(KeyError):
        run(copy, "--overwrite")
    assert not (copy / "report.json").is_symlink() and not (copy / "checkpoints/teacher.ckpt.part").is_symlink()
    assert (copy.parent / "precious").read_text() == "precious"


def test_an_output_folder_may_be_a_link_itself(copy, finished):
    link = copy.parent / "link"
    link.symlink_to(copy)
    run(link, "--resume")
    reports = [json.loads((folder / "report.json").read_text())["folds"] for folder in (finished, copy)]
    assert reports[0] == reports[1] and link.is_symlink()


def test_an_unfinished_file_of_a_killed_run_goes(copy, monkeypatch):
    monkeypatch.setattr(experiment, "fit", stop)
    (copy / "checkpoints" / "teacher.ckpt.part").write_text("half")
    (copy / "checkpoints" / "mine.ckpt.part").write_text("mine")
    with pytest.raises(KeyError):
        run(copy, "--resume")
    assert [path.name for path in copy.rglob("*.part")] == ["mine.ckpt.part"]


def hold(path, ready):
    with locks.exclusive(path):
        ready.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Another process that writes into tmp_path, and the moment when it does."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / ".captum_kd.lock", ready))
    process.start()
    assert ready.wait(20)
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]])
def test_a_second_run_into_a_folder_is_refused(holder, tmp_path, capsys, untrained, more):
    assert f"Another run is writing into {tmp_path}. Wait" in refusal(capsys, tmp_path, *more)


def test_a_killed_run_leaves_its_folder_usable(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "fit", stop)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / ".captum_kd.lock").exists()
    with pytest.raises(KeyError):
        run(tmp_path)
    assert not (tmp_path / ".captum_kd.lock").exists()


def test_a_lock_that_was_removed_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """The holder before removes the file between another process' opening and locking it."""
    path, lock = tmp_path / "lock", locks._lock

    def removed(descriptor):
        monkeypatch.setattr(locks, "_lock", lock)
        path.unlink()
        return lock(descriptor)

    monkeypatch.setattr(locks, "_lock", removed)
    with locks.exclusive(path) as locked:
        assert locked and path.exists()
        with pytest.raises(locks.Held), locks.exclusive(path):
            pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def refused(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    monkeypatch.setattr(experiment, "fit", stop)
    with pytest.raises(KeyError):
        run(tmp_path)
    assert "file system without locks" in capsys.readouterr().err


def in_json(change):
    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def in_checkpoint(change):
    def damage(path):
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def as_null(path):
    path.write_text("null")


def as_list(path):
    path.write_text("[1, 2]")


def nested(path):
    path.write_text("[" * 100_000)


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_dangling_link(path):
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def as_loop(path):
    path.unlink()
    path.symlink_to(path)


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_bytes(path):
    path.write_bytes(bytes(range(256)))


ANY = [cut, emptied, as_null, as_list, as_folder, as_dangling_link, as_loop, as_pipe, as_bytes]
RUN = {
    "settings_none": lambda run: run.update(settings=None),
    "settings_list": lambda run: run.update(settings=[]),
    "settings_empty": lambda run: run.update(settings={}),
    "setting_other": lambda run: run["settings"].update(alpha=0.7),
    "setting_text": lambda run: run["settings"].update(epochs="1"),
    "setting_missing": lambda run: run["settings"].pop("alpha"),
    "data_other": lambda run: run.update(data="0"),
    "data_number": lambda run: run.update(data=3),
    "data_missing": lambda run: run.pop("data"),
    "files_missing": lambda run: run.pop("files"),
    "files_number": lambda run: run.update(files=3),
    "files_empty": lambda run: run.update(files=[]),
    "files_outside": lambda run: run["files"].append("checkpoints/../../x.json"),
    "files_numbers": lambda run: run["files"].append(3),
    "later_version": lambda run: run.update(version=99),
}
CHECKPOINT = {
    "weights": lambda kept: kept["state_dict"]["network.classifier.weight"].zero_(),
    "layer": lambda kept: kept["state_dict"].pop("network.classifier.bias"),
    "history": lambda kept: kept.update(history=[]),
    "epoch": lambda kept: kept["history"][0].update(loss="low"),
    "finished": lambda kept: kept.update(finished=False),
    "identity": lambda kept: kept.update(identity=None),
    "identity_missing": lambda kept: kept.pop("identity"),
    "optimizer": lambda kept: kept.update(optimizer_states=[]),
    "empty": lambda kept: kept.clear(),
}
DAMAGES = {
    **{f"{name}-{damage.__name__}": (name, damage) for name in ("run.json", "checkpoints/student.ckpt") for damage in ANY},
    **{f"{name}-{damage.__name__}": (name, damage) for name in ("checkpoints/base.json", "report.json")
       for damage in (as_folder, as_loop, as_pipe)},
    "run.json-nested": ("run.json", nested),
    "run.json-missing": ("run.json", Path.unlink),
    **{f"run.json-{name}": ("run.json", in_json(change)) for name, change in RUN.items()},
    **{f"teacher-{name}": ("checkpoints/teacher.ckpt", in_checkpoint(change)) for name, change in CHECKPOINT.items()},
    "checkpoints-file": ("checkpoints", lambda path: (shutil.rmtree(path), path.write_text("a file"))),
    "another_network": ("checkpoints/student.ckpt", lambda path: shutil.copy(path.with_name("base.ckpt"), path)),
    "another_architecture": ("checkpoints/base.ckpt", lambda path: shutil.copy(path.with_name("teacher.ckpt"), path)),
}  # fmt: skip


@pytest.mark.parametrize("name, damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_refused_in_one_line_before_any_training(copy, capsys, untrained, name, damage):
    damage(copy / name)
    said = refusal(capsys, copy, "--resume")
    assert str(copy) in said and any(way in said for way in ("--output", "--resume", "Delete", "Move it away"))


def test_the_student_of_another_guide_is_refused_before_any_training(copy, capsys, untrained):
    """All files are whole and have the right names, but the Teacher's weights are others."""
    path = copy / "checkpoints" / "teacher.ckpt"
    kept = torch.load(path, weights_only=True)
    del kept["seal"]
    kept["state_dict"]["network.classifier.bias"] += 1e-6
    checkpoints.WholeFiles().save_checkpoint(kept, path)
    assert "another training: guide was" in refusal(capsys, copy, "--resume")


def test_what_is_missing_or_is_written_again_does_not_change_the_results(copy, finished):
    for name in ("checkpoints/base.ckpt", "scores.csv"):
        (copy / name).unlink()
    for name in ("report.json", "checkpoints/teacher.json", "tables/accuracy.csv", "index.html"):
        as_null(copy / name)
    shutil.rmtree(copy / "figures")
    run(copy, "--resume")
    before, after = contents(finished), contents(copy)
    reports = [json.loads(each.pop(Path("report.json")))["folds"] for each in (before, after)]
    assert reports[0] == reports[1] and set(before) == set(after)
    same = [name for name in before if name.suffix in (".csv", ".md", ".png") or name.parts[-1] == "teacher.json"]
    assert len(same) > 10 and all(before[name] == after[name] for name in same)


def test_a_finished_run_is_given_placebo_teachers(copy, finished, monkeypatch):
    """Also one of the first version, which knew of no placebos."""
    path = copy / "run.json"
    content = json.loads(path.read_text())
    content["version"] = 1
    del content["settings"]["placebos"]
    path.write_text(json.dumps(content))
    report = run(copy, "--resume", "--placebos", "1")
    before, after = contents(finished), contents(copy)
    kept = [name for name in before if name.suffix == ".ckpt"]
    assert len(kept) == 3 and all(before[name] == after[name] for name in kept)
    assert Path("checkpoints/placebo_teacher_1.ckpt") in after and "Placebo Teacher 1" in report["folds"][0]["accuracy"]
    assert "checkpoints/placebo_teacher_1.json" in json.loads(path.read_text())["files"]


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys, untrained):
    (tmp_path / "out").write_text("mine")
    assert "File exists" in refusal(capsys, tmp_path / "out")
    assert "Not a directory" in refusal(capsys, tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "mine"


def test_no_folder_as_output_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        run("")
    assert stopped.value.code == 2 and "must name a folder" in capsys.readouterr().err


def test_a_refused_run_leaves_no_folder(tmp_path, capsys):
    refusal(capsys, tmp_path / "new", "--references", "4")
    refusal(capsys, tmp_path / "new", "--resume")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", [3, 8])
def test_a_full_disk_is_said_in_one_line_and_the_run_can_go_on(tmp_path, capsys, monkeypatch, call):
    left = call

    def full(descriptor):
        nonlocal left
        left -= 1
        if left <= 0:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = refusal(capsys, tmp_path)
    assert "No space left on device" in said and "--resume" in said
    monkeypatch.setattr(experiment, "measure", stop)
    with pytest.raises(KeyError):
        run(tmp_path, "--resume")


def test_a_disk_that_is_too_small_is_refused_before_any_training(tmp_path, capsys, untrained, monkeypatch):
    # In float32, each weight three times: itself and two of the optimizer's.
    weights = sum(p.numel() for name in ("resnet-m", "resnet-xs", "resnet-xs") for p in build(name, 10).parameters())
    for free, ends in ((12 * weights - 1, "refused"), (12 * weights, "begun")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        if ends == "refused":
            assert f"MiB in {tmp_path}, and {free / 2**20:,.0f} MiB are free there. Make room" in refusal(capsys, tmp_path)
        else:
            with pytest.raises(AssertionError, match="trained"):
                run(tmp_path)


def limited(output, result):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        run(output)
    except SystemExit as stopped:
        result.put(stopped.code)


def test_a_checkpoint_that_does_not_fit_is_no_error_of_torch(tmp_path):
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    process = context.Process(target=limited, args=(tmp_path, result))
    process.start()
    assert result.get(timeout=60) == 2
    process.join()


def test_an_output_folder_that_is_not_utf8_is_shown_escaped(copy, capsys):
    output = copy.rename(os.fsdecode(os.fsencode(copy.parent) + b"/r\xfcn"))
    run(output, "--resume")
    assert "r\\udcfcn" in capsys.readouterr().out
    assert (output / "index.html").read_text(encoding="utf-8").count("r\\udcfcn") == 1


def test_a_package_without_metadata_does_not_stop_a_report(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(record, "version", missing)
    versions = record._versions()
    assert versions["torch"] == torch.__version__ and versions["torchdistill"] and "captum_kd" in versions


@pytest.mark.parametrize(
    "options, message",
    [
        ("--test-images 5 --seed 1", "held-out images to be scored are too few of some classes"),
        ("--references 4", "images of the reference population are too few of some classes"),
        ("--train-images 1 --controls shuffled-labels", "there is one only"),
    ],
)
def test_classes_that_cannot_be_scored_are_refused(tmp_path, capsys, untrained, options, message):
    assert message in refusal(capsys, tmp_path / "new", *options.split())


@pytest.mark.parametrize("option", ["--devices banana", "--strategy nonsense", "--precision 7", "--devices 0"])
def test_options_that_lightning_refuses_are_said_in_one_line(tmp_path, capsys, option):
    assert f"Lightning cannot train with --accelerator cpu, {option if 'devices' in option else '--devices 1'}" in refusal(
        capsys, tmp_path, *option.split()
    )


def test_a_training_that_diverges_is_said(tmp_path, capsys):
    assert "The training of Teacher diverged" in refusal(capsys, tmp_path, "--learning-rate", "1e30")
