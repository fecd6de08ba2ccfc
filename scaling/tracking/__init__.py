"""What people browse: a mirror of the run directories in MLflow. The one place that imports mlflow.

The driver alone writes, one MLflow run per fingerprint for life: retries and resumed runs go on in it. What a run
directory holds is compared with what the store says it has, and the difference is sent; so nothing is ever there
twice, whenever the driver was killed, and all can be rebuilt.
"""

from scaling.tracking.server import serve, server_command
from scaling.tracking.tracker import Tracker

__all__ = ["Tracker", "serve", "server_command"]
