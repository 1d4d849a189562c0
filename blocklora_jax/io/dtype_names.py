"""Names of the types in which files can be written. Imports nothing heavy, because the commands' options import it."""

from __future__ import annotations

from typing import Literal

# For models and for LoRAs for other programs. `tensor_file.DTYPES` has the NumPy types.
ModelDtype = Literal["float32", "float16", "bfloat16"]
# For adapter files.
AdapterDtype = Literal["float32", "bfloat16"]
