"""Import paths of data modules, as checkpoints name them."""


def class_path_of(data_class: type) -> str:
    """Return the path that a data module is imported by."""
    return public_path(f"{data_class.__module__}.{data_class.__qualname__}")


def public_path(class_path: str) -> str:
    """Return the public name of a class of this package; checkpoints of earlier versions name its file, too."""
    package, _, inside = class_path.partition(".")
    return f"{package}.{inside.rpartition('.')[2]}" if package == "minivgg_pl" else class_path
