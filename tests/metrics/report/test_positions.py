"""Token positions as the inputs of a report."""

import json
import warnings
from collections import Counter

import pytest
import torch
from population import by_score, compare
from reference.pair_scores import pair_scores
from torch import nn

from captum_kd.metrics import TokenPositions
from captum_kd.metrics.inference import geometry_products, jackknife, transfer_scores
from captum_kd.metrics.report.positions import PositionSample, copies

VOCABULARY = 40
SENTENCES = 14


class Causal(nn.Module):
    """Every token sees itself and the mean of the tokens before it."""

    def __init__(self, seed, width=8):
        torch.manual_seed(seed)
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.embedding.weight.data[:, :6] += 2 * torch.randn(VOCABULARY, 6, generator=torch.Generator().manual_seed(99))
        self.block = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.LayerNorm(width))
        self.pair = Pair()
        self.eval()

    def forward(self, input_ids, attention_mask=None):
        x = self.embedding(input_ids)
        seen = torch.ones(x.shape[:2]) if attention_mask is None else attention_mask.float()
        before = (x * seen[..., None]).cumsum(1) / seen.cumsum(1).clamp(min=1)[..., None]
        x = self.block(x + before)
        return self.pair(x)[0].mean(1)


class Pair(nn.Module):
    def forward(self, x):
        return x, 2 * x


STUDENT, BASE, TEACHER = Causal(1), Causal(2, 7), Causal(3, 10)
MODELS = STUDENT, BASE, TEACHER


def sentences():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 11, (SENTENCES,), generator=draw).tolist()
    return [torch.randint(VOCABULARY, (length,), generator=draw) for length in lengths]


def token_labels(ids):
    found = ids % 3
    found[ids % 7 == 0] = -100
    return found


def loader(size=4, padded_to=None, left=False, labels=None):
    """Batches of sentences, padded to the longest one or further."""
    texts, batches = sentences(), []
    for start in range(0, SENTENCES, size):
        part = texts[start : start + size]
        length = max(padded_to or 0, *map(len, part))
        ids, mask = torch.zeros(2, len(part), length, dtype=torch.long)
        kept = torch.full_like(ids, -100)
        for row, text in enumerate(part):
            place = slice(length - len(text), length) if left else slice(0, len(text))
            ids[row, place], mask[row, place], kept[row, place] = text, 1, token_labels(text)
        batches.append({"input_ids": ids, "attention_mask": mask, **({} if labels is None else {"labels": kept})})
    return batches


def features(model, layer="block"):
    """The features of every position in float64, by a hook of the test's own, sentence by sentence without padding."""
    found = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output[0].double()))
    for text in sentences():
        model(text[None])
    handle.remove()
    return torch.cat(found).detach()


def report(data=None, positions=TokenPositions(), labels=False, layers=("block",), **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = loader() if data is None else data
        return compare(
            STUDENT, BASE, list(layers), data, **{"teacher": TEACHER, "positions": positions, "labels": labels, **kwargs}
        )


def values(found):
    return {name: row["value"] for name, row in by_score(found, "block").items()}


def test_every_token_is_an_input():
    found = report()
    n = sum(map(len, sentences()))
    expected = pair_scores(*map(features, (STUDENT, BASE)), None, features(TEACHER))
    assert {row["n"] for row in found.rows} == {n}
    assert list(values(found)) == ["fss", "fss_student_teacher", "fss_base_teacher", "teacher_distilled", "teacher_residual"]
    for name, value in values(found).items():
        assert value == pytest.approx(expected[name], abs=1e-6)


def test_labels_of_tokens_give_relevance_and_negative_ones_leave_out_a_token():
    labels = torch.cat([token_labels(text) for text in sentences()])
    kept = labels >= 0
    expected = pair_scores(*(features(model)[kept] for model in MODELS[:2]), labels[kept], features(TEACHER)[kept])
    found = report(loader(labels=True), labels=True, confidence=0.9)
    assert found.settings["class_counts"] == {str(k): v for k, v in sorted(Counter(labels[kept].tolist()).items())}
    for name, value in values(found).items():
        assert value == pytest.approx(expected[name], abs=1e-6)
    # Permuted labels would need independent tokens.
    assert by_score(found, "block")["rs_student"]["p_value"] is None
    assert by_score(found, "block")["rs_distilled"]["p_value"] is not None


def test_a_sample_holds_the_positions_with_the_smallest_numbers():
    n, limit = sum(map(len, sentences())), 30
    keys = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    drawn = keys.argsort()[:limit]
    expected = pair_scores(*(features(model)[drawn] for model in MODELS[:2]), None, features(TEACHER)[drawn])
    found = report(positions=TokenPositions(limit, seed=5))
    for name, value in values(found).items():
        assert value == pytest.approx(expected[name], abs=1e-6)
    owners = torch.cat([torch.full((len(text),), place) for place, text in enumerate(sentences())])
    recorded = found.settings["positions"]
    assert (recorded["scored"], recorded["of"]) == (limit, n) and recorded["of_sentences"] == SENTENCES
    assert recorded["sentences"] == len(owners[drawn].unique())


@pytest.mark.parametrize("data", [loader(1), loader(3), loader(14), loader(5, 12), loader(4, 20), loader(3, 12, left=True)])
@pytest.mark.parametrize("limit", [12, 30, 1000])
def test_neither_batches_nor_padding_change_a_score(data, limit):
    expected = values(report(positions=TokenPositions(limit)))
    for name, value in values(report(data, TokenPositions(limit))).items():
        assert value == pytest.approx(expected[name], abs=1e-6)


def test_every_position_is_as_likely_as_any_other():
    counts = torch.zeros(40)
    features = torch.arange(40.0).reshape(10, 4, 1)
    mask = torch.ones(10, 4, dtype=torch.bool)
    for seed in range(1500):
        sample = PositionSample(TokenPositions(6, seed), torch.device("cpu"))
        for part in features.split(2):  # the sample is cut down twice
            sample.add({"student": [part]}, mask[:2], None)
        counts[sample.drawn().features["student"][0].values.flatten().long()] += 1
    # Binomial: mean 225, standard deviation 14; the largest of 40 deviations is below 4 of them.
    assert counts.sum() == 9000 and (counts - 225).abs().max() < 4 * 14


def test_another_seed_draws_other_positions():
    assert values(report(positions=TokenPositions(30))) != values(report(positions=TokenPositions(30, seed=1)))


def test_intervals_add_up_the_positions_of_a_sentence():
    found = report(confidence=0.9)
    distances = {name: torch.cdist(features(m), features(m)) for name, m in zip(("student", "base", "teacher"), MODELS)}
    products = geometry_products(distances)
    score = transfer_scores(labels=None, teacher="teacher")["teacher_distilled"]
    without, _ = products.leave_one_out(score)
    of_sentences = [part.sum() for part in (without - without.mean()).split([len(text) for text in sentences()])]
    n, groups = len(without), len(of_sentences)
    error = ((n - 1) / n) * (groups / (groups - 1) * sum(each**2 for each in of_sentences)) ** 0.5
    t = 1.7709333959868  # 13 degrees of freedom, .95
    row = by_score(found, "block")["teacher_distilled"]
    assert row["high"] - row["value"] == pytest.approx(float(t * error), abs=1e-6)
    assert row["value"] - row["low"] == pytest.approx(float(t * error), abs=1e-6)


def test_groups_of_one_input_are_independent_inputs():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 20, 3, generator=draw, dtype=torch.float64)
    products = geometry_products({"a": torch.cdist(x, x), "b": torch.cdist(y, y)})
    score = transfer_scores("a", "b", labels=None)["fss"]
    expected = jackknife(products, score)
    assert jackknife(products, score, groups=torch.randperm(20)) == pytest.approx(expected, abs=1e-12)
    assert jackknife(products, score, groups=torch.zeros(20, dtype=torch.long)).low is None
    for groups in (torch.arange(19), torch.rand(20), list(range(20))):
        with pytest.raises(ValueError, match="groups must be"):
            jackknife(products, score, groups=groups)


def test_masks_from_everywhere():
    texts = loader()
    for batch in texts:
        batch["special_tokens_mask"] = torch.zeros_like(batch["input_ids"])
        batch["special_tokens_mask"][:, 0] = 1
    found = report(texts)
    kept = torch.cat([torch.arange(len(text)) > 0 for text in sentences()])
    expected = pair_scores(*(features(m)[kept] for m in MODELS[:2]), None, features(TEACHER)[kept])
    for name, value in values(found).items():
        assert value == pytest.approx(expected[name], abs=1e-6)
    ids = [batch["input_ids"] for batch in loader()]
    pairs = [(batch["input_ids"], batch["attention_mask"]) for batch in loader()]
    expected = values(report())
    assert values(report(pairs, unpack=lambda batch: (batch, None))) == pytest.approx(expected, abs=1e-6)
    (batch,) = loader(SENTENCES)
    by_argument = report([batch["input_ids"]], additional_forward_args=batch["attention_mask"])
    assert values(by_argument) == pytest.approx(expected, abs=1e-6)
    whole = report(ids)  # without a mask, every position is a token
    assert whole.settings["positions"]["of"] == sum(each.numel() for each in ids)
    masks = report(ids, token_mask=lambda inputs: inputs != 0)
    assert masks.settings["positions"]["of"] == sum(int((each != 0).sum()) for each in ids)


def test_the_report_says_what_its_inputs_are():
    found = report(positions=TokenPositions(30), confidence=0.9)
    drawn = f"30 of {sum(map(len, sentences()))} token positions (drawn by seed 0)"
    for text in (" ".join(str(found).split()), found.to_markdown()):
        assert drawn in text and "not independent" in text and "each sentence as one unit" in text
    assert "\n30 of" in str(found)
    assert "all 85 token positions of 14 sentences" in " ".join(str(report()).split())
    json.loads(found.to_json())
    found.plot()


def test_copies_are_named():
    def prefixes(texts):
        # The mean of the tokens so far does not depend on their order.
        starts = Counter((*sorted(text[:place].tolist()), int(text[place])) for text in texts for place in range(len(text)))
        return sum(count for count in starts.values() if count > 1)

    texts = [torch.cat([torch.tensor([1, 2]), text]) for text in sentences()]  # the same start
    found = report([text[None] for text in texts])
    assert prefixes(texts) >= 28 and found.settings["positions"]["copies"] == [prefixes(texts)]
    assert f"At block, {prefixes(texts)} of 113 token positions" in found.notes[0]
    assert report().settings["positions"]["copies"] == [prefixes(sentences())]
    x = torch.randn(50, 4)
    assert copies(x) == 0 and copies(torch.cat([x, x[:3] + 1e-7])) == 6


def test_seed_control_and_joint_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compare(
            {"kd 1": STUDENT, "kd 2": Causal(4)},
            {"base 1": BASE, "base 2": Causal(5), "base 3": Causal(6)},
            ["block"],
            loader(),
            teacher=TEACHER,
            placebo_teachers={"placebo 1": Causal(7), "placebo 2": Causal(8)},
            positions=TokenPositions(40),
            labels=False,
            verify=30,
        )
    assert {test["score"] for test in found.seed_control["tests"]} >= {"fss", "teacher_distilled", "teacher_distilled_all"}
    assert found.settings["verification"]["largest_difference"] < 1e-6


def test_the_random_state_stays():
    before = torch.get_rng_state()
    report(positions=TokenPositions(20))
    assert torch.equal(torch.get_rng_state(), before)


IDS = torch.arange(24).reshape(4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_transform": lambda x: x.mean(2)}, "leave out feature_transform"),
        ({"localize": "gradcam"}, "leave out localize"),
        ({"population": "batch"}, "population"),
        ({"prefix_tokens": 1}, "prefix_tokens"),
        ({"data": [{"student": IDS, "teacher": IDS[:, :4]}]}, "all models need the same tokens"),
        ({"data": [{"student": IDS, "teacher": IDS + 1}]}, "other token ids"),
        ({"data": [IDS], "layers": ["pair"]}, "several tensors"),
        ({"data": [(IDS, IDS[:, 0])], "labels": True}, r"labels=False"),
        ({"data": [(IDS, IDS[:, :4])], "labels": True}, "one for each token"),
        ({"data": [(IDS, torch.full_like(IDS, -100))], "labels": True}, "all labels are negative"),
        ({"data": [IDS[:1, :3]]}, "hold 3"),
    ],
)
def test_errors_name_what_to_pass(options, message):
    with pytest.raises(ValueError, match=message):
        report(**{"data": [IDS], **options})


def test_errors_of_the_option():
    for limit in (4, 2.5, None):
        with pytest.raises(ValueError, match="limit of TokenPositions"):
            TokenPositions(limit)
    with pytest.raises(TypeError, match="positions must be"):
        report(positions=100)
