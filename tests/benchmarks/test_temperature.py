"""The temperature of a run, fitted on the images that it held out."""

import re


def test_it_is_fitted_on_held_out_images(synthetic_options, train_here, script_here, capfd, tmp_path):
    assert train_here(*synthetic_options, "--epochs=1", "--data.val_size=50") == 0
    capfd.readouterr()
    assert script_here("temperature.py", "runs/classic-synthetic/1") == 0
    before, after = capfd.readouterr().out.splitlines()
    losses = [float(re.search(r"loss (\S+)", line)[1]) for line in (before, after)]
    assert losses[1] < losses[0]
    # The order of the classes stays.
    assert before.split()[-2:] == after.split()[-2:]


def test_a_run_that_held_nothing_out_is_refused(finished_run, script_here, capfd):
    assert script_here("temperature.py", finished_run[0]) == 2
    assert "it held no training images out" in capfd.readouterr().err
