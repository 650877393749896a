"""Optimizers: the article's SGD, and MuonAdamW."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning
from torch import Tensor, nn

from minivgg_pl.models.minivgg import MiniVGG

# Coefficients of the Newton-Schulz quintic, as in torch.optim.Muon (torch/optim/_muon.py, DEFAULT_A to DEFAULT_C).
# They push small singular values up fast and leave all of them between about 0.7 and 1.2, which is enough for a step.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# Three, as in airbench's CIFAR-10 speed record (github.com/KellerJordan/cifar10-airbench, airbench94_muon.py).
NEWTON_SCHULZ_STEPS = 3
EPS = 1e-7
CHOICES = {"optimizer": "sgd or muon", "schedule": "decay or triangular", "dropout_schedule": "constant or linear"}


def check_hyperparameters(hparams: Any) -> None:
    """Check the hyperparameters of LitMiniVGG that its network does not check.

    Raises:
        ValueError: If one is out of range.
    """
    is_sgd = hparams.optimizer == "sgd"
    rates = [name for name in ("lr", "adamw_lr", "classifier_lr") if hparams[name] is not None]
    weights = hparams.class_weights
    fit = weights and len(weights) == hparams.num_classes and all(0 <= w < math.inf for w in weights) and any(weights)
    checks = (
        *((name, hparams[name] in known.split(" or "), f"choose {known}") for name, known in CHOICES.items()),
        *((name, 0 < hparams[name] < math.inf, "give a finite learning rate above 0") for name in rates),
        *((name, 0 <= hparams[name] < 1, "give 0 to below 1") for name in ("momentum", "warmup", "label_smoothing")),
        ("nesterov", hparams.momentum > 0 or not (is_sgd and hparams.nesterov), "give a momentum above 0, or false"),
        ("lr_decay", hparams.lr_decay >= 0, "give 0 or more"),
        ("dropout_samples", hparams.dropout_samples >= 1, "give 1 (one mask an image) or more, such as 8"),
        ("class_weights", weights is None or fit, f"give {hparams.num_classes} finite numbers of 0 or more, not all 0"),
        ("batch_norm_images", hparams.batch_norm_images >= 0, "give 0 (as Keras) or more, such as 5000"),
    )
    for name, is_valid, advice in checks:
        if not is_valid:
            raise ValueError(f"{name} is {hparams[name]!r}: {advice}")


def make_optimizer(module: nn.Module, hparams: Any, trainer: Trainer | None = None) -> torch.optim.Optimizer:
    """Return the optimizer that `hparams`, those of LitMiniVGG, describe, of all parameters of `module`.

    Frozen ones are among them, to be trained once they are unfrozen. Not so if `trainer` has a BaseFinetuning callback,
    which adds what it unfreezes, with a rate of its own.

    The kernels of each MiniVGG in `module` become channels_last in memory, which is faster; their values stay. Not so
    with ModelPruning, which views them as vectors, and on a Mac's GPU (see `ImageDataset.read`).

    SGD is `fused`: it reads the weights once and not four times. Not so if `trainer` clips gradients, because Lightning
    does not clip for fused optimizers under mixed precision.

    PyTorch's SGD keeps the rate outside the momentum buffer, Keras' inside. With the article's decay they differ only
    by the rate's change within the momentum's memory of about ten batches: 0.025 % a batch.
    """
    callbacks = trainer.callbacks if trainer else []
    is_pruned, is_tuned = (any(isinstance(c, kind) for c in callbacks) for kind in (ModelPruning, BaseFinetuning))
    for part in module.modules():
        if isinstance(part, MiniVGG) and not is_pruned and part.classifier.weight.device.type != "mps":
            part.to(memory_format=torch.channels_last)
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad or not is_tuned]
    body = [(name, p) for name, p in parameters if not name.removeprefix("net.").startswith("classifier.")]
    classifier = [p for name, p in parameters if name.removeprefix("net.").startswith("classifier.")]
    if hparams.optimizer == "muon":
        kernels = [p for _, p in body if p.ndim > 1]
        others = [p for _, p in body if p.ndim <= 1] + classifier
        rates = {"lr": hparams.lr, "momentum": hparams.momentum, "adamw_lr": hparams.adamw_lr}
        dtype = torch.bfloat16 if trainer and trainer.precision == "bf16-mixed" else None
        return MuonAdamW(kernels, others, **rates, dtype=dtype)
    groups = [{"params": [p for _, p in body], "lr": hparams.lr}, {"params": classifier, "lr": hparams.classifier_lr}]
    if hparams.classifier_lr is None:
        groups = [{"params": [p for _, p in parameters], "lr": hparams.lr}]
    # With None torch chooses.
    fused = None if trainer and trainer.gradient_clip_val else True
    optimizer = torch.optim.SGD(groups, momentum=hparams.momentum, nesterov=hparams.nesterov, fused=fused)
    if fused and hparams.momentum:
        # The fused kernel takes the momentum of all parameters or of none, and those unfrozen later would have none.
        for _, parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class MuonAdamW(torch.optim.Optimizer):
    """Muon on matrices and convolution kernels, torch's own AdamW on the rest.

    Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/) replaces a kernel's Nesterov momentum by the
    nearest matrix whose singular values are all about 1. Before each update a kernel is scaled to the norm
    sqrt(out_channels). Batch norm follows, so the kernel's norm hardly matters (not at all while its bias is 0). `lr`
    is therefore the size of an update relative to the kernel, and no weight decay is needed.

    `torch.optim.Muon` is not used: it takes no convolution kernels, does not fix the norm, and always iterates in
    bfloat16, which many processors emulate.

    Args:
        kernels: Parameters of two or more dimensions, outputs first; `(O, I, 3, 3)` counts as the matrix `(O, I * 9)`.
        others: Parameters for AdamW.
        lr: Size of a kernel's update, relative to the kernel.
        momentum: Muon's Nesterov momentum in [0, 1).
        adamw_lr: AdamW's learning rate.
        dtype: Floating point type in which Muon's matrices are multiplied; None: that of each kernel.
    """

    def __init__(
        self,
        kernels: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        lr: float = 0.05,
        momentum: float = 0.6,
        adamw_lr: float = 0.002,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype
        adamw = torch.optim.AdamW(list(others), lr=adamw_lr, weight_decay=0.0, fused=True)
        muon_group = {"params": list(kernels), "lr": lr, "momentum": momentum}
        super().__init__([muon_group, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let torch's AdamW and SGD work on this optimizer's state, so that schedules and checkpoints see one."""
        self._adamw = torch.optim.AdamW(self.param_groups[1:])
        # At a rate of 0 it updates the momentum of all kernels at once, and no kernel.
        self._momentum = torch.optim.SGD([{"params": self.param_groups[0]["params"]}], lr=0.0, fused=True)
        self._adamw.state = self._momentum.state = self.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; one that comes later than the first two is AdamW's."""
        adamw = self.param_groups[1] if len(self.param_groups) > 1 else {}
        options = {name: value for name, value in adamw.items() if name != "params"}
        super().add_param_group(options | param_group)
        if options:
            self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict calls it last, after it has replaced the groups and the state.
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient; return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        by_outputs = defaultdict(list)
        for kernel in group["params"]:
            if kernel.grad is not None:
                by_outputs[len(kernel)].append(kernel)
                if "momentum_buffer" not in self.state[kernel]:
                    self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
        self._momentum.param_groups[0]["momentum"] = group["momentum"]
        self._momentum.step()
        for kernels in by_outputs.values():
            self._update_kernels(kernels, group["lr"], group["momentum"])
        self._adamw.step()
        return loss

    @torch.no_grad()
    def _update_kernels(self, kernels: list[nn.Parameter], lr: float, momentum: float) -> None:
        """Update kernels of equally many outputs together: on a GPU, a launch costs more than its computation."""
        buffers = [self.state[kernel]["momentum_buffer"] for kernel in kernels]
        matrices = [*map(_outputs_first, [*(kernel.grad for kernel in kernels), *buffers, *kernels])]
        gradients, buffers, weights = _batch(matrices) if len(kernels) > 1 else (matrix[None] for matrix in matrices)
        directions = gradients.add(buffers, alpha=momentum)
        for batch in (directions, weights):
            batch.div_(torch.linalg.vector_norm(batch, dim=(1, 2), keepdim=True).clamp_(min=EPS))
        is_tall = directions.shape[1] > directions.shape[2]
        if is_tall:
            directions, weights = directions.mT, weights.mT
        directions = directions.to(self.dtype or directions.dtype)
        updates = newton_schulz(directions @ directions.mT) @ directions
        weights.mul_(len(kernels[0]) ** 0.5).sub_(updates, alpha=lr)
        for old, new in zip(matrices[-len(kernels) :], weights.mT if is_tall else weights, strict=True):
            old.copy_(new[:, : old.shape[1]])


def newton_schulz(gram: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Return the matrices `(B, M, M)` whose products with matrices X have all singular values near 1.

    `gram` is X @ X.mT `(B, M, M)` float, of X of norm 1 or less. Each iterate is a polynomial of it times X: large
    products are needed for the first and the last alone.
    """
    a, b, c = NEWTON_SCHULZ
    product = None
    for step in range(steps):
        # a * I + b * gram + c * gram²
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product


def _batch(matrices: list[Tensor]) -> tuple[Tensor, ...]:
    """Stack each third of `matrices`, of M rows, to `(B, M, N)`; columns of zeros up to N change no norm or product."""
    widths = [matrix.shape[1] for matrix in matrices]
    zeros = matrices[0].new_zeros(len(matrices[0]), max(widths) - min(widths))
    columns = [part for matrix in matrices for part in (matrix, zeros[:, : max(widths) - matrix.shape[1]])]
    batch = torch.cat(columns, dim=1).view(len(zeros), len(matrices), max(widths)).transpose(0, 1)
    return batch.split(len(matrices) // 3)


def _outputs_first(tensor: Tensor) -> Tensor:
    # A view: in memory, channels_last is (O, H, W, I).
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.flatten(1)
