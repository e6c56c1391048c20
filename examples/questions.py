"""Questions: what does a small transformer learn from a fine-tuned language model?

Fine-tunes a pretrained encoder, the Teacher, to tell what kind of answer a question asks for. Trains small transformers from
random weights: two Bases from the labels alone, and two Students each by response-based and by hidden-state distillation.
Then compares every Student with every Base, layer by layer::

    python examples/questions.py --data path/to/trec --teacher path/to/encoder
    python examples/questions.py --data path/to/trec --teacher path/to/encoder --seeds 4 --placebos 4 --random-placebos 4

Needs a folder with train.tsv and test.tsv, each with the columns label and text and a tab between: TREC's questions (Li & Roth
2002), or texts of your own. Needs a folder with an encoder that transformers opens, and its tokenizer, as save_pretrained writes
them. Nothing is fetched from a network.
Takes about 15 minutes on two cores.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

from distillation.opening import announce

if __name__ == "__main__":
    announce(__doc__)  # before the imports that take seconds

from distillation.command_line import exit_status, parser_of, run_example
from distillation.data.questions import questions_task
from distillation.data.sources import ENVIRONMENT, find
from distillation.encoders import SMALL, Encoders, open_tokenizer
from distillation.outcomes import Record
from distillation.plan import Plan, technique_plan
from distillation.profiles import profile
from distillation.settings import TEXT_TECHNIQUES, Settings, folder, one_of, some_of
from distillation.task import Task

WITHOUT = (
    "folds", "image_size", "test_share", "augmentation", "weights", "teacher", "student", "techniques", "attention_weight",
    "hint_weight",
)  # fmt: skip


def main(argv: Optional[Sequence[str]] = None) -> Optional[Record]:
    """Runs the example with these command line arguments and returns the report that it wrote."""
    defaults = profile("questions", "quick")
    parser = parser_of("questions", __doc__, without=WITHOUT, unit="questions")
    parser.add_argument("--data", type=folder, help=f"folder of train.tsv and test.tsv; default: trec in ${ENVIRONMENT}")
    parser.add_argument(
        "--teacher", required=True, metavar="FOLDER", help="a pretrained encoder and its tokenizer, for transformers"
    )
    parser.add_argument(
        "--student",
        type=one_of(*SMALL),
        help=f"the Students' and Bases' network: {', '.join(SMALL)}; default: {defaults.student}",
    )
    parser.add_argument(
        "--techniques",
        type=some_of(*TEXT_TECHNIQUES),
        help=f"how Students learn from the Teacher, commas between; default: {','.join(TEXT_TECHNIQUES)}",
    )
    arguments = parser.parse_args(argv)

    def make(settings: Settings) -> tuple[Task, Plan]:
        source = Path(settings.teacher)
        tokenizer = open_tokenizer(source)
        networks = Encoders(source, len(tokenizer), tokenizer.pad_token_id)
        plan = technique_plan(settings, networks)
        task = questions_task(find(arguments.data, "trec"), tokenizer, settings)
        layers, width, _ = SMALL[settings.student]
        note = f"Teacher: {networks.description}. Student and Base: Bert, {layers} layers of width {width}."
        return replace(task, notes=[*task.notes, note]), plan

    return run_example(parser, arguments, defaults, make)


if __name__ == "__main__":
    sys.exit(exit_status(main()))
