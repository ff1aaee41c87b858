"""KerasHub, kimm and keras-rs: their own models, small and with random weights."""

import keras
import keras_hub
import keras_rs
import kimm
import numpy as np
from keras import layers, ops

from corpus import Case, floats, images, labels, tokens

WORDS = 12
LENGTH = 6
TEXT = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": 8}
# With an encoder and a decoder there are two blocks as it is.
BOTH = {**TEXT, "num_layers": 1}


def _trained_to(backbone, x):
    """A backbone with random targets for all that it puts out."""
    y = keras.tree.map_structure(lambda v: floats(*v.shape), backbone(x))
    backbone.compile("adam", "mse")
    return Case(backbone, (x, y))


def _text(**more):
    padding = np.ones((4, LENGTH), "int32")
    padding[::2, -2:] = 0
    return {"token_ids": tokens(4, LENGTH, WORDS), "padding_mask": padding, **more}


def _bert():
    return keras_hub.models.BertBackbone(
        num_heads=2, intermediate_dim=12, max_sequence_length=LENGTH, **TEXT
    )


def _segments():
    return tokens(4, LENGTH, 2, low=0)


def bert():
    return _trained_to(_bert(), _text(segment_ids=_segments()))


def bert_text_classifier():
    model = keras_hub.models.BertTextClassifier(_bert(), num_classes=3)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(5e-5),
    )
    return Case(
        model,
        (_text(segment_ids=_segments()), labels()),
        use=lambda m: m.backbone(_text(segment_ids=_segments()))["pooled_output"],
    )


def _gpt2():
    return keras_hub.models.GPT2Backbone(
        num_heads=2, intermediate_dim=12, max_sequence_length=LENGTH, **TEXT
    )


def gpt2():
    return _trained_to(_gpt2(), _text())


def gpt2_causal_lm():
    """Raw strings go in, and its user calls `generate`."""
    vocabulary = ["!", "a", "b", "c", "Ġ", "Ġa", "Ġb", "ab", "bc", "<|endoftext|>"]
    tokenizer = keras_hub.models.GPT2Tokenizer(
        vocabulary={word: i for i, word in enumerate(vocabulary)},
        merges=["Ġ a", "Ġ b", "a b", "b c"],
    )
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        tokenizer, sequence_length=LENGTH
    )
    model = keras_hub.models.GPT2CausalLM(_gpt2(), preprocessor)
    model.compile(sampler="greedy")
    text = ["ab a bc", "a b", "bc ab", "c b a"]
    return Case(
        model,
        (text,),
        scoring=preprocessor(text),
        use=lambda m: m.generate("ab", max_length=LENGTH),
    )


def llama():
    backbone = keras_hub.models.LlamaBackbone(
        num_query_heads=2, num_key_value_heads=1, intermediate_dim=12, **TEXT
    )
    return _trained_to(backbone, _text())


def gemma():
    backbone = keras_hub.models.GemmaBackbone(
        num_query_heads=2,
        num_key_value_heads=1,
        intermediate_dim=12,
        head_dim=4,
        **TEXT,
    )
    return _trained_to(backbone, _text())


def t5():
    backbone = keras_hub.models.T5Backbone(num_heads=2, intermediate_dim=12, **BOTH)
    text = _text()
    x = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in text.items()}
    return _trained_to(backbone, x)


def whisper():
    backbone = keras_hub.models.WhisperBackbone(
        num_heads=2,
        intermediate_dim=12,
        num_mels=5,
        max_encoder_sequence_length=16,
        max_decoder_sequence_length=LENGTH,
        **BOTH,
    )
    text = _text()
    x = {f"decoder_{k}": v for k, v in text.items()}
    return _trained_to(backbone, {"encoder_features": floats(4, 16, 5), **x})


def vit():
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(8, 8, 3),
        patch_size=4,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
    )
    return _trained_to(backbone, images())


def sam_image_encoder():
    backbone = keras_hub.models.ViTDetBackbone(
        image_shape=(8, 8, 3),
        patch_size=2,
        hidden_size=4,
        num_layers=2,
        global_attention_layer_indices=[1],
        intermediate_dim=8,
        num_heads=2,
        num_output_channels=4,
        window_size=2,
    )
    return _trained_to(backbone, images())


def _resnet(**options):
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],  # the stem's and the first cannot be smaller
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
        **options,
    )


def resnet():
    return _trained_to(_resnet(use_pre_activation=True), images(size=16))


def resnet_image_classifier():
    model = keras_hub.models.ResNetImageClassifier(
        backbone=_resnet(), num_classes=3, activation="softmax"
    )
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    return Case(
        model,
        (images(size=16), labels()),
        use=lambda m: m.backbone(images(size=16)),
    )


def mobilenet():
    backbone = keras_hub.models.MobileNetBackbone(
        stackwise_expansion=[[8], [12, 16]],
        stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[8], [8, 8]],
        stackwise_kernel_size=[[3], [5, 3]],
        stackwise_num_strides=[[2], [1, 1]],
        stackwise_se_ratio=[[None], [0.25, 0.25]],
        stackwise_activation=[["relu"], ["hard_swish", "hard_swish"]],
        stackwise_padding=[[1], [2, 1]],
        output_num_filters=16,
        depthwise_stride=1,
        depthwise_residual=True,
        last_layer_filter=16,
        input_activation="hard_swish",
        output_activation="hard_swish",
        input_num_filters=8,
        image_shape=(16, 16, 3),
        depthwise_filters=8,
        squeeze_and_excite=0.5,
    )
    return _trained_to(backbone, images(size=16))


def backbone_in_sequential():
    """Fine-tuning as in the guides: a backbone as a layer."""
    model = keras.Sequential(
        [_resnet(), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return Case(model, (images(size=16), labels()))


def _kimm(make):
    model = make(input_shape=(32, 32, 3), classes=3, weights=None)
    model.compile("adam", "sparse_categorical_crossentropy")
    return Case(model, (images(size=32) * 255, labels()))


class SmallRepVGG(kimm.models.RepVGGA0):
    num_blocks, num_channels, stem_channels = [1, 2], [6, 8], 6


class SmallConvNeXt(kimm.models.ConvNeXtAtto):
    depths, hidden_channels = (1, 2, 1, 1), (6, 8, 8, 8)


class SmallVisionTransformer(kimm.models.VisionTransformerTiny16):
    patch_size, embed_dim, depth, num_heads = 8, 8, 2, 2


def kimm_repvgg():
    """Convolutions of several branches that can be made one."""
    return _kimm(SmallRepVGG)


def kimm_convnext():
    return _kimm(SmallConvNeXt)


def kimm_vision_transformer():
    return _kimm(SmallVisionTransformer)


def kimm_lcnet():
    """As it comes, with 34 layers that have kernels."""
    return _kimm(kimm.models.LCNet035)


class Ranking(keras.Model):
    """Embeddings of bags of ids, crossed, and their products."""

    def __init__(self):
        super().__init__()
        self.bags = keras_rs.layers.EmbedReduce(WORDS, 4, combiner="mean")
        self.table = layers.Embedding(WORDS, 4)
        self.crosses = [keras_rs.layers.FeatureCross(projection_dim=3) for _ in "ab"]
        self.interact = keras_rs.layers.DotInteraction()
        self.top = keras.Sequential([layers.Dense(6, "relu"), layers.Dense(1)])

    def call(self, inputs):
        x = [self.bags(inputs["seen"]), self.table(inputs["item"])]
        x0 = crossed = ops.concatenate(x, axis=-1)
        for cross in self.crosses:
            crossed = cross(x0, crossed)
        return self.top(ops.concatenate([crossed, self.interact(x)], axis=-1))


def rs_ranking():
    model = Ranking()
    model.compile(
        loss=keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.RootMeanSquaredError()],
        optimizer=keras.optimizers.Adagrad(learning_rate=0.1),
    )
    x = {"seen": tokens(4, 3, WORDS), "item": tokens(4, 1, WORDS)[:, 0]}
    model(x)
    return Case(model, (x, floats(4)))


class Retrieval(keras.Model):
    """Two towers in training; in inference the nearest candidates as well."""

    def __init__(self, users=WORDS, items=WORDS, width=4):
        super().__init__()
        self.user_model = keras.Sequential(
            [layers.Embedding(users, width), layers.Dense(width)]
        )
        self.candidate_model = keras.Sequential(
            [layers.Embedding(items, width), layers.Dense(width)]
        )
        self.retrieval = keras_rs.layers.BruteForceRetrieval(k=3, return_scores=False)
        self.loss_fn = keras.losses.MeanSquaredError()
        self.items = items

    def build(self, input_shape):
        self.user_model.build(input_shape)
        self.candidate_model.build(input_shape)
        self.retrieval.candidate_embeddings = self.candidate_model.layers[0].embeddings
        self.retrieval.build(input_shape)
        self.built = True

    def call(self, inputs, training=False):
        result = {"user_embeddings": self.user_model(inputs)}
        if not training:
            result["predictions"] = self.retrieval(result["user_embeddings"])
        return result

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        candidates = self.candidate_model(y["movie_id"])
        users = y_pred["user_embeddings"]
        scores = ops.sum(ops.multiply(users, candidates), axis=1)
        return self.loss_fn(y["rating"], scores, sample_weight)


def rs_retrieval():
    model = Retrieval()
    model.compile(optimizer=keras.optimizers.Adagrad(learning_rate=0.1))
    users = tokens(4, 1, WORDS)[:, 0]
    y = {"movie_id": users[::-1].copy(), "rating": floats(4)}
    model(users)
    return Case(model, (users, y), borrows=True)


MODELS = {
    f.__name__: f
    for f in (
        bert,
        bert_text_classifier,
        gpt2,
        gpt2_causal_lm,
        llama,
        gemma,
        t5,
        whisper,
        vit,
        sam_image_encoder,
        resnet,
        resnet_image_classifier,
        mobilenet,
        backbone_in_sequential,
        kimm_repvgg,
        kimm_convnext,
        kimm_vision_transformer,
        kimm_lcnet,
        rs_ranking,
        rs_retrieval,
    )
}
