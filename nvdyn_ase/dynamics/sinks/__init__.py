"""Where batches are written to."""

from nvdyn_ase.dynamics.sinks.data_sink import DataSink
from nvdyn_ase.dynamics.sinks.memory import GPUBuffer, HostMemory
from nvdyn_ase.dynamics.sinks.zarr_data import ZarrData

__all__ = ["DataSink", "GPUBuffer", "HostMemory", "ZarrData"]
