"""Every integrator, with values of its own for each of three systems."""

from nvdyn_ase.dynamics import (
    MTKNPT,
    NPH,
    NVE,
    Andersen,
    Bussi,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    MaskedMTKNPT,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    StochasticCellRescaling,
)

STEP = {"dt": [0.1, 0.2, 0.3]}
BATH = STEP | {"temperature": [200.0, 300.0, 900.0]}
COUPLED = BATH | {"taut": [5.0, 10.0, 7.0]}
PRESSED = {"pressure": [0.0, 0.02, 0.05]}
BERENDSEN = COUPLED | PRESSED | {"taup": [50.0, 30.0, 90.0], "compressibility": [1.0, 2.0, 0.5]}
CHAIN = {"tdamp": [5.0, 10.0, 7.0]}
MTK = BATH | PRESSED | {"pdamp": [40.0, 60.0, 90.0]}
FRICTION = {"T_tau": [5.0, 10.0, 7.0]}
SLOW = {"P_tau": [40.0, 60.0, 90.0], "P_mass": [2000.0, 3000.0, 1500.0]}

#: The class, values of three systems, and what all have in common. Variants have a comma.
INTEGRATORS = {
    "nve": (NVE, STEP, {}),
    "andersen": (Andersen, BATH | {"andersen_prob": [0.1, 0.3, 0.6]}, {"seed": 3}),
    "andersen, free": (
        *(Andersen, BATH | {"andersen_prob": [0.1, 0.3, 0.6]}),
        {"fixcm": False, "seed": 3},
    ),
    "berendsen": (NVTBerendsen, COUPLED, {}),
    "npt berendsen": (NPTBerendsen, BERENDSEN, {}),
    "inhomogeneous berendsen": (InhomogeneousNPTBerendsen, BERENDSEN, {}),
    "bussi": (Bussi, COUPLED, {"seed": 3}),
    "langevin": (Langevin, BATH | {"friction": [0.01, 0.1, 0.3]}, {"seed": 3}),
    "langevin, fixcm": (
        *(Langevin, BATH | {"friction": [0.01, 0.1, 0.3]}),
        {"fixcm": True, "seed": 3},
    ),
    "nose-hoover": (NoseHooverChainNVT, BATH | CHAIN, {}),
    "nose-hoover, as in ase": (NoseHooverChainNVT, BATH | CHAIN, {"as_ase": True}),
    "nph": (NPH, MTK, {}),
    "isotropic mtk": (IsotropicMTKNPT, MTK | CHAIN, {}),
    "mtk": (MTKNPT, MTK | CHAIN, {"pchain": 2, "ploop": 2}),
    "mtk, as in ase": (MTKNPT, MTK | CHAIN, {"as_ase": True}),
    "masked mtk": (MaskedMTKNPT, MTK | CHAIN, {"mask": (True, False, True)}),
    "melchionna": (
        MelchionnaNPT,
        BATH
        | {"externalstress": [0.0, 0.02, 0.05], "ttime": [5.0, 10.0, 7.0]}
        | {"pfactor": [800.0, 1000.0, 2000.0], "frac_traceless": [1.0, 0.5, 0.0]},
        {},
    ),
    "baoab, nve": (LangevinBAOAB, STEP, {"seed": 3}),
    "baoab": (LangevinBAOAB, BATH | FRICTION, {"seed": 3}),
    "baoab, nph": (LangevinBAOAB, STEP | SLOW, {"externalstress": 0.01, "seed": 3}),
    "baoab npt": (
        *(LangevinBAOAB, BATH | FRICTION | SLOW | {"externalstress": [[0.0], [-0.02], [0.01]]}),
        {"seed": 3},
    ),
    "baoab, hydrostatic": (
        *(LangevinBAOAB, BATH | FRICTION | SLOW | {"externalstress": [0.0, -0.02, 0.01]}),
        {"hydrostatic": True, "seed": 3},
    ),
    "rescaling": (StochasticCellRescaling, BERENDSEN, {"seed": 3}),
    "rescaling, any shape": (
        *(StochasticCellRescaling, BERENDSEN),
        {"isotropic": False, "seed": 3},
    ),
}


def integrator(name, model, rows=slice(None), **more):
    """Return an engine for some of three systems, or for one with numbers instead of lists."""
    kind, values, common = INTEGRATORS[name]
    return kind(model, **{key: value[rows] for key, value in values.items()} | common | more)
