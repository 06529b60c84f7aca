"""Check that the settings of a data set and those of its domains go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcil.data.catalog import DatasetInfo

if TYPE_CHECKING:
    from fcil.data.settings import DataSettings

OF_CLASSES = ("base", "increment", "remainder", "split")
"""Settings of tasks that are groups of classes."""


def check_domains(data: DataSettings, info: DatasetInfo) -> None:
    """Check that there can be domains, if tasks are to be such, and that no setting is of tasks of the other kind.

    Raises:
        ValueError: names the setting and what is allowed.
    """
    if data.scenario == "classes":
        if data.domains is not None:
            raise ValueError("domains: applies to scenario: domains; say that, or leave domains out")
        return
    if info.kind != "images":
        raise ValueError(f"scenario: domains applies to images; {data.dataset} has time series")
    if data.domains is not None and data.domains.names is None:
        if info.resizable:
            raise ValueError("domains: are made of images of a fixed size; image files lie in folders of domains")
    elif data.dataset != "image_folder":
        raise ValueError(
            f"domains: {data.dataset} has no folders of domains, as image_folder has; expected "
            "{rotated: [0, 30, 60]} or {permuted: 5}"
        )
    for key in OF_CLASSES:
        if getattr(data, key) != type(data).__dataclass_fields__[key].default:
            raise ValueError(f"{key}: applies to scenario: classes; with domains each task is one; leave it out")
    if data.tasks not in (None, 1):
        raise ValueError(
            f"tasks: {data.tasks!r} is not allowed with scenario: domains, where each task is a domain; leave it "
            "out, or say 1 for all domains at once"
        )
    if isinstance(data.order, tuple):
        raise ValueError("order: a list orders classes; list the domains themselves in domains")
