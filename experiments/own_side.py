"""`expunge ...` with clocks: python own_side.py CLOCKS.json forget MODEL --task ... (run by peer.py).

The command is the plain one; functions are timed from outside and nothing is imported that it would not import.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clocks import Clocks

if __name__ == "__main__":
    clocks = Clocks(Path(sys.argv.pop(1)))
    import torch
    import transformers

    from expunge import api, runs
    from expunge.audit import runner as audit
    from expunge.cli.main import main
    from expunge.probes.generation import Generation
    from expunge.probes.likelihood import Likelihood
    from expunge.training.schedule import Schedule

    clocks.imported()
    drawn, reset = Schedule.micro_batches, runs.reset_peak_memory

    def micro_batches(self: Schedule, step: int) -> Any:
        """Asked for once at the start of every step."""
        clocks.tick()
        return drawn(self, step)

    def reset_peak_memory() -> None:
        clocks.look()
        reset()

    Schedule.micro_batches = micro_batches  # type: ignore[method-assign]
    runs.reset_peak_memory = reset_peak_memory
    if sys.argv[1] == "audit":
        clocks.patch(api, "run_audit", "evaluation", around=True)
        clocks.patch(Likelihood, "observe", "likelihood")
        clocks.patch(Generation, "observe", "generation")
        clocks.patch(audit, "score_all", "scores")
        clocks.patch(api, "load_subject", "load")
    else:
        clocks.patch(transformers.LlamaForCausalLM, "forward", "forward")
        clocks.patch(torch.autograd, "grad", "backward")
        clocks.patch(runs, "build_reference", "reference")
    try:
        main()
    finally:
        clocks.write()
