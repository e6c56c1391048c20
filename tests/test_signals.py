"""A Ctrl-C, at whatever moment, leaves everything as it was. tests/benchmarks/interrupt_everywhere.py tries far more moments."""

import asyncio
import os
import signal
import threading

import pytest
import torch
from interrupts import CALLS, MODELS, Interrupted, at_operation, at_random_moments, everything, operations
from models import images, labels
from torch import nn

from captum_kd import UniCAM
from captum_kd._models.hooks import run_model
from captum_kd._utils import files
from captum_kd._utils.interrupts import changed_state, interruptible
from captum_kd.metrics import sensitivity_max
from captum_kd.metrics.torchmetrics import FeatureSimilarityScore

AT_OPERATIONS = 50  # of each call, evenly spread; 24 calls
AT_RANDOM = 40

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def python_handler():
    """That of Python itself: test runners may have their own."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("call", CALLS)
def test_no_interrupt_changes_anything(call, model):
    interrupted = Interrupted(model, call)
    expected = everything(interrupted.models)
    raised = []
    places = operations(interrupted)
    for place in places[:: len(places) // AT_OPERATIONS]:
        raised.append(at_operation(interrupted, place))
        assert everything(interrupted.models) == expected, f"operation {place}"
    assert all(raised)
    for number, _ in enumerate(at_random_moments(interrupted, AT_RANDOM)):
        assert everything(interrupted.models) == expected, f"random moment {number}"


def at_each_operation(call, state):
    """The states after a call that was interrupted at each operation of the code that changes state."""
    call()
    for place in operations(call):
        assert at_operation(call, place)
        yield state()


def test_an_interrupted_update_of_a_metric_takes_all_of_the_batch_or_nothing():
    metric, features = FeatureSimilarityScore(), torch.randn(6, 5)
    for enabled, kept in at_each_operation(
        lambda: metric.update(features, features),
        lambda: (torch.is_grad_enabled(), {len(getattr(metric, name)) for name in metric.names}),
    ):
        assert enabled and len(kept) == 1


def test_an_interrupted_sensitivity_leaves_the_grad_mode():
    """Captum's function switches it."""
    x = images(2)
    for enabled in at_each_operation(
        lambda: sensitivity_max(lambda given: given * 2, x, lambda given, radius: given, n_perturb_samples=1),
        torch.is_grad_enabled,
    ):
        assert enabled


def test_an_interrupted_report_leaves_whole_files_and_the_umask(tmp_path):
    def umask():
        found = os.umask(0o22)
        os.umask(found)
        return found

    path, expected = tmp_path / "report.csv", umask()
    for left in at_each_operation(
        lambda: files.write_whole(path, "a,b\n"), lambda: (umask(), os.listdir(tmp_path), path.read_text())
    ):
        assert left == (expected, ["report.csv"], "a,b\n")


# ------------------------------------------------------------------------------- handlers


def interrupted(handler, model, number=signal.SIGINT):
    """What a call raises whose model runs under such a handler; and whether grad mode and handler are as before."""
    before = signal.signal(number, handler)
    try:
        run_model(model, (images(2),))
        raised = None
    except BaseException as error:
        raised = error
    finally:
        unchanged = torch.is_grad_enabled() and signal.getsignal(number) is handler
        torch.set_grad_enabled(True)
        signal.signal(number, before)
    assert unchanged
    return raised


def signaling(times=1, number=signal.SIGINT):
    def model(x):
        for _ in range(times):
            signal.raise_signal(number)
        return x

    return model


def test_a_handler_that_does_not_raise_is_called_for_every_signal():
    calls = []
    assert interrupted(lambda number, frame: calls.append(number), signaling(3)) is None
    assert calls == [signal.SIGINT] * 3


def test_what_a_handler_raises_reaches_the_caller():
    error = RuntimeError("of the user")

    def handler(number, frame):
        raise error

    assert interrupted(handler, signaling()) is error


def test_a_handler_of_another_signal_leaves_nothing_changed():
    """As those of clusters that end a job, or of timeouts."""

    def handler(number, frame):
        raise TimeoutError

    model = signaling(number=signal.SIGTERM)
    assert isinstance(interrupted(handler, model, signal.SIGTERM), TimeoutError)


def test_ignored_signals_stay_ignored():
    assert interrupted(signal.SIG_IGN, signaling()) is None


def test_a_signal_that_comes_while_state_changes_is_delivered_when_it_is_restored():
    calls = []

    def handler(number, frame):
        calls.append(torch.is_grad_enabled())

    before = signal.signal(signal.SIGINT, handler)
    with changed_state(torch.no_grad()):
        signal.raise_signal(signal.SIGINT)
        assert calls == []
    signal.signal(signal.SIGINT, before)
    assert calls == [True]


def test_a_signal_that_waits_is_delivered_before_a_long_computation():
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with changed_state():
        signal.raise_signal(signal.SIGINT)
        with interruptible():
            assert calls == [signal.SIGINT]
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_waits_until_state_is_restored():
    """The first one is on its way through the code that restores."""
    calls = []

    class Restoring:
        def __enter__(self):
            pass

        def __exit__(self, *error):
            signal.raise_signal(signal.SIGINT)
            calls.append("restored")

    def handler(number, frame):
        calls.append("handler")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt) as raised:
        with changed_state(Restoring()), interruptible():
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert calls == ["handler", "restored", "handler"]
    assert isinstance(raised.value.__context__, KeyboardInterrupt)


def test_a_call_inside_a_model_can_be_interrupted_too():
    def model(x):
        run_model(nn.Identity(), (x,))
        return run_model(signaling(), (x,))

    assert isinstance(interrupted(signal.default_int_handler, model), KeyboardInterrupt)


def test_a_model_is_interruptible_again_after_a_call_of_ours_inside_it():
    def model(x):
        run_model(nn.Identity(), (x,))
        return signaling()(x)

    assert isinstance(interrupted(signal.default_int_handler, model), KeyboardInterrupt)


def test_a_handler_that_a_model_installs_stays_and_can_pass_signals_on():
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append("first"))

    def model(x):
        earlier = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda number, frame: calls.append("second") or earlier(number, frame))
        return x

    run_model(model, (images(2),))
    signal.raise_signal(signal.SIGINT)
    run_model(signaling(), (images(2),))
    signal.signal(signal.SIGINT, before)
    assert calls == ["second", "first"] * 2


def test_other_threads_leave_the_handlers_alone():
    handlers = []
    model = nn.Identity()
    model.register_forward_hook(lambda *_: handlers.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=run_model, args=(model, (images(2),)))
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_a_task_of_asyncio_is_canceled_as_without_us():
    async def main():
        run_model(signaling(), (images(2),))
        await asyncio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert torch.is_grad_enabled()


def test_an_interrupt_of_the_model_reaches_the_caller_of_unicam_at_once():
    """Not behind the pass: a model may run for minutes."""
    ran = []
    student, base = (nn.Sequential(nn.Flatten(), nn.Linear(432, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(2))
    student[2].register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    student[3].register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(KeyboardInterrupt):
        UniCAM(student, "1", base).attribute(images(8), labels(8))
    assert ran == []
