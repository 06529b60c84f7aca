"""Ray, for as long as somebody needs it."""

from __future__ import annotations

import logging

from fcil.errors import ConfigError
from fcil.federation.reaper import Reaper


class RaySession:
    """A context in which Ray runs: started or joined, and ended again, unless it ran before.

    Args:
        address: a running cluster to join; None starts Ray on this machine.
    Raises:
        ConfigError: there is no cluster at this address.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._ours = False
        self._reaper: Reaper | None = None

    def __enter__(self) -> RaySession:
        import ray

        if ray.is_initialized():
            return self
        self._ours, self._reaper = True, Reaper()
        # "local" and not None: a cluster that happens to run on this machine is not joined unasked.
        try:
            ray.init(
                address=self._address or "local",
                include_dashboard=None if self._address else False,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except BaseException as error:
            self.__exit__()
            if isinstance(error, ConnectionError):
                raise ConfigError(f"resources.ray_address: no Ray cluster at {self._address} ({error})") from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        if self._ours:
            ray.shutdown()
        if self._reaper is not None:
            self._reaper.dismiss()
        self._ours, self._reaper = False, None
