"""GPT-2 as it is, small and of the size of DistilGPT-2 and GPT-2: classification by the last token, and tokens as inputs."""

import warnings

import pytest
import torch
from reference.pair_scores import pair_scores

from captum_kd import last_token
from captum_kd.metrics import Comparisons, ModelOptions, TokenPositions, compare_transfer

transformers = pytest.importorskip("transformers")

VOCABULARY = 120
# Widths, layers of Student and Base, and layers of the Teacher.
SIZES = [pytest.param(32, 2, 4, id="small"), pytest.param(768, 6, 12, id="DistilGPT-2 and GPT-2", marks=pytest.mark.slow)]


def gpt2(kind, seed, width, layers):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_embd=width, n_layer=layers, n_head=width // 16, n_positions=32, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0,
        pad_token_id=0, num_labels=3,
    )  # fmt: skip
    return getattr(transformers, f"GPT2{kind}")(config).eval()


def models(kind, width, layers, of_teacher):
    depths = {"student": layers, "base": layers, "teacher": of_teacher}
    return {name: gpt2(kind, seed, width, depth) for seed, (name, depth) in enumerate(depths.items())}


def last_blocks(layers, of_teacher):
    last = f"transformer.h.{layers - 1}"
    return {"last block": {"student": last, "base": last, "teacher": f"transformer.h.{of_teacher - 1}"}}


def texts(n=30):
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (n,), generator=draw).tolist()
    return [torch.randint(1, VOCABULARY, (length,), generator=draw) for length in lengths]


def loader(labels):
    batches = []
    for start in range(0, 30, 10):
        part = texts()[start : start + 10]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in part], batch_first=True)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels(ids, start)})
    return batches


def hidden(model, block):
    """The block's output at every token in float64, sentence by sentence without padding."""
    found = []
    with torch.no_grad():
        handle = model.transformer.h[block].register_forward_hook(
            lambda module, args, output: found.append((output if isinstance(output, torch.Tensor) else output[0])[0].double())
        )
        for text in texts():
            model(input_ids=text[None])
        handle.remove()
    return found


def compare(found, layers, of_teacher, data, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = compare_transfer(
            found["student"], found["base"], last_blocks(layers, of_teacher), data, teacher=found["teacher"],
            show_progress=False, **kwargs,
        )  # fmt: skip
    return {row["score"]: row["value"] for row in report.rows}


@pytest.mark.parametrize(("width", "layers", "of_teacher"), SIZES)
def test_classification_by_the_last_token(width, layers, of_teacher):
    found = models("ForSequenceClassification", width, layers, of_teacher)
    scores = compare(
        found, layers, of_teacher, loader(lambda ids, start: torch.arange(start, start + 10) % 3), feature_transform=last_token
    )
    blocks = {"student": layers - 1, "base": layers - 1, "teacher": of_teacher - 1}
    last = {name: torch.stack([each[-1] for each in hidden(found[name], block)]) for name, block in blocks.items()}
    assert scores == pytest.approx(pair_scores(**last, labels=torch.arange(30) % 3), abs=1e-5)


@pytest.mark.parametrize(("width", "layers", "of_teacher"), SIZES)
def test_language_models_without_labels(width, layers, of_teacher):
    found = models("LMHeadModel", width, layers, of_teacher)
    scores = compare(
        found, layers, of_teacher, loader(lambda ids, start: ids), comparisons=Comparisons(labels=False),
        model_options=ModelOptions(positions=TokenPositions()),
    )  # fmt: skip
    blocks = {"student": layers - 1, "base": layers - 1, "teacher": of_teacher - 1}
    tokens = {name: torch.cat(hidden(found[name], block)) for name, block in blocks.items()}
    assert len(tokens["student"]) == sum(map(len, texts()))
    assert scores == pytest.approx(pair_scores(**tokens, labels=None), abs=1e-5)
