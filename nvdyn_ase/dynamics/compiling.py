"""Having ``torch.compile`` make the moves of the stages of a fused run into a few kernels."""

from collections.abc import Sequence
from typing import Any, Self

from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.stage import Stage


class Compiling(BaseDynamics):
    """Compiles the moves of stages, when it is told to or entered as a context.

    Parameters
    ----------
    compile_step
        Whether that is to be done on entering.
    compile_kwargs
        For ``torch.compile``.
    """

    stages: Sequence[Stage]

    def __init__(self, compile_step: bool, compile_kwargs: dict[str, Any] | None) -> None:
        self.compile_step, self.compile_kwargs = compile_step, dict(compile_kwargs or {})
        self._is_compiled = False

    def compile(self, **kwargs: Any) -> Self:
        """Have ``torch.compile`` make the moves of every stage into few kernels; return self.

        What the host has to know, as which rows move, is looked up before a move, so that it can be
        compiled whole, as ``fullgraph=True`` demands: with the integrators, FIRE, FIRE2, LBFGS,
        MDMin and gradient descent, unless constraints act on the host. Methods with a matrix for
        each system are compiled in pieces. That is done once, and again for a batch of one system,
        and where sizes that were equal by chance, as systems and atoms, no longer are.

        Parameters
        ----------
        **kwargs
            For ``torch.compile``, over those of ``compile_kwargs``.
        """
        self.compile_kwargs |= kwargs
        self.compile_step, self._is_compiled = True, True
        for stage in self.stages:
            stage.compile({"dynamic": True, **self.compile_kwargs})
        return self

    def __enter__(self) -> Self:
        """Use a stream of its own on CUDA, shared by the stages; compile if that is wanted."""
        super().__enter__()
        for stage in self.stages:
            stage.engine.stream = self.stream
        return self.compile() if self.compile_step and not self._is_compiled else self

    def __exit__(self, *exception: object) -> None:
        """Leave the stream."""
        super().__exit__(*exception)
        for stage in self.stages:
            stage.engine.stream = None
