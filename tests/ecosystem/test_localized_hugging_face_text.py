"""Localized scores and keep curves of Hugging Face's text classifiers as they are."""

import pytest
import torch

from captum_kd.metrics import Localization, compare_transfer, keep_curve, random_attributions
from captum_kd.perturb import keep_relevant_tokens

transformers = pytest.importorskip("transformers")

N, T, MASK = 24, 9, 39

pytestmark = pytest.mark.filterwarnings("ignore:Near chance", "ignore:Only .* inputs", "ignore:Less than")

COMMON = {"vocab_size": 40, "num_labels": 3, "pad_token_id": 1, "max_position_embeddings": 32}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "Bert": (BERT, "bert.encoder.layer.1"),
    "Roberta": (BERT, "roberta.encoder.layer.1"),
    "DistilBert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}, "distilbert.transformer.layer.1"),
    "GPT2": ({"n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 2, "eos_token_id": 2}, "transformer.h.1"),
    "OPT": ({**BERT, "ffn_dim": 32, "word_embed_proj_dim": 16, "bos_token_id": 2, "eos_token_id": 2}, "model.decoder.layers.1"),
}


def model(name, seed=0):
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**COMMON, **MODELS[name][0])
    return getattr(transformers, f"{name}ForSequenceClassification")(config).eval()


def encoded(n=N, padded_to=T):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, T + 1, (n,), generator=generator)
    lengths[0] = T
    mask = (torch.arange(T) < lengths[:, None]).long()
    ids = torch.randint(3, 38, (n, T), generator=generator) * mask + (1 - mask)
    pad = torch.nn.functional.pad
    return transformers.BatchEncoding({
        "input_ids": pad(ids, (0, padded_to - T), value=1), "attention_mask": pad(mask, (0, padded_to - T)),
    })  # fmt: skip


@pytest.mark.parametrize("mask_token", [None, MASK])
@pytest.mark.parametrize("name", MODELS)
def test_classifiers_are_localized_whatever_the_padding(name, mask_token):
    layer, y = MODELS[name][1], torch.arange(N) % 3
    localize = Localization("gradcam", mask_token_id=mask_token)
    found = []
    for padded_to in (T, 13):
        batch = encoded(padded_to=padded_to)
        like = torch.zeros(N, 1, padded_to)
        report = compare_transfer(
            model(name, 1), model(name, 2), layer, [{**batch, "labels": y}], localize=localize, show_progress=False
        )
        curve = keep_curve(model(name, 1), batch, y, random_attributions(like), mask_token_id=mask_token)
        found.append([row["value"] for row in report.rows] + curve.accuracy.tolist())
    assert found[0] == pytest.approx(found[1], abs=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_kept_tokens_keep_their_positions_except_where_the_mask_numbers_them(name):
    """The outputs of embeddings of positions, before and after tokens became padding."""
    net, seen = model(name), []
    tables = [each for each in net.modules() if isinstance(each, torch.nn.Embedding) and 32 <= each.num_embeddings < 40]
    assert len(tables) == 1
    handle = tables[0].register_forward_hook(lambda module, args, output: seen.append(output.expand(N, -1, -1)))
    batch = encoded()
    reduced = keep_relevant_tokens(batch, random_attributions(torch.zeros(N, 1, T)))
    with torch.no_grad():
        net(**batch)
        net(**reduced)
    handle.remove()
    kept = reduced["attention_mask"] == 1
    assert torch.equal(seen[0][kept], seen[1][kept]) == (name != "OPT")
