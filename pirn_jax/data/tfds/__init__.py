"""Data sets as tensorflow-datasets prepares them, without TensorFlow: builders over the readers, and the way back.

Importing this registers the builders where tensorflow-datasets is installed.
"""

import importlib.util

from pirn_jax.data.tfds.source import Example, read

if importlib.util.find_spec("tensorflow_datasets"):
    from pirn_jax.data.tfds import builders as builders

__all__ = ["Example", "read"]
