"""Keep curves and layer similarities as one line, in notebooks and as tables of pandas."""

import sys

import numpy as np
import pytest
import torch

from captum_kd.metrics import KeepCurve, LayerSimilarity

CORRECT = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
SHARES = (0.1, 0.3, 0.9)


def curve(n: int = 4) -> KeepCurve:
    return KeepCurve.of(SHARES, CORRECT[:, :n])


def similarity(name: str = "layer") -> LayerSimilarity:
    layers_a, layers_b = (f"{name}1", f"{name}2"), ("b1", "b2", "b3")
    settings = {"n": 50, "is_one_model": False, "layers": {"model_a": list(layers_a), "model_b": list(layers_b)}}
    matrices = {"fss": [[0.91, 0.2, None], [-0.3, 0.0, 1.0]], "cka": [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]}
    return LayerSimilarity(layers_a, layers_b, matrices, ["A <note>."], settings)


def test_the_standard_error_is_that_of_a_mean_of_zeros_and_ones() -> None:
    n = 400
    correct = torch.rand(3, n, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.2], [0.6], [0.97]])
    found = KeepCurve.of(SHARES, correct)
    assert found.accuracy_standard_error is not None
    torch.testing.assert_close(found.accuracy_standard_error, correct.double().std(1) / n**0.5)
    assert curve().accuracy_standard_error.tolist()[2] == 0.0  # type: ignore[union-attr]


def test_a_curve_prints_as_one_line() -> None:
    found = curve()
    expected = "KeepCurve(area 0.656 \u00b1 0.164; accuracy 0.250 at 10% and 1.000 at 90%; 3 shares, 4 inputs)"
    assert repr(found) == str(found) == expected
    assert repr(curve(1)) == "KeepCurve(area 1.000; accuracy 1.000 at 10% and 1.000 at 90%; 3 shares, 1 input)"
    one_share = KeepCurve.of([0.5], CORRECT[:1])
    assert repr(one_share) == "KeepCurve(area 0.250 \u00b1 0.250; accuracy 0.250 at 50%; 1 share, 4 inputs)"
    # It is a tuple still.
    assert len(found) == 6 and found._asdict()["shares"] is found.shares


def test_a_curve_in_a_notebook_is_a_table() -> None:
    text = curve()._repr_html_()
    assert "Keep curve of 4 inputs: area 0.656" in text
    for each in ("10%", "90%", "accuracy", "0.250", "0.500", "standard error", "0.289"):
        assert f">{each}</t" in text
    assert "standard error" not in curve(1)._repr_html_()


def test_a_curve_as_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = curve().to_dataframe()
    assert list(frame.columns) == ["share", "accuracy", "standard_error"]
    np.testing.assert_allclose(frame.to_numpy(), [[0.1, 0.25, 0.25], [0.3, 0.5, 12**-0.5], [0.9, 1.0, 0.0]])
    assert curve(1).to_dataframe()["standard_error"].isna().all()


def test_a_similarity_in_a_notebook_is_a_colored_table_with_its_notes() -> None:
    text = similarity()._repr_html_()
    assert text.count("<table>") == 2 and "FSS of the layers of model_a" in text and "A &lt;note&gt;." in text
    cells = dict(line.split(">")[1::-1] for line in text.replace("</td", "").splitlines() if line.startswith("<td"))
    assert "background:rgb(0,114,178);color:#fff" in cells["1.000"]
    assert "background:rgb(255,255,255);color:#000" in cells["0.000"]
    assert "background:rgb(242,207,178);color:#000" in cells["-0.300"]  # 0.3 of the way to orange
    assert "background" not in cells["none"]


def test_names_in_a_notebook_are_escaped() -> None:
    text = similarity("<script>\u202e")._repr_html_()
    assert "<script" not in text and "&lt;script&gt;\\u202e1" in text


def test_a_similarity_as_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = similarity().to_dataframe()
    assert list(frame.columns) == ["measure", "layer_a", "layer_b", "value"] and len(frame) == 12
    wide = frame.query("measure == 'fss'").pivot(index="layer_a", columns="layer_b", values="value")
    np.testing.assert_array_equal(wide.to_numpy(), [[0.91, 0.2, np.nan], [-0.3, 0.0, 1.0]])


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for result in (curve(), similarity()):
        with pytest.raises(ImportError, match="to_dataframe needs pandas, which is not installed; run pip install pandas"):
            result.to_dataframe()
