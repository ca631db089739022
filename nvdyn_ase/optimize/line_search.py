"""What optimizers with a line search show of it, and how it fails."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.line_search import Search
from nvdyn_ase.dynamics.optimizers.searching import SearchingOptimizer
from nvdyn_ase.optimize.optimize import OptimizerFacade


class SearchAttribute:
    """An attribute of a facade that is found in the engine's state while an engine searches.

    Reading it gives a number for one Atoms and an array, one value per system, for several; of what
    belongs to coordinates, all of them, flat. Before the first search it is what ASE's constructor
    has set.

    Parameters
    ----------
    read
        Returns it from the state.
    """

    def __init__(self, read: Callable[[Batch], Tensor]) -> None:
        self.read = read

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Remember the attribute's name."""
        self.attribute = attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None:
            return self
        state = facade._search_state()
        if state is None:
            try:
                return facade.__dict__[self.attribute]
            except KeyError:
                raise AttributeError(self.attribute) from None
        array = self.read(state).cpu().numpy().ravel()
        return array.item() if facade._single and len(array) == 1 else array

    def __set__(self, facade: Any, value: Any) -> None:
        """Keep what ASE's code sets, up to the first search."""
        facade.__dict__[self.attribute] = value


class SearchingFacade(OptimizerFacade):
    """What facades with a line search have in common.

    Attributes
    ----------
    force_calls, function_calls
        Trials, and evaluations of the energy as ASE counts them: one more for each step.
    alpha_k, p, e0, no_update
        Of the last search, as in ASE: step, direction, energy at the start, and whether it ended
        without a change.
    """

    force_calls = SearchAttribute(lambda state: state["trials"])
    function_calls = SearchAttribute(lambda state: state["trials"] + state["searches"])
    alpha_k = SearchAttribute(lambda state: Search.of(state["search"]).step)
    p = SearchAttribute(lambda state: state["direction"])
    e0 = SearchAttribute(lambda state: Search.of(state["search"]).value)
    no_update = SearchAttribute(lambda state: Search.of(state["search"]).stuck > 0.0)

    def _search_state(self) -> Batch | None:
        """Return the engine's state if there has been a search in it."""
        if self._driver is None or not isinstance(self._driver.engine, SearchingOptimizer):
            return None
        state = self._driver.state()
        return state if bool(state["trials"].any()) else None

    def _after_step(self) -> None:
        if self._single:
            self._raise_if_failed()
        super()._after_step()

    def _raise_if_failed(self) -> None:
        driver = self._driver
        assert driver is not None
        if "failed" in driver.state() and bool(driver.state()["failed"].any()):
            driver.reopen_failed([0])  # so that the next run fails in the same way
            raise RuntimeError("LineSearch failed!")
