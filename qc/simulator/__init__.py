"""Simulator of UVES calibration frames: spectrograph, chips, faults, nights.

`simulate` writes nights of raw frames with a truth table; `render` makes one exposure in memory;
`inject` adds a fault to a raw image of any instrument, `spoil_file` to a FITS file.
"""

from qc.simulator.faults import (
    FAULTS,
    INJECTABLE,
    STRENGTHS,
    Fault,
    InjectedFault,
    inject,
    make_case,
    possible_faults,
)
from qc.simulator.file_faults import FILE_FAULTS, spoil_file
from qc.simulator.instrument_state import (
    InstrumentState,
    StateChange,
    interventions,
    lamp_replacements,
    state_at,
)
from qc.simulator.nights import SimulatedFrame, expose, simulate
from qc.simulator.pixel_faults import Injection
from qc.simulator.plan import (
    CLASSES,
    DEMO_PLAN,
    FULL_PLAN,
    CalibrationStream,
    ObservingPlan,
    PlannedExposure,
    plan_night,
    plan_nights,
)
from qc.simulator.render import render
from qc.simulator.visibility import INVISIBLE, signal_to_noise

__all__ = [
    "CLASSES",
    "DEMO_PLAN",
    "FAULTS",
    "FILE_FAULTS",
    "FULL_PLAN",
    "INJECTABLE",
    "INVISIBLE",
    "STRENGTHS",
    "CalibrationStream",
    "Fault",
    "InjectedFault",
    "Injection",
    "InstrumentState",
    "ObservingPlan",
    "PlannedExposure",
    "SimulatedFrame",
    "StateChange",
    "expose",
    "inject",
    "interventions",
    "lamp_replacements",
    "make_case",
    "plan_night",
    "plan_nights",
    "possible_faults",
    "render",
    "signal_to_noise",
    "simulate",
    "spoil_file",
    "state_at",
]
