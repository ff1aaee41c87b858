"""Deep tanh FFNNs on MNIST: figures 1 and 3 of the paper.

Hayou et al. (arXiv 2002.08797): 100 units a layer, SBP, SGD with batches of 100 and
learning rate 1e-3, 10,000 iterations. The argument of the file is the depth. Momentum
and weight decay are not given there; here both are 0.

    python -m keras_prune_init.train --config=configs/paper/mnist_ffnn.py:100

Figure 3: depths 2, 20, 40, 60, 80, 100, sparsities 0.1, 0.2, ..., 0.9, and three
initializations: the edge of chaos with rescaling (as above), without, and ordered:

    ... --config.prune.rescale=False
    ... --config.prune.rescale=False --config.model.init=ordered

Figure 1, kept weights per layer at depth 100, is report.png of --config.prune.sparsity=
0.7. benchmarks/paper/ has faster code for whole figures.

Needs MNIST: a download by Keras, or your files with --config.data.source=idx:FOLDER.
Time: 5 min on two busy cores at depth 100.
Result, seed 0: the command above ends at chance, 11.35 %, with 105,940 of 1,059,400
weights. With 5,000 iterations of rate 3e-3, benchmarks/paper/ffnn_heatmap.py got 90 %
at sparsity 0.7, 24 % at 0.8 and chance at 0.9 there; README.md has all cells.
"""

from keras_prune_init.train import paper_config


def get_config(depth="100"):
    config = paper_config.get_plain_config()
    config.model = {
        "name": "mlp",
        "depth": int(depth),
        "width": 100,
        "activation": "tanh",
        "init": "eoc",
    }
    return config
