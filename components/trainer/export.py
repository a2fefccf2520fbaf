"""The SavedModel: network and transform graph together, loadable without Keras and without this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from components.trainer.data import raw_spec
from components.trainer.step import probability
from components.transform.windows import network_input
from schema import features as f
from serving import signatures as s
from serving.batching import PARAMETERS_FILE, batching_parameters
from serving.contract import Contract
from serving.versions import CONTRACT_FILE
from serving.warmup import WARMUP_FILE, write_warmup


def signatures(
    network: keras.Model, tft_output: Any, config: Mapping[str, Any], contract: Contract
) -> dict[str, Callable[..., Any]]:
    """What is served, by name.

    Of a 3D network, the slices of a request are one scan, whole and in order; of a 2D one they are any slices.

    Args:
        network: From the network's input to logits.
        tft_output: The Transform output, whose graph becomes part of `serving_default`.
        config: The sections grid, windows, normalisation and inference.
        contract: What `describe` returns.
    """

    size = config["grid"]["size"]

    def outputs(image: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.ensure_shape(image, [None, size, size, network.input_shape[-1]])
        # Of no slices, TensorFlow's oneDNN convolution (where the processor has AVX-512) returns its input: one slice
        # is added for it, and taken away again.
        count = tf.shape(image)[0]
        image = tf.pad(image, [[0, tf.cast(count == 0, tf.int32)], [0, 0], [0, 0], [0, 0]])
        found = probability(
            network, image, mirror=config["inference"]["mirror"], overlap=config["inference"]["overlap"]
        )
        return {s.PROBABILITY: found[:count, ..., 0]}

    return {
        s.EXAMPLES_SIGNATURE: _examples(outputs, tft_output),
        s.SLICES_SIGNATURE: _slices(outputs, config),
        s.DESCRIBE_SIGNATURE: _describe(contract),
    }


def _examples(outputs: Callable[..., Any], tft_output: Any) -> Callable[..., Any]:
    """From serialised examples, through the transform graph."""
    spec = raw_spec(tft_output, f.SERVING_FEATURES)
    transform = tft_output.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=s.EXAMPLES)])
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return outputs(transform(tf.io.parse_example(examples, spec))[f.IMAGE_XF])

    return serve


def _slices(outputs: Callable[..., Any], config: Mapping[str, Any]) -> Callable[..., Any]:
    """From HU, through the function that Transform traced."""
    size, slices = config["grid"]["size"], 2 * config["grid"]["context_slices"] + 1
    hu_spec = tf.TensorSpec([None, slices, size, size], tf.int16, name=s.HU)
    brain_specs = [tf.TensorSpec([None], tf.float32, name=name) for name in (f.BRAIN_HU_MEAN, f.BRAIN_HU_SD)]

    def predict(hu: tf.Tensor, brain_mean: tf.Tensor, brain_sd: tf.Tensor) -> dict[str, tf.Tensor]:
        return outputs(
            network_input(hu, brain_mean, brain_sd, windows=config["windows"], normalisation=config["normalisation"])
        )

    if config["normalisation"] == "brain":
        return tf.function(predict, input_signature=[hu_spec, *brain_specs])

    @tf.function(input_signature=[hu_spec])
    def predict_unnormalised(hu: tf.Tensor) -> dict[str, tf.Tensor]:
        unused = tf.zeros([tf.shape(hu)[0]])
        return predict(hu, unused, unused)

    return predict_unnormalised


def _describe(contract: Contract) -> Callable[..., Any]:
    text = contract.to_json()

    # TF Serving's REST API refuses a signature without inputs, and its batching one whose outputs have no first axis.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=s.QUERY)])
    def describe(query: tf.Tensor) -> dict[str, tf.Tensor]:
        return {s.CONTRACT: tf.fill(tf.shape(query), text)}

    return describe


def export_model(
    path: str, network: keras.Model, tft_output: Any, config: Mapping[str, Any], contract: Contract
) -> None:
    """Writes the SavedModel and, beside it, the contract as a file and what TF Serving needs to know.

    Args:
        path: Folder or URI to write to.
        network: A float32 network.
        tft_output: The Transform output.
        config: The sections grid, windows, normalisation and inference.
        contract: What a client needs to know.
    """
    servable = tf.Module()
    servable.network = network
    servable.transform = tft_output.transform_features_layer()
    tf.saved_model.save(servable, path, signatures=signatures(network, tft_output, config, contract))
    for name, text in ((CONTRACT_FILE, contract.to_json()), (PARAMETERS_FILE, batching_parameters(contract))):
        if text is not None:
            file_path = f"{path.rstrip('/')}/{name}"
            tf.io.gfile.makedirs(file_path.rpartition("/")[0])
            with tf.io.gfile.GFile(file_path, "w") as file:
                file.write(text)
    write_warmup(f"{path.rstrip('/')}/{WARMUP_FILE}", contract)
