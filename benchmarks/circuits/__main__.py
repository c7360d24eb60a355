"""``python -m benchmarks.circuits``."""

import sys

from benchmarks.circuits.run import main

sys.exit(main())
