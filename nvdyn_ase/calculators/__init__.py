"""ASE calculators as models, models as ASE calculators, and the model a list of Atoms asks for."""

from nvdyn_ase.calculators.calculator_model import CalculatorModel
from nvdyn_ase.calculators.choosing import NoCalculatorError, model_for, unsupported
from nvdyn_ase.calculators.nvdyn_calculator import NvdynCalculator

__all__ = ["CalculatorModel", "NoCalculatorError", "NvdynCalculator", "model_for", "unsupported"]
