"""Names, classes and shapes of image sets that are read from files as their authors publish them."""

from __future__ import annotations

import string
from typing import NamedTuple

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CAPITALS = tuple(f"capital {letter}" for letter in string.ascii_uppercase)
_MERGED = "cijklmopsuvwxyz"
"""Letters whose capital and small forms are one class of the merged splits; Cohen et al. 2017, section II."""
_BOTH = tuple(f"{'letter' if x.lower() in _MERGED else 'capital'} {x}" for x in string.ascii_uppercase)
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)


class Published(NamedTuple):
    """A set of images of one size."""

    description: str
    classes: tuple[str, ...]
    channels: int
    files: str
    """Files that a user puts into the root."""


_MERGED_CLASSES = (
    *(*_WORDS, *_BOTH),
    *(f"small {x}" for x in string.ascii_lowercase if x not in _MERGED),
)
_EMNIST = {
    "byclass": (
        "digits, capital and small letters",
        (*_WORDS, *_CAPITALS, *(f"small {x}" for x in string.ascii_lowercase)),
    ),
    "bymerge": ("digits and letters, capital and small ones merged where they look alike", _MERGED_CLASSES),
    "balanced": ("bymerge with as many images of each class", _MERGED_CLASSES),
    "letters": ("capital and small letters as one class", tuple(f"letter {x}" for x in string.ascii_uppercase)),
    "digits": ("digits", _WORDS),
    "mnist": ("digits, in the sizes of MNIST", _WORDS),
}
EMNIST = {
    f"emnist_{split}": Published(
        f"EMNIST {split}, handwriting: {what}", classes, 1,
        f"gzip.zip, or emnist-{split}-{{train,test}}-{{images-idx3,labels-idx1}}-ubyte(.gz)",
    )
    for split, (what, classes) in _EMNIST.items()
}  # fmt: skip
"""Splits of EMNIST, by name of the data set."""

_MEDICAL: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "pathmnist": ("colon pathology", 3, (
        "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa",
        "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
    )),
    "dermamnist": ("skin lesions", 3, (
        "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions",
        "dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions",
    )),
    "octmnist": ("retinal tomography", 1, (
        "choroidal neovascularization", "diabetic macular edema", "drusen", "normal",
    )),
    "pneumoniamnist": ("chest X-rays", 1, ("normal", "pneumonia")),
    "retinamnist": ("fundus photographs, five grades of retinopathy", 3, ("0", "1", "2", "3", "4")),
    "breastmnist": ("breast ultrasound", 1, ("malignant", "normal, benign")),
    "bloodmnist": ("blood cells", 3, (
        "basophil", "eosinophil", "erythroblast",
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        "lymphocyte", "monocyte", "neutrophil", "platelet",
    )),
    "tissuemnist": ("kidney cortex cells", 1, (
        "Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells",
        "Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb",
    )),
    "organamnist": ("abdominal CT, axial", 1, _ORGANS),
    "organcmnist": ("abdominal CT, coronal", 1, _ORGANS),
    "organsmnist": ("abdominal CT, sagittal", 1, _ORGANS),
}  # fmt: skip
MEDMNIST = {
    name: Published(f"MedMNIST: {what}", classes, channels, f"{name}.npz")
    for name, (what, channels, classes) in _MEDICAL.items()
}
"""Sets of MedMNIST v2 with 2-D images and one label each, by name; labels and order as in its `info.py`."""
MULTI_LABEL = ("chestmnist",)
"""Sets of MedMNIST whose images have several labels each; Yang et al., Scientific Data 2023."""
SVHN = Published(
    "house numbers in street views: 73,257 training and 26,032 test images",
    _WORDS,
    3,
    "train_32x32.mat, test_32x32.mat",
)
"""Street View House Numbers, format 2; Netzer et al. 2011."""
PUBLISHED = {**EMNIST, **MEDMNIST, "svhn": SVHN}
"""All of them by name of the data set."""

_IMAGENET_R = """
    n01443537 goldfish; n01484850 great white shark; n01494475 hammerhead; n01498041 stingray; n01514859 hen;
    n01518878 ostrich; n01531178 goldfinch; n01534433 junco; n01614925 bald eagle; n01616318 vulture;
    n01630670 common newt; n01632777 axolotl; n01644373 tree frog; n01677366 common iguana;
    n01694178 African chameleon; n01748264 Indian cobra; n01770393 scorpion; n01774750 tarantula;
    n01784675 centipede; n01806143 peacock; n01820546 lorikeet; n01833805 hummingbird; n01843383 toucan;
    n01847000 drake; n01855672 goose; n01860187 black swan; n01882714 koala; n01910747 jellyfish; n01944390 snail;
    n01983481 American lobster; n01986214 hermit crab; n02007558 flamingo; n02009912 American egret;
    n02051845 pelican; n02056570 king penguin; n02066245 grey whale; n02071294 killer whale; n02077923 sea lion;
    n02085620 Chihuahua; n02086240 Shih-Tzu; n02088094 Afghan hound; n02088238 basset; n02088364 beagle;
    n02088466 bloodhound; n02091032 Italian greyhound; n02091134 whippet; n02092339 Weimaraner;
    n02094433 Yorkshire terrier; n02096585 Boston bull; n02097298 Scotch terrier;
    n02098286 West Highland white terrier; n02099601 golden retriever; n02099712 Labrador retriever;
    n02102318 cocker spaniel; n02106030 collie; n02106166 Border collie; n02106550 Rottweiler;
    n02106662 German shepherd; n02108089 boxer; n02108915 French bulldog; n02109525 Saint Bernard;
    n02110185 Siberian husky; n02110341 dalmatian; n02110958 pug; n02112018 Pomeranian; n02112137 chow;
    n02113023 Pembroke; n02113624 toy poodle; n02113799 standard poodle; n02114367 timber wolf; n02117135 hyena;
    n02119022 red fox; n02123045 tabby; n02128385 leopard; n02128757 snow leopard; n02129165 lion; n02129604 tiger;
    n02130308 cheetah; n02134084 ice bear; n02138441 meerkat; n02165456 ladybug; n02190166 fly; n02206856 bee;
    n02219486 ant; n02226429 grasshopper; n02233338 cockroach; n02236044 mantis; n02268443 dragonfly;
    n02279972 monarch; n02317335 starfish; n02325366 wood rabbit; n02346627 porcupine; n02356798 fox squirrel;
    n02363005 beaver; n02364673 guinea pig; n02391049 zebra; n02395406 hog; n02398521 hippopotamus;
    n02410509 bison; n02423022 gazelle; n02437616 llama; n02445715 skunk; n02447366 badger; n02480495 orangutan;
    n02480855 gorilla; n02481823 chimpanzee; n02483362 gibbon; n02486410 baboon; n02510455 giant panda;
    n02526121 eel; n02607072 anemone fish; n02655020 puffer; n02672831 accordion; n02701002 ambulance;
    n02749479 assault rifle; n02769748 backpack; n02793495 barn; n02797295 barrow; n02802426 basketball;
    n02808440 bathtub; n02814860 beacon; n02823750 beer glass; n02841315 binoculars; n02843684 birdhouse;
    n02883205 bow tie; n02906734 broom; n02909870 bucket; n02939185 caldron; n02948072 candle; n02950826 cannon;
    n02951358 canoe; n02966193 carousel; n02980441 castle; n02992529 cellular telephone; n03124170 cowboy hat;
    n03272010 electric guitar; n03345487 fire engine; n03372029 flute; n03424325 gasmask; n03452741 grand piano;
    n03467068 guillotine; n03481172 hammer; n03494278 harmonica; n03495258 harp; n03498962 hatchet; n03594945 jeep;
    n03602883 joystick; n03630383 lab coat; n03649909 lawn mower; n03676483 lipstick; n03710193 mailbox;
    n03773504 missile; n03775071 mitten; n03888257 parachute; n03930630 pickup; n03947888 pirate;
    n04086273 revolver; n04118538 rugby ball; n04133789 sandal; n04141076 sax; n04146614 school bus;
    n04147183 schooner; n04192698 shield; n04254680 soccer ball; n04266014 space shuttle; n04275548 spider web;
    n04310018 steam locomotive; n04325704 stole; n04347754 submarine; n04389033 tank; n04409515 tennis ball;
    n04465501 tractor; n04487394 trombone; n04522168 vase; n04536866 violin; n04552348 warplane;
    n04591713 wine bottle; n07614500 ice cream; n07693725 bagel; n07695742 pretzel; n07697313 cheeseburger;
    n07697537 hotdog; n07714571 head cabbage; n07714990 broccoli; n07718472 cucumber; n07720875 bell pepper;
    n07734744 mushroom; n07742313 Granny Smith; n07745940 strawberry; n07749582 lemon; n07753275 pineapple;
    n07753592 banana; n07768694 pomegranate; n07873807 pizza; n07880968 burrito; n07920052 espresso;
    n09472597 volcano; n09835506 ballplayer; n10565667 scuba diver; n12267677 acorn;
"""
IMAGENET_R = dict(line.strip().split(" ", 1) for line in _IMAGENET_R.split(";") if line.strip())
"""Names of the classes of ImageNet-R by folder (wnid): torchvision's of the same classes of ImageNet."""
