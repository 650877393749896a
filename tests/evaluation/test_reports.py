"""Tables of results as CSV files."""

import torch

from minivgg_pl.evaluation import reports


def test_tables_by_class_and_by_image(tmp_path):
    scores = {"precision": [0.5, 1.0], "recall": [1.0, 1 / 3], "f1": [2 / 3, 0.5]}
    reports.write_class_report(tmp_path / "a.csv", ["cat", "a,b"], scores | {"confusion_matrix": [[1, 0], [1, 2]]})
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "class,precision,recall,f1,support",
        "cat,0.5000,1.0000,0.6667,1",
        '"a,b",1.0000,0.3333,0.5000,3',
    ]
    reports.write_matrix(tmp_path / "b.csv", ["cat", "dog"], [[1, 0], [1 / 3, 2]])
    assert (tmp_path / "b.csv").read_text() == "true class,cat,dog\ncat,1,0\ndog,0.333333,2\n"
    probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    reports.write_predictions(tmp_path / "c.csv", ["cat", "dog"], torch.tensor([0, 0]), probabilities)
    rows = ["image,true class,predicted class,probability", "0,cat,dog,0.750000", "1,cat,cat,0.500000"]
    assert (tmp_path / "c.csv").read_text().splitlines() == rows
