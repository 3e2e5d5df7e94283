"""What makes a pipeline faster or smaller, and finding out what it costs."""

from videodit.acceleration.config import AccelConfig, AccelPlan
from videodit.acceleration.schedule import Calibration, Schedule

__all__ = ["AccelConfig", "AccelPlan", "Calibration", "Schedule"]
