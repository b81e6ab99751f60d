"""Optimizers and schedules: Adam-atan2, Adafactor with parameter scaling, and torch's own behind one config.

`build_optimizer(OptimizerConfig(...), param_groups)` and `build_scheduler(ScheduleConfig(...), optimizer,
total_steps)` give plain `torch.optim` objects. Weight decay is decoupled from the gradient everywhere, and by
default independent of the learning rate: theta -= s_t * (lr * update + lambda * theta), with s_t the schedule's
factor (Wortsman et al. 2023, section 3.2.2).
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
