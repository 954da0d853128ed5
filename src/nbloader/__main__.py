"""The command, as ``python -m nbloader``."""

import sys

from nbloader._cli import main

sys.exit(main())
