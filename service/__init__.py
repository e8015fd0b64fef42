"""The service. No module of it is loaded here, for ``export`` imports some that need little."""

import os

# Read by onnxruntime when it is first imported: else it sends to Microsoft what it runs and on what (1.32, by default),
# and keeps a device id and a database in the home folder. Who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
