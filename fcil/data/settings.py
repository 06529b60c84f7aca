"""The `data:` section of an experiment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from fcil.config import Where, choice, dump_fields, parse_fields
from fcil.config.effect import UNWRITTEN
from fcil.config.json_schema import Schema, Schemas
from fcil.config.kinds import ARCHIVES
from fcil.config.parts import ENDING, class_of, is_path, parse_beside, parse_part, part_of, read_part
from fcil.data.catalog import DATASETS, DatasetInfo, Normalise, dataset_info
from fcil.data.clients import NaturalClients
from fcil.data.domains.checks import check_domains
from fcil.data.domains.settings import DomainSettings
from fcil.data.files.compositing import Rendering
from fcil.data.own import DataSource, Partitioner
from fcil.data.preparation import OF_KIND, AugmentSettings, TestShare
from fcil.data.series.clean import Longer, Missing
from fcil.data.splits import SplitFile
from fcil.data.tasks import TaskSplit, class_numbers
from fcil.errors import ConfigError, nearest
from fcil.types import Count, Index

Kind = Literal["iid", "dirichlet", "classes", "shards", "natural"]
Draw = Literal["task", "once", "reference"]
HELD = ("tasks", "base", "increment", "order", "partition", "remainder", "classes")
"""Settings that a split file replaces."""
ADDED = tuple(key.removeprefix("data.") for key in UNWRITTEN)
"""Settings that are not written at their defaults."""
SHARED = ("image_folder", "imagenet_r")
"""Data sets of which a share can test."""
_ARCHIVED = f"^({'|'.join(ARCHIVES)}):"
_WISH = "expected iid, {dirichlet: 0.5}, {classes: 2}, {shards: 2}, {natural: clients.csv} or the path of a file"


@dataclass(frozen=True, kw_only=True)
class PartitionSettings:
    """Partition of a task's samples among the clients.

    In YAML: `iid`, `{dirichlet: 0.5}`, `{classes: 2}` or `{shards: 2}`, the mappings with `capped` and
    `draw` beside it if wanted; `{natural: clients.csv}` or `{natural: 1}` where the data name the clients,
    or `./my_split.py`, `{./my_split.py: {its settings}}`, with `draw` beside it.
    """

    kind: Kind | Literal["own"] = "iid"
    """`iid` at random, `dirichlet` by class shares drawn from Dirichlet(beta), `classes` with a fixed number
    of classes for each client, `shards` with a fixed number of slices of the samples sorted by class, `natural` by
    the clients that a table or a folder level names."""
    value: float | int | None = None
    """beta of `dirichlet`, or the number of classes or shards of each client; nothing for `iid` and `natural`."""
    natural: NaturalClients | None = None
    """Where `natural` finds the client of an image."""
    capped: bool = True
    """Whether a client that holds its even share of the task is left out of further classes (`dirichlet`
    only), as in LANDER's code; false is the plain Dirichlet draw."""
    draw: Draw = "task"
    """`task` draws anew for every task, `once` gives every task the same proportions, `reference` re-seeds
    NumPy's legacy generator with the run's seed for every task, as LANDER's code does."""
    own: Partitioner | None = field(default=None, metadata={"in_yaml": False})
    """Partition of a user's own file (`kind: own`), with its settings."""

    def __post_init__(self) -> None:
        number = _number(self.value)
        if (self.kind == "natural") != (self.natural is not None):
            raise ValueError("natural: missing; give a CSV file with the columns file,client or a folder level")
        if (self.kind == "own") != (self.own is not None):
            raise ValueError(
                f"kind: {self.kind} is not allowed {'with' if self.own else 'without'} a file of one's own"
            )
        if self.own is not None and self.draw == "reference":
            raise ValueError("draw: reference is the stream of built-in partitions; expected task or once")
        if self.kind == "natural":
            if self.draw != "task":
                raise ValueError("draw: has no effect beside natural; leave it out")
        elif self.kind in ("iid", "own"):
            if self.value is not None:
                raise ValueError(f"{self.kind} takes no value, got {self.value!r}")
        elif self.kind == "dirichlet":
            if number is None or number <= 0:
                raise ValueError(f"dirichlet is {self.value!r}; it must be a number above 0 (for even shares say iid)")
        elif number is None or number < 1 or number != int(number):
            raise ValueError(f"{self.kind} is {self.value!r}; it must be a whole number, at least 1")
        if self.kind != "dirichlet" and not self.capped:
            raise ValueError(f"capped applies to dirichlet, not to {self.kind}")

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> PartitionSettings:
        """Read the short forms."""
        kinds = list(get_args(Kind))
        if (path := next(filter(is_path, raw if isinstance(raw, Mapping) else [raw]), None)) is not None:
            return cls._of_file(path, raw, where)
        if isinstance(raw, str):
            if raw not in kinds:
                raise where.unknown("partition", raw, kinds)
            raw = {raw: None}
        if not isinstance(raw, Mapping):
            raise where.error(f"{raw!r} is not allowed; {_WISH}")
        allowed = [*kinds, "capped", "draw"]
        for key in raw:
            if key not in allowed:
                raise where.at(key).error(f"unknown key (allowed: {', '.join(allowed)}).{nearest(key, allowed)}")
        named = [key for key in raw if key in kinds]
        if len(named) != 1:
            raise where.error(f"{dict(raw)!r} is not allowed; {_WISH}")
        value = raw[named[0]]
        options = {key: raw[key] for key in ("capped", "draw") if key in raw}
        if named[0] == "natural":
            return parse_fields(cls, {"kind": "natural", "natural": value, **options}, where)
        if value is not None and _number(value) is None:
            raise where.at(named[0]).error(f"{value!r} is not allowed; it must be a number")
        return parse_fields(cls, {"kind": named[0], "value": value, **options}, where)

    @classmethod
    def _of_file(cls, path: str, raw: Any, where: Where) -> PartitionSettings:
        """Read the partition of a file: its path, or a mapping of its path to its settings, with `draw` beside it."""
        beside = {key: raw[key] for key in raw if key != path} if isinstance(raw, Mapping) else {}
        for key in beside:
            if key != "draw":
                raise where.at(key).error(f"unknown key (allowed: {path}, draw).{nearest(key, ['draw'])}")
        _, options = choice({path: raw[path]} if isinstance(raw, Mapping) else path, where, "partition")
        part = read_part(path, "partition", where)
        own = parse_part(class_of(part, Partitioner, "partition", where), options, part, where.at(path))
        return parse_fields(cls, {"kind": "own", **beside}, where, own=own)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        named = schemas.of_fields(cls)
        about: str = named["properties"].pop("kind")["description"]
        number: Schema = {"type": "integer", "minimum": 1}
        clients = named["properties"].pop("natural")
        values: dict[str, Schema] = {
            "iid": {"type": "null"},
            "natural": clients,
            "dirichlet": {"type": "number", "exclusiveMinimum": 0},
        }
        kinds = {kind: {**values.get(kind, number), "description": about} for kind in get_args(Kind)}
        del named["properties"]["value"]
        one = {**named, "properties": kinds | named["properties"], "oneOf": [{"required": [kind]} for kind in kinds]}
        file = {"type": "object", "propertyNames": {"anyOf": [{"pattern": ENDING}, {"enum": ["draw"]}]}}
        file |= {
            "properties": {"draw": named["properties"]["draw"]},
            "additionalProperties": {"type": ["object", "null"]},
        }
        return {"anyOf": [{"enum": ["iid"]}, {"type": "string", "pattern": ENDING}, one, file]}

    def to_yaml(self) -> Any:
        """Return the shortest form that `from_yaml` reads back."""
        options: dict[str, Any] = {} if self.capped else {"capped": False}
        if self.draw != "task":
            options["draw"] = self.draw
        if self.kind == "iid" and not options:
            return "iid"
        if (part := part_of(self.own)) is not None:
            return {part.path: dump_fields(self.own), **options}
        return {self.kind: self.natural.to_yaml() if self.natural else self.value, **options}


def _number(value: object) -> float | None:
    """Return `value` if it is a finite number."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    return float(value) if usable else None  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Data set, tasks, and partition among clients."""

    dataset: Annotated[
        str, Field(json_schema_extra={"anyOf": [{"enum": [*DATASETS]}, {"pattern": _ARCHIVED}, {"pattern": ENDING}]})
    ]
    """A name from `fcil list datasets`; `uea:NAME` and `ucr:NAME` are time series of these archives, and
    `ucr:NAME1+NAME2` stacks sets as channels; or the path of a file with a data set of one's own, whose settings stand
    beside these."""
    root: str | None = None
    """Folder, zip or package that holds the data; null looks in `$FCIL_DATA`, else in `~/.cache/fcil/data`."""
    tasks: Count | tuple[tuple[Index, ...], ...] | None = None
    """Number of tasks of equal size (see `remainder`), or the class numbers of every task."""
    base: Count | None = None
    """Number of classes of the first task, together with `increment` and instead of `tasks`."""
    increment: Count | None = None
    """Number of classes of every later task, together with `base` and instead of `tasks`."""
    remainder: Literal["last", "even"] = "last"
    """Tasks that take the classes left over by a number of tasks: the `last` task all of them, or the first tasks one
    each (`even`): ten classes in seven tasks are 1, 1, 1, 1, 1, 1, 4 or 2, 2, 2, 1, 1, 1, 1."""
    order: Literal["natural", "seed"] | Index | tuple[Index, ...] = "natural"
    """Order in which classes appear: `natural`, a number for NumPy's legacy permutation of that seed (1993 is
    common in the field), `seed` for the permutation of the run's seed, or all class numbers as a list."""
    classes: tuple[Index | str, ...] | None = None
    """Classes to use, by name, folder name or number, `[cat, dog]`; null: all. `order: natural` takes them as listed,
    other orders permute them and count within the list."""
    partition: PartitionSettings = PartitionSettings()
    """Partition of a task's samples among the clients."""
    resize: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side in pixels of images decoded from files: the short side is resized to it, then the centre cropped."""
    transparency: Literal["white", "black", "ignored"] | Annotated[int, Field(ge=0, le=255)] = "white"
    """Background of transparent parts of images decoded from files: `white`, `black` or a grey level (0 to 255);
    `ignored` drops transparency and takes the colours stored under it, which are often black."""
    orientation: Literal["upright", "stored"] = "upright"
    """Whether images decoded from files are turned `upright` as their EXIF orientation says, or left as `stored`."""
    missing: Missing = "refuse"
    """Time series: what is done about values missing within a series (`?` or NaN): `refuse` ends with a line that names
    the first, `interpolate` draws a straight line within the series and channel."""
    longer: Longer = "refuse"
    """Time series: what is done about test series longer than every training series: `refuse`, `crop` their ends off,
    or `pad` all samples to the longest of either part, as toolkits of the archives do."""
    normalise: Normalise | None = None
    """Time series: `series` brings each series and channel to mean 0 and standard deviation 1 over its own steps,
    `training` each channel by the statistics of the training series of the first task alone, `none` leaves them;
    null: `training` for `uea:`, `none` for `mnist1d`, else `series`."""
    test_share: TestShare | None = None
    """Share of every class's images used for testing, for an image folder without a test split, whose classes may also
    lie at its top: 0.2, or `{share: 0.2, seed: 1}` for other images; null: there is a test split."""
    test_copies: Literal["keep", "drop"] = "keep"
    """Test samples that equal a training sample of the run, as nets get them: `keep`, as is usual, or `drop` them."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the training images held out, equally from all classes, and used instead of the test
    images, so that hyper-parameters can be chosen without looking at the test set."""
    per_class: Count | None = None
    """Most training images of each class, drawn once for all runs, for a quick run on a large set; null: all."""
    augment: bool | AugmentSettings = True
    """Whether training images are cropped, flipped and brightened at random, as is usual for the data set; a mapping
    such as `{flip: false, crop: 2}` changes some of that, for synthetic samples too, as `none` does, while `false` is
    for the images of clients alone."""
    scenario: Literal["classes", "domains"] = "classes"
    """Meaning of a task: new `classes`, or a new domain of the same classes (`domains`), which `order` then orders;
    `tasks: 1` beside it trains all domains at once."""
    domains: DomainSettings | None = None
    """Domains, in order of appearance, beside `scenario: domains`: folders by name, `[photo, sketch]`, or made of one
    set of images, `{rotated: [0, 30, 60]}` or `{permuted: 5}`; null: all folders in natural order."""
    split: SplitFile | None = None
    """A file with the classes of each task and the images of each client, instead of `tasks`,
    `order` and `partition`: the partition.json of a run, or the output of `fcil show X.yaml --split FILE`."""
    own: DataSource | None = field(default=None, metadata={"in_yaml": False})
    """Data set of the file that `dataset` is the path of, with its settings; None: it is one of the package."""

    def __post_init__(self) -> None:
        try:
            info = self.info
        except ValueError as error:
            raise ValueError(f"dataset: {error}") from None
        if self.dataset == "image_folder" and self.root is None:
            raise ValueError("root: missing; image_folder needs the folder or zip that holds the images")
        if self.dataset == "ts_folder" and self.root is None:
            raise ValueError("root: missing; ts_folder needs the folder or .npz file that holds the series")
        self._check_kind(info)
        check_domains(self, info)
        if self.resize is not None and not info.resizable:
            able = ", ".join(i.name for i in DATASETS.values() if i.resizable)
            raise ValueError(f"resize: applies to {able}; {self.dataset} has {info.kind} of a fixed size")
        for key in ("transparency", "orientation"):
            if getattr(self, key) != type(self).__dataclass_fields__[key].default and not info.resizable:
                raise ValueError(f"{key}: applies to images that are decoded from files; {self.dataset} has none")
        if self.test_share is not None and self.dataset not in SHARED:
            raise ValueError(
                f"test_share: applies to {' and '.join(SHARED)}; {self.dataset} has test {info.kind} of its own"
            )
        if self.test_share is None and self.dataset == "imagenet_r":
            raise ValueError("test_share: missing; imagenet_r has no test split, so say which share tests (0.2)")
        if self.partition.natural is not None and not info.resizable:
            raise ValueError(f"partition.natural: applies to images in files of their own; {self.dataset} has none")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: {self.validation} is not allowed; it must be at least 0 and below 1")
        if self.split is not None:
            self._check_alone()
            return
        self._check_tasks()
        try:  # errors that the data set's name alone can show
            count = info.num_classes if self.classes is None else len(self.classes)
            if count is not None and (info.fixed or self.classes is not None):
                self._splits(count, seed=0)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @classmethod
    def from_yaml(cls, raw: Any, where: Where) -> DataSettings:
        """Read the settings, those of a data set of one's own among them."""
        return parse_beside(cls, raw, where, "dataset", "data set", DataSource)

    @classmethod
    def to_json_schema(cls, schemas: Schemas) -> Schema:
        return schemas.of_fields_beside(cls, "dataset")

    @property
    def info(self) -> DatasetInfo:
        """Return what is known of the data set before its files are opened.

        Raises:
            ValueError: there is none of this name.
        """
        return self.own.info if self.own is not None else dataset_info(self.dataset)

    def _check_kind(self, info: DatasetInfo) -> None:
        """Check that no setting is of the other kind of samples."""
        if info.kind == "images":
            for key in ("missing", "longer", "normalise"):
                if getattr(self, key) != type(self).__dataclass_fields__[key].default:
                    raise ValueError(f"{key}: applies to time series; {self.dataset} has images")
        if isinstance(self.augment, AugmentSettings) and (other := self.augment.of_other_kind(info.kind)):
            wrong = "images" if info.kind == "series" else "time series"
            right = "time series" if info.kind == "series" else "images"
            raise ValueError(
                f"augment.{other[0]}: applies to {wrong}; {self.dataset} has {right}"
                f" (of use: {', '.join(OF_KIND[info.kind])})"
            )

    def _check_alone(self) -> None:
        """Check that a split file comes without settings of tasks, order and partition."""
        given = [f.name for f in fields(self) if f.name in HELD and getattr(self, f.name) != f.default]
        if given:
            raise ValueError(f"split: excludes {', '.join(given)}, which the file says; leave that out")

    def to_yaml(self) -> dict[str, Any]:
        """Return the settings without those of a split file, and without those in `ADDED` at their defaults."""
        plain = [f.name for f in fields(self) if f.name in ADDED and getattr(self, f.name) == f.default]
        without = (*plain, *(HELD if self.split is not None else ()))
        own = {} if self.own is None else dump_fields(self.own)
        return {key: value for key, value in dump_fields(self).items() if key not in without} | own

    @property
    def rendering(self) -> Rendering:
        """Return the conversion of image files to pixels."""
        levels: dict[str | int, int | None] = {"white": 255, "black": 0, "ignored": None}
        level = self.transparency if isinstance(self.transparency, int) else levels[self.transparency]
        return Rendering(level, self.orientation == "upright")

    def _check_tasks(self) -> None:
        if self.classes is not None and not self.classes:
            raise ValueError("classes: an empty list; name at least one class, or leave it out")
        if self.scenario == "domains":
            return
        if self.tasks is not None and (self.base is not None or self.increment is not None):
            raise ValueError("tasks: excludes base and increment; give one or the other")
        if self.tasks is None and (self.base is None or self.increment is None):
            lone = "base" if self.increment is None else "increment"
            alone = self.base is not None or self.increment is not None
            raise ValueError(f"{lone} alone is not enough; " * alone + "give tasks, or base and increment")
        if self.classes is not None and isinstance(self.tasks, tuple):
            raise ValueError("classes: has no effect beside a list of tasks; leave it out")
        if self.remainder != "last" and not isinstance(self.tasks, int):
            raise ValueError("remainder: applies to a number of tasks alone; leave it out")
        if not isinstance(self.tasks, tuple):
            return
        if not self.tasks or not all(self.tasks):
            raise ValueError("tasks: a list with an empty task; every task needs a class")
        if self.order != "natural":
            raise ValueError("order: has no effect beside a list of tasks; leave it out")
        listed = [c for task in self.tasks for c in task]
        twice = sorted(c for c, count in Counter(listed).items() if count > 1)
        if twice:
            raise ValueError(f"tasks: class {twice[0]} is given twice")

    def task_split(self, names: Sequence[str], seed: int, folders: Sequence[str] = ()) -> TaskSplit:
        """Return the classes of every task, for classes of these names and the run's seed; not with a split file.

        Args:
            folders: folder name of each class, by which it may be chosen too.
        Raises:
            ConfigError: there are fewer classes than the settings ask for, or there is no such class.
        """
        if self.classes is None:
            return self._splits(len(names), seed)
        chosen = class_numbers(self.classes, names, folders)
        split = self._splits(len(chosen), seed)
        return TaskSplit(tuple(tuple(chosen[place] for place in task) for task in split.classes))

    def task_sizes(self, num_classes: int, seed: int) -> tuple[int, ...]:
        """Return the number of classes of each task of a set of `num_classes` classes; not with a split file."""
        return self._splits(num_classes if self.classes is None else len(self.classes), seed).sizes

    @property
    def by_domain(self) -> bool:
        """Return whether each task is a domain."""
        return self.scenario == "domains" and self.tasks is None

    def _splits(self, num_classes: int, seed: int) -> TaskSplit:
        if self.scenario == "domains":  # of the first task; how many more there are, folders say
            later = len(self.domains.labels) - 1 if self.by_domain and self.domains else 0
            return TaskSplit((tuple(range(num_classes)), *[()] * later))
        return TaskSplit.make(
            num_classes,
            tasks=self.tasks,
            even=self.remainder == "even",
            base=self.base,
            increment=self.increment,
            order=self.order,
            seed=seed,
        )
