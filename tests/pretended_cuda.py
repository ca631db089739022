"""A CUDA device that is made believe: its tensors are in the host's memory and say otherwise.

It shows on any machine what would go wrong on a device: tensors of host and device in one
operation, NumPy on what is not the host's, and where the host would wait. It says nothing about
time or CUDA's own kernels, and has no backward pass.
"""

import ctypes
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
COMPILER = shutil.which("g++")
#: Operations that tell the host something, so that it waits.
ASKING = {
    *("_local_scalar_dense", "nonzero", "_unique", "_unique2", "unique_dim", "unique_consecutive"),
    *("bincount", "masked_select", "is_nonzero", "equal", "repeat_interleave"),
}
#: Whose indices may be on the host, from where CUDA fetches them.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}

# Torch asks the guard of a device which one is the current one, and a build for the CPU has none.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace {
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
}
"""


class OnDevice(torch.Tensor):
    """A tensor of the host that says that it is on the device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"{self.inner!r} on a device that is made believe"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError("a tensor has outlived its device")


class PretendedCuda(TorchDispatchMode):
    """While it is active, ``cuda`` is a device.

    Attributes
    ----------
    waits
        What the host has waited for.
    strict
        Raise if it is going to wait.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.strict = [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)  # there is one memory
        name = function.overloadpacket.__name__
        is_there = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
        goes_there = is_there
        if kwargs.get("device") is not None:
            goes_there = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = HOST
        if is_there:
            self._look(name, args, kwargs, goes_there)
        out = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if not goes_there:
            return out
        out = tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, out)
        return return_and_correct_aliasing(function, args, kwargs, out) if is_there else out

    def _look(self, name, args, kwargs, goes_there):
        if name in ASKING:
            self._wait(name)
        if name == "_to_copy":
            if not goes_there and not kwargs.get("non_blocking"):
                self._wait("a copy to the host")
        elif name == "copy_":
            at_once = not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
            if at_once and not isinstance(args[0], OnDevice):
                self._wait("a copy to the host")
        elif name in INDEXING and isinstance(args[0], OnDevice):
            if any(_is_of_the_host(index) for index in args[1]):
                self._wait("indices of the host")
        elif any(_is_of_the_host(leaf) for leaf in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{name}: tensors of host and device together")

    def _wait(self, what):
        self.waits.append(what)
        if self.strict:
            raise RuntimeError(f"the host waits for {what}")


def _inner(leaf):
    return leaf.inner if isinstance(leaf, OnDevice) else leaf


def _is_of_the_host(leaf):
    """Say whether it is a tensor of the host; CUDA takes single numbers from there."""
    return isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnDevice) and leaf.dim() > 0


class Moment:
    """An event, or a stream, where everything is done at once."""

    def __init__(self, *_, **options):
        pass

    def record(self, stream=None):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass

    def wait_stream(self, other):
        pass

    def elapsed_time(self, other):
        return 1.0


@cache
def _register_guard():
    folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as where:
        library = Path(where) / "guard.so"
        command = [COMPILER, "-x", "c++", "-", "-std=c++20", "-fPIC", "-shared", "-o", str(library)]
        command += [f"-I{folder / 'include'}", f"-L{folder / 'lib'}", "-lc10"]
        subprocess.run(command, input=GUARD, text=True, check=True)
        return ctypes.CDLL(str(library))


@contextmanager
def pretended_cuda():
    """Give a machine without one a CUDA device; needs a C++ compiler."""
    _register_guard()
    mode = PretendedCuda()
    answers = {
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "is_initialized": lambda: True,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=2**34),
        "Event": Moment,
        "Stream": Moment,
        "current_stream": Moment,
        "stream": nullcontext,
        "set_sync_debug_mode": lambda level: setattr(mode, "strict", level == "error"),
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self, *_: self))
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor then asks the mode for the device
        stack.enter_context(mode)
        yield mode
