"""Dropout that weakens while a network trains, or is off for a while."""

from torch import nn

from minivgg_pl.models.minivgg import MiniVGG

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# Then ByteDropout's 0.25 and 0.5 stay multiples of 1/256, which it needs to be fast.
STEPS = 64


class DropoutRates:
    """The rates of a network's dropout layers, and the number of masks of each MiniVGG in it, as they are now."""

    def __init__(self, net: nn.Module) -> None:
        self.rates = {module: module.p for module in net.modules() if isinstance(module, DROPOUTS)}
        self.samples = {module: module.dropout_samples for module in net.modules() if isinstance(module, MiniVGG)}

    def scale(self, share: float) -> None:
        """Set every rate to `share` of what it was, in [0, 1]; weaker dropout needs fewer masks, but one at least."""
        share = round(STEPS * share) / STEPS
        for module, rate in self.rates.items():
            module.p = share * rate
        for module, number in self.samples.items():
            module.dropout_samples = max(1, round(share * number))
