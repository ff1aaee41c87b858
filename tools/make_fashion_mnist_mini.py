"""Make keras_prune_init/train/embedded/fashion_mnist_mini.npz.

    python tools/make_fashion_mnist_mini.py FOLDER OUTPUT.npz

FOLDER holds the four idx files of Fashion-MNIST (*-ubyte or *-ubyte.gz). The first
1,000 training and 200 test images of each class are taken, in their original order, so
the result needs no seed and is the same on every machine.
"""

import sys

import numpy as np

from keras_prune_init.train.data import sources


def first_of_each_class(labels, count):
    """Sorted positions of the first `count` images of every class."""
    return np.sort(
        np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)])
    )


def main(folder, output):
    x_train, y_train, x_test, y_test = sources.read_idx(folder)
    train = first_of_each_class(y_train, 1000)
    test = first_of_each_class(y_test, 200)
    np.savez_compressed(
        output,
        x_train=x_train[train],
        y_train=y_train[train],
        x_test=x_test[test],
        y_test=y_test[test],
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
