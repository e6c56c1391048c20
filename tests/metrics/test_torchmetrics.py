"""FSS and RS as metrics of evaluation loops, in one process and in several."""

from __future__ import annotations

import copy
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset
from workers import Workers, context, of

from captum_kd._distributed import as_process_group
from captum_kd.distance import distance_correlation, partial_distance_correlation, semipartial_distance_correlation
from captum_kd.metrics import feature_similarity_score, relevance_score

pytest.importorskip("torchmetrics")

from captum_kd.metrics.torchmetrics import FeatureSimilarityScore, LayerFeatures, RelevanceScore, TransferScores  # noqa: E402

N = 33


def features(n: int = N, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    y = torch.arange(n) % 3
    common = torch.randn(n, 4, generator=draw) + y[:, None]
    student, base = (torch.cat([common, torch.randn(n, d, generator=draw)], 1).to(dtype) for d in (3, 5))
    return student, base, y


def expected(student: Tensor, base: Tensor, y: Tensor) -> dict[str, Tensor]:
    wide, other, g = student.double(), base.double(), torch.nn.functional.one_hot(y).double()
    return {
        "fss": distance_correlation(wide, other),
        "rs_student": distance_correlation(wide, g),
        "rs_base": distance_correlation(other, g),
        "rs_distilled": semipartial_distance_correlation(wide, g, other),
        "rs_residual": semipartial_distance_correlation(other, g, wide),
    }


def filled(metric: Any, *values: Any, size: int = 7) -> Any:
    for part in zip(*(value.split(size) for value in values)):
        metric.update(*part)
    return metric


def close(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            close(found[name], wanted[name])
    else:
        assert abs(float(found) - float(wanted)) < 1e-6


def rows(n: int) -> Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(n))


def relevance(features: Tensor, target: list[int]) -> RelevanceScore:
    metric = RelevanceScore()
    metric.update(features, target)
    return metric


def test_scores_are_those_of_all_inputs_at_once():
    student, base, y = features()
    wanted = expected(student, base, y)
    close(filled(TransferScores(), student, base, y).compute(), wanted)
    close(filled(FeatureSimilarityScore(), student, base).compute(), wanted["fss"])
    close(filled(RelevanceScore(), student, y).compute(), wanted["rs_student"])
    close(filled(RelevanceScore(), student, y, base).compute(), wanted["rs_distilled"])
    biased = filled(FeatureSimilarityScore(estimator="biased"), student, base).compute()
    close(biased, distance_correlation(student.double(), base.double(), estimator="biased"))
    both = filled(RelevanceScore(remove_from="both"), student, y, base).compute()
    g = torch.nn.functional.one_hot(y).double()
    close(both, partial_distance_correlation(student.double(), g, base.double(), remove_from="both"))


def test_scores_of_models_are_those_of_the_functions():
    student, base, x, y = ConvNet(seed=1), ConvNet(seed=2), images(N), labels(N)
    of_student, of_base = LayerFeatures(student, "conv2"), LayerFeatures(base, "conv2")
    fss, rs = FeatureSimilarityScore(), RelevanceScore()
    for batch, target in zip(x.split(8), y.split(8)):
        fss.update(of_student(batch), of_base(batch))
        rs.update(of_student(batch), target, given=of_base(batch))
    close(fss.compute(), feature_similarity_score(student, "conv2", base, "conv2", x))
    close(rs.compute(), relevance_score(student, "conv2", x, y, given=(base, "conv2")))
    assert fss.compute().dtype == torch.float32


def test_class_embeddings_are_those_of_the_classes():
    student, _, y = features()
    table = torch.tensor([[0.0, 0], [1, 0], [5, 1]])
    close(filled(RelevanceScore(table), student, y).compute(), distance_correlation(student.double(), table[y].double()))


def test_reset_begins_anew_and_copies_and_pickles_go_on():
    student, base, y = features()
    metric = filled(TransferScores(), student[:20], base[:20], y[:20])
    for twin in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        close(filled(twin, student[20:], base[20:], y[20:]).compute(), expected(student, base, y))
    metric.compute()
    metric.reset()
    close(filled(metric, student[20:], base[20:], y[20:]).compute(), expected(student[20:], base[20:], y[20:]))


def test_states_merge():
    student, base, y = features()
    first, second = filled(TransferScores(), student[:9], base[:9], y[:9]), filled(TransferScores(), student[9:], base[9:], y[9:])
    second.merge_state(first)
    close(second.compute(), expected(student, base, y))


def test_state_dict_holds_the_features_where_asked_for():
    student, base, y = features()
    metric = filled(TransferScores(), student, base, y)
    assert not metric.state_dict()
    metric.persistent(True)
    other = TransferScores()
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    other._update_count = 1
    close(other.compute(), expected(student, base, y))


def test_forward_gives_the_score_of_the_batch_and_keeps_it():
    student, base, y = features()
    metric = TransferScores()
    close(metric(student[:20], base[:20], y[:20]), expected(student[:20], base[:20], y[:20]))
    few = metric(student[20:22], base[20:22], y[20:22])
    assert all(value.isnan() for value in few.values())
    metric.update(student[22:], base[22:], y[22:])
    close(metric.compute(), expected(student, base, y))
    assert FeatureSimilarityScore()(student[:2], base[:2]).isnan()


def test_a_collection_shares_nothing_it_should_not():
    from torchmetrics import MetricCollection

    student, base, y = features()
    both = MetricCollection({"one": RelevanceScore(), "two": RelevanceScore(estimator="biased")})
    filled(both, student, y)
    found = both.compute()
    g = torch.nn.functional.one_hot(y).double()
    close(found["one"], distance_correlation(student.double(), g))
    close(found["two"], distance_correlation(student.double(), g, estimator="biased"))


def test_half_and_integer_features_are_taken_as_float32():
    student, base, _ = features()
    metric = filled(FeatureSimilarityScore(), student.half(), (100 * base).int())
    close(metric.compute(), distance_correlation(student.half().double(), (100 * base).int().double()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FeatureSimilarityScore().update(rows(4), rows(5)), ValueError, "base has 5 inputs, but student"),
        (lambda: FeatureSimilarityScore().update([1.0], rows(5)), TypeError, "student must be a tensor"),
        (lambda: FeatureSimilarityScore(estimator="other"), ValueError, "estimator must be"),
        (lambda: RelevanceScore(remove_from="y"), ValueError, "remove_from must be"),
        (lambda: RelevanceScore().update(rows(4), None), TypeError, "target must be one label"),
        (lambda: relevance(rows(9), 3 * [0, 1, 2]).update(torch.rand(4, 3), [0] * 4), ValueError, "3 features per input"),
        (lambda: relevance(rows(3), [0, 1, 2]).compute(), ValueError, "has seen 3 inputs"),
        (lambda: relevance(rows(9), 9 * [0]).compute(), ValueError, "no geometry"),
        (lambda: relevance(rows(9) / 0, 3 * [0, 1, 2]).compute(), ValueError, "non-finite"),
        (lambda: RelevanceScore(estimator="biased").update(rows(2), [0, 1], rows(2)), ValueError, "unbiased"),
    ],
)
def test_wrong_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_given_comes_always_or_never():
    student, base, y = features()
    for first, second in ((base, None), (None, base)):
        metric = RelevanceScore()
        metric.update(student, y, first)
        with pytest.raises(ValueError, match="always or never"):
            metric.update(student, y, second)


def test_a_metric_goes_on_after_an_error():
    student, base, y = features()
    metric = filled(RelevanceScore(), student[:2], y[:2])
    with pytest.raises(ValueError):
        metric.compute()
    metric.update(student[2:], y[2:])
    close(metric.compute(), expected(student, base, y)["rs_student"])


def test_constant_features_are_zero_with_a_warning():
    metric = filled(FeatureSimilarityScore(), torch.ones(9, 2), torch.rand(9, 3))
    with pytest.warns(UserWarning, match="no geometry"):
        assert metric.compute() == 0


def test_layer_features_are_no_submodule():
    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = LayerFeatures(ConvNet(), "conv1")
            self.metric = FeatureSimilarityScore()

    assert not list(Loop().parameters()) and not Loop().state_dict()
    assert LayerFeatures(ConvNet(), "conv1")(images(N)).shape == (N, 576)


def test_without_torchmetrics_the_module_names_the_extra() -> None:
    script = """
import sys
sys.modules["torchmetrics"] = None
import captum_kd.metrics
try:
    import captum_kd.metrics.torchmetrics
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert "captum_kd.metrics.torchmetrics needs torchmetrics" in done.stdout and "captum_kd[distributed]" in done.stdout


# ------------------------------------------------------------------------------ several processes


def shared(group: Any, sizes: Sequence[int], **settings: Any) -> list[Any]:
    """All metrics twice: over a part of the inputs, then over all of them."""
    rank = as_process_group(group).rank
    student, base, y = (value[sum(sizes[:rank]) :][: sizes[rank]] for value in features(sum(sizes)))
    found: list[Any] = []
    scores = TransferScores(process_group=group, **settings)
    metrics = [FeatureSimilarityScore(process_group=group, **settings), RelevanceScore(process_group=group, **settings)]
    if len(y):
        filled(scores, student, base, y)
        filled(metrics[0], student, base)
        filled(metrics[1], student, y, base)
    for metric in (scores, *metrics):
        value = metric.compute()
        assert len(getattr(metric, metric.names[0])) == -(-sizes[rank] // 7)  # states are this process' own
        metric.reset()
        found.append(value)
    return found


@pytest.mark.parametrize("sizes", [(17, 16), (9, 11, 13), (0, 20, 13), (33, 0)], ids=str)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_scores_over_processes_are_those_of_one(workers: Workers, sizes: tuple[int, ...]) -> None:
    wanted = expected(*features(sum(sizes)))
    for scores, fss, distilled in of(workers.run(len(sizes), shared, sizes)):
        close(scores, wanted)
        close(fss, wanted["fss"])
        close(distilled, wanted["rs_distilled"])


def alone(group: Any) -> Any:
    rank = as_process_group(group).rank
    student, base, y = (value[10 * rank : 10 * rank + 10] for value in features(20))
    metric = filled(TransferScores(process_group=group, sync_on_compute=False), student, base, y)
    return metric.compute(), metric(student, base, y)


def test_without_sync_each_process_has_its_own_score(workers: Workers) -> None:
    student, base, y = features(20)
    for rank, (found, batch) in enumerate(of(workers.run(2, alone))):
        part = slice(10 * rank, 10 * rank + 10)
        close(found, expected(student[part], base[part], y[part]))
        close(batch, expected(student[part], base[part], y[part]))


def stepwise(group: Any) -> Any:
    rank = as_process_group(group).rank
    student, base, y = (value[10 * rank : 10 * rank + 10] for value in features(20))
    return TransferScores(process_group=group, dist_sync_on_step=True)(student, base, y)


def test_dist_sync_on_step_takes_the_batches_of_all_processes_as_one(workers: Workers) -> None:
    for found in of(workers.run(2, stepwise)):
        close(found, expected(*features(20)))


def gathered(group: Any) -> Any:
    from torchmetrics.utilities.distributed import gather_all_tensors

    asked: list[int] = []

    def gather(value: Tensor, group: Any = None) -> list[Tensor]:
        asked.append(len(value))
        return list(gather_all_tensors(value, group))

    rank = as_process_group(group).rank
    student, base, y = (value[10 * rank : 10 * rank + 10] for value in features(20))
    metric = filled(TransferScores(process_group=group, dist_sync_fn=gather), student, base, y)
    whole = filled(RelevanceScore(process_group=group, dist_sync_fn=gather_all_tensors), student, y)
    return metric.compute(), asked, [len(each) for each in metric.student], whole.compute()


def test_a_sync_function_of_the_users_gathers_as_for_other_metrics(workers: Workers) -> None:
    for found, asked, kept, relevance_of_student in of(workers.run(2, gathered)):
        close(found, expected(*features(20)))
        close(relevance_of_student, found["rs_student"])
        assert asked == [10, 10, 10, 2] and kept == [7, 3]  # two sets of features, labels, the rounding of both updates


def differing(group: Any) -> None:
    rank = as_process_group(group).rank
    metric = filled(FeatureSimilarityScore(process_group=group), torch.rand(8, 3 + rank), torch.rand(8, 2))
    metric.compute()


def too_few(group: Any) -> Any:
    rank = as_process_group(group).rank
    metric = FeatureSimilarityScore(process_group=group)
    student, base, _ = features(8)
    metric.update(student[rank : rank + 1], base[rank : rank + 1])
    with pytest.raises(ValueError, match="has seen 2 inputs"):
        metric.compute()
    metric.update(student[2 + 3 * rank :][:3], base[2 + 3 * rank :][:3])
    return metric.compute()


def test_errors_are_the_same_in_all_processes(workers: Workers) -> None:
    for error in workers.run(2, differing):
        assert isinstance(error, ValueError) and "rank 0 and 4 features of torch.float32" in str(error)
    one, two = of(workers.run(2, too_few))
    assert one == two


def lightning_loop(rank: int, folder: str, port: str) -> None:
    """Two epochs of two processes, whose validation data are shared unevenly; writes what was logged, and what should be."""
    import lightning.pytorch as lightning

    torch.set_num_threads(1)
    # As torchrun sets them.
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip

    class Loop(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = ConvNet(seed=1)
            self.fss, self.scores = FeatureSimilarityScore(), TransferScores()
            self.of_student, self.of_base = LayerFeatures(self.student, "conv2"), LayerFeatures(ConvNet(seed=2), "conv2")
            self.found: list[Any] = []

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.student(batch[0]).square().mean()

        def validation_step(self, batch: Any, _: int) -> None:
            x, y = batch
            self.fss.update(self.of_student(x), self.of_base(x))
            self.scores.update(self.of_student(x), self.of_base(x), y)
            self.log("fss", self.fss, on_epoch=True)

        def on_validation_epoch_end(self) -> None:
            self.log_dict(self.scores.compute())
            self.scores.reset()

        def on_train_epoch_end(self) -> None:
            kept = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            wanted = feature_similarity_score(self.student, "conv2", ConvNet(seed=2), "conv2", images(N))
            self.found.append((kept, float(wanted)))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.5)

    everything, loop = TensorDataset(images(N), labels(N)), Loop()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", num_sanity_val_steps=0, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
        default_root_dir=folder,
    )  # fmt: skip
    share = Subset(everything, [range(20), range(20, N)][rank])
    trainer.fit(loop, DataLoader(Subset(everything, range(8)), 4), DataLoader(share, 7))
    Path(folder, f"{rank}.json").write_text(json.dumps(loop.found))


def test_a_lightning_loop_of_two_processes_logs_the_scores_of_all_inputs_epoch_after_epoch(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    jobs = [context().Process(target=lightning_loop, args=(rank, str(tmp_path), port)) for rank in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
        job.kill()
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one == two
    (first, wanted), (second, wanted_then) = one
    assert first["fss"] != second["fss"]  # the Student learns
    for kept, score in ((first, wanted), (second, wanted_then)):
        close(kept["fss"], score)
        assert set(kept) == {"fss", "rs_student", "rs_base", "rs_distilled", "rs_residual"}


def test_converted_metrics_keep_their_labels_and_widen_features():
    metric, plain = RelevanceScore(), RelevanceScore()
    features, y = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).half().float(), torch.arange(12) % 3 + 4096
    for each in (metric, plain):
        each.update(features, y)
    metric.set_dtype(torch.float16)
    assert metric.compute() == plain.compute() != 0
