"""The two networks as one typed table. Standard library only, so that the help text can read it without torch.

Source of every number: Rashida Nasrin Sucky, "Complete Implementation of a Mini VGG Network for Image Recognition",
Towards Data Science, 27 February 2023. Parameter counts are the sums that Keras prints for these layers; the tests
build both networks in Keras and compare.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One mini VGG: blocks of 3x3 convolutions, then a hidden dense layer, then the classifier.

    Attributes:
        blocks: Output channels of each 3x3 "same" convolution, block by block; 2x2 max pooling ends a block.
        block_dropout: Dropout probability after each block's pooling, in [0, 1).
        dense_units: Width of the hidden dense layer.
        dense_dropout: Dropout probability after the hidden dense layer, in [0, 1).
        epochs: Epochs the article trains this network for.
        num_parameters: Parameters with 10 classes as Keras counts them (with the batch norm moving statistics).
        num_trainable: Trainable parameters with 10 classes, as PyTorch counts them.
    """

    blocks: tuple[tuple[int, ...], ...]
    block_dropout: float
    dense_units: int
    dense_dropout: float
    epochs: int
    num_parameters: int
    num_trainable: int


ARCHITECTURES: dict[str, Architecture] = {
    # The article's first network, from the Kaggle notebook "minivggnet-from-scratch-on-cifar-10-with-bn".
    "classic": Architecture(
        blocks=((32, 32), (64, 64)),
        block_dropout=0.25,
        dense_units=512,
        dense_dropout=0.5,
        epochs=10,
        num_parameters=2_171_178,
        num_trainable=2_169_770,
    ),
    # The article's second network. Its text says 256 dense units, its listing 300: the text is followed here, and
    # `dense_units=300` gives the listing's network.
    "wide": Architecture(
        blocks=((64, 64), (64, 64)),
        block_dropout=0.25,
        dense_units=256,
        dense_dropout=0.4,
        epochs=20,
        num_parameters=1_166_026,
        num_trainable=1_165_002,
    ),
}
