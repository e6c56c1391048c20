"""What training mode does to a call is said once, and only where it does something."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from models import ConvNet, images, labels
from torch import Tensor, nn
from torch.nn import functional as F

from captum_kd import UniCAM
from captum_kd._models.training_mode import Modes, mode_notes, modes_of
from captum_kd.embeddings import class_prototypes
from captum_kd.metrics import Localization, compare_transfer, feature_similarity_score, keep_curve, relevance_score

X, Y = images(40), labels(40)


class Net(nn.Module):
    """A convolution and whatever else."""

    def __init__(self, *parts: nn.Module, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.parts = nn.Sequential(*parts)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.parts(self.conv(x)).mean((2, 3)))


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(each.message) for each in caught if "ing mode:" in str(each.message) or "mode too:" in str(each.message)]


NOTHING = Modes(False, False, False, False)


@pytest.mark.parametrize(
    ("module", "modes"),
    [
        (nn.BatchNorm2d(4), Modes(True, True, False, False)),
        (nn.BatchNorm2d(4).eval(), NOTHING),
        (nn.BatchNorm2d(4, track_running_stats=False), Modes(False, True, False, False)),
        (nn.BatchNorm2d(4, track_running_stats=False).eval(), Modes(False, False, False, True)),
        (nn.SyncBatchNorm(4), Modes(True, True, False, False)),
        (nn.LazyBatchNorm2d(), Modes(True, True, False, False)),
        (nn.BatchNorm2d(4, momentum=0.0), Modes(False, True, False, False)),
        (nn.BatchNorm2d(4, momentum=None), Modes(True, True, False, False)),
        (nn.InstanceNorm2d(4), NOTHING),
        (nn.InstanceNorm2d(4, track_running_stats=True), Modes(True, False, False, False)),
        (nn.GroupNorm(2, 4), NOTHING),
        (nn.Dropout(0.5), Modes(False, False, True, False)),
        (nn.Dropout(0.5).eval(), NOTHING),
        (nn.Dropout(0.0), NOTHING),
        (nn.AlphaDropout(0.1), Modes(False, False, True, False)),
        (nn.RReLU(), Modes(False, False, True, False)),
        (nn.RReLU(0.2, 0.2), NOTHING),
        (nn.LSTM(3, 4, 2, dropout=0.5), Modes(False, False, True, False)),
        (nn.LSTM(3, 4, 2), NOTHING),
        (nn.MultiheadAttention(4, 2, dropout=0.1), Modes(False, False, True, False)),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), NOTHING),
        (nn.TransformerEncoderLayer(4, 2, 8), Modes(False, False, True, False)),
    ],
)
def test_the_modules_themselves_say_what_they_do(module, modes):
    assert modes_of(module) == modes


def test_stochastic_depth_draws():
    DropPath = pytest.importorskip("timm.layers").DropPath
    StochasticDepth = pytest.importorskip("torchvision.ops").StochasticDepth
    assert modes_of(StochasticDepth(0.2, "row")).draws and modes_of(DropPath(0.2)).draws
    assert not modes_of(StochasticDepth(0.0, "row")).draws and not modes_of(DropPath(0.0)).draws
    assert not modes_of(StochasticDepth(0.2, "row").eval()).draws


class Dropping(nn.Module):
    """Calls a function, by a method, in place of a module."""

    def forward(self, x: Tensor) -> Tensor:
        return self.dropped(x)

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


class Undropping(nn.Module):
    """What its code names is its own module, which says itself what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)


def test_dropout_as_a_function_draws():
    assert modes_of(Dropping()).draws and not modes_of(Dropping().eval()).draws
    assert not modes_of(Undropping()).draws


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_models_have_no_code_to_look_at():
    assert modes_of(torch.jit.script(nn.Linear(2, 2)).train()) == NOTHING


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_normalization_changes_with_every_pass(norm):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 1)
    nn.init.orthogonal_(conv.weight).data[0] *= 1.01  # so that the iteration takes long
    model = Net(norm(conv))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert modes_of(model).updates and not modes_of(copy.deepcopy(model).eval()).updates
    (note,) = said(lambda: UniCAM(model.train(), "conv", Net(seed=1).eval()).attribute(X, Y))
    assert "changes running statistics" in note
    assert any(not torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_frozen_batch_normalization_under_a_training_flag_does_nothing():
    model = Net(nn.BatchNorm2d(4)).train()
    model.parts[0].eval()
    assert model.training and modes_of(model) == NOTHING
    assert said(lambda: UniCAM(model, "conv", Net(seed=1).eval()).attribute(X, Y)) == []


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: model.forward, lambda model: functools.partial(model), lambda model: lambda x: model(x)],
)
def test_modes_show_through_wrappers_and_functions(wrap):
    assert modes_of(wrap(Net(nn.BatchNorm2d(4), nn.Dropout(0.5)).train())) == Modes(True, True, True, False)


def test_each_effect_is_named_where_it_is_there():
    (norm,) = mode_notes({"a": Modes(True, True, False, False), "b": NOTHING})
    assert norm.startswith("In training mode: a. Batch normalization couples") and "running statistics" in norm
    assert "Dropout" not in norm and "eval()" in norm
    (dropout,) = mode_notes({"a": NOTHING, "b": Modes(False, False, True, False)})
    assert dropout.startswith("In training mode: b. Dropout") and "atch normalization" not in dropout
    (always,) = mode_notes({"a": Modes(False, False, False, True)})
    assert "track_running_stats=False" in always and "Call eval()" not in always


@pytest.mark.parametrize("method", ["attribute", "attribute_transfer", "reference"])
def test_unicam_says_it_once_for_all_models_and_layers(method):
    student, base, teacher = (Net(nn.BatchNorm2d(4), nn.Dropout(0.5), seed=seed) for seed in range(3))
    unicam = UniCAM(student.train(), ["conv", "parts"], base.eval(), teacher_func=teacher.train())
    notes = said(lambda: getattr(unicam, method)(X, Y, internal_batch_size=16))
    assert len(notes) == 1 and notes[0].startswith("In training mode: forward_func, teacher_func. Batch normalization couples")


def test_what_is_said_of_running_statistics_is_so():
    student = Net(nn.BatchNorm2d(4)).train()
    before = student.parts[0].running_mean.clone()
    assert "changes running statistics" in said(lambda: UniCAM(student, "conv", Net(seed=1).eval()).attribute(X, Y))[0]
    assert not torch.equal(student.parts[0].running_mean, before)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: feature_similarity_score(model, "conv", Net(seed=1).eval(), "conv", X),
        lambda model: relevance_score(Net(seed=1).eval(), "conv", X, Y, given=(model, "conv")),
        lambda model: keep_curve(model, X, Y, X[:, :1]),
        lambda model: class_prototypes(model, [(X, Y)] * 3),
        lambda model: compare_transfer(model, Net(seed=1).eval(), ["conv", "parts"], [(X, Y)] * 3, show_progress=False),
        lambda model: compare_transfer(
            model, Net(seed=1).eval(), ["conv"], [(X, Y)] * 3, show_progress=False,
            localize=Localization("unicam", reference=(X, Y)),
        ),
    ],
)
def test_scores_say_it_once(call):
    notes = said(lambda: call(Net(nn.BatchNorm2d(4)).train()))
    assert len(notes) == 1 and notes[0].startswith("In training mode: ")


def test_batch_normalization_without_running_statistics_is_said_in_evaluation_mode():
    model = Net(nn.BatchNorm2d(4, track_running_stats=False)).eval()
    (note,) = said(lambda: UniCAM(model, "conv", Net(seed=1).eval()).attribute(X, Y))
    assert "evaluation mode too: forward_func" in note
    report = compare_transfer(model, Net(seed=1).eval(), "conv", [(X, Y)], show_progress=False)
    assert any("evaluation mode too: student" in each for each in report.notes)
    assert report.settings["training_mode"] == []


class Drifting(ConvNet):
    """Gives something else in every pass, whatever its mode and torch's generators."""

    def __init__(self, size: float, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.size, self.passes = size, 0

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        self.passes += 1
        drawn = np.random.default_rng(self.passes).standard_normal(x.shape)
        return super().forward(x + self.size * torch.from_numpy(drawn).float(), scale)


@pytest.mark.parametrize(("size", "is_told"), [(0.05, True), (0.0, False)])
def test_a_model_that_changes_from_pass_to_pass_is_told_where_it_runs_twice(size, is_told):
    unicam = UniCAM(Drifting(size).eval(), ["conv1", "conv2"], ConvNet(seed=1).eval(), feature_layer="conv3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unicam.attribute(X, Y, internal_batch_size=16)
    told = [each for each in caught if "second pass over the same inputs" in str(each.message)]
    assert len(told) == is_told


def test_dropout_that_draws_the_same_numbers_twice_is_not_told_as_change():
    model = Net(nn.Dropout(0.5), nn.Conv2d(4, 4, 1)).train()
    unicam = UniCAM(model, "conv", Net(nn.Identity(), nn.Conv2d(4, 4, 1), seed=1).eval(), feature_layer="parts")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unicam.attribute(X, Y, internal_batch_size=16)
    assert not [each for each in caught if "second pass" in str(each.message)]
    assert [each for each in caught if "Dropout" in str(each.message)]
