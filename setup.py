"""Packaging: the dependency ranges that workers install from; the exact pins are in requirements.lock."""

from pathlib import Path

from setuptools import find_packages, setup

# One list per purpose, so that a reader sees why a package is here.
PIPELINE = [
    "tfx[kfp]==1.21.0",
    "kfp-server-api>=2.16,<3",
    # Buckets: S3 and Google Cloud Storage as file systems.
    "pyarrow>=18,<19",
    "tensorflow>=2.21,<2.22",
    "keras>=3.10,<4",
    "keras-tuner[bayesian]>=1.4.7,<2",
    "tensorflow-serving-api>=2.19,<3",
    "tensorboard>=2.19,<3",
]
IMAGING = [
    "nibabel>=5.3,<6",
    "isal>=1.7,<2",
    # DICOM: the reader, and the decoders it uses for JPEG 2000, JPEG-LS and lossless JPEG.
    "pydicom>=3,<4",
    "pylibjpeg>=2,<3",
    "pylibjpeg-openjpeg>=2.3,<3",
    "pyjpegls>=1.4,<2",
    "python-gdcm>=3.0.24,<4",
    "highdicom>=0.27,<0.29",
    "scipy>=1.13,<2",
    "connected-components-3d>=3.20,<5",
    "surface-distance>=0.1,<0.2",
    "google-crc32c>=1.5,<2",
    "Pillow>=11,<13",
]
SERVING = [
    "grpcio>=1.66,<2",
    "aiohttp>=3.10,<4",
    "prometheus-client>=0.21,<1",
    "tenacity>=9,<10",
    "requests>=2.32,<3",
    "urllib3>=2,<3",
    "orjson>=3.10,<4",
]
INTERFACE = [
    "click>=8.1,<9",
    "pydantic>=2.10,<3",
    "PyYAML>=6,<7",
    "Jinja2>=3.1,<4",
    "rich>=13,<16",
    "psutil>=6,<8",
]
REPORT = [
    "matplotlib>=3.9,<4",
]
DEVELOPMENT = [
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.8",
    "mypy>=1.13",
    "types-PyYAML",
    "kubernetes-validate>=1.31,<2",
    "kfp-kubernetes>=2.14,<2.17",
    # A server with the API of S3, for the tests on buckets.
    "moto[s3]>=5,<6",
    "flask>=3,<4",
    "flask-cors>=5,<7",
    # And one with that of Google Cloud Storage.
    "gcp-storage-emulator>=2024.8.3",
    "hypothesis>=6",
    "SimpleITK>=2.4,<3",
    "scikit-learn>=1.4,<2",
    # What runs docs/finished_run.ipynb.
    "nbclient>=0.10,<1",
    "ipykernel>=6.29,<8",
    # It carries axe-core, which looks for barriers on a page.
    "axe-core-python>=0.1,<1",
    # What drives Chromium.
    "playwright>=1.50,<2",
]

setup(
    name="ich",
    version="0.1.0",
    description="Train, gate, release and run a model that outlines intracranial hemorrhage on head CT.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if Path(__file__).with_name("README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["pipeline*", "components*", "schema*", "serving*"]),
    package_data={
        "pipeline": ["configs/*.yaml", "templates/*.html"],
        "components.data_report": ["*.j2", "*.css"],
        "components.pages": ["*.css"],
        "components.pusher": ["*.j2"],
        "components.run_report": ["*.j2", "*.css", "*.js"],
        "schema": ["*.pbtxt"],
        "serving.manifests": ["templates/*.j2", "templates/kubernetes/*.j2"],
        "serving.viewer": ["static/*"],
    },
    install_requires=PIPELINE + IMAGING + SERVING + INTERFACE + REPORT,
    extras_require={"dev": DEVELOPMENT},
    entry_points={"console_scripts": ["ich=pipeline.cli:main"]},
)
