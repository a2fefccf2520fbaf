"""One version in memory: its signatures, and what each of them takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.imaging.errors import UsageError
from serving.contract import Contract
from serving.server.messages import meta_graph_pb2, saved_model_pb2, tf
from serving.server.refusal import Code, Refusal, invalid
from serving.signatures import EXAMPLES_SIGNATURE
from serving.versions import read_contract


@dataclass(frozen=True)
class Wanted:
    """What an input must be.

    Attributes:
        dtype: NumPy's type; object for strings.
        type_name: TensorFlow's name of it.
        shape: None stands for any size.
    """

    dtype: np.dtype
    type_name: str
    shape: tuple[int | None, ...]

    @classmethod
    def of(cls, info: meta_graph_pb2.TensorInfo) -> Wanted:
        """From a signature's definition."""
        kind = tf.dtypes.as_dtype(info.dtype)
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
        return cls(np.dtype(kind.as_numpy_dtype), kind.name, shape)

    def check(self, name: str, type_name: str, shape: tuple[int, ...]) -> None:
        """Compares a tensor that was sent.

        Raises:
            Refusal: It has another type, number of dimensions or size.
        """
        if type_name != self.type_name:
            raise invalid(f"input {name}: found type {type_name}, wanted {self.type_name}")
        fits = len(shape) == len(self.shape) and all(
            size >= 0 and wanted in (None, size) for size, wanted in zip(shape, self.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("n" if size is None else str(size) for size in self.shape)
            raise invalid(f"input {name}: found shape ({', '.join(map(str, shape))}), wanted ({wanted})")


@dataclass(frozen=True)
class Signature:
    """One thing that a version computes.

    Attributes:
        name: Its name.
        function: Takes tensors by name, returns tensors by name.
        inputs: What each input must be.
        outputs: Names of the outputs, sorted.
    """

    name: str
    function: Any
    inputs: dict[str, Wanted]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Loaded:
    """A version that can answer.

    Attributes:
        number: The version.
        contract: Its contract.
        signatures: By name.
        definitions: The signatures as the SavedModel defines them.
        keep: The loaded object, whose variables live as long as it does.
    """

    number: int
    contract: Contract
    signatures: dict[str, Signature]
    definitions: dict[str, meta_graph_pb2.SignatureDef]
    keep: Any

    def signature(self, name: str) -> Signature:
        """The signature of that name; TensorFlow's default without a name.

        Raises:
            Refusal: There is none.
        """
        name = name or EXAMPLES_SIGNATURE
        if name not in self.signatures:
            raise Refusal(
                Code.NO_SIGNATURE, f"no signature of that name; wanted one of {', '.join(sorted(self.signatures))}"
            )
        return self.signatures[name]


def load(folder: Path, number: int) -> Loaded:
    """Reads a version into memory.

    Raises:
        UsageError: It cannot be loaded, or this program did not make it.
    """
    contract = read_contract(folder)
    try:
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        served = [graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags]
        if not served:
            raise ValueError("no graph for serving in it")
        keep = tf.saved_model.load(str(folder))
    except Exception as error:  # a broken file fails in many ways, in TensorFlow's reader and in protobuf's
        text = " ".join(str(error).split())[:200]
        raise UsageError(f"the model cannot be loaded ({text}); push it again") from None
    definitions = dict(served[0].signature_def)
    signatures = {
        name: Signature(
            name,
            function,
            {key: Wanted.of(info) for key, info in definitions[name].inputs.items()},
            tuple(sorted(definitions[name].outputs)),
        )
        for name, function in keep.signatures.items()
    }
    return Loaded(number, contract, signatures, definitions, keep)
