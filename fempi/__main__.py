"""`python -m fempi`."""

import sys

from fempi.cli import main

sys.exit(main())
