"""`python -m minissl` is the command `minissl`."""

import sys

from minissl.cli import main

sys.exit(main())
