"""What a run says of its data, whoever wrote their module."""

from types import SimpleNamespace

from lightning.pytorch import LightningDataModule


def describe_data(data: object, loader: object = None) -> SimpleNamespace:
    """Return what folders, charts and summary.json say of any data: attributes of `data` where it has them as text.

    Args:
        data: A data module, or None.
        loader: A DataLoader, whose dataset tells what `data` does not, such as torchvision's `classes`; or None.

    Returns:
        `class_names`, in the order of the labels, empty where nobody knows them; `title`, for headings; `dataset`, a
        short name; `run_suffix`, which follows the model's name in that of the folder of its runs; and in words
        `integrity` (how the files are checked), `validation` and `tested_on` (what these images are) and `val_label`
        (what charts call the validation images).
    """
    dataset = getattr(loader, "dataset", None)
    while hasattr(dataset, "dataset"):  # of a Subset
        dataset = dataset.dataset
    sources = [source for source in (dataset, data) if source is not None]
    title = type(sources[-1]).__name__ if sources else "data without a name"
    short = title.removesuffix("DataModule").lower()
    found = {
        **{"class_names": [], "title": title, "dataset": short, "integrity": "not checked"},
        **{"validation": "validation set", "val_label": "validation", "tested_on": "test set"},
        "run_suffix": f"-{short}" if isinstance(data, LightningDataModule) else "",
    }
    for source in sources:
        found |= {name: getattr(source, name) for name in found if isinstance(getattr(source, name, None), str)}
        names = getattr(source, "class_names", None) or getattr(source, "classes", None)
        if isinstance(names, list | tuple):
            found["class_names"] = [str(name) for name in names]
    return SimpleNamespace(**found)
