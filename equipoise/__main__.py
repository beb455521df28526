"""`python -m equipoise COMMAND …`, where the console command is not on the path."""

import sys

from equipoise.commands import main

sys.exit(main())
