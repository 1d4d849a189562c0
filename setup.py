"""Packaging of blocklora_jax, train and merge."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "blocklora_jax/__init__.py").read_text())[1]
TORCH = ["torch>=2.4", "diffusers>=0.35", "peft>=0.17", "transformers>=4.57", "accelerate>=1.0"]
TENSORBOARD = ["tensorboardX>=2.6"]
WANDB = ["wandb>=0.19"]
# To run the notebooks in examples/ without a browser.
NOTEBOOKS = ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]
BENCH = ["matplotlib>=3.10"]
HEIC = ["pillow-heif>=0.22"]
# Gradio needs Pillow below 13.
APP = ["gradio>=6.20"]
# 4.10 is the first version that works with NumPy 2.
FACES = ["opencv-python-headless>=4.10"]
GS = ["gcsfs>=2025.3"]
S3 = ["s3fs>=2025.3"]
RAY = ["ray>=2.40"]
DOCS = ["sphinx>=8.2", "furo>=2025.7", "myst-parser>=4", "sphinx-copybutton>=0.5.2"]

setup(
    name="blocklora_jax",
    version=VERSION,
    description="Modular customization of diffusion models: block LoRA, erasure and lossless merging in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="diffusion lora stable-diffusion jax flax model-merging personalization",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # The address of the repository belongs here as soon as there is one.
    project_urls={"Paper": "https://arxiv.org/abs/2503.08575"},
    packages=[
        *find_packages(include=["blocklora_jax", "blocklora_jax.*", "train", "train.*", "merge", "merge.*"]),
        "train.configs",
    ],
    package_dir={"train.configs": "configs"},
    package_data={
        "blocklora_jax": ["py.typed"],
        "blocklora_jax.pocket": ["*.safetensors", "references/*/*", "weights/*", "weights/*/*"],
        "blocklora_jax.testing": ["published/*/*.json"],
        "train": ["py.typed"],
        "train.configs": ["*.yaml"],
        "merge": ["py.typed"],
    },
    entry_points={"console_scripts": ["blocklora=train.blocklora:main"]},
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20",
        "transformers>=4.57",
        "huggingface_hub>=0.34",
        "filelock>=3.20",
        "fsspec>=2025.3",
        "pydantic>=2.7",
        "safetensors>=0.5",
        "numpy>=2.0",
        "ml_dtypes>=0.5",
        "jaxtyping>=0.3",
        "Pillow>=11",
        "tyro>=0.9.20",
        "tqdm>=4.66",
        "PyYAML>=6",
    ],
    extras_require={
        "torch": TORCH,
        "tensorboard": TENSORBOARD,
        "wandb": WANDB,
        "notebook": ["ipykernel>=6.29", "ipywidgets>=8.1"],
        "tpu": ["jax[tpu]>=0.10"],
        "cuda": ["jax[cuda13]>=0.10"],
        "cuda12": ["jax[cuda12]>=0.10"],
        "test": [
            *TORCH,
            *TENSORBOARD,
            *WANDB,
            *NOTEBOOKS,
            *BENCH,
            *HEIC,
            *S3,
            "moto[s3,server]>=5.0.28",  # a local S3; conditional writes
            *APP,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "beartype>=0.20",
            "lycoris-lora>=4.1",
            "setuptools>=77",  # a test builds the wheel
        ],  # fmt: skip
        "bench": BENCH,
        "heic": HEIC,
        "app": APP,
        "faces": FACES,
        "gs": GS,
        "s3": S3,
        "ray": RAY,
        "docs": DOCS,
        "dev": [*BENCH, "ruff>=0.14", "pyright[nodejs]>=1.1.400", "build>=1.2"],
    },
)
