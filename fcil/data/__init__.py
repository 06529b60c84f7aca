"""Data sets as tensors, cut into tasks, shared out among clients.

    settings = DataSettings(dataset="digits", tasks=5, order=1993)
    scenario = Scenario(load_dataset(settings), settings, clients=5, seed=0)
    for batch in scenario.shard(task=1, client=3).batches(32, generator):
        ...  # batch.x (B, channels, height, width) normalised, batch.y (B,)

Labels count classes in order of appearance, so a class is old when `y < task.num_old`. Tasks count
from 1, clients from 0. Small sets are one uint8 tensor, large ones are decoded while training; both
behind `Shard.batches`. A client's samples, their order and their augmentation depend on the seed
and on names of streams, never on the process or the time.
"""

from fcil.data.augment import Augment, normalise
from fcil.data.catalog import DATASETS, DatasetInfo, dataset_info
from fcil.data.datasets import Dataset, load_dataset
from fcil.data.files.folders import cache_folder, data_folder
from fcil.data.images import Images, LazyImages, MemoryImages
from fcil.data.own import DataSource, Partitioner, Samples
from fcil.data.partition import partition
from fcil.data.scenario import Scenario, Shard
from fcil.data.settings import DataSettings, PartitionSettings
from fcil.data.tasks import TaskSplit, class_order, task_sizes

__all__ = [
    "DATASETS",
    "Augment",
    "DataSettings",
    "DataSource",
    "Dataset",
    "DatasetInfo",
    "Images",
    "LazyImages",
    "MemoryImages",
    "PartitionSettings",
    "Partitioner",
    "Samples",
    "Scenario",
    "Shard",
    "TaskSplit",
    "cache_folder",
    "class_order",
    "data_folder",
    "dataset_info",
    "load_dataset",
    "normalise",
    "partition",
    "task_sizes",
]
