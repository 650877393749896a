"""The table of results by class as a CSV file; the other tables are tested with the evaluate command."""

from minivgg_pl.evaluation import reports


def test_the_table_by_class(tmp_path):
    scores = {"precision": [0.5, 1.0], "recall": [1.0, 1 / 3], "f1": [2 / 3, 0.5]}
    reports.write_class_report(tmp_path / "a.csv", ["cat", "a,b"], scores | {"confusion_matrix": [[1, 0], [1, 2]]})
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "class,precision,recall,f1,support",
        "cat,0.5000,1.0000,0.6667,1",
        '"a,b",1.0000,0.3333,0.5000,3',
    ]
