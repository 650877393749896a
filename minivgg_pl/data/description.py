"""What a run says of its data: names, headings and words, with defaults for data modules of other projects."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from lightning.pytorch import LightningDataModule


@dataclass(frozen=True)
class DataDescription:
    """What the run folder, the charts and summary.json say of the data.

    Attributes:
        class_names: In the order of the labels; empty where nobody knows them.
        title: What headings call the data.
        dataset: Short name, for summary.json.
        run_suffix: Follows the model's name in the name of the folder of its runs.
        integrity: How the files are checked.
        validation: What the validation images are, in words.
        val_label: What charts call the validation images.
        tested_on: What the images of the test are, in words.
    """

    class_names: Sequence[str] = ()
    title: str = "unnamed data"
    dataset: str = "unnamed"
    run_suffix: str = ""
    integrity: str = "not checked"
    validation: str = "validation set"
    val_label: str = "validation"
    tested_on: str = "test set"


def describe_data(data: object, loader: object = None) -> DataDescription:
    """Describe any data.

    Args:
        data: A data module, whose attributes of the names above (or `classes`) are taken where they are text; or None.
        loader: A DataLoader, whose dataset tells what `data` does not, such as torchvision's `classes`; or None.
    """
    dataset = loader
    while hasattr(dataset, "dataset"):  # a loader's, then a Subset's
        dataset = dataset.dataset
    sources = [source for source in (data, dataset) if source is not None]
    found = {}
    if sources:
        name = type(sources[0]).__name__
        short = name.removesuffix("DataModule").lower() or "data"
        found = {"title": name, "dataset": short, "run_suffix": f"-{short}" * isinstance(data, LightningDataModule)}
    for source in reversed(sources):
        names = getattr(source, "class_names", None) or getattr(source, "classes", None)
        if isinstance(names, list | tuple):
            found["class_names"] = [str(name) for name in names]
        own = ((field.name, getattr(source, field.name, None)) for field in fields(DataDescription))
        found |= {name: value for name, value in own if isinstance(value, str)}
    return DataDescription(**found)
