"""Names of the types that users choose among when a file is written. Light: options of commands import it."""

from __future__ import annotations

from typing import Literal

# Of models and of LoRAs for other programs. `tensor_file.DTYPES` has NumPy's type of each.
ModelDtype = Literal["float32", "float16", "bfloat16"]
# Of adapter files.
AdapterDtype = Literal["float32", "bfloat16"]
