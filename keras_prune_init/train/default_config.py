"""The configuration of `python -m keras_prune_init.train` without --config.

It trains a ResNet-20 on the embedded part of Fashion-MNIST, after SNIP has removed 95 %
of the weights. The files in configs/ start from this one, so every key is explained
here.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return every key of a run; `--config.a.b=value` sets key b of part a."""
    config = ConfigDict()
    config.seed = 0  # initial weights, order and augmentation of the images
    config.smoke = False  # True: two steps on a few images, to see that all works

    config.data = ConfigDict()
    # fashion_mnist_mini, npz:PATH, idx:FOLDER, folder:PATH, tfds:NAME (or with splits,
    # tfds:NAME,train[:90%],train[90%:]) or keras:NAME
    config.data.source = "fashion_mnist_mini"
    # None: images of one size, all in memory. A number: images of any size, for folder
    # and tfds, are read while they are needed and resized to so many pixels.
    config.data.image_size = config_dict.placeholder(int)
    # True: leave out files of a folder that are no whole images, and log how many.
    config.data.skip_corrupt = False
    # "", "crop", "flip" or "crop+flip"; with an image_size "resized_crop" for "crop"
    config.data.augment = ""

    config.data.rand_augment = 0.0  # strength of RandAugment, 0 to 1
    config.data.mix = ""  # "mixup", "cutmix", or "mixup+cutmix" for one of them each

    config.model = ConfigDict()
    # A function of keras_prune_init.models, keras_applications:ResNet50 and the like,
    # keras_cv:resnet_v2 and the like, or module:function of your own; and arguments,
    # for example init="eoc". None: its default (ResNet-20 of width 16).
    config.model.name = "resnet"
    config.model.depth = config_dict.placeholder(int)
    config.model.width = config_dict.placeholder(int)
    # A file to start from: .weights.h5, .keras or .h5; layers that fit are loaded.
    config.model.weights = config_dict.placeholder(str)

    # The arguments of keras_prune_init.prune_at_init, and scoring_batch_size.
    config.prune = ConfigDict()
    config.prune.method = "snip"
    config.prune.sparsity = 0.95  # fraction removed; 0.0 trains the dense net
    # None: prune once, before training. A number: train, then so many rounds of pruning
    # and training, each with all epochs below, up to the sparsity. A net that starts
    # from model.weights is taken as trained, unless rewind is a number.
    config.prune.rounds = config_dict.placeholder(int)
    # Of rounds: "learning_rate" (also None) keeps the weights and runs the schedule of
    # the learning rate anew; "0" goes back to the initial weights (lottery tickets);
    # "1000" to those after so many steps of the first training.
    config.prune.rewind = config_dict.placeholder(str)
    # "global", "uniform", "erk", or sparsities of layers: "stage3=0.98,logits=0.5"
    config.prune.allocation = "global"
    config.prune.min_per_layer = 0  # weights that every layer keeps at least
    # Those of the method. None: its own default.
    config.prune.options = ConfigDict()
    config.prune.options.iterations = config_dict.placeholder(int)
    config.prune.options.schedule = config_dict.placeholder(str)  # exponential, linear
    config.prune.options.batch_norm = config_dict.placeholder(str)  # "train" or "eval"
    config.prune.options.temperature = config_dict.placeholder(float)  # of grasp
    config.prune.options.pooled = config_dict.placeholder(bool)  # of grasp
    # Of methods that change masks while the network trains: "set", "rigl", "granet",
    # "gradual_magnitude", "acdc". Steps are counted from the start of the training.
    # (`every` is also of "learning_compression" and "compression_aware".)
    config.prune.options.every = config_dict.placeholder(int)
    config.prune.options.begin = config_dict.placeholder(int)
    config.prune.options.end = config_dict.placeholder(int)  # None: 3/4 of the steps
    config.prune.options.fraction = config_dict.placeholder(float)
    config.prune.options.power = config_dict.placeholder(float)
    config.prune.options.initial = config_dict.placeholder(float)  # sparsity
    # Of "hard_concrete", "learning_compression", "compression_aware" and "hinge": the
    # first epochs train the dense net, the last ones what the method has made of it.
    # None: where a method needs them, a quarter of all epochs (no dense ones with
    # model.weights), else 0.
    config.prune.options.dense_epochs = config_dict.placeholder(int)
    config.prune.options.tune_epochs = config_dict.placeholder(int)
    # Of "hard_concrete", which must have a penalty, and does not read the sparsity.
    config.prune.options.penalty = config_dict.placeholder(float)
    config.prune.options.gates = config_dict.placeholder(str)  # inputs channels weights
    config.prune.options.drop = config_dict.placeholder(float)
    config.prune.options.weight_decay = config_dict.placeholder(float)
    # Of "learning_compression"; one of the last three in place of the sparsity.
    config.prune.options.steps = config_dict.placeholder(int)  # of compression
    config.prune.options.mu = config_dict.placeholder(float)
    config.prune.options.growth = config_dict.placeholder(float)
    config.prune.options.augmented = config_dict.placeholder(bool)
    config.prune.options.l0_penalty = config_dict.placeholder(float)
    config.prune.options.l1_penalty = config_dict.placeholder(float)
    config.prune.options.l1_ball = config_dict.placeholder(float)
    # Of "compression_aware", which does not read the sparsity.
    config.prune.options.nuclear = config_dict.placeholder(float)
    config.prune.options.group = config_dict.placeholder(float)
    config.prune.options.sparse = config_dict.placeholder(float)
    config.prune.options.energy = config_dict.placeholder(float)
    config.prune.options.form = config_dict.placeholder(str)  # pointwise, separable
    # Of "hinge", whose sparsity is that of multiply-adds.
    config.prune.options.strength = config_dict.placeholder(float)
    config.prune.options.rate_ratio = config_dict.placeholder(float)
    config.prune.options.least = config_dict.placeholder(float)
    config.prune.options.groups = config_dict.placeholder(str)
    config.prune.options.regularizer = config_dict.placeholder(str)
    # Training batches to score on. None: as many as the method asks for, mostly one.
    config.prune.batches = config_dict.placeholder(int)
    # In place of them, this many images of every class.
    config.prune.samples_per_class = config_dict.placeholder(int)
    # Images in such a batch, which batch normalization sees. None: as for training.
    config.prune.scoring_batch_size = config_dict.placeholder(int)
    # Which layers may be pruned: a regular expression, or "pointwise". None: all.
    config.prune.filters = config_dict.placeholder(str)
    config.prune.layout = "masked"  # or "compact", "sparse", "auto"; see the API
    # What is removed as one: "weights", "channels", blocks "1x4", or "2:4". Of channels
    # the sparsity is that of "params" or "flops"; layers keep multiples of so many.
    config.prune.what = "weights"
    config.prune.budget = "params"
    config.prune.multiple_of = 1
    config.prune.rescale = False  # True: the rescaling trick, for deep plain nets

    # SGD with momentum. Weight decay is decoupled (w -= learning_rate * decay * w,
    # beside the gradient step). The weight_decay of PyTorch's SGD goes through the
    # momentum; it corresponds to weight_decay / (1 - momentum) here.
    config.train = ConfigDict()
    config.train.epochs = 6
    # So many batches in place of the epochs; the last epoch may be a part of one.
    config.train.steps = config_dict.placeholder(int)
    # The run is saved after each epoch, and after so many batches too.
    config.train.save_every = config_dict.placeholder(int)
    config.train.batch_size = 128
    config.train.learning_rate = 0.2
    config.train.schedule = "cosine"  # or "step" or "constant"
    config.train.drops = (0.5, 0.75)  # of the training, x 0.1 at each; only with "step"
    config.train.warmup_epochs = 1.0  # rising linearly from 0; only with "cosine"
    config.train.momentum = 0.9
    config.train.nesterov = True
    config.train.weight_decay = 5e-4
    config.train.label_smoothing = 0.0
    # True: the last epochs train with the rounding of int8, zeros stay zeros, and the
    # folder gets int8.tflite. One device does it; it needs the extra `tfmot`.
    config.train.quantize_aware = False
    config.train.quantize_epochs = 2  # so many of the epochs
    # "mixed": float16 on GPUs (with loss scaling), bfloat16 elsewhere; or one of
    # "mixed_float16" and "mixed_bfloat16". Scores are computed in float32.
    config.train.precision = "float32"
    return config
