"""Which systems a batch has, for hooks that know something about each."""

import numpy as np
from torch import Tensor

from nvdyn_ase.data import Batch


class Membership:
    """Notices when a batch has other systems than when it was last asked about.

    The host looks at ``system_id``, which waits for the device, only when it has changed: systems
    come and go by decisions of the host.
    """

    def __init__(self) -> None:
        self._seen: tuple[np.ndarray, Tensor, int] | None = None

    def changed(self, batch: Batch) -> list[int] | None:
        """Return the system_id of each system if they are others than before, else None."""
        ids, sizes = batch["system_id"], batch.host_ptr
        if self._seen is not None:
            known_sizes, known, version = self._seen
            if known_sizes is sizes and known is ids and version == ids._version:
                return None
        self._seen = sizes, ids, ids._version
        return ids.view(-1).tolist()
