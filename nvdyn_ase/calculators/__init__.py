"""ASE calculators as models, and the model that a list of Atoms asks for."""

from nvdyn_ase.calculators.calculator_model import CalculatorModel
from nvdyn_ase.calculators.choosing import NoCalculatorError, model_for, unsupported

__all__ = ["CalculatorModel", "NoCalculatorError", "model_for", "unsupported"]
