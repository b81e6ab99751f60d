from .adafactor import Adafactor as Adafactor
from .adam_atan2 import AdamAtan2 as AdamAtan2
from .build import build_optimizer as build_optimizer
from .build import build_scheduler as build_scheduler
from .build import schedule_factor as schedule_factor
from .config import OptimizerConfig as OptimizerConfig
from .config import ScheduleConfig as ScheduleConfig
from .sgdw import SGDW as SGDW
