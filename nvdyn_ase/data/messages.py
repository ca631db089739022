"""Batches sent from rank to rank: two messages each, whatever they hold."""

import pickle
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nvdyn_ase.data.errors import StructureError
from nvdyn_ase.data.fields import Level

if TYPE_CHECKING:
    from nvdyn_ase.data.batch import Batch

# Fields begin at multiples of this, so that they can be looked at as whatever they are.
_ALIGNMENT = 16

# The last transfer that is awaited on each connection: the next begins when it has come, or the
# payload of one would be taken for the header of the other.
_last_awaited: dict[tuple[Any, int, int], "Receiving"] = {}


class Messaging:
    """What a batch can do with other ranks of ``torch.distributed``.

    A batch travels as a header of fixed length and one payload of bytes, in which are the sizes,
    every field bit for bit, defaults, constraints and ``host``. Objects are pickled: the ranks of a
    job trust each other. ``neighbors`` and ``evaluated`` stay behind, and so do pairs that nobody
    has read.
    """

    def isend(self, dst: int, tag: int = 0, group: Any = None) -> "Sending":
        """Send the batch, and return at once.

        Parameters
        ----------
        dst
            Rank that receives it.
        tag, group
            As in ``torch.distributed.isend``. NCCL knows no tags.

        Returns
        -------
        Sending
            Call ``wait()`` before the process ends.

        Raises
        ------
        StructureError
            An object that belongs to a system cannot be pickled.
        """
        payload, place = packed(cast("Batch", self)), Transport.of(group)
        payload = payload.to(place.payload(cast("Batch", self).device))
        header = torch.tensor([len(payload)], device=place.header)
        works = [dist.isend(part, dst, group=group, tag=tag) for part in (header, payload)]
        return Sending(works, [header, payload])

    def send(self, dst: int, tag: int = 0, group: Any = None) -> None:
        """Send the batch, and return when it is on its way; see :meth:`isend`."""
        self.isend(dst, tag, group).wait()

    @staticmethod
    def irecv(
        src: int,
        device: torch.device | str = "cpu",
        template: "Batch | None" = None,
        tag: int = 0,
        group: Any = None,
    ) -> "Receiving":
        """Receive a batch that ``isend`` or ``send`` sends, and return at once.

        Several transfers from one rank with one tag come in the order in which they were sent.

        Parameters
        ----------
        src
            Rank that sends it.
        device
            Where to put it.
        template
            A batch with whose fields it has to agree, in what fields both have; None: any.
        tag, group
            As in ``torch.distributed.irecv``.

        Returns
        -------
        Receiving
            ``wait()`` returns the batch.
        """
        return Receiving(src, torch.device(device), template, tag, group)

    @staticmethod
    def recv(
        src: int,
        device: torch.device | str = "cpu",
        template: "Batch | None" = None,
        tag: int = 0,
        group: Any = None,
    ) -> "Batch":
        """Receive a batch, and wait for it; see :meth:`irecv`."""
        return Messaging.irecv(src, device, template, tag, group).wait()


class Transport(NamedTuple):
    """Which memory a process group can send from.

    Parameters
    ----------
    header
        Where headers are.
    on_device
        Whether payloads may stay where they are on a GPU.
    """

    header: torch.device
    on_device: bool

    @classmethod
    def of(cls, group: Any) -> "Transport":
        """Return that of a group; None is the default one."""
        group = group or dist.group.WORLD
        types = {device.type for device in group._device_types}
        gpu = torch.device("cuda")
        by_gloo = "cuda" not in types or group._get_backend(gpu).name() == "gloo"
        return cls(torch.device("cpu") if "cpu" in types else gpu, not by_gloo)

    def payload(self, device: torch.device) -> torch.device:
        """Return where the payload of a batch on this device has to be."""
        if self.header.type == "cuda":  # NCCL alone
            return self.header
        return device if self.on_device and device.type == "cuda" else torch.device("cpu")


class Sending:
    """A batch on its way to another rank.

    Parameters
    ----------
    works
        Of ``torch.distributed``, one a message.
    parts
        What is sent; kept until it has gone.
    """

    def __init__(self, works: list[Any], parts: list[Tensor]) -> None:
        self._works, self._parts = works, parts

    def wait(self) -> None:
        """Wait until the batch is on its way; RuntimeError if the other rank is not there."""
        for work in self._works:
            work.wait()
        self._works, self._parts = [], []

    def is_completed(self) -> bool:
        """Say whether it is known to have gone; gloo knows that only of what was waited for."""
        return all(work.is_completed() for work in self._works)


class Receiving:
    """A batch on its way from another rank; its arguments are those of ``Batch.irecv``."""

    def __init__(
        self, src: int, device: torch.device, template: "Batch | None", tag: int, group: Any
    ) -> None:
        self._arguments = src, device, tag, group
        self._template = template
        self._batch: Batch | None = None
        self._error: BaseException | None = None
        self._connection = (group or dist.group.WORLD, src, tag)
        self._before = _last_awaited.get(self._connection)
        _last_awaited[self._connection] = self
        # gloo does not say whether a message has come but to who waits for it.
        self._thread = Thread(target=self._receive, name=f"from rank {src}", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            if self._before is not None:
                self._before._thread.join()
                self._before = None
            batch = received(*self._arguments)
            if self._template is not None:
                _check_agreement(batch, self._template)
            self._batch = batch
        except BaseException as error:
            self._error = error
        finally:
            if _last_awaited.get(self._connection) is self:
                del _last_awaited[self._connection]

    def wait(self) -> "Batch":
        """Return the batch when it has come.

        Raises
        ------
        ValueError
            A field is not as in the template; it is named.
        RuntimeError
            The other rank is not there.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._batch is not None
        return self._batch

    def is_completed(self) -> bool:
        """Say whether the batch has come."""
        return not self._thread.is_alive()


def received(src: int, device: torch.device, tag: int, group: Any) -> "Batch":
    """Receive a batch in this thread, and return it."""
    place = Transport.of(group)
    header = torch.zeros(1, dtype=torch.int64, device=place.header)
    _take(header, src, tag, group)
    payload = torch.empty(int(header), dtype=torch.uint8, device=place.payload(device))
    _take(payload, src, tag, group)
    return unpacked(payload, device)


def _take(tensor: Tensor, src: int, tag: int, group: Any) -> None:
    work = dist.irecv(tensor, src, group=group, tag=tag)
    assert work is not None  # it is for ranks that are not in the group
    work.wait()
    if tensor.device.type == "cuda":  # it is read in another stream
        torch.cuda.synchronize(tensor.device)


# ---------------------------------------------------------------- as bytes


def packed(batch: "Batch") -> Tensor:
    """Return a batch as bytes, (n,) uint8, on its device.

    Raises
    ------
    StructureError
        An object that belongs to a system cannot be pickled.
    """
    batch = batch.index_select(slice(None))  # without pairs that nobody has read
    fields = [(key, tensor.detach().contiguous().view(-1)) for key, tensor in batch]
    about = _pickled(
        {
            "fields": [
                (key, batch.level(key).value, tensor.dtype, tuple(batch[key].shape))
                for key, tensor in fields
            ],
            "sizes": (batch.num_nodes_list, batch.num_edges_list),
            "defaults": batch.defaults,
            "constraints": batch.constraints,
            "host": batch.host,
            "limits": batch._limits,
        },
        batch,
    )
    pieces = [torch.tensor([len(about)]).view(torch.uint8), torch.from_numpy(about)]
    pieces += [tensor.view(torch.uint8) for _, tensor in fields if tensor.numel()]
    starts = _starts([piece.numel() for piece in pieces])
    payload = torch.zeros(starts[-1], dtype=torch.uint8, device=batch.device)
    for start, piece in zip(starts, pieces, strict=False):
        payload[start : start + piece.numel()] = piece
    return payload


def unpacked(payload: Tensor, device: torch.device) -> "Batch":
    """Return the batch that was packed into these bytes."""
    from nvdyn_ase.data.batch import Batch

    first = _starts([8])[-1]
    length = int(payload[:8].view(torch.int64))
    about = pickle.loads(payload[first : first + length].cpu().numpy().tobytes())
    start, fields = first + _starts([length])[-1], {}
    for key, level, dtype, shape in about["fields"]:
        size = dtype.itemsize * int(np.prod(shape))
        # Each has memory of its own: writing to one field must not look like writing to another.
        piece = payload[start : start + size].clone() if size else payload.new_empty(0)
        fields[key] = (Level(level), piece.view(dtype).view(shape).to(device))
        start += _starts([size])[-1] if size else 0
    nodes, edges = about["sizes"]
    constraints, host = about["constraints"], about["host"]
    batch = Batch(fields, nodes, edges, constraints, host, device, about["defaults"])
    batch._limits = about["limits"]
    return batch


def _starts(lengths: list[int]) -> list[int]:
    """Return where pieces of these lengths begin, and where all end."""
    whole = [-(-length // _ALIGNMENT) * _ALIGNMENT for length in lengths]
    return np.concatenate([[0], np.cumsum(whole)]).astype(int).tolist()


def _pickled(about: dict[str, Any], batch: "Batch") -> np.ndarray:
    try:
        return np.frombuffer(bytearray(pickle.dumps(about)), np.uint8)
    except Exception as error:
        for row, own in enumerate(zip(batch.constraints, batch.host, strict=True)):
            try:
                pickle.dumps(own)
            except Exception:
                problem = f"its constraints or host cannot be sent to another process: {error}"
                raise StructureError(row, problem) from error
        raise


def _check_agreement(batch: "Batch", template: "Batch") -> None:
    for key, tensor in batch:
        if key not in template:
            continue
        like = template[key]
        here = (batch.level(key), tensor.dtype, tuple(tensor.shape[1:]))
        there = (template.level(key), like.dtype, tuple(like.shape[1:]))
        if here != there:
            raise ValueError(f"{key!r} came as {here}, and the template has {there}")
