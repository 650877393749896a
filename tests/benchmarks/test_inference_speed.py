"""inference_speed.py prints a row for each batch size."""

import sys

from tests.conftest import needs_onnx_export


@needs_onnx_export
def test_both_sides_are_timed(monkeypatch, capsys):
    import inference_speed

    monkeypatch.setattr(inference_speed, "CALLS", {1: 1, 2: 1})
    monkeypatch.setattr(sys, "argv", ["inference_speed.py", "classic", "--rounds=1"])
    assert inference_speed.main() == 0
    printed = capsys.readouterr().out
    assert printed.startswith("classic on ")
    rows = [line.split() for line in printed.splitlines()[3:]]
    sides = {(row[0], row[1]) for row in rows}
    assert sides >= {(size, name) for size in "12" for name in ("torch", "ONNX")}
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[2:])
