"""Reads stored cases: safetensors files of inputs and exact results."""

import json
import pathlib
import struct

import numpy as np


def read_case(path):
    """The tensors and the metadata of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    metadata = header.pop("__metadata__", {})
    dtypes = {"F32": np.float32, "I32": np.int32, "I64": np.int64}
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        # What files called the gradient of the initial state once.
        name = {"dinitial_state": "d_initial_state"}.get(name, name)
        tensors[name] = np.frombuffer(body[start:end], dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata
