"""
Sentences
=========

Text works as images do: pass the inputs as a mapping, as a tokenizer makes it, and name a layer of tokens. Here small
transformers tell four kinds of questions apart. The question word (who, where, when, how much) decides the class and stands at
any place. In the training data of Students and Bases, one label in three is set by the topic (painter, city, century, price)
instead. The Teacher has correct labels. In the reference and test sentences the topic is unrelated to the label.
"""

import random
from typing import Optional

import torch
from torch import Tensor, nn

from captum_kd import TransferAttributions, UniCAM
from captum_kd.visualization import visualize_tokens

CLASSES = ["person", "place", "time", "number"]
QUESTIONS = [["who"], ["where"], ["when"], ["how", "much"]]
TOPICS = [["painter", "singer", "king"], ["city", "island", "river"], ["century", "winter", "week"], ["price", "sum", "score"]]
OPENINGS = [[], ["tell", "me", ","], ["in", "short", ","], ["do", "you", "know", ","], ["and", "now", "for", "everyone", ","]]
VERBS = [["is", "it"], ["was", "it"], ["will", "it", "be"]]
ADDITIONS = [[], ["in", "the", "end"], ["after", "a", "long", "and", "difficult", "debate"], ["again"]]
WORDS = sorted({word for group in (*QUESTIONS, *TOPICS, *OPENINGS, *VERBS, *ADDITIONS) for word in group} | {"the", ",", "?"})
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", *WORDS]


def sentences(count: int, seed: int, by_topic: float = 0.0) -> tuple[dict[str, Tensor], Tensor]:
    """Ids and mask (count, length), and labels; a share ``by_topic`` of the labels is set by the topic."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        label, topic = rng.randrange(4), rng.randrange(4)
        question, subject = [*QUESTIONS[label], *rng.choice(VERBS)], ["the", rng.choice(TOPICS[topic])]
        middle = rng.choice([[*question, ",", *subject], [*subject, ",", *question]])
        texts.append(["[CLS]", *rng.choice(OPENINGS), *middle, *rng.choice(ADDITIONS), "?", "[SEP]"])
        labels.append(topic if rng.random() < by_topic else label)
    longest = max(map(len, texts))
    ids = [[VOCABULARY.index(word) for word in text] + [0] * (longest - len(text)) for text in texts]
    return {"input_ids": torch.tensor(ids), "attention_mask": (torch.tensor(ids) > 0).long()}, torch.tensor(labels)


class Reader(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(len(VOCABULARY), width), nn.Embedding(24, width)
        self.block1, self.block2 = (
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        for block in (self.block1, self.block2):
            tokens = block(tokens, src_key_padding_mask=attention_mask == 0)
        weights = attention_mask[:, :, None] / attention_mask.sum(1)[:, None, None]
        return self.head((tokens * weights).sum(1))


def train(seed: int, inputs: dict[str, Tensor], labels: Tensor, epochs: int, teacher: Optional[nn.Module] = None) -> nn.Module:
    torch.manual_seed(seed)
    network = Reader()
    optimizer = torch.optim.AdamW(network.parameters(), 0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(64):
            batch = {name: each[rows] for name, each in inputs.items()}
            logits = network(**batch)
            loss = nn.functional.cross_entropy(logits, labels[rows])
            if teacher is not None:
                with torch.no_grad():
                    softened = (teacher(**batch) / 2).softmax(1)
                divergence = nn.functional.kl_div((logits / 2).log_softmax(1), softened, reduction="batchmean")
                loss = 0.1 * loss + 0.9 * 4 * divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


lesson, reference, test = sentences(600, seed=1, by_topic=1 / 3), sentences(128, seed=3), sentences(300, seed=4)
teacher = train(0, *sentences(2000, seed=2), epochs=4)
kd = [train(seed, *lesson, epochs=8, teacher=teacher) for seed in (1, 2)]
alone = [train(seed, *lesson, epochs=8) for seed in (3, 4)]


def accuracy(network: nn.Module) -> float:
    with torch.no_grad():
        return float((network(**test[0]).argmax(1) == test[1]).float().mean())


for name, networks in (("Teacher", [teacher]), ("Students", kd), ("Bases", alone)):
    print(name, *(f"{accuracy(network):.3f}" for network in networks))

# %%
# A transformer's attention spreads what a word says over the whole sentence, so a map of its last block says little about words.
# We name the layer of word embeddings, and measure features in the last block. The net map shows what the Student has and the
# Base lacks. Its null is the net map of two Bases. All four maps share one scale. It has no unit: features are measured behind
# the layer of the maps, so the values do not add up to a gain of the objective. In a single sentence the null may be as strong
# as the net map.


def transfer(network: nn.Module, other: nn.Module, layer: str = "words") -> TransferAttributions:
    unicam = UniCAM(network, layer, other, feature_layer="block2")
    population = unicam.reference(*reference)
    return unicam.attribute_transfer(*test, reference=population, n_steps=16)


maps, null = transfer(kd[0], alone[0]), transfer(alone[0], alone[1])
shown = [int((test[1] == label).nonzero()[0]) for label in range(4)]
tokens = [[VOCABULARY[word] for word in test[0]["input_ids"][row]] for row in shown]
columns = {"net": maps.net, "distilled": maps.distilled, "residual": maps.residual, "net of two Bases": null.net}
figure = visualize_tokens(
    tokens,
    {name: each[shown] for name, each in columns.items()},
    scale="shared",
    sentence_titles=[CLASSES[test[1][row]] for row in shown],
)

# %%
# ``figure.to_html("sentences.html")`` writes the same sentences as a page, where each word shows its value. Four sentences prove
# nothing. The next numbers are means over all test sentences: the share of each map's positive values that lies on the question
# word, with its standard error (maps without positive values count as 0). Chance is the question word's share of the tokens.
# The last lines are the maps of the last block.

question = torch.isin(test[0]["input_ids"], torch.tensor([VOCABULARY.index(word) for words in QUESTIONS for word in words]))
chance = question.sum(1) / test[0]["attention_mask"].sum(1)
print(f"chance: {chance.mean():.3f}")


def on_question(each: torch.Tensor) -> str:
    positive = each[:, 0].clamp_min(0)
    share = (positive * question).sum(1) / positive.sum(1).clamp_min(1e-12)
    return f"{share.mean():.3f} +- {share.std() / len(share) ** 0.5:.3f}"


second = transfer(kd[1], alone[1])
for name, each in (*columns.items(), ("second pair, net", second.net), ("second pair, residual", second.residual)):
    print(f"{name}: {on_question(each)}")
for name, pair in (("net", (kd[0], alone[0])), ("second pair, net", (kd[1], alone[1])), ("net of two Bases", alone)):
    print(f"last block, {name}: {on_question(transfer(*pair, 'block2').net)}")
