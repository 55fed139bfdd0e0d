"""The package and the ranges that it is tested with; conf/constraints.txt has the exact pins."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "spark_dl/__init__.py").read_text()).group(1)

setup(
    name="spark_dl",
    version=VERSION,
    description="Deep learning inside Spark ML: Horovod-distributed Keras training on DataFrames",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["spark_dl", "spark_dl.*"]),
    package_data={"": ["*.pyi"], "spark_dl": ["py.typed"]},
    python_requires=">=3.11,<3.13",
    install_requires=[
        "cloudpickle>=3",
        "fsspec",
        "h5py",
        "horovod==0.28.1",
        "keras>=3.15,<3.16",
        "matplotlib>=3.8",
        "mlflow>=3.17,<3.18",
        "numpy>=1.26,<2",
        "packaging",
        "pandas>=2.2,<3",
        "petastorm==0.13.1",
        "pillow",
        "psutil>=5.9",
        "pyarrow>=14,<15",
        "pyspark>=4.0,<4.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "cpu": ["tensorflow-cpu>=2.21,<2.22"],
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "connect": ["googleapis-common-protos", "grpcio>=1.67", "grpcio-status", "zstandard"],
        "tensorboard": ["tensorboard>=2.21,<2.22"],
        "dev": [
            "googleapis-common-protos",
            "grpcio-status",
            "hypothesis",
            "mlflow[auth]",
            "mypy",
            "pytest",
            "pytest-xdist",
            "ruff",
            "scikit-learn",
            "zstandard",
        ],
    },
    entry_points={"console_scripts": ["spark-dl = spark_dl.cli:main"]},
)
